"""`snakemake --lint` on the demo's configuration. Prints the findings and exits 1 where there is any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def findings() -> list[str]:
    """Return the findings of the linter, one text each; raise RuntimeError where it could not run."""
    command = [str(Path(sys.executable).parent / "snakemake"), "--lint", "--cores", "1"]
    process = subprocess.run(command, cwd=REPO, text=True, capture_output=True, check=False)
    text = process.stdout + process.stderr
    if "Lints for" not in text and "Congratulations" not in text:
        raise RuntimeError(text)
    return [line.strip() for line in text.splitlines() if line.strip().startswith("* ")]


def main() -> None:
    found = findings()
    print("\n".join(found) or "snakemake --lint: clean")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
