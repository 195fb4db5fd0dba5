"""The unit index of a corpus: its shards as they were, and the table of their units (data/shards/units.py).

The file: 8 bytes of magic, a version, the length of a JSON header, the header (shards with their size, mtime
and the account of what is in them; how their samples are read; fingerprint), then the tables, memory-mapped,
and the names of placed documents. Offsets of compressed shards are those of the unpacked tar; where a shard's
zstd frames begin where its units do (ours: one frame a unit), `stored_offset` and `stored_length` say which
frames to read, otherwise they are 0 and the shard is unpacked whole.

How samples are read is an open list of names and values: a kind of sample that a later headrace knows
(messages, a prompt with its answer) gets a name there, and an older one refuses it instead of reading
something else.
"""

import hashlib
import json
import mmap
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.balance import Balance
from data.durable import writing, written_aside
from data.errors import BadInput
from data.shards.samples import USUAL, Reading
from data.shards.units import PLACED, UNIT_TEXT, UNITS, Placed, Unit, UnitTable

VERSION = 2
_MAGIC = b"HEADRACE"
_HEAD = 16
_PIECE = 1 << 20
"""Units that are looked at together."""
_AGAIN = "make it again with headrace data index"


@dataclass(frozen=True, slots=True)
class Stored:
    """A shard's file as it was when it was indexed."""

    name: str
    """Its path relative to the index (absolute where it lies elsewhere), or its URL without credentials."""
    size: int
    mtime_ns: int
    """0 where the store does not tell."""
    packing: str
    """'plain', 'gzip' or 'zstd'."""


@dataclass(frozen=True, slots=True)
class Shard(Stored):
    """The same with the account of what is in it."""

    balance: Balance = field(default_factory=Balance)
    """Of its members: documents, and what was left out."""


class OldIndex(BadInput):
    """An index that another version of headrace wrote."""


class Index:
    """A memory-mapped index. `units` is an array of UNITS, in the order of the shards."""

    def __init__(
        self, path: Path, header: dict, text: memoryview, table: UnitTable, written: tuple[int, int]
    ) -> None:
        """header: as `_header` reads it of its `text`. written: size and mtime in ns of the file."""
        self.path, self.written = path, written
        self.name: str = path.name.removesuffix(".index")
        self.stored: tuple[Stored, ...] = tuple(header["shards"])
        self.shards = tuple(shard.name for shard in self.stored)
        """The shards' names, in the order in which `units` counts them."""
        self.reading = Reading(**header["reading"])
        self.unit_text = int(header.get("unit_text", UNIT_TEXT))
        """Bytes of text that its units aim at."""
        self.inputs: str | None = header.get("inputs")
        """Of what inputs this is a part, as a checksum; None where it is not the index of a part."""
        self.fingerprint: str = header["fingerprint"]
        self.checksum: str = header["checksum"]
        self.table = table
        self._text = text

    @cached_property
    def files(self) -> tuple[Shard, ...]:
        """The shards with their accounts: of thousands these fill many times the memory of the rest, and no
        start needs them. BadInput where they are damaged."""
        try:
            return tuple(
                Shard(**{**shard, "balance": Balance.from_json(shard["balance"])})
                for shard in json.loads(bytes(self._text))["shards"]
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{self.path}: its header is damaged; {_AGAIN}") from error

    @property
    def units(self) -> np.ndarray:
        """An array of UNITS."""
        return self.table.units

    def __len__(self) -> int:
        return len(self.table)

    def unit(self, number: int) -> Unit:
        """One entry, as Python integers."""
        return self.table.unit(number)

    def placed_at(self, unit: int) -> Placed | None:
        """The placed document of which a unit is a part."""
        return self.table.placed_at(unit)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return int(self.units["text_bytes"].sum())

    @property
    def samples(self) -> int:
        """Documents of all shards, bad ones included."""
        return int(self.units["samples"].sum())

    @property
    def balance(self) -> Balance:
        """Of all members of all shards; the names with their shard's."""
        total = Balance()
        for shard in self.files:
            total.add(shard.balance, f"{shard.name.rsplit('/', 1)[-1]}/")
        return total

    @property
    def has_text(self) -> bool:
        """Whether any of its documents has a text: of most tables the very beginning tells."""
        low, count, texts = 0, 1 << 10, self.units["text_bytes"]
        while low < len(texts):
            if texts[low : low + count].any():
                return True
            low, count = low + count, min(2 * count, _PIECE)
        return False

    def range_of(self, shard: int) -> tuple[int, int]:
        """(first, stop) of the units of a shard."""
        return self.table.range_of(shard)

    def fingerprint_of(self, units: int) -> str:
        """Of its first units. The fingerprint of all stands in the header; that of fewer is worked out, which
        takes a second for a table of a gigabyte."""
        return self.fingerprint if units == len(self) else fingerprint(self.units[:units])

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
                    raise OldIndex(
                        f"{path}: is an index of version {version}, this headrace reads version {VERSION}; "
                        f"{_AGAIN}"
                    )
                header = _header(file.read(length))
                status = os.fstat(file.fileno())
                if unknown := sorted(header["reading"].keys() - {*Reading.__dataclass_fields__}):
                    raise OldIndex(
                        f"{path}: was made by another headrace, which reads samples by "
                        f"{unknown[0]!r}; {_AGAIN}"
                    )
                starts = [_HEAD + length]
                for count, each in _sections(header):
                    starts.append(starts[-1] + count * each)
                if status.st_size != starts[-1]:
                    raise BadInput(f"{path}: is cut off at byte {status.st_size}; {_AGAIN}")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            units = np.frombuffer(mapped, UNITS, header["units"], starts[0])
            placed = np.frombuffer(mapped, PLACED, header["placed"], starts[1])
            whole = memoryview(mapped)
            table = UnitTable(units, placed, whole[starts[2] :], mapped)
            return Index(path, header, whole[_HEAD : starts[0]], table, (status.st_size, status.st_mtime_ns))
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}: its header is damaged; {_AGAIN}") from error

    def intact(self) -> bool:
        """Whether the table is the one that was written: reads all of it."""
        return self.table.checksum() == self.checksum


