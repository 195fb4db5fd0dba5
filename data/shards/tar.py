"""The members of a tar, found by their headers, in memory.

A unit of a shard is a run of tar bytes that begins at a header. Finding the documents in it must cost far
less than encoding them, so the headers are read here by a few slices each instead of by the tarfile module
(which was measured at a tenth of this speed). What other people's tools write is understood: ustar, GNU long
names (`L`, `K`), PAX headers (`x`, `g`), sparse files (data/shards/sparse.py).

Every member that could hold something is told of, links and devices too, with the reason why it cannot be
read: whoever indexes a shard accounts for all that is there. So is what stands behind the mark that ends a
tar: `cat a.tar b.tar` has one in the middle, and reading goes on behind it, as `tar -i` does.
"""

import struct
from collections.abc import Container, Iterator
from typing import NamedTuple

import numpy as np

from data.shards import sparse
from data.shards.tar_fields import (
    BLOCK,
    Buffer,
    TarTrouble,
    decoded,
    is_header,
    name_of,
    number_of,
    padded,
    pax_records,
    refuse_foreign,
    verify_header,
)

NAME = 100
_SIZE_AT, _KIND_AT, _MAGIC_AT, _PREFIX_AT = slice(124, 135), 156, slice(257, 262), 345
"""Of a header: the bytes of its name; where the eleven digits of its size, its type and so on stand."""
_USTAR = np.frombuffer(b"ustar", np.uint8)
_POWERS = 8 ** np.arange(10, -1, -1)
_ZEROS = bytes(BLOCK)
_MANY_ZEROS = bytes(1 << 16)
_HEADER = struct.Struct("100s 24x 12s 20x c 100x 6s 82x 155s 12x")
"""name, size, type, magic, prefix"""
_FILES = (b"0", b"\0", b"7")
_SPARSE = b"S"
_HARD_LINK = b"1"
_EXTRA = (b"L", b"K", b"x", b"X", b"g")
"""Headers that say something of the next member."""
_EMPTY = (b"5", b"D", b"V")
"""Folders, their lists, and the label of a volume: they hold nothing."""
_WITHOUT_DATA = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"6": "FIFO",
}
BEHIND = "bytes behind the end mark that are no tar"
HOLES = "sparse file with holes"
_tuple = tuple.__new__
"""Makes a NamedTuple at half the cost of its constructor."""


class Member(NamedTuple):
    """A member of a tar. Offsets in bytes from the start of the buffer."""

    name: str
    start: int
    """Of its first header, long-name and PAX headers included."""
    data: int
    size: int
    problem: str | None
    """Why it is no file that can be read, None where it is one."""

    @property
    def end(self) -> int:
        """Where what follows begins."""
        return self.data + padded(self.size)


class _Said(NamedTuple):
    """What extra headers said of the member to come."""

    name: str | None = None
    size: int | None = None
    sparse: list[tuple[bytes, bytes]] | None = None


_NOTHING = _Said()


def members(buffer: Buffer, *, check: bool = True) -> Iterator[Member]:
    """The members of a tar, or of a run of its members, in order; folders are passed over.

    `check` verifies each header's checksum: needed where nothing else vouches for the bytes.
    Raises TarTrouble for a damaged header and for a member that the buffer does not hold to its end.
    """
    position = start = 0
    end = len(buffer)
    said = _NOTHING
    if check and not is_header(buffer, 0):
        refuse_foreign(bytes(buffer[:BLOCK]))
    while position < end:
        if position + BLOCK > end and bytes(buffer[position:end]).strip(b"\0"):
            raise TarTrouble(f"cut off at byte {end}, inside the header that begins at {position}")
        if not buffer[position] and bytes(buffer[position : position + BLOCK]) == _ZEROS[: end - position]:
            position = start = _past_zeros(buffer, position)
            said = _NOTHING
            if position < end and not is_header(buffer, position):
                yield Member("", position, position, end - position, BEHIND)
                return
            continue
        first, digits, kind, magic, prefix = _HEADER.unpack_from(buffer, position)
        if check:
            verify_header(bytes(buffer[position : position + BLOCK]), position)
        length = number_of(digits, position) if said.size is None else said.size
        data = position + BLOCK
        if kind in _WITHOUT_DATA and not (kind == _HARD_LINK and _has_data(buffer, data, length)):
            length = 0
        elif kind == _SPARSE:
            data, real, chunks = sparse.old_gnu(buffer, position)
        if data + length > end:
            which = (said.name or name_of(first, magic, prefix))[:80]
            raise TarTrouble(
                f"cut off at byte {end}: the member at byte {position} ends at {data + length} ({which})"
            )
        position = data + (length + BLOCK - 1) // BLOCK * BLOCK
        if kind in _EXTRA:
            said = _extra(kind, bytes(buffer[data : data + length]), data - BLOCK, said)
            continue
        name = name_of(first, magic, prefix) if said.name is None else said.name
        if kind in _FILES and said.sparse is None:
            if not (name.endswith("/") and not length):  # a folder, as tars of before 1988 have them
                yield _tuple(Member, (name, start, data, length, None))
        elif kind in _FILES or kind == _SPARSE:
            if said.sparse is not None:
                data, real, chunks = sparse.pax(said.sparse, buffer, data, length)
            whole = sparse.is_whole(chunks, real)
            yield Member(name, start, data, real if whole else position - data, None if whole else HOLES)
        elif kind not in _EMPTY:
            yield Member(name, start, data, length, _problem(kind, length))
        start = position
        said = _NOTHING


