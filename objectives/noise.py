"""The random choices that several objectives share, for many pieces at once (ragged arrays: ragged.py).

What is chosen in a piece is a function of its own draws alone, whatever stands beside it.
"""

import numpy as np

from objectives.draws import DrawsOfMany
from objectives.ragged import starts_of

LONGEST = 1 << 20
"""The most tokens of a piece: so that a limit and 44 bits of chance multiply within 64 bits (`_below`), and
a place has 20 of them in `shuffle`."""
MOST = 1 << 16
"""The most pieces at once: `shuffle` sorts by piece, 28 bits of chance and place in 64 bits."""

_PLACE = np.uint64(LONGEST - 1)
_PLACE_BITS = np.uint64(20)
_FRACTION_BITS = np.uint64(44)  # of the number, beside those of a place
_CHANCE_SHIFT = np.uint64(36)
_PIECE_SHIFT = np.uint64(48)


def _lots(sizes: np.ndarray, draws: DrawsOfMany) -> np.ndarray:
    """uint64 [Σ sizes]: numbers that sort by piece, then by 28 bits of chance, then by place."""
    lots = draws.bits(sizes)
    lots >>= _CHANCE_SHIFT
    lots <<= _PLACE_BITS
    first = (np.arange(len(sizes), dtype=np.uint64) << _PIECE_SHIFT) - starts_of(sizes).astype(np.uint64)
    lots += np.repeat(first, sizes)
    lots += np.arange(len(lots), dtype=np.uint64)
    return lots


def choose(sizes: np.ndarray, counts: np.ndarray, draws: DrawsOfMany) -> np.ndarray:
    """bool [Σ sizes]: True at counts[p] ≤ sizes[p] places of each piece p, every set equally likely.

    As many places are drawn as are missing, until none is: what falls on a taken one is drawn again. No place
    is treated unlike another, so every set of a size is as likely as the next. Of pieces of which more than
    half is wanted, what is left out is drawn."""
    inverted = 2 * counts > sizes
    missing = np.where(inverted, sizes - counts, counts)
    taken = np.zeros(int(sizes.sum()), dtype=bool)
    first, number = starts_of(sizes), np.arange(len(sizes))
    while missing.any():
        piece = np.repeat(number, missing)
        places = _below(sizes[piece], draws.bits(missing)) + first[piece]
        places.sort()  # within each piece, for the pieces follow one another
        new = ~taken[places]
        new[1:] &= places[1:] != places[:-1]
        taken[places] = True
        missing = missing - np.bincount(piece[new], minlength=len(sizes))
    return taken ^ np.repeat(inverted, sizes)


def _below(limits: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """int64 [n]: raw numbers scaled to 0 … limits − 1, each as likely. Above LONGEST they overflow."""
    return ((bits >> _PLACE_BITS) * limits.astype(np.uint64) >> _FRACTION_BITS).astype(np.int64)


def shuffle(sizes: np.ndarray, draws: DrawsOfMany) -> np.ndarray:
    """int64 [Σ sizes]: for each piece a permutation of its places, as indices into the ragged array."""
    places = (np.sort(_lots(sizes, draws)) & _PLACE).astype(np.int64)
    return places + np.repeat(starts_of(sizes), sizes)


def partition(totals: np.ndarray, parts: np.ndarray, draws: DrawsOfMany) -> np.ndarray:
    """int64 [Σ parts]: each total as a sum of parts[p] lengths ≥ 1, every way equally likely (T5's
    random_segmentation). A total of 0 is one part of length 0."""
    inner = np.where(parts > 1, totals - 1, 0)
    cut = np.flatnonzero(choose(inner, parts - 1, draws))
    first = starts_of(parts)
    is_first = np.zeros(int(parts.sum()) + 1, dtype=bool)
    is_first[first] = is_first[-1] = True
    borders = np.empty(len(is_first), dtype=np.int64)
    borders[first], borders[-1] = starts_of(totals), totals.sum()
    borders[~is_first] = cut + 1 + np.repeat(starts_of(totals) - starts_of(inner), parts - 1)
    return np.diff(borders)
