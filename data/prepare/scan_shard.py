"""A shard of other people's making, read once from end to end: its units, and the account of its members.

Every header is verified and every text decoded, so that what cannot be used is known before training and not
after. Units are cut by the rule that pack uses. The tar is mapped and what was passed is given back to the
system, so a shard of any size, with texts of any length in it, costs about the memory of a unit.
"""

import mmap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import xxhash

from data.balance import Balance
from data.errors import BadInput
from data.shards.parts import PART, parts
from data.shards.samples import Reading, SampleExtent, TextMember, read_part, read_text, scan
from data.shards.tar import is_closed
from data.shards.tar_fields import BLOCK
from data.shards.units import UNIT_TAR, Size, UnitTable, UnitTableBuilder, runs

LONG_JSON = "a .json longer than 1 MiB: take its text out with 'headrace data pack'"


class _Found(NamedTuple):
    """A sample, the bytes of its texts, and what it adds to a unit."""

    extent: SampleExtent
    size: Size


class TarScan:
    """The reading of one tar: `TarScan(…).units()` gives its table and fills `balance`."""

    def __init__(
        self,
        tar: mmap.mmap,
        reading: Reading,
        frames: Mapping[int, int] | None,
        memory: int,
        unit_text: int | None = None,
    ) -> None:
        """frames: unpacked → packed offset of the frames of a compressed shard, None for a plain tar. memory:
        bytes of the tar that may be held. unit_text: bytes of text that a unit aims at."""
        self._unit_text = unit_text
        self.tar, self.reading, self.frames, self.memory = tar, reading, frames, memory
        self.balance = Balance()
        self._builder = UnitTableBuilder()
        self._starts = frozenset(frames or ())
        headers = sum(self.tar[start + 257 : start + 262] == b"ustar" for start in self._starts)
        self._by_frames = 2 * headers > len(self._starts) > len(tar) // UNIT_TAR
        """Whether frames are small and begin with samples, as in our shards: whatever units aim at, they are
        whole ones."""
        self._given_back = 0

    def units(self) -> UnitTable:
        """All units; their shard is 0. BadInput where there is no sample, TarTrouble where it is no tar."""
        for unit in runs(self._samples(), lambda found: found.size, self._unit_text):
            if unit[0].size.alone:
                self._place(unit[0].extent)
            else:
                start, stop = unit[0].extent.start, unit[-1].extent.end
                text = sum(found.size.text for found in unit)
                samples = sum(max(len(found.extent.texts), 1) for found in unit)
                self._builder.rows.append(self._row(start, stop, samples, text))
            self._give_back(unit[-1].extent.end)
        if not self._builder.rows:
            raise BadInput("holds no sample (no file member with a name like KEY.txt)")
        return self._builder.table()

    @property
    def closed(self) -> bool:
        """Whether the tar ends with zeros, as one does that was written to its end."""
        return is_closed(self.tar[-BLOCK:], self.balance.left_out)

    def _samples(self) -> Iterator[_Found]:
        end = 0
        for extent in scan(self.tar, self.reading, self.balance):
            tar = extent.end - extent.start
            longest = max((text.member.size for text in extent.texts), default=0)
            alone = tar > UNIT_TAR or longest > PART
            text = 0 if alone else sum(self._counted(text) for text in extent.texts)
            inside = self._by_frames and extent.start not in self._starts
            yield _Found(extent, Size(text, tar, extent.start - end, alone, inside))
            end = extent.end

    def _counted(self, text: TextMember) -> int:
        """The bytes of text of a short document, which is counted as used or left out."""
        start, size = text.member.data, text.member.size
        value, problem = read_text(self.tar[start : start + size], self.reading.field if text.json else None)
        return self._count(text, problem) if value is None else self._count(text, None, len(value.encode()))

    def _count(self, text: TextMember, problem: str | None, text_bytes: int = 0) -> int:
        if problem is None:
            self.balance.used += 1
        else:
            self.balance.leave_out(problem, [text.member.name])
        return text_bytes

    def _place(self, extent: SampleExtent) -> None:
        """The documents of a large sample, each by itself."""
        for text in extent.texts:
            units, problem = self._json(text) if text.json else self._parts(text)
            self._count(text, problem)
            kind = "json" if text.json else "text"
            self._builder.place(text.key, kind, units or [self._nothing(text.member.data)], problem)
        if not extent.texts:
            self._builder.place(extent.key, "text", [self._nothing(extent.start)], "no text")

    def _json(self, text: TextMember) -> tuple[list[tuple[int, ...]], str | None]:
        start, size = text.member.data, text.member.size
        if size > PART:
            return [], LONG_JSON
        value, problem = read_text(self.tar[start : start + size], self.reading.field)
        return ([] if value is None else [self._row(start, start + size, 1, len(value.encode()))]), problem

    def _parts(self, text: TextMember) -> tuple[list[tuple[int, ...]], str | None]:
        start, size = text.member.data, text.member.size
        rows: list[tuple[int, ...]] = []
        for offset, data in parts(lambda at, length: self.tar[start + at : start + at + length], size):
            begin, stop = start + offset, start + offset + len(data)
            value, problem = read_part(data) if offset else read_text(data, None)
            if value is None:
                return [], problem
            rows.append(self._row(begin, stop, int(not offset), len(value.encode())))
            self._give_back(stop)
        return rows, None if rows else "no text: it is empty"

    def _nothing(self, at: int) -> tuple[int, ...]:
        return self._row(at, at, 1, 0)

    def _row(self, start: int, stop: int, samples: int, text_bytes: int) -> tuple[int, ...]:
        """An entry of the table of units."""
        with memoryview(self.tar) as tar, tar[start:stop] as part:
            checksum = xxhash.xxh64_intdigest(part)
        stored, stored_length = start, stop - start
        if self.frames is not None:
            whole = start in self.frames and stop in self.frames
            stored, stored_length = (
                (self.frames[start], self.frames[stop] - self.frames[start]) if whole else (0, 0)
            )
        return 0, samples, start, stop - start, text_bytes, checksum, stored, stored_length

    def _give_back(self, end: int) -> None:
        """The pages before `end`, which are not read again."""
        if end - self._given_back > self.memory:
            border = end // mmap.PAGESIZE * mmap.PAGESIZE
            self.tar.madvise(mmap.MADV_DONTNEED, self._given_back, border - self._given_back)
            self._given_back = border
