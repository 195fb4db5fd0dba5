"""What of a corpus is set aside for evaluation: about the share of its text that was asked for.

Units are drawn by key, a long document with all its parts, until their bytes are the share. So that no draw
can overshoot it, those above a sixteenth of the asked bytes are passed over. In a corpus with too few smaller
ones the gap is filled with larger ones, as long as they fit; what then is still missing, documents of single
units fill. Those stand in the plan, for the table of units knows no documents. So the share comes out within
a tenth, or within one document where documents are as large as that.

Appended shards bring held-out text of their own; nothing that existed changes.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data.shards.units import UnitTable
from objectives.rng import Rng, extend, key

_SIXTEENTH = 16
_UNITS_READ = 32
"""Units in which documents are looked for, at most: reading each costs a start."""


def held_out_units(
    seed: int, corpus: str, table: UnitTable, counts: Sequence[int], fraction: float
) -> np.ndarray:
    """int64, ascending: the units that are set aside as a whole. counts: units of each era, cumulative."""
    if not fraction:
        return np.empty(0, dtype=np.int64)
    first_parts = table.first_parts(counts[-1])
    chosen = [
        _draw(seed, corpus, table, first_parts, first, end, fraction)
        for first, end in zip([0, *counts], counts)
    ]
    return np.flatnonzero(np.isin(first_parts, np.concatenate(chosen)))


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


def held_out_documents(
    seed: int,
    corpus: str,
    table: UnitTable,
    counts: Sequence[int],
    fraction: float,
    units: np.ndarray,
    sizes_of: Callable[[int], Sequence[int]],
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """(unit, numbers of documents in it) that the last era sets aside besides whole units, where these leave
    more than a sixteenth of the share to be filled. units: held_out_units of all eras; sizes_of(unit): the
    bytes of text of its documents."""
    first, end = (0, *counts)[-2], counts[-1]
    units = units[units >= first]
    text_bytes = table.units["text_bytes"]
    asked = fraction * float(text_bytes[first:end].sum())
    missing = asked - float(text_bytes[units].sum())
    if missing <= asked / _SIXTEENTH:
        return ()
    numbers = np.arange(first, end)
    free = numbers[(table.units["samples"][first:end] > 1) & ~np.isin(numbers, units)]
    order = free[np.argsort(Rng(key(seed, "held-out", corpus)).bits(end)[free], kind="stable")]
    found = []
    for unit in order[:_UNITS_READ].tolist():
        chosen, missing = _fill(seed, corpus, unit, sizes_of(unit), missing)
        if chosen:
            found.append((unit, chosen))
        if missing <= asked / _SIXTEENTH:
            break
    if not found and not len(units) and not first:
        return _least(order[:_UNITS_READ], sizes_of)
    return tuple(found)


def _fill(
    seed: int, corpus: str, unit: int, sizes: Sequence[int], missing: float
) -> tuple[tuple[int, ...], float]:
    """Documents of a unit, drawn by key, that fit what is missing; and what is missing after them."""
    draws = Rng(extend(key(seed, "held-out", corpus), unit)).bits(len(sizes))
    chosen: list[int] = []
    for number in np.argsort(draws, kind="stable").tolist():
        if 0 < sizes[number] <= missing and len(chosen) < len(sizes) - 1:
            chosen.append(number)
            missing -= sizes[number]
    return tuple(sorted(chosen)), missing


def _least(
    order: np.ndarray, sizes_of: Callable[[int], Sequence[int]]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The smallest document of the first unit drawn: less than one cannot be set aside."""
    for unit in order.tolist():
        sizes = [(size, number) for number, size in enumerate(sizes_of(unit)) if size]
        if len(sizes) > 1:
            return ((unit, (min(sizes)[1],)),)
    return ()
