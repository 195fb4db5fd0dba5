"""Every random decision of the stream, from one counter-based generator, keyed in one place.

A decision (which token is masked, how rows of a block are ordered) must come out the same on any rank, in
any thread, today and after a resume in three years. So no generator carries state from one decision to the
next: `key` folds the decision's coordinates into 64 bits, and `Rng` turns the key and a counter into
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


def extend_all(keys: np.ndarray, *parts: np.ndarray | str) -> np.ndarray:
    """`extend` of many keys at once. keys: uint64 [n]; a part is a text, or int64 [n]: one for each."""
    golden = np.uint64(_GOLDEN)
    for part in parts:
        if isinstance(part, str):
            inner: np.ndarray | np.uint64 = np.uint64(_mix((_text(part) + _GOLDEN) & _MASK))
        else:
            inner = _mix_all(part.astype(np.uint64) + golden)
        keys = _mix_all((keys + golden) ^ inner)
    return keys


def key(seed: int, purpose: str, *parts: int | str) -> int:
    """The 64-bit key of the decision `purpose` at the place that `parts` name, in the order of the layout."""
    return extend(VERSION, seed, purpose, *parts)


def _mix_all(x: np.ndarray) -> np.ndarray:
    """`_mix` of a uint64 array, in place."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(_MIX_1)
    x ^= np.right_shift(x, np.uint64(27), out=shifted)
    x *= np.uint64(_MIX_2)
    x ^= np.right_shift(x, np.uint64(31), out=shifted)
    return x


@lru_cache(maxsize=32)
def _counters(capacity: int) -> np.ndarray:
    """uint64 [capacity]: the multiples 1, 2, … of the golden increment. Read-only: every Rng shares it."""
    counters = np.arange(1, capacity + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    counters.flags.writeable = False
    return counters


class Rng:
    """A sequence of random numbers that is a function of extend(key, *parts) alone. One Rng serves one
    decision."""

    __slots__ = ("_count", "_key")

    def __init__(self, key: int, *parts: int | str) -> None:
        self._key = extend(key & _MASK, *parts)
        self._count = 0

    def bits(self, n: int) -> np.ndarray:
        """uint64 [n]: the next n raw numbers."""
        state = (self._key + self._count * _GOLDEN) & _MASK
        self._count += n
        return _mix_all(_counters(1 << n.bit_length())[:n] + np.uint64(state))

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """uint64 [n]: of the raw numbers to come those that stand at these places; none of them is taken.
        numbers: int64 or uint64 [n], from 0."""
        state = (self._key + (self._count + 1) * _GOLDEN) & _MASK
        return _mix_all(numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(state))

    def number(self) -> float:
        """One float64 in [0, 1)."""
        self._count += 1
        return (_mix((self._key + self._count * _GOLDEN) & _MASK) >> 11) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """One integer in [low, high)."""
        return low + int(self.number() * (high - low))

    def uniform(self, n: int) -> np.ndarray:
        """float64 [n] in [0, 1)."""
        return (self.bits(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutation(self, n: int) -> np.ndarray:
        """int64 [n]: a permutation of 0 … n−1."""
        return np.argsort(self.bits(n), kind="stable")

    def alone(self) -> "RngBatch":
        """A bundle of this one, from its first number on."""
        return RngBatch(np.array([self._key], dtype=np.uint64))


class RngBatch:
    """The Rng of many segments side by side: each segment gets the very numbers that its own Rng would give,
    whoever shares the bundle. keys: uint64 [segments]."""

    def __init__(self, keys: np.ndarray) -> None:
        self._keys = keys.astype(np.uint64)
        self._counts = np.zeros(len(keys), dtype=np.uint64)

    def of(self, segment: int) -> Rng:
        """The Rng of one segment, from its first number on."""
        return Rng(int(self._keys[segment]))

    def part(self, first: int, stop: int) -> "RngBatch":
        """A fresh bundle for the segments [first, stop)."""
        return RngBatch(self._keys[first:stop])

    def numbers(self) -> np.ndarray:
        """float64 [segments]: one number in [0, 1) for each."""
        self._counts += np.uint64(1)
        bits = _mix_all(self._keys + self._counts * np.uint64(_GOLDEN))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bits(self, sizes: np.ndarray) -> np.ndarray:
        """uint64 [Σ sizes]: the next sizes[p] raw numbers of each segment p, one run behind the other."""
        total = int(sizes.sum())
        before = np.cumsum(sizes) - sizes
        state = self._keys + (self._counts - before.astype(np.uint64)) * np.uint64(_GOLDEN)
        self._counts += sizes.astype(np.uint64)
        return _mix_all(np.repeat(state, sizes) + _counters(1 << total.bit_length())[:total])