def _header(text: bytes) -> dict:
    """The header without the accounts of the shards. These become Stored."""

    def compact(value: dict) -> Any:
        if "packing" in value and "balance" in value:
            return Stored(value["name"], value["size"], value["mtime_ns"], sys.intern(value["packing"]))
        return None if "used" in value and "left_out" in value else value

    return json.loads(text, object_hook=compact)


def _described(shard: Shard) -> dict:
    whole = {name: getattr(shard, name) for name in ("name", "size", "mtime_ns", "packing")}
    return {**whole, "balance": shard.balance.to_json()}


def _sections(header: dict) -> list[tuple[int, int]]:
    """(count, bytes each) of what stands behind the header."""
    return [
        (header["units"], UNITS.itemsize),
        (header["placed"], PLACED.itemsize),
        (header["names"], 1),
    ]


def fingerprint(units: np.ndarray) -> str:
    """Hex digest over content: of every unit the number of its shard, its documents, bytes, bytes of text and
    checksum; no paths. Two readings of the same bytes differ in their bytes of text."""
    digest = hashlib.sha256(b"headrace units 2")
    for name in ("shard", "samples", "length", "text_bytes", "checksum"):
        for low in range(0, len(units), _PIECE):
            digest.update(units[name][low : low + _PIECE].tobytes())
    return digest.hexdigest()[:32]


def write(
    path: str | Path,
    shards: Sequence[Shard],
    table: UnitTable,
    reading: Reading = USUAL,
    unit_text: int = UNIT_TEXT,
    inputs: str | None = None,
) -> None:
    """Write an index: it is whole or it is not there. unit_text: bytes of text that its units aim at; inputs:
    of what it is a part. BadInput where it cannot be written."""
    path = Path(path)
    header = {
        "shards": [_described(shard) for shard in shards],
        "reading": asdict(reading),
        "units": len(table),
        "placed": len(table.placed),
        "names": len(table.names),
        "fingerprint": fingerprint(table.units),
        "checksum": table.checksum(),
    }
    if unit_text != UNIT_TEXT:
        header["unit_text"] = unit_text
    if inputs is not None:
        header["inputs"] = inputs
    text = json.dumps(header).encode()
    text += b" " * (-(_HEAD + len(text)) % 64)  # the table begins on a cache line
    with writing(path), written_aside(path) as file:
        file.write(_MAGIC + np.array([VERSION, len(text)], "<u4").tobytes() + text)
        file.write(table.units.tobytes())
        file.write(table.placed.tobytes())
        file.write(table.names)
