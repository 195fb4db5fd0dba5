"""How many rows each corpus is asked to give up to any row, when weights may move: exact integers.

Weights are normalised at the knots, the rows at which any of them has a point, and between two knots the
shares, not the weights, go straight. So what a corpus is asked to give up to row n is a quadratic in each
stretch, known without walking there:

    share   s₀ ──────╲ s₁          rows asked, x rows behind the knot
            ├── X ────┤            A₀ + s₀·x + (s₁ − s₀)·x² / 2X

Shares are integers in 2⁻⁴⁰, rows asked in 2⁻²⁰ rows, rounded down: no machine can round otherwise, and no
number of these ever falls with n.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from objectives.schedule import Schedule

ROW_BITS = 20
"""Rows asked are counted in 2⁻²⁰ rows."""
_SHARE_BITS = 40
LEAST_SHARE = 1e-6
"""A smaller share is 0: the stream looks for the next row of each corpus, which at 10⁻⁹ is 10⁹ rows away."""
_EXACT_ROWS = 1 << 42
"""Rows behind a knot up to which int64 holds what a constant share asks."""


class AskedRows:
    """What some corpora are asked to give, from their weights. ValueError where at some row all are 0."""

    def __init__(self, weights: Sequence[Schedule]) -> None:
        self.knots = sorted({0, *(row for weight in weights for row, _ in weight.points)})
        values = [[weight.at(row) for weight in weights] for row in self.knots]
        for row, at in zip(self.knots, values):
            if not sum(at) > 0:
                raise ValueError(f"all weights are 0 at row {row}")
        self._shares = [_shares(at) for at in values]
        self._asked = [[0] * len(weights)]
        for knot in range(1, len(self.knots)):
            rows = self.knots[knot] - self.knots[knot - 1]
            self._asked.append([self._behind(i, knot - 1, rows) for i in range(len(weights))])

    def shares(self, row: int) -> list[float]:
        """The share of each corpus at a global row; their sum is 1."""
        knot = bisect_right(self.knots, row) - 1
        now, then = self._shares[knot], self._shares[min(knot + 1, len(self.knots) - 1)]
        done = 0.0 if now is then else (row - self.knots[knot]) / (self.knots[knot + 1] - self.knots[knot])
        return [(a + (b - a) * done) / (1 << _SHARE_BITS) for a, b in zip(now, then)]

    def ever(self, corpus: int) -> bool:
        """Whether a corpus is ever asked for a row."""
        return any(shares[corpus] for shares in self._shares)

    def upto(self, corpus: int, row: int) -> int:
        """2⁻²⁰ rows that a corpus is asked to give before a global row."""
        knot = bisect_right(self.knots, row) - 1
        return self._behind(corpus, knot, row - self.knots[knot])

    def rows(self, row: int) -> np.ndarray:
        """float64 [corpora]: rows that each is asked to give before a global row."""
        return np.array([self.upto(i, row) for i in range(len(self._asked[0]))]) / (1 << ROW_BITS)

    def upto_all(self, corpus: int, rows: np.ndarray) -> np.ndarray:
        """int64: the same for many rows, which ascend."""
        borders = np.searchsorted(rows, self.knots[1:]).tolist()
        parts = np.split(rows, borders)
        return np.concatenate([self._stretch(corpus, knot, part) for knot, part in enumerate(parts)])

    def _stretch(self, corpus: int, knot: int, rows: np.ndarray) -> np.ndarray:
        """Of rows that all lie behind one knot."""
        if not len(rows):
            return np.empty(0, np.int64)
        behind = rows - self.knots[knot]
        share = self._shares[knot][corpus]
        if self._slope(corpus, knot) or behind[-1] >= _EXACT_ROWS:
            return np.array([self._behind(corpus, knot, x) for x in behind.tolist()], np.int64)
        high, low = divmod(share, 1 << ROW_BITS)
        return self._asked[knot][corpus] + behind * high + (behind * low >> ROW_BITS)

    def _slope(self, corpus: int, knot: int) -> int:
        """By how much a share changes up to the next knot."""
        if knot + 1 == len(self.knots):
            return 0
        return self._shares[knot + 1][corpus] - self._shares[knot][corpus]

    def _behind(self, corpus: int, knot: int, rows: int) -> int:
        share, slope = self._shares[knot][corpus], self._slope(corpus, knot)
        before = self._asked[knot][corpus]
        if not slope:
            return before + (share * rows >> _SHARE_BITS - ROW_BITS)
        length = self.knots[knot + 1] - self.knots[knot]
        return before + (rows * (2 * length * share + slope * rows)) // (2 * length << _SHARE_BITS - ROW_BITS)


def _shares(weights: Sequence[float]) -> list[int]:
    """Integers whose sum is 2⁴⁰, those of less than LEAST_SHARE 0; the largest rest is rounded up first."""
    exact = [Fraction(weight) for weight in weights]
    least = sum(exact) * Fraction(LEAST_SHARE)
    counted = [weight if weight >= least else Fraction(0) for weight in exact]
    scaled = [weight * (1 << _SHARE_BITS) / sum(counted) for weight in counted]
    shares = [int(share) for share in scaled]
    missing = (1 << _SHARE_BITS) - sum(shares)
    by_rest = sorted(range(len(shares)), key=lambda i: shares[i] - scaled[i])
    for i in by_rest[:missing]:
        shares[i] += 1
    return shares
