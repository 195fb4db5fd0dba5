"""Which corpus global row n comes from, as arithmetic: any rank can ask for any row at any time.

The lanes of a turn m = n div L are cut into rounds, and how many rows of each corpus lie in one follows from
the weights (data/plan/round_counts.py). In round r of the turn, of W rows, the row at place p has the cell

    (p·k + ⌊W·frac(m·φ + r·√2)⌋) mod W        φ = (√5 − 1)/2

k being the integer nearest to W·φ without a common factor with W, and the corpora take runs of cells of these
lengths. Neighbouring rows have cells far apart, so a batch that is no whole round is mixed too; and the cell
of a lane moves evenly from turn to turn (a golden-ratio sequence), so that a lane, and with it a stream, gets
its share of each corpus. frac(…) is the high half of the low 64 bits of a product of integers, so no machine
can round otherwise.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from data.plan.asked_rows import AskedRows
from data.plan.round_counts import RoundCounts
from objectives.schedule import Schedule

PHI_64 = 0x9E3779B97F4A7C15
"""φ·2⁶⁴, rounded."""
ROOT_64 = 0x6A09E667F3BCC909
"""(√2 − 1)·2⁶⁴, rounded."""
BLOCKS_A_STREAM = 64
"""Streams are few enough that each has this many blocks an epoch: neighbouring epochs then hardly overlap,
for each stream is dealt the same text (data/plan/dealing.py)."""
STREAMS = 64
"""And no more than these, unless the user says so: a process holds an open block of each that it follows, and
where there are more processes than lanes many follow each. 64 divides 960 and most numbers of GPUs."""
_ROUNDS, _KEPT = 256, 128
"""Rounds whose counts are worked out together, and of how many such runs they are kept."""


@lru_cache(maxsize=64)
def lane_multiplier(lanes: int) -> int:
    """k: the integer nearest to L·φ, at least 1, that has no factor in common with L."""
    nearest = round(lanes * (math.sqrt(5) - 1) / 2)
    for distance in range(lanes + 1):
        for k in (nearest - distance, nearest + distance):
            if k >= 1 and math.gcd(k, lanes) == 1:
                return k
    raise ValueError(f"lanes: expected at least 1, got {lanes}")


def streams_for(lanes: int, blocks: int, most: int = STREAMS) -> int:
    """S: the largest divisor of L not above `most`, nor above max(1, blocks div 64)."""
    most = min(most, max(1, blocks // BLOCKS_A_STREAM))
    return max(s for s in range(1, min(lanes, most) + 1) if lanes % s == 0)


class CorpusMix:
    """The corpora of rows by their weights, in the order given. Weights need no unit sum."""

    def __init__(self, lanes: int, weights: Sequence[Schedule]) -> None:
        self.lanes = lanes
        self.asked = AskedRows(weights)
        self.counts = RoundCounts(lanes, self.asked, len(weights))
        self._lengths = np.diff(self.counts.starts)
        self._k = np.array([lane_multiplier(length) for length in self._lengths.tolist()])
        self._run = lru_cache(maxsize=_KEPT)(self._bounds)

    def corpus_of(self, row: int) -> int:
        """Index of the corpus of one global row."""
        return int(self.corpora_of(np.array([row]))[0])

    def corpora_of(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n]: the same for many rows, in any order."""
        turn, lane = np.divmod(rows.astype(np.int64), self.lanes)
        part = self.counts.of_lane[lane]
        moved = turn.astype(np.uint64) * np.uint64(PHI_64) + part.astype(np.uint64) * np.uint64(ROOT_64)
        length = self._lengths[part]
        offset = (moved >> np.uint64(32)) * length.astype(np.uint64) >> np.uint64(32)
        cell = ((lane - self.counts.starts[part]) * self._k[part] + offset.astype(np.int64)) % length
        corpora = np.empty(len(rows), dtype=np.int64)
        run, within = np.divmod(turn * self.counts.a_turn + part, _ROUNDS)
        for number in np.unique(run).tolist():
            here = np.flatnonzero(run == number)
            corpora[here] = (cell[here] >= self._run(number)[:, within[here]]).sum(axis=0)
        return corpora

    def rows_before(self, row: int) -> np.ndarray:
        """int64 [corpora]: rows of each corpus before a global row."""
        number = self.counts.round_of(row)
        whole = np.array([self.counts.of(i, number) for i in range(self.counts.corpora)])
        rest = self.corpora_of(np.arange(self.counts.row(number), row))
        return whole + np.bincount(rest, minlength=len(whole))

    def next_row(self, corpus: int, row: int) -> int | None:
        """A row, `row` or behind it, before which none from `row` on comes from a corpus: where the round
        begins in which its next one lies. None where none ever comes."""
        number = self.counts.next(corpus, self.counts.round_of(row))
        return None if number is None else max(self.counts.row(number), row)

    def _bounds(self, number: int) -> np.ndarray:
        """int32 [corpora − 1, rounds]: where the runs of cells end, in one run of rounds."""
        counts = np.diff(self.counts.before(number * _ROUNDS, (number + 1) * _ROUNDS), axis=1)
        return np.cumsum(counts, axis=0)[:-1].astype(np.int32)
