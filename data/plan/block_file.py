"""The blocks of a large corpus, in a file that all processes of a machine map.

Working them out reads the whole table of units, which for terabytes of text takes seconds to half a minute
and hundreds of megabytes. So the first process that asks does it, and leaves the arrays in the cache
(data.cache), for the others and for later starts: whatever they depend on is in the key of the file, and its
content is verified whenever it is opened. One that is not whole, or not what its key says, is made again;
where none can be kept each process works its own out in memory, which one of a machine says.

The file: a magic, the length and the xxh3 of a JSON header, the header, then the arrays of Blocks one behind
the other, all beginning at multiples of 64 bytes.
"""

import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import xxhash

from data.access.trouble import Transient
from data.errors import BadInput
from data.plan.blocks import Blocks, make_blocks
from data.shards.corpus import LARGE, Corpus
from objectives import rng

_RULE = 1
"""Raised where the same table and settings would give other blocks than before."""
_MAGIC = b"HRBLOCKS"
_HEAD, _LINE = 24, 64
_CHUNK = 1 << 20


def blocks_of(
    corpus: Corpus, seed: int, name: str, counts: Sequence[int], held_out: float, block_bytes: int
) -> Blocks:
    """The blocks of a corpus's first counts[-1] units, worked out once for each corpus and settings. counts:
    units of each era, cumulative; name: by which the plan knows the corpus."""
    # What the units are is in the checksum; who draws the held-out ones, and how, in the rest.
    whose = [rng.VERSION, seed, name, held_out, block_bytes, *counts]
    key = f"blocks {_RULE} {corpus.index.checksum} {json.dumps(whose)}"

    def make() -> Blocks:
        return make_blocks(seed, name, corpus.table, counts, held_out, block_bytes)

    return corpus.remembered(key, lambda: make() if counts[-1] < LARGE else _shared(corpus, name, key, make))


def _shared(corpus: Corpus, name: str, key: str, make: Callable[[], Blocks]) -> Blocks:
    """The blocks of the file of this key; it is made where it is not there."""
    blocks = None
    try:
        cache = corpus.store.cache
        if kept := cache.open(key):
            with kept:
                blocks = _read(kept, key)
        if blocks is None:
            blocks = make()
            with corpus.store.put(key, _content(blocks, key)) as file:
                return _read(file, key) or blocks
    except (BadInput, Transient) as error:
        blocks = blocks or make()
        if corpus.looked_at:
            size = sum(array.nbytes for array in _arrays(blocks)) >> 20
            corpus.store.patience.tell(
                f"corpus {name}: each process works its blocks out and holds {size} MiB of them, for no file "
                f"of them can be kept in the cache: {error}"
            )
    return blocks


def _arrays(blocks: Blocks) -> list[np.ndarray]:
    return [blocks.held_out, blocks.ends, blocks.text_bytes, *blocks.ranked]


def _content(blocks: Blocks, key: str) -> Iterator[bytes]:
    """The file, piece by piece."""
    arrays = [np.ascontiguousarray(array) for array in _arrays(blocks)]
    body = [
        part for array in arrays for part in (array.view(np.uint8), np.zeros(-array.nbytes % _LINE, "u1"))
    ]
    digest = xxhash.xxh3_128()
    for part in body:
        digest.update(part.data)
    header = {
        "key": key,
        "counts": blocks.counts,
        "era_text": blocks.era_text,
        "arrays": [(array.dtype.str, len(array)) for array in arrays],
        "checksum": digest.hexdigest(),
    }
    text = json.dumps(header).encode()
    text += b" " * (-(_HEAD + len(text)) % _LINE)
    yield _MAGIC + len(text).to_bytes(8, "little") + xxhash.xxh3_64_digest(text) + text
    for part in body:
        for low in range(0, len(part), _CHUNK):
            yield part[low : low + _CHUNK].tobytes()


def _read(file: BinaryIO, key: str) -> Blocks | None:
    """The blocks, mapped; None where the file is not whole, or another's."""
    try:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        head = file.read(_HEAD)
        text = file.read(min(int.from_bytes(head[8:16], "little"), _CHUNK)) if head[:8] == _MAGIC else b""
        if not text or xxhash.xxh3_64_digest(text) != head[16:]:
            return None
        header = json.loads(text)
        digest, chunk = xxhash.xxh3_128(), bytearray(_CHUNK)
        while size := file.readinto(chunk):  # type: ignore[attr-defined]
            digest.update(memoryview(chunk)[:size])
        if header["key"] != key or digest.hexdigest() != header["checksum"]:
            return None
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None
    arrays, offset = [], _HEAD + len(text)
    for dtype, count in header["arrays"]:
        arrays.append(np.frombuffer(mapped, dtype, count, offset))
        offset += arrays[-1].nbytes + -arrays[-1].nbytes % _LINE
    held_out, ends, text_bytes, *ranked = arrays
    era_text = tuple((whole, aside) for whole, aside in header["era_text"])
    return Blocks(tuple(header["counts"]), held_out, ends, text_bytes, tuple(ranked), era_text, mapped)
