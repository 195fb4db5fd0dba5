"""Blocks and held-out units worked out at once, in arrays as long as the table of units: what the code that
works in pieces (data/plan/blocks.py, held_out.py) is held against."""

from collections.abc import Sequence

import numpy as np

from data.shards.units import UnitTable
from objectives.rng import Rng, key

_SIXTEENTH = 16


class PlainBlocks:
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
        self.held_out = plain_held_out(seed, corpus, table, counts, held_out)
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


def plain_held_out(
    seed: int, corpus: str, table: UnitTable, counts: Sequence[int], fraction: float
) -> np.ndarray:
    """int64, ascending: the units that are set aside as a whole. counts: units of each era, cumulative."""
    if not fraction:
        return np.empty(0, dtype=np.int64)
    begins = first_parts(table, counts[-1])
    chosen = [
        _draw(seed, corpus, table, begins, first, end, fraction) for first, end in zip([0, *counts], counts)
    ]
    return np.flatnonzero(np.isin(begins, np.concatenate(chosen)))


def _draw(
    seed: int, corpus: str, table: UnitTable, first_parts: np.ndarray, first: int, end: int, fraction: float
) -> np.ndarray:
    """The first units of the documents, and the units of documents, that an era sets aside."""
    whole, sizes = _wholes(table, first_parts, first, end)
    asked = fraction * sizes.sum()
    order = np.argsort(Rng(key(seed, "held-out", corpus)).bits(end)[whole], kind="stable")
    order = order[sizes[order] > 0]
    small = order[sizes[order] <= asked / _SIXTEENTH]
    before = np.cumsum(sizes[small]) - sizes[small]
    taken = small[before + sizes[small] / 2 <= asked]
    missing = asked - sizes[taken].sum()
    larger = []
    for number in order[(sizes[order] > asked / _SIXTEENTH) & (sizes[order] <= missing)].tolist():
        if missing <= asked / _SIXTEENTH:
            break
        if sizes[number] <= missing:
            larger.append(number)
            missing -= sizes[number]
    chosen = np.concatenate([taken, np.array(larger, np.int64)])
    if missing > asked / _SIXTEENTH:
        chosen = np.append(chosen, _nearest(table, whole, sizes, np.setdiff1d(order, chosen), missing))
    if not len(chosen) and not first and len(order) > 1 and (table.units["samples"][:end] <= 1).all():
        chosen = order[[np.argmin(sizes[order])]]  # every unit is one document: less cannot be set aside
    return whole[chosen]


def _nearest(
    table: UnitTable, whole: np.ndarray, sizes: np.ndarray, left: np.ndarray, missing: float
) -> np.ndarray:
    """The single document that comes nearest to what is missing, where with it is nearer than without; not
    the last thing that is left. left: int64, of `whole`."""
    single = left[table.units["samples"][whole[left]] <= 1]
    off = np.abs(sizes[single] - missing)
    if len(left) < 2 or not len(single) or off.min() >= missing:
        return single[:0]
    return single[[np.argmin(off)]]


def _wholes(table: UnitTable, first_parts: np.ndarray, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n]: the units first … end−1 in which documents begin, and the bytes of text of each with all its
    parts."""
    begins = first_parts[first:end]
    whole = np.flatnonzero(begins == np.arange(first, end)) + first
    sizes = np.bincount(begins - first, table.units["text_bytes"][first:end].astype(np.float64))
    return whole, sizes[whole - first].astype(np.int64)


def first_parts(table: UnitTable, stop: int) -> np.ndarray:
    """int64 [units]: of each of the first `stop` units the number of the unit in which its document
    begins; its own for a unit of whole samples."""
    first = np.arange(stop, dtype=np.int64)
    long = table.placed[(table.placed["parts"] > 1) & (table.placed["unit"] < len(first))]
    parts = long["parts"].astype(np.int64)
    units = np.repeat(long["unit"].astype(np.int64), parts)
    within = np.arange(len(units)) - np.repeat(np.cumsum(parts) - parts, parts)
    first[units + within] = units
    return first


def largest_first(text_bytes: np.ndarray) -> np.ndarray:
    """int32 [N]: the blocks, the largest first."""
    return np.argsort(-text_bytes, kind="stable").astype(np.int32)
