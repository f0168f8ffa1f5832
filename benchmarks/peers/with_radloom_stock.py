"""Radloom's step `extract` with `engine: pyradiomics`."""

import with_radloom
from with_radloom import compute, numbers, read, write

__all__ = ["compute", "numbers", "read", "write"]
with_radloom.ENGINE = "pyradiomics"