class Plain(NamedTuple):
    """A run of members of which nothing but name and bytes matter. names: uint8 [members, 100], zeros behind
    each; starts, sizes: int64 [members], where in the buffer the bytes of each lie."""

    names: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray


def plain_members(buffer: Buffer) -> Plain | None:
    """All members of a run at once, where they are ordinary files with a header each (ustar, GNU); None where
    any of them is something else, which `members` understands, and where the run is empty.

    Which blocks are headers follows from the sizes, one header after the other. Here those that could be are
    found first, and must then lie where the sizes of those before them say: a text that looks like a header
    breaks the chain.
    """
    if not len(buffer) or len(buffer) % BLOCK:
        return None
    blocks = np.frombuffer(buffer, np.uint8).reshape(-1, BLOCK)
    at = np.flatnonzero(blocks[:, _MAGIC_AT.start] == _USTAR[0])  # one look a block, at most of them
    at = at[(blocks[at, _MAGIC_AT] == _USTAR).all(axis=1)]
    headers = blocks[at]
    digits = headers[:, _SIZE_AT].astype(np.int64) - ord("0")
    kind, prefix = headers[:, _KIND_AT], headers[:, _PREFIX_AT]
    if not len(at) or ((digits < 0) | (digits > 7)).any() or (kind != ord("0")).any() or prefix.any():
        return None
    sizes = digits @ _POWERS
    follows = at + 1 + (sizes + BLOCK - 1) // BLOCK
    if at[0] or follows[-1] != len(blocks) or not np.array_equal(follows[:-1], at[1:]):
        return None
    return Plain(headers[:, :NAME], (at + 1) * BLOCK, sizes)


def is_closed(tail: bytes, left_out: Container[str]) -> bool:
    """Whether a tar was written to its end: zeros are its last block, or BEHIND is among what was left out,
    which stands behind them. tail: that block."""
    return BEHIND in left_out or not tail.strip(b"\0")


def _problem(kind: bytes, length: int) -> str | None:
    """Why a member that is no ordinary file cannot be read; None for a hard link that brings its bytes."""
    if kind == _HARD_LINK and length:
        return None
    return _WITHOUT_DATA.get(kind) or f"member of type {decoded(kind)!r}"


def _past_zeros(buffer: Buffer, position: int) -> int:
    """The first block from `position` on that is not zero, or the end."""
    end = len(buffer)
    while bytes(buffer[position : position + len(_MANY_ZEROS)]) == _MANY_ZEROS:
        position += len(_MANY_ZEROS)
    while position < end and bytes(buffer[position : position + BLOCK]) == _ZEROS[: end - position]:
        position += BLOCK
    return min(position, end)


def _has_data(buffer: Buffer, data: int, length: int) -> bool:
    """Whether a hard link of some size brings the bytes with it, as pax may write it: then what follows its
    header is no header."""
    return (
        bool(length)
        and data < len(buffer)
        and not _ends(buffer, data)
        and _ends(buffer, data + padded(length))
    )


def _ends(buffer: Buffer, position: int) -> bool:
    """Whether a member can have ended at `position`."""
    block = bytes(buffer[position : position + BLOCK])
    return not block.strip(b"\0") or is_header(buffer, position)


def _extra(kind: bytes, data: bytes, header: int, said: _Said) -> _Said:
    """What is known of the member to come, after the extra header at byte `header`."""
    if kind == b"L":
        return said._replace(name=decoded(data.rstrip(b"\0")))
    if kind == b"K":  # a link's target
        return said
    records = pax_records(data, header)
    values = dict(records)
    if kind == b"g":  # for all that follow: a unit further on would not see it
        if values.keys() & {b"path", b"size"}:
            raise TarTrouble(f"a global PAX header at byte {header} sets path or size for all members")
        return said
    if b"path" in values:
        said = said._replace(name=decoded(values[b"path"]))
    if b"size" in values:
        if not values[b"size"].isdigit() or len(values[b"size"]) > 20:  # Python reads no 5 000 digits
            raise TarTrouble(f"the PAX header at byte {header} is damaged")
        said = said._replace(size=int(values[b"size"]))
    if sparse.is_sparse(records):
        name = values.get(b"GNU.sparse.name")
        said = said._replace(sparse=records, name=decoded(name) if name else said.name)
    return said
