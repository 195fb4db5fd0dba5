"""The random choices that several objectives share, for many segments at once (ragged arrays: ragged.py).

What is chosen in a segment is a function of its own random numbers alone, whatever stands beside it. Only who
exchanges with whom (`pair_up`) is a choice for all of them together.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import numpy as np

from objectives.ragged import starts_of
from objectives.rng import Rng, RngBatch

LONGEST = 1 << 20
"""The most tokens of a segment: so that a limit and 44 bits of chance multiply within 64 bits (`_below`), and
a position has 20 of them in `shuffle`."""
MOST = 1 << 16
"""The most segments at once: `shuffle` sorts by segment, 28 bits of chance and position in 64 bits."""

_POSITION = np.uint64(LONGEST - 1)
_POSITION_BITS = np.uint64(20)
_FRACTION_BITS = np.uint64(44)  # of the number, beside those of a position
_CHANCE_SHIFT = np.uint64(36)
_SEGMENT_SHIFT = np.uint64(48)


def _sort_keys(sizes: np.ndarray, rng: RngBatch) -> np.ndarray:
    """uint64 [Σ sizes]: numbers that sort by segment, then by 28 bits of chance, then by position."""
    keys = rng.bits(sizes)
    keys >>= _CHANCE_SHIFT
    keys <<= _POSITION_BITS
    first = (np.arange(len(sizes), dtype=np.uint64) << _SEGMENT_SHIFT) - starts_of(sizes).astype(np.uint64)
    keys += np.repeat(first, sizes)
    keys += np.arange(len(keys), dtype=np.uint64)
    return keys


def choose(sizes: np.ndarray, counts: np.ndarray, rng: RngBatch) -> np.ndarray:
    """bool [Σ sizes]: True at counts[p] ≤ sizes[p] positions of each segment p, every set equally likely.

    As many positions are drawn as are missing, until none is: what falls on a taken one is drawn again. No
    position is treated unlike another, so every set of a size is as likely as the next. Of segments of which
    more than half is wanted, what is left out is drawn."""
    inverted = 2 * counts > sizes
    missing = np.where(inverted, sizes - counts, counts)
    taken = np.zeros(int(sizes.sum()), dtype=bool)
    first, number = starts_of(sizes), np.arange(len(sizes))
    while missing.any():
        segment = np.repeat(number, missing)
        positions = _below(sizes[segment], rng.bits(missing)) + first[segment]
        positions.sort()  # within each segment, for the segments follow one another
        new = ~taken[positions]
        new[1:] &= positions[1:] != positions[:-1]
        taken[positions] = True
        missing = missing - np.bincount(segment[new], minlength=len(sizes))
    return taken ^ np.repeat(inverted, sizes)


def _below(limits: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """int64 [n]: raw numbers scaled to 0 … limits − 1, each as likely. Above LONGEST they overflow."""
    return ((bits >> _POSITION_BITS) * limits.astype(np.uint64) >> _FRACTION_BITS).astype(np.int64)


def shuffle(sizes: np.ndarray, rng: RngBatch) -> np.ndarray:
    """int64 [Σ sizes]: for each segment a permutation of its positions, as indices into the ragged array."""
    positions = (np.sort(_sort_keys(sizes, rng)) & _POSITION).astype(np.int64)
    return positions + np.repeat(starts_of(sizes), sizes)


def partition(totals: np.ndarray, parts: np.ndarray, rng: RngBatch) -> np.ndarray:
    """int64 [Σ parts]: each total as a sum of parts[p] lengths ≥ 1, every way equally likely (T5's
    random_segmentation). A total of 0 is one part of length 0."""
    inner = np.where(parts > 1, totals - 1, 0)
    cut = np.flatnonzero(choose(inner, parts - 1, rng))
    first = starts_of(parts)
    is_first = np.zeros(int(parts.sum()) + 1, dtype=bool)
    is_first[first] = is_first[-1] = True
    borders = np.empty(len(is_first), dtype=np.int64)
    borders[first], borders[-1] = starts_of(totals), totals.sum()
    borders[~is_first] = cut + 1 + np.repeat(starts_of(totals) - starts_of(inner), parts - 1)
    return np.diff(borders)


def pair_up(
    documents: Sequence[int], firsts: Sequence[int], seconds: Sequence[int], rng: Rng
) -> tuple[list[tuple[int, int]], list[int]]:
    """Partners for segments that exchange their second parts between documents. documents[i] is the document
    of segment i; firsts[i] and seconds[i] are the lengths of its parts.

    Returns pairs (i, j): segment i takes the second part of segment j, of another document; every i of a pair
    is the j of exactly one. And the segments left without a partner, where one document has more segments
    than all others together.

    The longest first part takes the longest second part, and so on down; of equals, whichever chance says.

        takers, by first part    a₇  b₅  c₄  d₂
        givers, by second part   A₉  C₆  D₃  B₂     a would take A, of its own document, so it changes with
        after `_part`            C₆  A₉  D₃  B₂     the nearest taker that has neither part of it, here b

    So the segments stay about as long as they were: lengths do not give an exchange away, and rows fill as
    well. There always is a taker to change with: at most half of the segments are of one document.
    """
    order = rng.permutation(len(documents)).tolist()
    frequent, count = Counter(documents[i] for i in order).most_common(1)[0] if documents else (0, 0)
    mine = [i for i in order if documents[i] == frequent]
    alone = mine[: max(0, 2 * count - len(documents))]
    without = set(alone)
    left = [i for i in order if i not in without]
    takers = sorted(left, key=lambda i: -firsts[i])
    givers = sorted((left[i] for i in rng.permutation(len(left)).tolist()), key=lambda i: -seconds[i])
    _part(givers, [documents[i] for i in takers], [documents[j] for j in givers])
    return list(zip(takers, givers)), alone


def _part(givers: list[int], own: list[int], given: list[int]) -> None:
    """Swaps givers, each with a near one, until no position has the same document on both sides."""

    def swap(position: int, other: int) -> None:
        for listed in (givers, given):
            listed[position], listed[other] = listed[other], listed[position]

    waiting: list[int] = []  # all of one document
    for position, document in enumerate(own):
        if given[position] == document:
            if waiting and own[waiting[-1]] != document:
                swap(waiting.pop(), position)
            else:
                waiting.append(position)
    if not waiting:
        return
    document = own[waiting[0]]
    free = [position for position, pair in enumerate(zip(own, given)) if document not in pair]
    for position in waiting:
        at = bisect_left(free, position)
        before = at == len(free) or (at > 0 and position - free[at - 1] <= free[at] - position)
        swap(position, free.pop(at - before))
