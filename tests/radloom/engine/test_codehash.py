"""The code hash sees what can change a number, and nothing else."""

import shutil
from pathlib import Path

import pytest

from radloom.engine.codehash import TRANSPORT, Known, code_hash, module_digest

WORKFLOW = Path(__file__).parents[3] / "workflow"


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    root = tmp_path / "workflow"
    for name, text in {
        "scripts/one.py": '"""Doc."""\nfrom radloom.engine.step import main\n'
        "def run():\n    from radloom import helper\n",
        "scripts/two.py": "import radloom.other\n",
        "radloom/__init__.py": "",
        "radloom/helper.py": "from radloom.deep import value\nX = value + 1\n",
        "radloom/deep.py": "value = 1\n",
        "radloom/other.py": "value = 2\n",
        "radloom/engine/__init__.py": "",
        "radloom/engine/step.py": "A = 1\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_helper_of_a_helper_counts_and_only_for_the_steps_that_import_it(workflow: Path) -> None:
    one, two = code_hash(workflow, "one", {}), code_hash(workflow, "two", {})
    edit(workflow / "radloom/deep.py", "value = 1", "value = 3")
    assert code_hash(workflow, "one", {}) != one
    assert code_hash(workflow, "two", {}) == two


def test_the_compiled_part_of_a_module_counts_with_it(workflow: Path) -> None:
    two = code_hash(workflow, "two", {})
    (workflow / "radloom/deep.c").write_text("int one;")
    one = code_hash(workflow, "one", {})
    edit(workflow / "radloom/deep.c", "one", "other")
    assert code_hash(workflow, "one", {}) != one
    assert code_hash(workflow, "two", {}) == two


def test_comments_docstrings_and_layout_do_not_count(workflow: Path) -> None:
    before = code_hash(workflow, "one", {})
    edit(workflow / "scripts/one.py", '"""Doc."""\n', '"""Another text."""\n\n# a comment\n')
    edit(workflow / "radloom/deep.py", "value = 1", "value   =  1  # the same")
    assert code_hash(workflow, "one", {}) == before


def test_the_engine_does_not_count(workflow: Path) -> None:
    before = code_hash(workflow, "one", {})
    edit(workflow / "radloom/engine/step.py", "A = 1", "A = 2")
    assert code_hash(workflow, "one", {}) == before


def test_the_reading_of_the_configuration_does_not_count(workflow: Path) -> None:
    (workflow / "radloom/config.py").write_text("A = 1\n")
    edit(workflow / "scripts/two.py", "import radloom.other\n", "import radloom.other\nimport radloom.config\n")
    before = code_hash(workflow, "two", {})
    edit(workflow / "radloom/config.py", "A = 1", "A = 2")
    assert code_hash(workflow, "two", {}) == before


def test_fetching_from_servers_counts_apart_from_reading() -> None:
    """For the cases that have a URL: `engine.sources`."""
    seen: Known = {}
    code_hash(WORKFLOW, "ingest", seen)
    modules = {key.partition(":")[0] for key in seen}
    assert {"radloom.dicom.ct", "radloom.dicom.files", "radloom.source_cells"} <= modules
    assert TRANSPORT not in modules
    assert len(module_digest(WORKFLOW, TRANSPORT)) == 64


def test_another_clone_at_another_time_has_the_same_hash(workflow: Path, tmp_path: Path) -> None:
    shutil.copytree(workflow, tmp_path / "clone" / "workflow")
    assert code_hash(tmp_path / "clone" / "workflow", "one", {}) == code_hash(workflow, "one", {})


def test_a_constant_in_the_script_counts(workflow: Path) -> None:
    before = code_hash(workflow, "two", {})
    edit(workflow / "scripts/two.py", "import radloom.other\n", "import radloom.other\nX = 1\n")
    assert code_hash(workflow, "two", {}) != before


def test_what_is_known_of_a_file_counts_only_while_the_file_is_the_same(workflow: Path) -> None:
    known: dict[str, list[object]] = {}
    before = code_hash(workflow, "one", known)
    assert code_hash(workflow, "one", known) == before
    edit(workflow / "radloom/deep.py", "value = 1", "value = 33")
    assert code_hash(workflow, "one", known) == code_hash(workflow, "one", {}) != before
