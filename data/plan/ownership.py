"""Which data-parallel rank computes which row, and so which streams each of them follows.

Up to L ranks a row goes with its lane, so that a rank draws from few streams. Beyond that there are more
ranks than lanes, and the rows are dealt out one by one. What stands in a row depends on neither.

    D ≤ L    row n → rank (n mod L) mod D     rank r follows stream s where a lane ≡ r (mod D) is ≡ s (mod S)
    D > L    row n → rank n mod D             … where r ≡ s (mod gcd(D, S)): S / gcd streams each
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ownership:
    """lanes: L; world: D."""

    lanes: int
    world: int

    def owners(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n]: the rank to which each global row belongs."""
        return (rows % self.lanes if self.world <= self.lanes else rows) % self.world

    def streams_of(self, rank: int, streams: int) -> list[int]:
        """Of S streams those that a rank follows, ascending."""
        if self.world <= self.lanes:
            return sorted({lane % streams for lane in range(rank, self.lanes, self.world)})
        together = math.gcd(self.world, streams)
        return list(range(rank % together, streams, together))

    def followers(self, stream: int, streams: int) -> list[int]:
        """The ranks that follow one of S streams, ascending; the first reports it."""
        if self.world <= self.lanes:
            return sorted({lane % self.world for lane in range(stream, self.lanes, streams)})
        together = math.gcd(self.world, streams)
        return list(range(stream % together, self.world, together))
