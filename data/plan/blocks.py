"""A corpus's held-out units and its blocks, from its table of units.

Held-out units are set aside first (data/plan/held_out.py). What is left of a shard is divided evenly into
blocks of about `block_bytes` of text; a block never spans two shards. Appended shards bring their own
held-out units and blocks, behind the old ones; nothing that existed changes.
"""

from collections.abc import Sequence

import numpy as np

from data.plan.held_out import held_out_units
from data.shards.units import UnitTable


class Blocks:
    """The held-out units and the blocks of a corpus, from its table of units."""

    def __init__(
        self,
        seed: int,
        corpus: str,
        table: UnitTable,
        counts: Sequence[int],
        held_out: float,
        block_bytes: int,
    ) -> None:
        """counts: units of each era, cumulative."""
        units = table.units
        self.held_out = held_out_units(seed, corpus, table, counts, held_out)
        kept = np.ones(counts[-1], dtype=bool)
        kept[self.held_out] = False
        self._units = np.flatnonzero(kept)
        bytes_ = units["text_bytes"][self._units].astype(np.int64)
        self._ends = _group(units["shard"][self._units].astype(np.int64), bytes_, block_bytes)
        self.text_bytes: np.ndarray = np.diff(np.cumsum(bytes_)[self._ends - 1], prepend=0)
        """int64 [blocks]: bytes of text in each."""

    def __len__(self) -> int:
        return len(self._ends)

    def count(self, units: int) -> int:
        """Blocks of the corpus's first `units` units."""
        return int(np.searchsorted(self._ends, np.searchsorted(self._units, units), side="right"))

    def _slice(self, block: int) -> tuple[int, int]:
        return int(self._ends[block - 1]) if block else 0, int(self._ends[block])

    def units_of(self, block: int) -> list[int]:
        """The unit numbers of a block."""
        first, end = self._slice(block)
        return self._units[first:end].tolist()

    def block_of(self, unit: int) -> int | None:
        """The block of a unit; None for a held-out one."""
        at = int(np.searchsorted(self._units, unit))
        if at == len(self._units) or self._units[at] != unit:
            return None
        return int(np.searchsorted(self._ends, at, side="right"))


def _group(shards: np.ndarray, text_bytes: np.ndarray, block_bytes: int) -> np.ndarray:
    """int64: the end (exclusive) of each block in the list of kept units."""
    if not len(shards):
        return np.empty(0, dtype=np.int64)
    first = np.flatnonzero(np.diff(shards, prepend=shards[0] - 1))
    ends = []
    for start, end in zip(first, [*first[1:], len(shards)]):
        sizes = text_bytes[start:end]
        total = int(sizes.sum())
        blocks = max(1, round(total / block_bytes))
        twice_middle = 2 * np.cumsum(sizes) - sizes
        group = np.minimum(twice_middle * blocks // max(2 * total, 1), blocks - 1)
        ends.append(start + np.flatnonzero(np.diff(group, append=blocks)) + 1)
    return np.concatenate(ends).astype(np.int64)
