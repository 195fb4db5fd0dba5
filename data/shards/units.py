"""The table of units: which bytes of which shard hold about 64 KB of text.

Reading a corpus in any order needs a table that says where to begin. One entry a document would make it as
large as the text at web scale; one entry a *unit* keeps it under a thousandth. There are two kinds of unit:

    a run of whole samples   tar bytes that begin at a header; its documents are found by reading headers
    a part of a document     up to 1 MiB of the text of a long one (data/shards/parts.py), nothing else

The second kind stands for every sample that is too large to be read as a whole: each of its documents is
*placed*, with its key, by an entry of a second table, and takes one unit for each of its parts:

    units     0: samples a b c   1: d, part 0   2: d, part 1   3: d, part 2   4: samples e f
    placed                       unit 1, 3 parts, "d"
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from mmap import MADV_DONTNEED, mmap
from typing import NamedTuple, TypeVar

import numpy as np
import xxhash

Sized = TypeVar("Sized")

UNIT_TEXT = 1 << 16
"""Bytes of text that a unit aims at, unless its corpus is large."""
_GROWN, _MANY = 1 << 18, 1 << 22
"""What units grow to, a quarter of the usual block of rows of 1024 positions; from how many on they grow."""
UNIT_TAR = 1 << 22
"""Most tar bytes of a unit: bounds what one read brings into memory. A larger sample is placed, document by
document."""

_PASSED = 1 << 26
"""Bytes of a table that are looked at before they are given back."""

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
"""One unit. samples: the documents that begin in it, bad ones included. offset, length: of its bytes in the
tar. checksum: xxh64 of these bytes. stored_offset, stored_length: which frames of a compressed shard hold
them."""

PLACED = np.dtype(
    [("unit", "<u8"), ("parts", "<u4"), ("kind", "<u4"), ("key_end", "<u8"), ("problem_end", "<u8")]
)
"""One placed document. unit: that of its first part; kind: an index of KINDS; key_end, problem_end: where in
the blob of names its key ends, which begins where the one before ends, and then its problem, if it has
one."""
KINDS = ("text", "json")


class Unit(NamedTuple):
    """One unit; fields as in UNITS."""

    shard: int
    samples: int
    offset: int
    length: int
    text_bytes: int
    checksum: int
    stored_offset: int
    stored_length: int


class Placed(NamedTuple):
    """A document that takes units of its own. problem: why it has no text; then it has one unit, of no
    bytes."""

    key: str
    unit: int
    parts: int
    kind: str
    problem: str | None


class UnitTable:
    """The units of some shards, in their order, and the documents that are placed in them."""

    def __init__(
        self,
        units: np.ndarray,
        placed: np.ndarray | None = None,
        names: bytes | memoryview = b"",
        mapped: mmap | None = None,
    ) -> None:
        """units: an array of UNITS; placed: one of PLACED, by unit; names: UTF-8; mapped: the file in which
        they lie."""
        self.units, self._mapped = units, mapped
        self.placed = np.empty(0, PLACED) if placed is None else placed
        self.names = names

    def __len__(self) -> int:
        return len(self.units)

    @property
    def _placed_units(self) -> np.ndarray:
        """uint64 [placed]: a view, so a place in it is found by bisection; searchsorted would copy all of
        it."""
        return self.placed["unit"]

    def range_of(self, shard: int) -> tuple[int, int]:
        """(first, stop) of the units of a shard."""
        shards = self.units["shard"]
        return bisect_left(shards, shard), bisect_right(shards, shard)

    def shard_border(self, unit: int) -> int:
        """The number of the first unit from `unit` on with which a shard begins, or that of all units."""
        if not 0 < unit < len(self):
            return min(max(unit, 0), len(self))
        before = int(self.units["shard"][unit - 1])
        return bisect_right(self.units["shard"], before, lo=unit - 1)

    def checksum(self) -> str:
        """Hex digest of all of it."""
        digest = xxhash.xxh3_128()
        for array in (self.units, self.placed):
            whole = np.ascontiguousarray(array).view(np.uint8)
            for low in range(0, len(whole), _PASSED):
                digest.update(whole[low : low + _PASSED].data)
                self.release()
        digest.update(self.names)
        return digest.hexdigest()

    def release(self) -> None:
        """Give back the pages of its file that were read: whoever goes through all of a large table calls it
        now and then, or the whole table counts as memory of this process."""
        if self._mapped is not None:
            self._mapped.madvise(MADV_DONTNEED)

    def unit(self, number: int) -> Unit:
        """One entry, as Python integers."""
        return Unit(*self.units[number].tolist())

    def placed_at(self, unit: int) -> Placed | None:
        """The placed document of which a unit is a part."""
        if not len(self.placed):
            return None
        at = bisect_right(self._placed_units, unit) - 1
        if at < 0 or unit >= int(self.placed["unit"][at]) + int(self.placed["parts"][at]):
            return None
        return self._placed(at)

    def _placed(self, at: int) -> Placed:
        begin = int(self.placed["problem_end"][at - 1]) if at else 0
        unit, parts, kind, key_end, problem_end = self.placed[at].tolist()
        problem = bytes(self.names[key_end:problem_end]).decode() or None
        return Placed(bytes(self.names[begin:key_end]).decode(), unit, parts, KINDS[kind], problem)

    def placed_in(self, first: int, stop: int) -> Iterator[Placed]:
        """The placed documents that begin in units first … stop−1."""
        low, high = (bisect_left(self._placed_units, at) for at in (first, stop))
        return map(self._placed, range(low, high))

    def first_parts(self, units: np.ndarray) -> np.ndarray:
        """int64 [n]: of each of these units the number of the one in which its document begins; its own for a
        unit of whole samples. units: int64 [n], ascending."""
        if not len(self.placed) or not len(units):
            return units
        low = max(bisect_right(self._placed_units, int(units[0])) - 1, 0)
        near = self.placed[low : bisect_right(self._placed_units, int(units[-1]))]
        near = near[near["parts"] > 1]
        if not len(near):
            return units
        begins = near["unit"].astype(np.int64)
        at = np.searchsorted(begins, units, side="right") - 1
        first = begins[at]
        inside = (at >= 0) & (units < first + near["parts"][at])
        return np.where(inside, first, units)

    def parts_of(self, units: np.ndarray) -> np.ndarray:
        """int64 [n]: how many units the document has that begins in each of these; 1 for one of whole
        samples. units: int64 [n], ascending, none of them a later part."""
        parts = np.ones(len(units), dtype=np.int64)
        if len(self.placed) and len(units):
            low = bisect_left(self._placed_units, int(units[0]))
            near = self.placed[low : bisect_right(self._placed_units, int(units[-1]))]
            at = np.searchsorted(units, near["unit"].astype(np.int64))
            found = units[np.minimum(at, len(units) - 1)] == near["unit"]
            parts[at[found]] = near["parts"][found]
        return parts

    def of(self, first: int, stop: int) -> "UnitTable":
        """Units first … stop−1 alone: whole shards."""
        low, high = (bisect_left(self._placed_units, at) for at in (first, stop))
        placed = self.placed[low:high].copy()
        begin = int(self.placed["problem_end"][low - 1]) if low else 0
        end = int(self.placed["problem_end"][high - 1]) if high else 0
        placed["unit"] -= first
        for name in ("key_end", "problem_end"):
            placed[name] -= begin
        return UnitTable(self.units[first:stop], placed, bytes(self.names[begin:end]))

    @staticmethod
    def joined(tables: Sequence["UnitTable"]) -> "UnitTable":
        """One behind the other; the numbers of their shards as they are."""
        placed, units, length = [], 0, 0
        for table in tables:
            part = table.placed.copy()
            part["unit"] += units
            for name in ("key_end", "problem_end"):
                part[name] += length
            placed.append(part)
            units, length = units + len(table), length + len(table.names)
        names = b"".join(bytes(table.names) for table in tables)
        return UnitTable(np.concatenate([table.units for table in tables]), np.concatenate(placed), names)


class UnitTableBuilder:
    """Takes units in order, as tuples of the fields of UNITS."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []
        self._placed: list[tuple[int, ...]] = []
        self._names = bytearray()

    def place(
        self, key: str, kind: str, units: Sequence[tuple[int, ...]], problem: str | None = None
    ) -> None:
        """A document that takes these units."""
        first = len(self.rows)
        self._names += key.encode("utf-8", "backslashreplace")
        key_end = len(self._names)
        self._names += (problem or "").encode("utf-8", "backslashreplace")
        self._placed.append((first, len(units), KINDS.index(kind), key_end, len(self._names)))
        self.rows += units

    def table(self) -> UnitTable:
        """What was taken."""
        return UnitTable(np.array(self.rows, UNITS), np.array(self._placed, PLACED), bytes(self._names))


