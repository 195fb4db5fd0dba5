"""Sparse members of tars: where their bytes lie, and whether any are missing.

tar stores a file with holes as the runs of bytes between them and a map that says where each belongs. There
are four forms: GNU's old one (type S, the map in the header and in blocks behind it) and PAX's 0.0, 0.1 (the
map in the PAX header) and 1.0 (at the front of the data). File systems that compress report fewer blocks than
a file has bytes, and then `tar -S` writes a map that covers all of it: such a member is an ordinary run of
bytes. One with holes would be read as text with thousands of zero bytes, so it is none.
"""

from collections.abc import Sequence

from data.shards.tar_fields import BLOCK, Buffer, TarTrouble, number_of

Chunk = tuple[int, int]
"""(offset in the file, bytes)."""


def is_whole(chunks: Sequence[Chunk], size: int) -> bool:
    """Whether the chunks are a file of `size` bytes without a hole, one behind the other."""
    position = 0
    for offset, length in chunks:
        if length and offset != position:
            return False
        position += length
    return position == size


def old_gnu(buffer: Buffer, position: int) -> tuple[int, int, list[Chunk]]:
    """(where its data begin, its real size, its chunks) of a member of type S whose header is at
    `position`."""
    header = bytes(buffer[position : position + BLOCK])
    chunks = _pairs(header[386:482], position)
    size = number_of(header[483:495], position)
    more = header[482]
    position += BLOCK
    while more:
        block = bytes(buffer[position : position + BLOCK])
        if len(block) < BLOCK:
            raise TarTrouble(f"cut off at byte {position + len(block)}, inside the map of a sparse file")
        chunks += _pairs(block[:504], position)
        more = block[504]
        position += BLOCK
    return position, size, chunks


def _pairs(fields: bytes, position: int) -> list[Chunk]:
    pairs = []
    for at in range(0, len(fields), 24):
        if not fields[at]:  # the rest is unused
            break
        pairs.append(
            (number_of(fields[at : at + 12], position), number_of(fields[at + 12 : at + 24], position))
        )
    return pairs


def is_sparse(records: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether PAX records say of the member to come that it is sparse."""
    return any(key.startswith(b"GNU.sparse.") for key, _ in records)


def pax(
    records: Sequence[tuple[bytes, bytes]], buffer: Buffer, data: int, stored: int
) -> tuple[int, int, list[Chunk]]:
    """(where its data begin, its real size, its chunks) of a member that its PAX records call sparse.
    data, stored: where its bytes lie in the tar and how many they are, map included."""
    values = dict(records)
    try:
        size = int(values.get(b"GNU.sparse.realsize") or values[b"GNU.sparse.size"])
        if b"GNU.sparse.major" in values and int(values[b"GNU.sparse.major"]) >= 1:
            begin, numbers = _map_in_front(buffer, data, stored)
            return begin, size, numbers
        if b"GNU.sparse.map" in values:
            flat = [int(word) for word in values[b"GNU.sparse.map"].split(b",") if word]
        else:
            wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
            flat = [int(value) for key, value in records if key in wanted]
        return data, size, list(zip(flat[::2], flat[1::2], strict=True))
    except (KeyError, ValueError) as error:
        raise TarTrouble(f"the map of the sparse file whose data begin at byte {data} is damaged") from error


def _map_in_front(buffer: Buffer, data: int, stored: int) -> tuple[int, list[Chunk]]:
    """The map of form 1.0: a count and as many pairs of numbers, a line each, filled up to whole blocks."""
    end, lines, taken = data + stored, [], b""
    position, count = data, None
    while count is None or len(lines) < 1 + 2 * count:
        if position + BLOCK > end:
            raise ValueError("the map does not end")
        taken += bytes(buffer[position : position + BLOCK])
        position += BLOCK
        *whole, taken = taken.split(b"\n")
        lines += whole
        if count is None and lines:
            count = int(lines[0])
    numbers = [int(line) for line in lines[1 : 1 + 2 * (count or 0)]]
    return position, list(zip(numbers[::2], numbers[1::2], strict=True))
