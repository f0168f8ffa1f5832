"""Outside segmenters: what they return is checked, what they do wrong is told, and nothing of them stays behind."""

import ast
import os
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from radloom.errors import CaseError, CohortError, LimitError
from radloom.images import Geometry, Volume, write_nifti
from radloom.segment_command import chosen_device, command_problems, run_command, segment_command

STAND_IN = Path(__file__).parents[1] / "helpers/stand_in_segmenter.py"
LABELS = {3: "soft", 9: "bone"}


def command(behaviour: str) -> str:
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(STAND_IN))} {behaviour} {{image}} {{labels}}"


@pytest.fixture(scope="module")
def volume() -> Volume:
    rng = np.random.default_rng(1)
    array = np.where(rng.random((6, 9, 11)) < 0.4, 50, -100).astype(np.int16)
    array[2, 3, 4] = 900
    return Volume(array, Geometry((11, 9, 6), (0.7, 0.8, 2.5), (-10.0, 20.0, 300.0)))


@pytest.fixture(scope="module")
def image(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("DOE_JANE") / "image.nii.gz"
    write_nifti(path, volume)
    return path


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for temporary folders of its own, which has to be empty in the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def refused_by(image: Path, words: str, **options: float) -> CaseError:
    with pytest.raises(CaseError) as caught:
        segment_command(image, words, LABELS, **options)
    assert caught.value.advice
    return caught.value


def refused(image: Path, behaviour: str, **options: float) -> CaseError:
    error = refused_by(image, command(behaviour), **options)
    for private in ("/", "DOE", Path.home().name + " ", "with a space"):
        assert private not in error.reason.replace("<path>", "")
    return error


def expected(volume: Volume) -> np.ndarray:
    return np.select([volume.array > 500, volume.array > 0], [9, 3], 0)


@pytest.mark.parametrize("behaviour", ["good", "appends", "folder", "flipped", "float", "talks", "leaves_child"])
def test_labels_come_back_on_the_images_grid(image: Path, volume: Volume, scratch: Path, behaviour: str) -> None:
    start = time.monotonic()
    labels, names, warnings = segment_command(image, command(behaviour), LABELS, timeout_s=60)
    assert time.monotonic() - start < 30
    assert np.array_equal(labels.array, expected(volume))
    assert labels.array.dtype == np.uint8
    assert labels.geometry == volume.geometry
    assert (names, warnings) == (LABELS, [])
    assert not list(scratch.iterdir())


def test_oblique_and_turned_images_come_back_as_they_are(volume: Volume, tmp_path: Path) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    direction = (0.0, -c, s, 0.0, s, c, -1.0, 0.0, 0.0)
    turned = Volume(volume.array, Geometry((11, 9, 6), (0.7, 0.8, 2.5), (-10.0, 20.0, 300.0), direction))
    write_nifti(tmp_path / "image.nii.gz", turned)
    labels, _, _ = segment_command(tmp_path / "image.nii.gz", command("flipped"), LABELS)
    assert np.array_equal(labels.array, expected(volume))
    assert np.allclose(labels.geometry.direction, direction, atol=1e-6)


def test_labels_that_are_not_wanted_are_told(image: Path) -> None:
    labels, names, warnings = segment_command(image, command("good"), {9: "bone", 4: "air"})
    assert np.unique(labels.array).tolist() == [0, 9]
    assert names == {9: "bone", 4: "air"}
    assert warnings == ["the mask's labels 3 are not in segment.labels and are ignored"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("unknown", "labels 77, none of the configured 3, 9"),
        ("empty", "is empty"),
        ("fractions", "not whole numbers"),
        ("negative", "values from -1"),
        ("smaller", "has 10 x 9 x 6 voxels, the image 11 x 9 x 6"),
        ("enormous", "has 22 x 18 x 12 voxels, the image 11 x 9 x 6"),
        ("shifted", "lies up to 8.66 mm from the image's"),
        ("other_spacing", "mm from the image's"),
        ("garbage", "truncated or damaged"),
        ("truncated", "truncated or damaged"),
        ("nothing", r"wrote no label volume; it said last: reading <path> for <path>"),
        ("many", "wrote 2 volumes where one"),
        ("fails", "exit code 3; it said last: .*RuntimeError: no weights"),
        ("killed", "killed by SIGKILL"),
    ],
)
def test_what_comes_back_wrong_excludes_the_case(image: Path, scratch: Path, behaviour: str, reason: str) -> None:
    error = refused(image, behaviour)
    assert not isinstance(error, LimitError)
    assert re.search(reason, error.reason), error.reason
    assert not list(scratch.iterdir())


