"""What of a corpus is set aside for evaluation: about the share of its text that was asked for.

Units are drawn by key, a long document with all its parts, until their bytes are the share. So that no draw
can overshoot it, those above a sixteenth of the asked bytes are passed over. In a corpus with too few smaller
ones the gap is filled with larger ones, as long as they fit; what then is still missing, documents of single
units fill. Those stand in the plan, for the table of units knows no documents. So the share comes out within
a tenth, or within one document where documents are as large as that.

Appended shards bring held-out text of their own; nothing that existed changes.

A table of a large corpus has more units than fit in memory several times over, so it is gone through in
pieces, and of the draws only those are kept that can be among the first: a little more than the share. Where
that was too little, all of them are.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data.shards.units import UnitTable
from objectives.rng import Rng, extend, key

_SIXTEENTH = 16
_UNITS_READ = 32
"""Units in which documents are looked for, at most: reading each costs a start."""
_PIECE = 1 << 20
"""Units that are looked at together."""
_SCATTERED = 1 << 14
"""The same where they lie far from one another."""
_FEW = 1 << 18
"""Units of which all draws are kept."""


def held_out_units(
    seed: int, corpus: str, table: UnitTable, counts: Sequence[int], fraction: float
) -> np.ndarray:
    """int64, ascending: the units that are set aside as a whole. counts: units of each era, cumulative."""
    if not fraction:
        return np.empty(0, dtype=np.int64)
    rng = Rng(key(seed, "held-out", corpus))
    chosen = [_choose(rng, table, first, end, fraction) for first, end in zip([0, *counts], counts)]
    begins = np.sort(np.concatenate(chosen))
    return _with_parts(begins, table.parts_of(begins))


def _with_parts(begins: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """int64: the units of documents that begin in `begins` and have so many parts."""
    return np.repeat(begins - (np.cumsum(parts) - parts), parts) + np.arange(parts.sum())


def _choose(rng: Rng, table: UnitTable, first: int, end: int, fraction: float) -> np.ndarray:
    """The first units of the documents, and the units of documents, that an era sets aside."""
    units = end - first
    likely = 1.1 * fraction + 16 * (fraction / max(units, 1)) ** 0.5
    for share in [1.0] if units <= _FEW or likely >= 1 else [likely, 1.0]:
        whole, sizes, order, total = _drawn(rng, table, first, end, share)
        asked = fraction * total
        order = order[sizes[order] > 0]
        small = order[sizes[order] <= asked / _SIXTEENTH]
        before = np.cumsum(sizes[small]) - sizes[small]
        taken = small[before + sizes[small] / 2 <= asked]
        if len(taken) < len(small):
            break  # the bytes are together: what has later draws changes nothing
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


def _drawn(
    rng: Rng, table: UnitTable, first: int, end: int, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """int64 [n]: of the units first … end−1 in which documents begin those whose draw is below the share, the
    bytes of text of each with all its parts, and their order by draw; and the bytes of text of all."""
    bound = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
    wholes, draws, total = [], [], 0
    for low in range(first, end, _PIECE):
        high = min(low + _PIECE, end)
        total += int(table.units["text_bytes"][low:high].sum())
        bits = rng.at(np.arange(low, high))
        below = np.flatnonzero(bits <= bound)
        begins = table.first_parts(below + low) == below + low
        wholes.append(below[begins] + low)
        draws.append(bits[below[begins]])
        table.release()
    whole = np.concatenate(wholes) if wholes else np.empty(0, np.int64)
    order = np.argsort(np.concatenate(draws), kind="stable") if draws else whole
    return whole, _whole_sizes(table, whole), order, total


def _whole_sizes(table: UnitTable, whole: np.ndarray) -> np.ndarray:
    """int64 [n]: the bytes of text of the documents that begin in these units, with all their parts."""
    parts = table.parts_of(whole)
    sizes = np.empty(len(whole), dtype=np.int64)
    for low in range(0, len(whole), _SCATTERED):
        piece = slice(low, low + _SCATTERED)
        text = table.units["text_bytes"][_with_parts(whole[piece], parts[piece])]
        sizes[piece] = np.add.reduceat(text, np.cumsum(parts[piece]) - parts[piece])
        table.release()
    return sizes


def text_of(table: UnitTable, units: np.ndarray) -> int:
    """Bytes of text of some units."""
    total = 0
    for low in range(0, len(units), _SCATTERED):
        total += int(table.units["text_bytes"][units[low : low + _SCATTERED]].sum())
        table.release()
    return total


def held_out_documents(
    seed: int,
    corpus: str,
    table: UnitTable,
    counts: Sequence[int],
    fraction: float,
    units: np.ndarray,
    text_bytes: tuple[int, int],
    sizes_of: Callable[[int], Sequence[int]],
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """(unit, numbers of documents in it) that the last era sets aside besides whole units, where these leave
    more than a sixteenth of the share to be filled. units: held_out_units of all eras; text_bytes: of the
    last era's text, and of what its units set aside; sizes_of(unit): the bytes of text of its documents."""
    first, end = (0, *counts)[-2], counts[-1]
    asked = fraction * float(text_bytes[0])
    missing = asked - float(text_bytes[1])
    if missing <= asked / _SIXTEENTH:
        return ()
    units = units[np.searchsorted(units, first) :]
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
