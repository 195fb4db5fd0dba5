"""The random choices that several objectives share: which k of n, and how a length falls into parts.

All are vectorised over the piece and take their numbers from a Draws, so a choice is a function of its key.
"""

import math

import numpy as np

from objectives.draws import Draws


def round_randomly(x: float, draws: Draws) -> int:
    """x rounded up or down such that the mean over keys is x: short pieces keep a stated rate exactly."""
    return math.floor(x + draws.number())


def choose(n: int, k: int, draws: Draws) -> np.ndarray:
    """int64 [k]: k distinct places of 0 … n−1 in ascending order, every set equally likely."""
    if k >= n:
        return np.arange(n)
    if k == 1:
        return np.array([draws.integer(0, n)])
    bits = draws.bits(n)
    chosen = np.flatnonzero(bits < np.partition(bits, k)[k])
    if len(chosen) != k:  # two equal numbers of 64 bits: rare, and still k places are owed
        chosen = np.sort(np.argsort(bits, kind="stable")[:k])
    return chosen


def partition(total: int, parts: int, draws: Draws) -> np.ndarray:
    """int64 [parts]: lengths ≥ 1 whose sum is `total`, every way alike (T5's random_segmentation)."""
    borders = np.empty(parts + 1, dtype=np.int64)
    borders[0], borders[-1] = 0, total
    if parts > 1:
        borders[1:-1] = choose(total - 1, parts - 1, draws) + 1
    return np.diff(borders)