def test_a_program_that_hangs_is_ended_with_its_children(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    monkeypatch.setenv("STAND_IN_CHILD", str(tmp_path / "child"))
    monkeypatch.setattr("radloom.segment_command.GRACE_S", 0.1)
    error = refused(image, "hangs", timeout_s=3.0)
    assert isinstance(error, LimitError)
    assert "took longer than 3 s" in error.reason
    child = int((tmp_path / "child").read_text())
    for _ in range(50):  # a killed process is there until its new parent has looked at it
        if not Path(f"/proc/{child}").exists() or "(zombie)" in Path(f"/proc/{child}/status").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("a child of the program is still running")
    assert not list(scratch.iterdir())


def test_output_is_bounded_however_much_there_is() -> None:
    outcome = run_command([sys.executable, "-c", "print('x' * 50_000_000); print('the end')"], 60)
    assert outcome.code == 0
    assert len(outcome.output) <= 1 << 16
    assert outcome.output.endswith(b"the end\n")


@pytest.mark.parametrize("program", ["no-such-segmenter", "/no/such/segmenter"])
def test_a_program_that_is_not_there_stops_the_run(image: Path, program: str) -> None:
    with pytest.raises(CohortError, match=r"segment.command can't be started: no-such|: segmenter: No such file"):
        segment_command(image, f"{program} {{image}} {{labels}}", LABELS)


def test_a_word_stays_one_and_no_shell_reads_it(image: Path, tmp_path: Path) -> None:
    script = tmp_path / "a script.py"
    script.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(repr(sys.argv[2:])); sys.exit(1)")
    words = f"'{script}' '{tmp_path}/told' '{{image_folder}};{{device}}' $HOME '{{\"a\": 1}}' `x`"
    with pytest.raises(CaseError, match="exit code 1"):
        segment_command(image, f"{sys.executable} {words}", LABELS, device="cpu")
    told = ast.literal_eval((tmp_path / "told").read_text())
    assert told[0].endswith("/image;cpu")
    assert told[1:] == ["$HOME", '{"a": 1}', "`x`"]


def test_the_program_sees_nothing_of_the_patient(image: Path) -> None:
    code = "import sys, os; print(sys.argv[1:], os.listdir(os.path.dirname(sys.argv[1]))); sys.exit(1)"
    with pytest.raises(CaseError) as caught:
        segment_command(image, f"{sys.executable} -c {shlex.quote(code)} {{image}} {{labels}}", LABELS)
    assert "scan_0000.nii.gz" in caught.value.reason
    assert "DOE" not in caught.value.reason


def test_a_program_that_prints_its_environment_tells_no_login_and_no_path(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "PASSWORD", "TOKEN", "HOST"):
        monkeypatch.setenv(f"RADLOOM_DICOMWEB_{name}", "ZQCanary")
    monkeypatch.setenv("OTHER_PATH", "/data/ZQCanary/scans")
    code = "import os, sys; names = [k for k in os.environ if 'RADLOOM' in k or 'OTHER' in k]; "
    code += "print('found', {k: os.environ[k] for k in names}, *os.environ.values()); sys.exit(3)"
    error = refused_by(image, f"{sys.executable} -c {shlex.quote(code)} {{image}} {{labels}}")
    assert "exit code 3" in error.reason
    assert "ZQCanary" not in error.reason


@pytest.mark.parametrize(
    ("given", "labels", "reason"),
    [
        (None, {"3": "a"}, "segment.command is empty"),
        ("seg {image} {labels}", {}, "must name the labels"),
        ("seg {image}", {"3": "a"}, r"neither {labels} nor {labels_folder}"),
        ("seg {labels_folder}", {"3": "a"}, r"neither {image} nor {image_folder}"),
        ("seg {imgae} {image} {labels}", {"3": "a"}, r"{imgae} is none of {image}"),
        ("seg 'x {image} {labels}", {"3": "a"}, "No closing quotation"),
    ],
)
def test_what_the_configuration_can_get_wrong(given: str | None, labels: dict[str, str], reason: str) -> None:
    problems = command_problems(given, labels)
    assert len(problems) == 1
    assert re.search(reason, problems[0])
    assert not command_problems("seg -i {image_folder} -o {labels_folder}", {"3": "a"})


def test_the_device_is_one_that_a_program_can_take() -> None:
    assert chosen_device("cpu") == "cpu"
    assert chosen_device("cuda") == "cuda"
    assert chosen_device("auto") == ("cuda" if os.path.exists("/proc/driver/nvidia/version") else "cpu")
