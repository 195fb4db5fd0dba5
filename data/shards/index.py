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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from data.balance import Balance
from data.durable import writing, written_aside
from data.errors import BadInput
from data.shards.samples import USUAL, Reading
from data.shards.units import PLACED, UNITS, Placed, Unit, UnitTable

VERSION = 2
_MAGIC = b"HEADRACE"
_HEAD = 16


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
    balance: Balance = field(default_factory=Balance)
    """Of its members: documents, and what was left out."""


class OldIndex(BadInput):
    """An index that another version of headrace wrote."""


class Index:
    """A memory-mapped index. `units` is an array of UNITS, in the order of the shards."""

    def __init__(self, path: Path, header: dict, table: UnitTable) -> None:
        self.path = path
        self.name: str = path.name.removesuffix(".index")
        self.files = tuple(
            Shard(**{**shard, "balance": Balance.from_json(shard["balance"])}) for shard in header["shards"]
        )
        self.reading = Reading(**header["reading"])
        self.fingerprint: str = header["fingerprint"]
        self.checksum: str = header["checksum"]
        self.table = table

    @property
    def units(self) -> np.ndarray:
        """An array of UNITS."""
        return self.table.units

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards' names, in the order in which `units` counts them."""
        return tuple(shard.name for shard in self.files)

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

    def range_of(self, shard: int) -> tuple[int, int]:
        """(first, stop) of the units of a shard."""
        first, stop = np.searchsorted(self.units["shard"], [shard, shard + 1])
        return int(first), int(stop)

    @staticmethod
    def open(path: str | Path) -> "Index":
        """Map an index. BadInput where there is none, or it is damaged or of another version."""
        path = Path(path)
        again = "make it again with headrace data index"
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
                if len(head) < _HEAD or head[:8] != _MAGIC:
                    raise BadInput(f"{path}: is not an index of headrace")
                version, length = (int(number) for number in np.frombuffer(head[8:], "<u4"))
                if version != VERSION:
                    raise OldIndex(
                        f"{path}: is an index of version {version}, this headrace reads version {VERSION}; "
                        f"{again}"
                    )
                header = json.loads(file.read(length))
                size = os.fstat(file.fileno()).st_size
                if unknown := sorted(header["reading"].keys() - {*Reading.__dataclass_fields__}):
                    raise OldIndex(
                        f"{path}: was made by another headrace, which reads samples by "
                        f"{unknown[0]!r}; {again}"
                    )
                starts = [_HEAD + length]
                for count, each in _sections(header):
                    starts.append(starts[-1] + count * each)
                if size != starts[-1]:
                    raise BadInput(f"{path}: is cut off at byte {size}; {again}")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            units = np.frombuffer(mapped, UNITS, header["units"], starts[0])
            placed = np.frombuffer(mapped, PLACED, header["placed"], starts[1])
            return Index(path, header, UnitTable(units, placed, mapped[starts[2] :]))
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}: its header is damaged; {again}") from error

    def intact(self) -> bool:
        """Whether the table is the one that was written: reads all of it."""
        return self.table.checksum() == self.checksum


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
        digest.update(units[name].tobytes())
    return digest.hexdigest()[:32]


def write(
    path: str | Path,
    shards: Sequence[Shard],
    table: UnitTable,
    reading: Reading = USUAL,
) -> None:
    """Write an index: it is whole or it is not there. BadInput where it cannot be written."""
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
    text = json.dumps(header).encode()
    text += b" " * (-(_HEAD + len(text)) % 64)  # the table begins on a cache line
    with writing(path), written_aside(path) as file:
        file.write(_MAGIC + np.array([VERSION, len(text)], "<u4").tobytes() + text)
        file.write(table.units.tobytes())
        file.write(table.placed.tobytes())
        file.write(table.names)
