"""A corpus's held-out units and its blocks, from the index's table of units.

Held-out units are set aside first, by key. What is left of a shard is divided evenly into blocks of about
`block_bytes` of text; a block never spans two shards. Appended shards bring their own held-out units and
blocks, behind the old ones; nothing that existed changes.
"""

from collections.abc import Sequence

import numpy as np

from objectives.rng import Rng, key


class Blocks:
    """The held-out units and the blocks of a corpus, from its table of units."""

    def __init__(
        self,
        seed: int,
        corpus: str,
        units: np.ndarray,
        counts: Sequence[int],
        held_out: float,
        block_bytes: int,
    ) -> None:
        """units: the index's table (fields shard, text_bytes); counts: units of each era, cumulative."""
        self.held_out = _held_out(seed, corpus, counts, held_out)
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


def _held_out(seed: int, corpus: str, counts: Sequence[int], fraction: float) -> np.ndarray:
    """int64: the held-out units, ascending: of each era's new units the `fraction` with the smallest draws;
    of the first era at least one and never all (none where it has a single unit)."""
    keys = Rng(key(seed, "held-out", corpus)).bits(counts[-1])
    chosen = []
    first = 0
    for number, end in enumerate(counts):
        take = round(fraction * (end - first))
        if number == 0 and fraction > 0:
            take = min(max(take, 1), end - first - 1)
        chosen.append(first + np.argsort(keys[first:end], kind="stable")[:take])
        first = end
    return np.sort(np.concatenate(chosen))


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
