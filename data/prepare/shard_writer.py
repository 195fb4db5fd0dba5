"""Shards as they grow: units of tar bytes one behind the other, and what the index has to know of each.

A unit of whole samples comes as bytes. A long document comes part by part, from wherever it lies, and its
parts are units of their own; what the tar holds around them (headers, padding) is in no unit. In a shard of
zstd every unit is one frame, and so is what lies between.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

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
    """A unit as bytes of the shard (compressed, where asked for), and its entry for the index."""

    stored: bytes
    length: int
    samples: int
    text_bytes: int
    checksum: int


class ShardWriter:
    """Appends units to shards NAME-000000.SUFFIX … in the folder `part`, and keeps their table."""

    def __init__(self, part: Path, name: str, suffix: str, shard_bytes: int) -> None:
        """shard_bytes: a shard is closed when its tar exceeds this."""
        self.part, self.name, self.suffix, self.shard_bytes = part, name, suffix, shard_bytes
        self.paths: list[Path] = []
        self.balances: list[Balance] = []
        """Of the members of each shard."""
        self._builder = UnitTableBuilder()
        self._file: BinaryIO | None = None
        self._offset = self._stored = self._documents = 0

    @property
    def zstd(self) -> bool:
        """Whether the shards are compressed."""
        return self.suffix.endswith(".zst")

    def table(self) -> UnitTable:
        """The units so far."""
        return self._builder.table()

    def add(self, unit: WrittenUnit) -> None:
        """Append a unit of whole samples to the shard that is open; open the next one where none is."""
        self._open()
        row = self._row(unit.length, unit.samples, unit.text_bytes, unit.checksum, len(unit.stored))
        self._builder.rows.append(row)
        self._write(unit.stored, unit.length)
        self._count(unit.samples)

    def place(self, key: str, front: bytes, parts: Iterable[bytes], back: bytes) -> None:
        """Append a long document: the tar bytes before its text, its parts, the tar bytes behind it."""
        self._open()
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
        """End the shard that is open, if any, with the mark of a complete tar."""
        if self._file is None:
            return
        self._to_disk(self._packed(_END_MARK))
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

    def _open(self) -> None:
        if self._file is None:
            path = self.part / f"{self.name}-{len(self.paths):06d}{self.suffix}"
            self.paths.append(path)
            self.balances.append(Balance())
            self._file = path.open("wb")
            self._offset = self._stored = 0

    def _row(
        self, length: int, samples: int, text_bytes: int, checksum: int, stored_length: int
    ) -> tuple[int, ...]:
        shard = len(self.paths) - 1
        return shard, samples, self._offset, length, text_bytes, checksum, self._stored, stored_length

    def _write(self, stored: bytes, length: int) -> None:
        self._to_disk(stored)
        self._offset += length
        self._stored += len(stored)

    def _to_disk(self, content: bytes) -> None:
        """All of it to the system. Where that refuses, the file is closed too: left open it would try again,
        and print an error that nobody can catch, when it is collected."""
        assert self._file is not None
        try:
            self._file.write(content)
            self._file.flush()
        except OSError:
            with suppress(OSError):
                self._file.close()
            raise

    def _packed(self, data: bytes) -> bytes:
        return compressed(data) if self.zstd else data

    def _count(self, samples: int) -> None:
        """Documents that the shard now has more; each has a .json beside it."""
        first = range(self._documents, self._documents + min(samples, NAMED))
        self._documents += samples
        self.balances[-1].used += samples
        self.balances[-1].leave_out(METADATA, [f"{number:09d}.json" for number in first], samples)
        if self._offset >= self.shard_bytes:
            self.close()
