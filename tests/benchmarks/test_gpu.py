"""The benchmark for GPUs runs where there is none, and where neither safetensors nor this package is installed."""

import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
WITHOUT = "import sys, runpy; sys.modules['safetensors'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def test_the_table_is_whole_and_all_tools_agree() -> None:
    command = [sys.executable, "-c", WITHOUT, REPO / "benchmarks" / "gpu.py", "--small", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    cells = {row[0]: row for row in rows}
    for tool in ("**Radloom**, float32", "MONAI", "nnU-Net-like loop"):
        # float16 sums and another order of them move a label here and there.
        assert float(cells[tool][-1]) > 0.99, tool
        seconds = [float(cell.removesuffix(" s")) for cell in cells[tool][1:4]]
        assert 0 < seconds[0] < 60, tool
        assert 0 < seconds[2] < 60, tool
    assert "Other labels with one window at a time: 0 of" in done.stdout
    assert len([cell for name, cell in cells.items() if "channels" in name and float(cell[1]) > 0]) == 4
    assert re.search(r"A copy moves [1-9][0-9]* GB/s", done.stdout)
    assert re.search(r"must move [0-9.]+ GB, which takes 0\.[0-9]+ s", done.stdout)


def test_the_whole_size_is_refused_without_a_card() -> None:
    command = [sys.executable, REPO / "benchmarks" / "gpu.py", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--small runs on a CPU" in done.stderr
