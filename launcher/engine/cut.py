"""Which elements of a parameter a rank holds: runs with a stride, and what is done with them.

A parameter counts as one long vector, row behind row. ZeRO takes a stretch of it; tensor parallelism takes
rows of a matrix, which is a stretch too, or columns, which is a run from each row:

    weight [3, 8], the columns 4 … 7                  0  1  2  3 [ 4  5  6  7]
    offset 4, length 12, run 4, stride 8              8  9 10 11 [12 13 14 15]
                                                     16 17 18 19 [20 21 22 23]

Local element i is element offset + (i // run) · stride + i % run of the parameter. The last run may be cut
short; what begins within a run is two cuts, which `narrowed` makes. The work is done on runs and never on
elements: columns of a weight [out, in] are `out` runs, however wide it is. No torch here: the small files of
a checkpoint are read without it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Cut(NamedTuple):
    """Elements of a flattened parameter, in ascending order. 0 < run ≤ stride; one stretch is a single run,
    with run = stride = length."""

    offset: int
    length: int
    run: int
    stride: int

    @staticmethod
    def of(offset: int, length: int, run: int | None = None, stride: int | None = None) -> "Cut":
        """The cut in its one spelling. Without run and stride: the stretch [offset, offset + length)."""
        if run is None or stride is None or length <= run or run == stride:
            return Cut(offset, length, length, length)
        return Cut(offset, length, run, stride)

    @property
    def numbers(self) -> list[int]:
        """What `of` makes it of again, as short as it can be said."""
        return [*self[:2]] if self.run == self.length else [*self]

    def element(self, local: int) -> int:
        """Where in the parameter its element number `local` is."""
        return self.offset + local // self.run * self.stride + local % self.run


def narrowed(cuts: Sequence[Cut], first: int, count: int) -> list[Cut]:
    """Elements [first, first + count) of what the cuts make one behind the other, such as ZeRO's stretch of a
    weight that tensor parallelism has cut: local elements to elements of the whole parameter."""
    found: list[Cut] = []
    for cut in cuts:
        low, high = max(first, 0), min(first + count, cut.length)
        if low < high:
            found += _within(cut, low, high)
        first -= cut.length
    return found


def _within(cut: Cut, low: int, high: int) -> Iterator[Cut]:
    """Elements [low, high) of one cut: the rest of a run that begins in the middle, then whole runs."""
    row, column = divmod(low, cut.run)
    if column:
        end = min(high, low + cut.run - column)
        yield Cut.of(cut.offset + row * cut.stride + column, end - low)
        row, low = row + 1, end
    if low < high:
        yield Cut.of(cut.offset + row * cut.stride, high - low, cut.run, cut.stride)


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of some cuts, by ascending start. int64 [runs] each."""

    start: np.ndarray
    """Of the run, in the parameter."""
    length: np.ndarray
    cut: np.ndarray
    """The number of the cut that it is of."""
    local: np.ndarray
    """Its first element in that cut."""

    @property
    def end(self) -> np.ndarray:
        """Behind the last element of the run."""
        return self.start + self.length

    @staticmethod
    def of(cuts: Sequence[Cut]) -> "Runs":
        """All runs of all cuts of one parameter."""
        offset, length, run, stride = np.array(cuts, dtype=np.int64).reshape(-1, 4).T
        counts = -(-length // run)
        cut = np.repeat(np.arange(len(cuts)), counts)
        number = np.arange(len(cut)) - np.repeat(np.cumsum(counts) - counts, counts)
        start, local = offset[cut] + number * stride[cut], number * run[cut]
        order = np.argsort(start, kind="stable")
        lengths = np.minimum(run[cut], length[cut] - local)
        return Runs(start[order], lengths[order], cut[order], local[order])

    def shared(self, others: "Runs") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Where these runs and others, which do not overlap among themselves, have elements in common: the
        number of the run here, that of the other, first element and length of what they share."""
        first = np.searchsorted(others.end, self.start, side="right")
        behind = np.searchsorted(others.start, self.end, side="left")
        counts = np.maximum(behind - first, 0)
        own = np.repeat(np.arange(len(counts)), counts)
        other = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts - first, counts)
        begin = np.maximum(self.start[own], others.start[other])
        return own, other, begin, np.minimum(self.end[own], others.end[other]) - begin


def cover_fault(cuts: Sequence[Cut], size: int) -> str | None:
    """None where the cuts hold each of `size` elements exactly once, else what is wrong, in words."""
    runs = Runs.of(cuts)
    starts, ends = np.append(runs.start, size), np.append(0, runs.end)
    wrong = np.flatnonzero(starts != ends)
    if not len(wrong):
        return None
    return f"element {min(starts[wrong[0]], ends[wrong[0]])} is there twice or not at all"
