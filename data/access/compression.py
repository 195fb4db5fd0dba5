"""gzip and zstd as streams: members or frames one behind the other, and where each zstd frame begins.

A shard packed frame by frame can be read by ranges, so the index wants to know where the frames are; a shard
packed as a whole is unpacked once. Both go through `unpack`.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator

import zstandard

from data.access.trouble import ShardTrouble

_FED = 1 << 12
"""Bytes unpacked at once: of text that repeats itself they may become ten thousand times as many."""
_PIECE = 1 << 20
_SKIPPABLE = b"\x2a\x4d\x18"
"""Behind its first byte: the zstd frame without content that pzstd writes first."""


def packing_of(head: bytes) -> str:
    """'gzip', 'zstd' or 'plain', by the first bytes of a shard."""
    if head[1:4] == _SKIPPABLE and head[0] >> 4 == 5:
        return "zstd"
    return {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(head[:2], "plain")


def unpack(
    chunks: Iterable[bytes], packing: str, frames: list[tuple[int, int]] | None = None
) -> Iterator[bytes]:
    """The contents of gzip members or zstd frames that follow one another.

    frames: is filled with (packed offset, unpacked offset) of the beginning of each. Raises ShardTrouble.
    """
    if packing == "plain":
        yield from chunks
        return
    fresh: Callable[[], zlib._Decompress | zstandard.ZstdDecompressionObj] = (
        (lambda: zlib.decompressobj(wbits=31))
        if packing == "gzip"
        else zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
    )
    machine = None
    packed = unpacked = 0
    pieces: list[bytes] = []
    held = 0
    try:
        for chunk in _fed(chunks):
            while chunk:
                if machine is None:
                    if packing == "gzip" and not chunk.strip(b"\0"):  # padding of a tape block
                        break
                    machine = fresh()
                    if frames is not None:
                        frames.append((packed, unpacked))
                data = machine.decompress(chunk)
                rest = machine.unused_data if machine.eof else b""
                packed += len(chunk) - len(rest)
                unpacked += len(data)
                chunk = rest
                if machine.eof:
                    machine = None
                pieces.append(data)
                held += len(data)
                if held >= _PIECE:
                    yield b"".join(pieces)
                    pieces, held = [], 0
    except (zlib.error, zstandard.ZstdError) as error:
        raise ShardTrouble(f"its {packing} data are damaged near byte {packed} ({error})") from error
    if machine is not None:
        raise ShardTrouble(f"cut off at byte {packed}, inside its {packing} data")
    if held:
        yield b"".join(pieces)


def _fed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, in slices of _FED at most."""
    for chunk in chunks:
        for start in range(0, len(chunk), _FED):
            yield chunk[start : start + _FED]
