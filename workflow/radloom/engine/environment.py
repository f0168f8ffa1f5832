"""What jobs inherit: this Python, this code, wherever and however Snakemake was started."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def set_environment(root: Path) -> None:
    """Let jobs find the scripts, the package beside them, and this process's Python, installed or not."""
    _prepend("PYTHONPATH", str(root / "workflow"))
    _prepend("PATH", str(Path(sys.executable).parent))
    os.environ["RADLOOM_SCRIPTS"] = str(root / "workflow" / "scripts")


def _prepend(variable: str, folder: str) -> None:
    present = [part for part in os.environ.get(variable, "").split(os.pathsep) if part and part != folder]
    os.environ[variable] = os.pathsep.join([folder, *present])