@dataclass(frozen=True, slots=True)
class Size:
    """What a sample adds to its unit: bytes of text, bytes of tar, bytes of tar before it that are in no
    sample; alone: its documents are placed; inside: of a frame, which is read as a whole, so that no unit
    should begin with it."""

    text: int
    tar: int
    gap: int = 0
    alone: bool = False
    inside: bool = False


def unit_text_for(total: int) -> int:
    """Bytes of text that the units of a corpus aim at that is made of `total` bytes, as they lie on the disk:
    UNIT_TEXT, and two or four times that where there would be more than four million. It is decided before
    the first unit is cut and stands in the index, so shards that are appended get units of the same size."""
    unit = UNIT_TEXT
    while unit < _GROWN and total > unit * _MANY:
        unit *= 2
    return unit


def runs(
    samples: Iterable[Sized], size: Callable[[Sized], Size], unit_text: int | None = None
) -> Iterator[list[Sized]]:
    """Cut a shard's samples into units, those that are alone one by one.

    A sample opens a new unit where the unit's text comes nearer to unit_text (UNIT_TEXT) without it than with
    it, or where the unit would exceed UNIT_TAR. Packing and indexing use this one rule, so they agree.
    """
    aim = UNIT_TEXT if unit_text is None else unit_text
    unit: list[Sized] = []
    text = tar = 0
    for sample in samples:
        more = size(sample)
        full = text + more.text / 2 > aim and not more.inside
        if unit and (more.alone or full or tar + more.gap + more.tar > UNIT_TAR):
            yield unit
            unit = []
        if more.alone:
            yield [sample]
            continue
        if not unit:
            text = tar = 0
        text += more.text
        tar += more.tar + (more.gap if unit else 0)
        unit.append(sample)
    if unit:
        yield unit
