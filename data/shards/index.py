"""The unit index of a corpus: which bytes of which shard hold about 64 KB of text (docs/design/stream.md).

Reading a corpus in any order needs a table that says where to begin. One entry a document would make it as
large as the text at web scale; one entry a *unit*, a run of consecutive samples, keeps it under a thousandth,
and the samples inside are found by reading the tar headers of the unit.

The file: 8 bytes of magic, a version, the length of a JSON header, the header (shards with their size and
mtime, fingerprint), then the table, memory-mapped. Offsets of compressed shards are those of the unpacked
tar; where a shard's zstd frames begin where its units do (ours: one frame a unit), `stored_offset` and
`stored_length` say which frames to read, otherwise they are 0 and the shard is unpacked whole.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import xxhash

from data.durable import writing, written_aside
from data.errors import BadInput

Sized = TypeVar("Sized")

VERSION = 1
_MAGIC = b"HEADRACE"
_HEAD = 16
UNIT_TEXT = 1 << 16
"""Bytes of text that a unit aims at."""
UNIT_TAR = 1 << 22
"""Most tar bytes of a unit that holds more than one sample: bounds what one read brings into memory."""

UNITS = np.dtype(
    [
        ("shard", "<u4"),
        ("samples", "<u4"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("text_bytes", "<u8"),
        ("checksum", "<u8"),
        ("stored_offset", "<u8"),
        ("stored_length", "<u8"),
    ]
)
"""One unit. offset, length: of its bytes in the tar. checksum: xxh64 of these bytes."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A run of whole samples; fields as in UNITS."""

    shard: int
    offset: int
    length: int
    samples: int
    text_bytes: int
    checksum: int
    stored_offset: int
    stored_length: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as it was when it was indexed."""

    name: str
    """Its path relative to the index (absolute where it lies elsewhere), or its URL without credentials."""
    size: int
    mtime_ns: int
    """0 where the store does not tell."""
    packing: str
    """'plain', 'gzip' or 'zstd'."""


class Index:
    """A memory-mapped index. `units` is an array of UNITS, in the order of the shards."""

    def __init__(self, path: Path, header: dict, units: np.ndarray) -> None:
        self.path = path
        self.name: str = path.name.removesuffix(".index")
        self.files = tuple(Shard(**shard) for shard in header["shards"])
        self.text_field: str | None = header["text_field"]
        self.fingerprint: str = header["fingerprint"]
        self.checksum: str = header["checksum"]
        self.units = units

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards' names, in the order in which `units` counts them."""
        return tuple(shard.name for shard in self.files)

    def __len__(self) -> int:
        return len(self.units)

    def unit(self, number: int) -> Unit:
        """One entry, as Python integers."""
        return Unit(**dict(zip(UNITS.names or (), self.units[number].tolist(), strict=True)))

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return int(self.units["text_bytes"].sum())

    @property
    def samples(self) -> int:
        """Samples of all shards, bad ones included."""
        return int(self.units["samples"].sum())

    def range_of(self, shard: int) -> tuple[int, int]:
        """(first, stop) of the units of a shard."""
        first, stop = np.searchsorted(self.units["shard"], [shard, shard + 1])
        return int(first), int(stop)

    @staticmethod
    def open(path: str | Path) -> "Index":
        """Map an index. BadInput where there is none, or it is damaged or of another version."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
                if len(head) < _HEAD or head[:8] != _MAGIC:
                    raise BadInput(f"{path}: is not an index of headrace")
                version, length = (int(number) for number in np.frombuffer(head[8:], "<u4"))
                if version != VERSION:
                    raise BadInput(
                        f"{path}: is an index of version {version}, this headrace reads version {VERSION};"
                        " make it again with headrace data index"
                    )
                header = json.loads(file.read(length))
                size = os.fstat(file.fileno()).st_size
            if size != _HEAD + length + header["units"] * UNITS.itemsize:
                raise BadInput(f"{path}: is cut off at byte {size}; make it again with headrace data index")
            units = np.memmap(path, UNITS, "r", _HEAD + length, (header["units"],)).view(np.ndarray)
            return Index(path, header, units)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path}: its header is damaged; make it again with headrace data index"
            ) from error

    def intact(self) -> bool:
        """Whether the table is the one that was written: reads all of it."""
        return _table_checksum(self.units) == self.checksum


def _table_checksum(units: np.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(units).view(np.uint8).data)


def fingerprint(units: np.ndarray) -> str:
    """Hex digest over content: the shard number, samples, length and checksum of every unit, no paths."""
    digest = hashlib.sha256(b"headrace units 1")
    for name in ("shard", "samples", "length", "checksum"):
        digest.update(units[name].tobytes())
    return digest.hexdigest()[:32]


def write(
    path: str | Path, shards: Sequence[Shard], units: np.ndarray, text_field: str | None = None
) -> None:
    """Write an index: it is whole or it is not there. BadInput where it cannot be written."""
    path = Path(path)
    header = {
        "shards": [asdict(shard) for shard in shards],
        "text_field": text_field,
        "units": len(units),
        "fingerprint": fingerprint(units),
        "checksum": _table_checksum(units),
    }
    text = json.dumps(header).encode()
    text += b" " * (-(_HEAD + len(text)) % 64)  # the table begins on a cache line
    with writing(path), written_aside(path) as file:
        file.write(_MAGIC + np.array([VERSION, len(text)], "<u4").tobytes() + text)
        file.write(units.tobytes())


def runs(samples: Iterable[Sized], size: Callable[[Sized], tuple[int, int]]) -> Iterator[list[Sized]]:
    """Cut a shard's samples into units; `size` gives a sample's (bytes of text, bytes in the tar).

    A sample opens a new unit where the unit's text comes nearer to UNIT_TEXT without it than with it, or
    where the unit would exceed UNIT_TAR. Packing and indexing use this one rule, so they agree.
    """
    unit: list[Sized] = []
    text = tar = 0
    for sample in samples:
        more_text, more_tar = size(sample)
        if unit and (text + more_text / 2 > UNIT_TEXT or tar + more_tar > UNIT_TAR):
            yield unit
            unit, text, tar = [], 0, 0
        unit.append(sample)
        text += more_text
        tar += more_tar
    if unit:
        yield unit
