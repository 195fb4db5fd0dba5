"""What the units of a block hold once they are encoded, and the same as the bytes of a file.

It depends on the units and the tokenizer alone: not on the seed, the epoch, or what of it is held out or
quarantined. So it may be kept from one opening to the next (data/stream/token_cache.py). The file:

    magic, version, xxh3-64 of all that follows
    key, counts                                       of what units this is, by which tokenizer
    sizes, at, numbers, parts, closes                 a value a document
    names                                             JSON: the keys, and the samples that cannot be used
    around                                            the ids, in 2 bytes each where all of them fit
"""

import json
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash

from objectives.example import ControlIds
from objectives.ragged import runs_of, starts_between
from objectives.segments import between

_MAGIC = b"HEADTOKS"
VERSION = 1
"""Of the file, and of what is read of the same bytes by the same tokenizer: higher where either changes."""
_HEAD = struct.Struct("<8sQQ")
_COUNTS = struct.Struct("<16sQQQQ")
"""key; documents, bytes of the names, ids, bytes of an id."""
_WIDTHS = {2: "<u2", 4: "<u4"}
_FIELDS = {"sizes": "<u4", "at": "<u4", "numbers": "<u4", "parts": "<u4", "closes": "<u1"}


class BadSample(NamedTuple):
    """A sample that cannot be used: `at`, `number` as of a document; its key; why."""

    at: int
    number: int
    key: str
    problem: str


@dataclass(frozen=True, slots=True)
class EncodedUnits:
    """The documents of some units in order, a part of a long one like a document. at: int64 [documents], of
    which of the units each is; numbers: int64, its number among the samples of the unit; parts: int64, its
    number among the parts of a long one, else 0; closes: bool, whether no part follows; sizes: int64, its
    tokens; around: int32, these, as objectives.segments.Texts has them."""

    keys: list[str]
    at: np.ndarray
    numbers: np.ndarray
    parts: np.ndarray
    closes: np.ndarray
    sizes: np.ndarray
    around: np.ndarray
    bad: tuple[BadSample, ...]

    def only(self, stays: np.ndarray, control: ControlIds) -> "EncodedUnits":
        """Those documents (bool [documents]) alone."""
        numbers = np.flatnonzero(stays)
        starts = starts_between(self.sizes)[numbers]
        return EncodedUnits(
            [self.keys[number] for number in numbers.tolist()],
            self.at[stays],
            self.numbers[stays],
            self.parts[stays],
            self.closes[stays],
            self.sizes[stays],
            between(runs_of(self.around, starts, self.sizes[numbers]), control),
            self.bad,
        )

    def to_bytes(self, key: bytes) -> bytes:
        """The file of these, under a key of 16 bytes."""
        width = 2 if int(self.around.max()) < 1 << 16 else 4
        names = json.dumps({"keys": self.keys, "bad": self.bad}).encode()
        parts = [_COUNTS.pack(key, len(self.keys), len(names), len(self.around), width)]
        parts += [getattr(self, name).astype(dtype).tobytes() for name, dtype in _FIELDS.items()]
        rest = b"".join([*parts, names, self.around.astype(_WIDTHS[width]).tobytes()])
        return _HEAD.pack(_MAGIC, VERSION, xxhash.xxh3_64_intdigest(rest)) + rest

    @staticmethod
    def from_bytes(data: bytes, key: bytes) -> "EncodedUnits":
        """What `to_bytes` wrote under this key. ValueError where it did not: 'is …'."""
        if len(data) < _HEAD.size + _COUNTS.size:
            raise ValueError(f"is cut off at byte {len(data)}")
        magic, version, digest = _HEAD.unpack_from(data)
        if (magic, version) != (_MAGIC, VERSION):
            raise ValueError("is no file of this version")
        if xxhash.xxh3_64_intdigest(memoryview(data)[_HEAD.size :]) != digest:
            raise ValueError("is damaged (its checksum is wrong)")
        own, documents, names_bytes, ids, width = _COUNTS.unpack_from(data, _HEAD.size)
        if own != key:
            raise ValueError("is that of other text")
        offset = _HEAD.size + _COUNTS.size
        fields = {}
        for name, dtype in _FIELDS.items():
            fields[name] = np.frombuffer(data, dtype, documents, offset)
            offset += fields[name].nbytes
        names = json.loads(data[offset : offset + names_bytes])
        around = np.frombuffer(data, _WIDTHS[width], ids, offset + names_bytes).astype(np.int32)
        around.flags.writeable = False
        return EncodedUnits(
            keys=names["keys"],
            at=fields["at"].astype(np.int64),
            numbers=fields["numbers"].astype(np.int64),
            parts=fields["parts"].astype(np.int64),
            closes=fields["closes"].astype(bool),
            sizes=fields["sizes"].astype(np.int64),
            around=around,
            bad=tuple(BadSample(*one) for one in names["bad"]),
        )
