"""A corpus's held-out units and its blocks, from its table of units.

Held-out units are set aside first (data/plan/held_out.py). What is left of a shard is divided evenly into
blocks of about `block_bytes` of text; a block never spans two shards. Appended shards bring their own
held-out units and blocks, behind the old ones; nothing that existed changes.

What a rank needs of it is four arrays with an entry a block or a held-out unit, and none with one a unit: a
block is the units between two ends, less the held-out ones among them. So the arrays may lie in a file that
all ranks of a machine map (data/plan/block_file.py), and the table is gone through in pieces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import MADV_DONTNEED, mmap

import numpy as np

from data.plan.dealing import largest_first
from data.plan.held_out import held_out_units, text_of
from data.shards.units import UnitTable

_PIECE = 1 << 20
"""Units that are grouped together, and what their last shard has beyond that."""


@dataclass(frozen=True)
class Blocks:
    """The held-out units and the blocks of a corpus.

    counts: units of each era, cumulative. held_out: int64, ascending, the units set aside. ends: int64
    [blocks], the number behind the last unit of each. text_bytes: uint32, int64 where it takes that,
    [blocks], of text in each. ranked: for each era int32 [its blocks and those before], the largest first.
    era_text: for each era the bytes of its text, and of what is held out of it by units. mapped: the file in
    which the arrays lie.
    """

    counts: tuple[int, ...]
    held_out: np.ndarray
    ends: np.ndarray
    text_bytes: np.ndarray
    ranked: tuple[np.ndarray, ...]
    era_text: tuple[tuple[int, int], ...]
    mapped: mmap | None = None

    def release(self) -> None:
        """Give back the pages of the file that were read: a look-up maps some megabytes around a number."""
        if self.mapped is not None:
            self.mapped.madvise(MADV_DONTNEED)

    def __len__(self) -> int:
        return len(self.ends)

    def count(self, units: int) -> int:
        """Blocks of the corpus's first `units` units."""
        return int(np.searchsorted(self.ends, units, side="right"))

    def units_of(self, block: int) -> list[int]:
        """The unit numbers of a block."""
        first, end = int(self.ends[block - 1]) if block else 0, int(self.ends[block])
        low, high = np.searchsorted(self.held_out, [first, end])
        held = {*self.held_out[low:high].tolist()}
        return [unit for unit in range(first, end) if unit not in held]

    def block_of(self, unit: int) -> int | None:
        """The block of a unit; None for a held-out one."""
        at = int(np.searchsorted(self.held_out, unit))
        if at < len(self.held_out) and self.held_out[at] == unit:
            return None
        number = self.count(unit)
        return number if number < len(self) else None


def make_blocks(
    seed: int, corpus: str, table: UnitTable, counts: Sequence[int], held_out: float, block_bytes: int
) -> Blocks:
    """The blocks of the first counts[-1] units of a table. counts: units of each era, cumulative."""
    held = held_out_units(seed, corpus, table, counts, held_out)
    pieces = [_group(table, held, low, high, block_bytes) for low, high in _pieces(table, counts[-1])]
    ends = np.concatenate([ends for ends, _ in pieces]) if pieces else np.empty(0, np.int64)
    text_bytes = np.concatenate([sizes for _, sizes in pieces]) if pieces else np.empty(0, np.int64)
    blocks = np.searchsorted(ends, counts, side="right").tolist()
    set_aside = np.searchsorted(held, counts).tolist()
    era_text = []
    for first, stop, low, high in zip([0, *blocks], blocks, [0, *set_aside], set_aside):
        aside = text_of(table, held[low:high])
        era_text.append((int(text_bytes[first:stop].sum()) + aside, aside))
    ranked = tuple(largest_first(text_bytes[:number]) for number in blocks)
    if text_bytes.max(initial=0) < 1 << 32:
        text_bytes = text_bytes.astype(np.uint32)
    return Blocks(tuple(counts), held, ends, text_bytes, ranked, tuple(era_text))


def _pieces(table: UnitTable, end: int) -> Iterator[tuple[int, int]]:
    """(first, stop) of runs of whole shards that together are the first `end` units."""
    low = 0
    while low < end:
        high = min(table.shard_border(low + _PIECE), end)
        yield low, high
        low = high


def _group(
    table: UnitTable, held_out: np.ndarray, low: int, high: int, block_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """int64 [blocks]: the ends of the blocks of the whole shards that units low … high−1 are, and the bytes
    of text of each block."""
    first, stop = np.searchsorted(held_out, [low, high])
    kept = np.delete(np.arange(low, high), held_out[first:stop] - low)
    if not len(kept):
        return kept, kept
    rows = table.units[low:high]
    sizes = np.delete(rows["text_bytes"].astype(np.int64), held_out[first:stop] - low)
    shards = np.delete(rows["shard"], held_out[first:stop] - low)
    table.release()
    begins = np.flatnonzero(np.diff(shards, prepend=shards[0] + 1))
    units = np.diff(begins, append=len(shards))
    past = np.cumsum(sizes)
    before = (past - sizes)[begins]
    totals = np.add.reduceat(sizes, begins)
    blocks = np.maximum(np.rint(totals / block_bytes).astype(np.int64), 1)
    twice_middle = 2 * (past - np.repeat(before, units)) - sizes
    group = twice_middle * np.repeat(blocks, units) // np.repeat(np.maximum(2 * totals, 1), units)
    group = np.minimum(group, np.repeat(blocks - 1, units))
    group += np.repeat(np.cumsum(blocks) - blocks, units)  # other shards have other groups
    last = np.flatnonzero(np.diff(group, append=-1))
    return kept[last] + 1, np.diff(past[last], prepend=0)
