"""Keyed permutations of 0 … n−1 that need no table, and their inverses.

A Feistel network of six rounds over the next power of four, walked until it falls inside the range (cycle
walking; Black and Rogaway 2002): about 10 µs a look-up, O(1) memory. A network over a handful of positions is
a poor shuffle, so small ranges are shuffled outright.
"""

from functools import lru_cache

from objectives.rng import Rng, extend

_ROUNDS = 6
_SMALL = 64


def perm(position: int, n: int, key: int) -> int:
    """What stands at `position` of the permutation of 0 … n−1 that `key` names."""
    if n <= _SMALL:
        return _shuffled(n, key)[position]
    half = _half(n)
    while True:
        position = _forward(position, half, key)
        if position < n:
            return position


def perm_inverse(value: int, n: int, key: int) -> int:
    """The position at which `value` stands: perm(perm_inverse(v)) == v."""
    if n <= _SMALL:
        return _shuffled(n, key).index(value)
    half = _half(n)
    while True:
        value = _backward(value, half, key)
        if value < n:
            return value


@lru_cache(maxsize=256)
def _shuffled(n: int, key: int) -> list[int]:
    return Rng(key).permutation(n).tolist()


def _half(n: int) -> int:
    """Bits of each half of the network: 4^half ≥ n."""
    return ((n - 1).bit_length() + 1) // 2


def _forward(x: int, half: int, key: int) -> int:
    mask = (1 << half) - 1
    left, right = x >> half, x & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (extend(key, number, right) >> 32 & mask)
    return left << half | right


def _backward(x: int, half: int, key: int) -> int:
    mask = (1 << half) - 1
    left, right = x >> half, x & mask
    for number in reversed(range(_ROUNDS)):
        left, right = right ^ (extend(key, number, left) >> 32 & mask), left
    return left << half | right
