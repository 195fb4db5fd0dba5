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


@lru_cache(maxsize=32)
def _counters(capacity: int) -> np.ndarray:
    """uint64 [capacity]: the multiples 1, 2, … of the golden increment. Read-only: all draws share it."""
    counters = np.arange(1, capacity + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    counters.flags.writeable = False
    return counters


class Draws:
    """A sequence of random numbers that is a function of extend(key, *parts) alone. One Draws serves one
    decision. The key is folded when the first number is asked for: most pieces of text ask for none."""

    __slots__ = ("_count", "_key", "_parts")

    def __init__(self, key: int, *parts: int | str) -> None:
        self._key = key & _MASK
        self._parts = parts
        self._count = 0

    def _state(self) -> int:
        """The generator's state before its next number."""
        if self._parts:
            self._key, self._parts = extend(self._key, *self._parts), ()
        return (self._key + self._count * _GOLDEN) & _MASK

    def bits(self, n: int) -> np.ndarray:
        """uint64 [n]: the next n raw numbers."""
        x = _counters(1 << n.bit_length())[:n] + np.uint64(self._state())
        self._count += n
        shifted = x >> np.uint64(30)
        x ^= shifted
        x *= np.uint64(_MIX_1)
        x ^= np.right_shift(x, np.uint64(27), out=shifted)
        x *= np.uint64(_MIX_2)
        x ^= np.right_shift(x, np.uint64(31), out=shifted)
        return x

    def number(self) -> float:
        """One float64 in [0, 1)."""
        state = self._state()
        self._count += 1
        return (_mix((state + _GOLDEN) & _MASK) >> 11) * 2.0**-53

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
