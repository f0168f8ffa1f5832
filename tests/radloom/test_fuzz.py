"""A short fuzz run of every reader; `python tests/helpers/fuzz_readers.py` has a long one."""

import os
import subprocess
import sys
from pathlib import Path

ROUNDS = 660


def test_changed_files_are_read_or_refused_and_nothing_else(repo: Path) -> None:
    """In a process of its own, with 3 GiB, so that a crash is a finding and not the end of the tests."""
    environment = os.environ | {"PYTHONPATH": f"{repo / 'workflow'}{os.pathsep}{repo / 'tests' / 'helpers'}"}
    command = [sys.executable, str(repo / "tests/helpers/fuzz_readers.py"), "--rounds", str(ROUNDS), "--seed", "7"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-200:])
    assert f"{ROUNDS} rounds" in done.stdout
    assert "'refused'" in done.stdout
    assert "'read'" in done.stdout
