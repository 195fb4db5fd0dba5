"""Shards as they grow: units of tar bytes one behind the other, and what the index has to know of each."""

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from data.shards.tar import BLOCK

_END_MARK = bytes(2 * BLOCK)


class WrittenSample(NamedTuple):
    """A unit as bytes of the shard (compressed, where asked for), and its entry for the index."""

    stored: bytes
    length: int
    samples: int
    text_bytes: int
    checksum: int


class ShardWriter:
    """Appends units to shards NAME-000000.SUFFIX … in the folder `part`, and keeps their index entries."""

    def __init__(self, part: Path, name: str, suffix: str, shard_bytes: int) -> None:
        """shard_bytes: a shard is closed when its tar exceeds this."""
        self.part, self.name, self.suffix, self.shard_bytes = part, name, suffix, shard_bytes
        self.rows: list[tuple[int, ...]] = []
        """An entry of index.UNITS for each unit."""
        self.paths: list[Path] = []
        self._file: BinaryIO | None = None
        self._offset = self._stored = 0

    def add(self, unit: WrittenSample) -> None:
        """Append a unit to the shard that is open; open the next one where none is."""
        if self._file is None:
            path = self.part / f"{self.name}-{len(self.paths):06d}{self.suffix}"
            self.paths.append(path)
            self._file = path.open("wb")
            self._offset = self._stored = 0
        self._write(unit.stored)
        self.rows.append(
            (
                len(self.paths) - 1,
                unit.samples,
                self._offset,
                unit.length,
                unit.text_bytes,
                unit.checksum,
                self._stored,
                len(unit.stored),
            )
        )
        self._offset += unit.length
        self._stored += len(unit.stored)
        if self._offset >= self.shard_bytes:
            self.close()

    def close(self) -> None:
        """End the shard that is open, if any, with the mark of a complete tar."""
        if self._file is None:
            return
        zstd = self.suffix.endswith(".zst")
        self._write(zstandard.ZstdCompressor().compress(_END_MARK) if zstd else _END_MARK)
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

    def _write(self, content: bytes) -> None:
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
