"""Which corpus global row n comes from, as arithmetic: any rank can ask for any row at any time.

Row n (lane l = n mod L, turn m = n div L) comes from the corpus whose interval of cumulative
weight holds

    x(n) = (((l + m)·k mod L) + frac(m·φ)) / L,        φ = (√5 − 1)/2

k being the integer nearest to L·φ without a common factor with L. The first term visits all L cells in every
turn of the lanes, the second spreads successive visits to a cell evenly (a golden-ratio sequence): both a
batch and a lane stay within a few rows of their shares. All of it is done in integers: frac(m·φ) is the low
64 bits of m·φ·2⁶⁴, and the bounds of the intervals are exact fractions, so no machine can round otherwise.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

PHI_64 = 0x9E3779B97F4A7C15
"""φ·2⁶⁴, rounded."""
_MASK_64 = (1 << 64) - 1
BLOCKS_A_STREAM = 64
"""Streams are few enough that each has this many blocks an epoch: neighbouring epochs then hardly overlap,
for each stream is dealt the same text (data/plan/dealing.py)."""


@lru_cache(maxsize=64)
def lane_multiplier(lanes: int) -> int:
    """k: the integer nearest to L·φ, at least 1, that has no factor in common with L."""
    nearest = round(lanes * (math.sqrt(5) - 1) / 2)
    for distance in range(lanes + 1):
        for k in (nearest - distance, nearest + distance):
            if k >= 1 and math.gcd(k, lanes) == 1:
                return k
    raise ValueError(f"lanes: expected at least 1, got {lanes}")


def streams_for(lanes: int, blocks: int) -> int:
    """S: the largest divisor of L not above max(1, blocks div 64)."""
    most = max(1, blocks // BLOCKS_A_STREAM)
    return max(s for s in range(1, min(lanes, most) + 1) if lanes % s == 0)


class CorpusMix:
    """x(n) against the cumulative weights of the corpora, in the order given. Weights need no unit sum."""

    def __init__(self, lanes: int, weights: Sequence[float]) -> None:
        parts = [Fraction(weight) for weight in weights]
        total = sum(parts)
        if not parts or min(parts) < 0 or total <= 0:
            raise ValueError(f"weights: expected numbers of at least 0, one above, got {list(weights)}")
        self.lanes = lanes
        self.weights = [float(part / total) for part in parts]
        self._k = lane_multiplier(lanes)
        scale = Fraction(lanes << 64)
        bounds = [math.ceil(sum(parts[: i + 1], Fraction(0)) / total * scale) for i in range(len(parts) - 1)]
        self._bounds = [(bound >> 64, bound & _MASK_64) for bound in bounds]

    def corpus_of(self, row: int) -> int:
        """Index of the corpus of one global row."""
        turn, lane = divmod(row, self.lanes)
        x = ((lane + turn) * self._k % self.lanes, turn * PHI_64 & _MASK_64)
        return sum(x >= bound for bound in self._bounds)

    def corpora_of(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n]: the same for many rows."""
        turn, lane = np.divmod(rows.astype(np.int64), self.lanes)
        cell = (lane + turn) % self.lanes * self._k % self.lanes
        corpora = np.zeros(len(rows), dtype=np.int64)
        if self._bounds:
            inside = turn.astype(np.uint64) * np.uint64(PHI_64)
            for high, low in self._bounds:
                corpora += (cell > high) | ((cell == high) & (inside >= np.uint64(low)))
        return corpora
