"""Which part of the inputs is read at once, and by whom: pieces of files, tasks of pieces, shares of a part.

A large file of JSON lines is cut by bytes: to a piece belong the lines that *begin* in it, so every line is
in one piece, wherever the borders fall, and nobody has to look for line ends beforehand. A large Parquet file
is cut by its row groups. What is packed, and what is one document or one array, is one piece. Small pieces
make a task together.

    bytes of all inputs   0 ─────────── a.jsonl ───────────┬─ b.txt ─┬─ c.parquet (4 row groups) ─ total
    tasks                 │ piece │ piece │ piece │ piece + piece    │ groups 0 1 │ groups 2 3 │
    part 1 of 2           ├─── the lines that begin here ───┤
    part 2 of 2                                             ├─ the rest, b.txt, groups that begin here ─┤

The share of a part is a range of these bytes, so the parts of a job array take about as long, and who is one
of n needs to know of nothing but the inputs. A file that is not cut belongs to the part where it begins.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import xxhash

from data.access.compression import packing_of
from data.errors import BadInput
from data.sources.suffixes import LINES, PARQUET, format_of

PIECE = 1 << 22
"""Bytes of lines in a piece, and of a task about: some tens of milliseconds of work."""
_MOST_PIECES = 1000
_ROWS = 1 << 24
"""Bytes of text in a piece of a Parquet file: its footer is read anew for each."""


class Piece(NamedTuple):
    """Some of a file. first, stop: bytes of lines, or row groups of Parquet; stop None: to the end. row: that
    of the first document, in Parquet alone. begins, ends: whether it is the first of its file, and the last.
    size: bytes of the file that it stands for."""

    path: str
    size: int
    first: int = 0
    stop: int | None = None
    row: int | None = None
    begins: bool = True
    ends: bool = True


class RowGroup(NamedTuple):
    """Of a Parquet file. bytes: of the text in it, about."""

    rows: int
    bytes: int


RowGroups = Callable[[str], list[RowGroup]]
"""Gives those of a file."""


class PackShare(NamedTuple):
    """Part `number` of `parts`, counted from 1. named: whether names and keys say so."""

    number: int
    parts: int
    named: bool = True

    @property
    def key(self) -> str:
        """What the keys of its documents begin with, so that they are no other part's."""
        return f"{self._digits}-" if self.named else ""

    @property
    def name(self) -> str:
        """What the names of its shards have behind the name of the corpus."""
        return f"-{self._digits}of{self.parts}" if self.named else ""

    @property
    def _digits(self) -> str:
        """Its number, as wide as that of the last."""
        return f"{self.number:0{len(str(self.parts))}d}"

    def of(self, total: int) -> tuple[int, int | None]:
        """The bytes of `total` that are its own; the last part has all behind them too."""
        low, high = (total * number // self.parts for number in (self.number - 1, self.number))
        return low, None if self.number == self.parts else high


WHOLE = PackShare(1, 1, named=False)


def share_of(text: str | None) -> PackShare:
    """What "3/128" means; None is all. BadInput where it means nothing."""
    if text is None:
        return WHOLE
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise BadInput(
            f"--part {text!r}: expected i/n, this part's number, from 1, and that of all, such as 3/128"
        )
    return PackShare(int(found[1]), int(found[2]))


def tasks(
    files: Sequence[str], sizes: Sequence[int], row_groups: RowGroups, share: PackShare = WHOLE
) -> Iterator[list[Piece]]:
    """The pieces of a share of these files, in order, as many together as are worth a task."""
    task: list[Piece] = []
    waiting = 0
    for piece in _pieces(files, sizes, row_groups, share):
        task.append(piece)
        waiting += piece.size
        if waiting >= PIECE or len(task) >= _MOST_PIECES:
            yield task
            task, waiting = [], 0
    if task:
        yield task


def _pieces(
    files: Sequence[str], sizes: Sequence[int], row_groups: RowGroups, share: PackShare
) -> Iterator[Piece]:
    low, high = share.of(sum(sizes))
    begin = 0
    for path, size in zip(files, sizes):
        if high is not None and begin >= high:
            return
        own_low, own_high = low - begin, None if high is None else high - begin
        if own_low < size or own_low <= 0:
            yield from _cut(path, size, row_groups, own_low, own_high)
        begin += size


def _cut(path: str, size: int, row_groups: RowGroups, low: int, high: int | None) -> Iterator[Piece]:
    """The pieces of a file whose place in it is from `low` up to `high`, None for all behind."""
    kind = _cut_by(path, size)
    if kind == LINES:
        end = size if high is None else min(high, size)
        for first in range(max(low, 0), end, PIECE):
            stop = min(first + PIECE, end)
            yield Piece(
                path, stop - first, first, None if stop == size else stop, None, not first, stop == size
            )
    elif kind == PARQUET:
        yield from _rows(path, size, row_groups(path), low, high)
    elif low <= 0:
        yield Piece(path, size)


def _cut_by(path: str, size: int) -> str | None:
    """LINES or PARQUET where a file may be cut, None where it is one piece."""
    found = format_of(path)
    if size <= PIECE or found is None or found.packing != "plain" or found.kind not in (LINES, PARQUET):
        return None
    try:
        with open(path, "rb") as file:
            plain = packing_of(file.read(4)) == "plain"
    except OSError:  # whoever reads it says so
        return None
    return found.kind if plain else None


def _rows(path: str, size: int, groups: list[RowGroup], low: int, high: int | None) -> Iterator[Piece]:
    """Row groups, neighbours together. Each lies where its first row does, as if all were equally large."""
    total = max(sum(group.rows for group in groups), 1)
    row = 0
    chosen: list[tuple[int, int]] = []
    for number, group in enumerate(groups):
        at = size * row // total
        if at >= low and (high is None or at < high):
            chosen.append((number, row))
        row += group.rows
    while chosen:
        held, stop = 0, chosen[0][0]
        while stop <= chosen[-1][0] and held < _ROWS:
            held += groups[stop].bytes
            stop += 1
        first, row = chosen[0]
        share = size * sum(group.rows for group in groups[first:stop]) // total
        yield Piece(path, share, first, stop, row, not first, stop == len(groups))
        del chosen[: stop - first]


def inputs_id(files: Sequence[str], sizes: Sequence[int], field: str) -> str:
    """A checksum of what parts share: the names of the files, wherever mounted, their sizes, the field."""
    told = [[os.path.basename(path), size] for path, size in zip(files, sizes, strict=True)]
    return xxhash.xxh3_128_hexdigest(json.dumps([field, told]).encode())


def sizes_of(files: Sequence[str]) -> list[int]:
    """Bytes of each file, 0 where it is gone."""
    return [size_of(path) for path in files]


def size_of(path: str) -> int:
    """Bytes of a file, 0 where it is gone."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
