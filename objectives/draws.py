"""Every random decision of the stream, from one counter-based generator, keyed in one place.

A decision (which token is masked, how rows of a block are ordered) must come out the same on any rank, in
any thread, today and after a resume in three years. So no generator carries state from one decision to the
next: `key` folds the decision's coordinates into 64 bits, and `Draws` turns the key and a counter into
numbers with SplitMix64 (Steele, Lea, Flood 2014), defined here in full and therefore independent of
numpy's release. Key layout, version 1, outermost first:

    (VERSION, seed, purpose, corpus name, epoch, then what the purpose names: block, unit, document, token)

Changing the layout or a formula below changes every stream: raise VERSION with it.
"""

import hashlib
from functools import lru_cache

import numpy as np

VERSION = 1

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _mix(x: int) -> int:
    """SplitMix64's finaliser on one 64-bit integer."""
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


@lru_cache(maxsize=4096)
def _text(part: str) -> int:
    return int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")


def extend(key: int, *parts: int | str) -> int:
    """The key of a decision nested inside the one that `key` names."""
    for part in parts:
        number = _text(part) if isinstance(part, str) else part & _MASK
        key = _mix((key + _GOLDEN) & _MASK ^ _mix((number + _GOLDEN) & _MASK))
    return key


def key(seed: int, purpose: str, *parts: int | str) -> int:
    """The 64-bit key of the decision `purpose` at the place that `parts` name, in the order of the layout."""
    return extend(VERSION, seed, purpose, *parts)


class Draws:
    """A sequence of random numbers that is a function of `key` alone. One Draws serves one decision."""

    def __init__(self, key: int) -> None:
        self._key = key & _MASK
        self._count = 0

    def bits(self, n: int) -> np.ndarray:
        """uint64 [n]: the next n raw numbers."""
        counter = np.arange(self._count + 1, self._count + n + 1, dtype=np.uint64)
        self._count += n
        x = counter * np.uint64(_GOLDEN) + np.uint64(self._key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
        return x ^ (x >> np.uint64(31))

    def number(self) -> float:
        """One float64 in [0, 1)."""
        self._count += 1
        return (_mix((self._count * _GOLDEN + self._key) & _MASK) >> 11) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """One integer in [low, high)."""
        return low + int(self.number() * (high - low))

    def uniform(self, n: int) -> np.ndarray:
        """float64 [n] in [0, 1)."""
        return (self.bits(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, low: int, high: int, n: int) -> np.ndarray:
        """int64 [n] in [low, high)."""
        return low + (self.uniform(n) * (high - low)).astype(np.int64)

    def permutation(self, n: int) -> np.ndarray:
        """int64 [n]: a permutation of 0 … n−1."""
        return np.argsort(self.bits(n), kind="stable")
