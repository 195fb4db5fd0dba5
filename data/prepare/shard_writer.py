"""Shards as they grow: units of tar bytes one behind the other, and what the index has to know of each.

A unit of whole samples comes as bytes. A long document comes part by part, from wherever it lies, and its
parts are units of their own; what the tar holds around them (headers, padding) is in no unit. In a shard of
zstd every unit is one frame, and so is what lies between. Other processes may have written units at their
place already; a shard that is complete goes to the disk while the next one grows.
"""

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import xxhash
import zstandard

from data.balance import NAMED, Balance
from data.shards.samples import METADATA
from data.shards.tar_fields import BLOCK
from data.shards.units import UnitTable, UnitTableBuilder

_END_MARK = bytes(2 * BLOCK)
_ZSTD_LEVEL = 3


def compressed(data: bytes) -> bytes:
    """One zstd frame."""
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)


class WrittenUnit(NamedTuple):
    """A unit as bytes of the shard (compressed, where asked for), None where they were written already; and
    its entry for the index."""

    stored: bytes | None
    length: int
    samples: int
    text_bytes: int
    checksum: int


def shard_path(folder: Path, name: str, number: int, *, zstd: bool) -> Path:
    """Where a shard lies."""
    return folder / f"{name}-{number:06d}.tar{'.zst' if zstd else ''}"


def key_of(prefix: str, number: int) -> str:
    """The key of a document."""
    return f"{prefix}{number:09d}"


class OpenShard:
    """The shard that was written into last. It stays open: to some file systems a close is a flush."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: FileIO | None = None

    def write(self, path: Path, data: bytes, offset: int) -> None:
        """Write all of it there, into a file that is made where it is not there. OSError where that fails."""
        if path != self._path or self._file is None:
            self.close()
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._path, self._file = path, FileIO(handle, "w")
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def close(self) -> None:
        """It is not needed any more."""
        if self._file is not None:
            self._file.close()
        self._path = self._file = None

    def sync(self) -> None:
        """Put all that anybody wrote into it on the disk, and close it."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        self.close()


class ShardWriter:
    """Appends units to shards NAME-000000.tar … in the folder `part`, and keeps their table."""

    def __init__(
        self, part: Path, name: str, shard_bytes: int, *, zstd: bool, prefix: str, meta: bool
    ) -> None:
        """shard_bytes: a shard is closed when its tar exceeds this. prefix: what the keys begin with. meta:
        whether each document has a .json beside it."""
        self.part, self.name, self.shard_bytes, self.zstd = part, name, shard_bytes, zstd
        self.prefix, self.meta = prefix, meta
        self.paths: list[Path] = []
        self.balances: list[Balance] = []
        """Of the members of each shard."""
        self._builder = UnitTableBuilder()
        self._shard: OpenShard | None = None
        self._offset = self._stored = self._documents = 0
        self._synced: list[Future[None]] = []
        self._sync = ThreadPoolExecutor(1)

    def table(self) -> UnitTable:
        """The units so far."""
        return self._builder.table()

    def add(self, unit: WrittenUnit) -> None:
        """Append a unit of whole samples to the shard that is open; open the next one where none is."""
        self._next()
        stored = unit.length if unit.stored is None else len(unit.stored)
        row = self._row(unit.length, unit.samples, unit.text_bytes, unit.checksum, stored)
        self._builder.rows.append(row)
        self._write(unit.stored, unit.length)
        self._count(unit.samples)

    def place(self, key: str, front: bytes, parts: Iterable[bytes], back: bytes) -> None:
        """Append a long document: the tar bytes before its text, its parts, the tar bytes behind it."""
        self._next()
        self._write(self._packed(front), len(front))
        rows: list[tuple[int, ...]] = []
        for part in parts:
            stored = self._packed(part)
            checksum = xxhash.xxh64_intdigest(part)
            rows.append(self._row(len(part), int(not rows), len(part), checksum, len(stored)))
            self._write(stored, len(part))
        self._builder.place(key, "text", rows)
        if back:
            self._write(self._packed(back), len(back))
        self._count(1)

    def close(self) -> None:
        """End the shard that is open, if any, with the mark of a complete tar; all of them are then on the
        disk. OSError where it refuses."""
        self._end()
        self._sync.shutdown()
        for synced in self._synced:
            synced.result()

    def _end(self) -> None:
        if self._shard is not None:
            self._shard.write(self.paths[-1], self._packed(_END_MARK), self._stored)
            self._synced.append(self._sync.submit(self._shard.sync))
            self._shard = None

    def _next(self) -> None:
        if self._shard is None:
            self.paths.append(shard_path(self.part, self.name, len(self.paths), zstd=self.zstd))
            self.balances.append(Balance())
            self._shard = OpenShard()
            self._offset = self._stored = 0

    def _row(
        self, length: int, samples: int, text_bytes: int, checksum: int, stored_length: int
    ) -> tuple[int, ...]:
        shard = len(self.paths) - 1
        return shard, samples, self._offset, length, text_bytes, checksum, self._stored, stored_length

    def _write(self, stored: bytes | None, length: int) -> None:
        if stored is not None:
            assert self._shard is not None
            self._shard.write(self.paths[-1], stored, self._stored)
        self._offset += length
        self._stored += length if stored is None else len(stored)

    def _packed(self, data: bytes) -> bytes:
        return compressed(data) if self.zstd else data

    def _count(self, samples: int) -> None:
        """Documents that the shard now has more."""
        balance = self.balances[-1]
        if self.meta:
            named = range(self._documents, self._documents + max(min(samples, NAMED - balance.used), 0))
            balance.leave_out(METADATA, [f"{key_of(self.prefix, n)}.json" for n in named], samples)
        self._documents += samples
        balance.used += samples
        if self._offset >= self.shard_bytes:
            self._end()
