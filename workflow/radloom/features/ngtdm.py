"""Neighbouring grey tone difference features, with PyRadiomics' definitions (Amadasun and King 1989)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from radloom.images import Array

# PyRadiomics' value of Coarseness for an ROI without any difference.
COARSENESS_OF_FLAT = 1e6
# Pairs of levels are gone through in blocks of rows, so that thousands of levels fit into memory.
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class ToneDifference:
    """Present grey levels `i`, how many voxels have each, `n`, and the sum over them of the distance to the mean
    level of their neighbours, `s`.
    """

    i: Array
    n: Array
    s: Array

    @cached_property
    def p(self) -> Array:
        return self.n / self.n.sum()

    def pairs(self, term: Callable[[Array, Array, Array, Array, Array, Array], Array]) -> float:
        """Sum of term(i, j, p_i, p_j, s_i, s_j) over all pairs of levels."""
        total = 0.0
        for first in range(0, len(self.i), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            i, p, s = (values[rows, None] for values in (self.i, self.p, self.s))
            total += float(term(i, self.i, p, self.p, s, self.s).sum())
        return total

    def coarseness(self) -> float:
        weighted = float((self.p * self.s).sum())
        return 1 / weighted if weighted else COARSENESS_OF_FLAT

    def contrast(self) -> float:
        levels = len(self.i)
        if levels < 2:
            return 0.0
        spread = self.pairs(lambda i, j, pi, pj, _si, _sj: pi * pj * (i - j) ** 2)
        return spread * float(self.s.sum()) / float(self.n.sum()) / (levels * (levels - 1))

    def busyness(self) -> float:
        spread = self.pairs(lambda i, j, pi, pj, _si, _sj: np.abs(i * pi - j * pj))
        return float((self.p * self.s).sum()) / spread if spread else 0.0

    def complexity(self) -> float:
        return self.pairs(lambda i, j, pi, pj, si, sj: np.abs(i - j) * (pi * si + pj * sj) / (pi + pj)) / float(
            self.n.sum()
        )

    def strength(self) -> float:
        differences = float(self.s.sum())
        return self.pairs(lambda i, j, pi, pj, _si, _sj: (pi + pj) * (i - j) ** 2) / differences if differences else 0.0


FORMULAS: dict[str, Callable[[ToneDifference], float]] = {
    "Busyness": ToneDifference.busyness,
    "Coarseness": ToneDifference.coarseness,
    "Complexity": ToneDifference.complexity,
    "Contrast": ToneDifference.contrast,
    "Strength": ToneDifference.strength,
}


def ngtdm_features(tones: ToneDifference, wanted: tuple[str, ...]) -> dict[str, float]:
    """Return the named features."""
    return {name: FORMULAS[name](tones) for name in wanted}
