"""export_onnx.py writes the shipped model as ONNX and says how far the logits are apart."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
REPO = Path(__file__).parents[2]
SCRIPT = REPO / "workflow" / "scripts" / "export_onnx.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_demos_model(tmp_path: Path) -> None:
    done = run(REPO / "resources" / "models" / "demo_unet", "--out", tmp_path / "demo.onnx")
    assert done.returncode == 0, done.stderr
    assert "largest difference of logits" in done.stdout
    assert (tmp_path / "demo.onnx").stat().st_size > 480_000


def test_what_is_no_model_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "--out", tmp_path / "demo.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the model folder")
    assert not list(tmp_path.iterdir())
