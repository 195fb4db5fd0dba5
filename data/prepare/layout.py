"""Where each document goes: its number, its unit, its shard. One process decides it, from sizes alone.

Readers give batches, builders make bytes; both may be other processes, in any number. In between, in the
order of the inputs, this counts lines and problems, numbers the documents that have a text, cuts units by the
rule of `runs`, and says at which byte of which shard each unit begins. Of a unit that the end of a batch cuts
in two the first half is carried along, so that a builder needs one batch alone.

    batches    a b c d e │ f g h i
    units      [a b] [c d|e f] [g h …       jobs:  [a b]    then c d e + [f] [g h …
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data.balance import Balance
from data.shards.tar_fields import BLOCK
from data.shards.units import unit_starts
from data.shards.walk import printable
from data.sources.batch import Stretch, TextBatch
from data.sources.long_text import LongText


class Origins(NamedTuple):
    """The metadata of neighbours: `before` is their JSON, to which each adds its number and a brace; where
    `numbers` is None it is whole."""

    before: bytes
    numbers: np.ndarray | None
    documents: int

    def cut(self, first: int, stop: int) -> "Origins":
        """Of some of them."""
        numbers = None if self.numbers is None else self.numbers[first:stop]
        return self._replace(numbers=numbers, documents=stop - first)

    def sizes(self) -> np.ndarray:
        """int64 bytes of each."""
        if self.numbers is None:
            return np.full(self.documents, len(self.before), np.int64)
        return len(self.before) + 2 + np.searchsorted(_TENS, self.numbers, side="right")

    def written(self) -> Iterator[bytes]:
        """Each."""
        if self.numbers is None:
            return iter([self.before] * self.documents)
        before = self.before
        return (before + b"%d}" % number for number in self.numbers.tolist())


_TENS = 10 ** np.arange(1, 18)


class UnitPlace(NamedTuple):
    """A unit of whole samples: how many, the number of the first, and where its tar bytes begin."""

    documents: int
    number: int
    shard: int
    offset: int


class BuildJob(NamedTuple):
    """Units to be built. data: the texts of a batch; carried: those in front of them; sizes: bytes of each
    text, of both; origins: of each, empty where no metadata is packed."""

    data: bytes | memoryview
    carried: bytes
    sizes: np.ndarray
    origins: list[Origins]
    units: list[UnitPlace]


class LongDocument(NamedTuple):
    """A document that becomes units of its own."""

    number: int
    text: bytes | LongText
    meta: bytes | None


Step = int | LongDocument
"""What comes next: so many units of the job, or a long document."""


class ShardCursor:
    """Where the next bytes go: a shard is closed when its tar reaches `shard_bytes`."""

    def __init__(self, shard_bytes: int) -> None:
        self.shard_bytes, self.shard, self.offset = shard_bytes, 0, 0

    def take(self, length: int) -> tuple[int, int]:
        """(shard, offset) of the next `length` bytes."""
        at = self.shard, self.offset
        self.offset += length
        if self.offset >= self.shard_bytes:
            self.shard, self.offset = self.shard + 1, 0
        return at


@dataclass
class _File:
    """What was met of the file at hand. line: the number of lines so far, last: of the last document; byte:
    where its share begins."""

    path: str
    byte: int
    line: int = 0
    last: int | None = None
    met: bool = False
    broken: bool = False


class Layout:
    """Takes batches in order and says what to build; `balance` is the account of the documents."""

    def __init__(
        self,
        shard_bytes: int,
        meta: bool,
        unit_text: int | None,
        balance: Balance,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """meta: whether documents have metadata; unit_text: bytes of text that a unit aims at; progress: is
        told the bytes of each piece that was read."""
        self.balance = balance
        self._meta, self._unit_text, self._progress = meta, unit_text, progress
        self._cursor = ShardCursor(shard_bytes)
        self._file: _File | None = None
        self._number = 0
        self._carried = b""
        self._sizes = np.empty(0, np.int64)
        self._origins: list[Origins] = []

    def place(self, batch: TextBatch) -> tuple[BuildJob, list[Step]]:
        """What is complete with this batch."""
        kept, origins = self._account(batch)
        batch = _without(batch, kept)
        sizes = np.concatenate([self._sizes, batch.sizes])
        shift = len(self._sizes)
        job = BuildJob(batch.data, self._carried, sizes, [*self._origins, *origins], [])
        return self._cut(job, {shift + at: text for at, text in batch.long.items()})

    def rest(self) -> tuple[BuildJob, list[Step]]:
        """The unit that was not complete yet, if there is one."""
        job = BuildJob(b"", self._carried, self._sizes, self._origins, [])
        return self._cut(job, {}, final=True)

    def _cut(
        self, job: BuildJob, long: dict[int, bytes | LongText], final: bool = False
    ) -> tuple[BuildJob, list[Step]]:
        """The units of these documents, but for the last, which is carried on."""
        origins = _Sequence(job.origins)
        tar = BLOCK + _padded(job.sizes)
        if self._meta:
            tar += BLOCK + _padded(origins.sizes())
        ends = np.cumsum(tar)
        units: list[UnitPlace] = []
        steps: list[Step] = []
        begin = 0
        for end in [*sorted(long), len(job.sizes)]:
            starts = [begin + at for at in unit_starts(job.sizes[begin:end], tar[begin:end], self._unit_text)]
            if end == len(job.sizes) and not final:
                begin = starts.pop() if starts else end
            else:
                begin = end + 1
            stops = [*starts[1:], min(begin, end)] if starts else []
            for start, stop in zip(starts, stops):
                shard, offset = self._cursor.take(int(ends[stop - 1]) - int(ends[start] - tar[start]))
                units.append(UnitPlace(stop - start, self._number, shard, offset))
                self._number += stop - start
            steps.append(len(starts))
            if end in long:
                meta = origins.one(end) if self._meta else None
                steps.append(LongDocument(self._number, long[end], meta))
                self._cursor.take(int(tar[end]))
                self._number += 1
        self._carry(job, long, begin, origins)
        short = np.delete(job.sizes[:begin], [at for at in long if at < begin])
        used = origins.cut(0, begin, sorted(long)) if self._meta else []
        return BuildJob(job.data, job.carried, short, used, units), steps

    def _carry(
        self, job: BuildJob, long: dict[int, bytes | LongText], begin: int, origins: "_Sequence"
    ) -> None:
        """Keep the documents from `begin` on, none of which is long."""
        sizes = job.sizes[begin:]
        length = int(sizes.sum())
        front = max(length - len(job.data), 0)
        carried = job.carried[len(job.carried) - front :] if front else b""
        self._carried = carried + bytes(job.data[len(job.data) - (length - front) :]) if length else b""
        self._sizes = sizes
        self._origins = origins.cut(begin, len(job.sizes), []) if self._meta else []

    def _account(self, batch: TextBatch) -> tuple[np.ndarray, list[Origins]]:
        """Count what is in a batch: bool of each document whether it is kept, and their metadata."""
        kept = np.ones(len(batch.sizes), bool)
        origins: list[Origins] = []
        at = 0
        for stretch in batch.stretches:
            file = self._file_of(stretch)
            if file is not None and file.broken:
                kept[at : at + stretch.documents] = False
            else:
                self.balance.used += stretch.documents
                numbers = self._numbers(stretch, file)
                origins.append(Origins(_before(stretch, file), numbers, stretch.documents))
                self._problems(stretch, file)
            at += stretch.documents
        return kept, origins if self._meta else []

    def _file_of(self, stretch: Stretch) -> _File | None:
        piece = stretch.piece
        if piece is None:
            return None
        if self._file is None or self._file.path != piece.path:
            self._file = _File(piece.path, piece.first if piece.row is None else 0)
        return self._file

    def _numbers(self, stretch: Stretch, file: _File | None) -> np.ndarray | None:
        """The lines of a stretch, counted from the beginning of the file or of what is read of it."""
        if stretch.numbers is None or file is None:
            return stretch.numbers
        return stretch.numbers + file.line

    def _problems(self, stretch: Stretch, file: _File | None) -> None:
        """Count problems, and what was met of the file."""
        source = printable(stretch.source)
        if file is not None and file.byte:
            source += f" from byte {file.byte}"
        base = file.line if file is not None else 0
        for number, problem in stretch.problems:
            line = None if number is None else base + number
            if number is None and stretch.broken and file is not None:
                line = self._last(stretch, file)
            place = source if line is None else f"{source}:{line}"
            reason, at, byte = problem.partition(" at byte ")
            self.balance.leave_out(reason, [place + at + byte])
        if file is None:
            return
        file.last = self._last(stretch, file)
        file.met = file.met or bool(stretch.documents or stretch.problems)
        if stretch.ended:
            if self._progress is not None and stretch.piece is not None:
                self._progress(stretch.piece.size)
            file.line += stretch.lines
            file.broken = stretch.broken
            if stretch.piece is not None and stretch.piece.ends and not file.met and not file.byte:
                self.balance.leave_out("empty", [source])

    def _last(self, stretch: Stretch, file: _File) -> int | None:
        """The line of the last document of a file so far."""
        numbers = [number for number, _ in stretch.problems[-2:] if number is not None]
        if stretch.numbers is not None:
            numbers.append(int(stretch.numbers[-1]))
        return file.line + max(numbers) if numbers else file.last


def _before(stretch: Stretch, file: _File | None) -> bytes:
    """The metadata of a stretch, as `Origins` wants it."""
    origin: dict[str, str | int] = {"source": stretch.source}
    if file is not None and file.byte:
        origin["byte"] = file.byte
    whole = json.dumps(origin, ensure_ascii=True).encode()
    return whole if stretch.numbers is None else whole[:-1] + b', "line": '


def _padded(sizes: np.ndarray) -> np.ndarray:
    return (sizes + (BLOCK - 1)) // BLOCK * BLOCK


def _without(batch: TextBatch, kept: np.ndarray) -> TextBatch:
    """A batch without what stands behind the place where a file could not be read."""
    if kept.all():
        return batch
    joined = np.where(np.isin(np.arange(len(kept)), list(batch.long)), 0, batch.sizes)
    ends = np.cumsum(joined)
    data = b"".join(bytes(batch.data[end - size : end]) for end, size in zip(ends[kept], joined[kept]))
    numbers = np.cumsum(kept) - 1
    long = {int(numbers[at]): text for at, text in batch.long.items() if kept[at]}
    return batch._replace(data=data, sizes=batch.sizes[kept], long=long)


class _Sequence:
    """Metadata of many documents, by number."""

    def __init__(self, runs: list[Origins]) -> None:
        self.runs = runs
        self.ends = np.cumsum([0, *(one.documents for one in runs)])

    def sizes(self) -> np.ndarray:
        return np.concatenate([np.empty(0, np.int64), *(one.sizes() for one in self.runs)])

    def one(self, number: int) -> bytes:
        """That of one document."""
        return next(self.cut(number, number + 1, [])[0].written())

    def cut(self, first: int, stop: int, without: list[int]) -> list[Origins]:
        """Those from `first` up to `stop`, but for some."""
        found = []
        borders = [first - 1, *(at for at in without if at < stop), stop]
        for begin, end in pairwise(borders):
            for run, low, high in zip(self.runs, self.ends, self.ends[1:]):
                start, last = max(begin + 1, low) - low, min(end, high) - low
                if start < last:
                    found.append(run.cut(start, last))
        return found
