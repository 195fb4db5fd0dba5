"""The tar bytes of a unit: headers from a form, texts and metadata between them, one join.

A header is what tarfile writes for an empty member, with three fields filled in: the name, the size, and the
checksum, which is the form's own sum and those of the digits put in; all else is the same for every document.
So it is what webdataset's TarWriter writes, at a twentieth of its time.
"""

import itertools
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from data.prepare.layout import BuildJob, Origins
from data.prepare.shard_writer import OpenShard, WrittenUnit, compressed, key_of, shard_path
from data.shards.tar_fields import BLOCK, checksum_of

_BIGDATA = "bigdata"
"""Who owns the members of a shard, as webdataset has it."""
_ZEROS = bytes(BLOCK)
_WORTH_A_VIEW = 500
"""Bytes of a text above which it is quicker not to copy it."""
Text = bytes | memoryview


def header(key: str, suffix: str, size: int) -> bytes:
    """The header of a member of any size; more than one block where it is larger than 8 GiB."""
    info = tarfile.TarInfo(f"{key}.{suffix}")
    info.size, info.mtime, info.mode = size, 0, 0o444
    info.uname = info.gname = _BIGDATA
    return info.tobuf(tarfile.PAX_FORMAT)


class _Form(NamedTuple):
    """The header of a member without its key, size and checksum: what stands between them, and its sum."""

    behind_key: bytes
    behind_size: bytes
    behind_sum: bytes
    total: int


@lru_cache(maxsize=64)
def _form(width: int, suffix: str) -> _Form:
    """Of members whose key has so many bytes."""
    empty = header("0" * width, suffix, 0)
    digits = width + 11
    return _Form(empty[width:124], empty[136:148], empty[156:], checksum_of(empty) - digits * ord("0"))


@lru_cache(maxsize=1 << 16)
def _size_field(size: int) -> tuple[bytes, int]:
    """The size in a header and the sum of its digits."""
    field = b"%011o\0" % size
    return field, sum(field)


@lru_cache(maxsize=1 << 14)
def _sum_field(total: int) -> bytes:
    return b"%06o\0 " % total


def tar_of(
    keys: Iterable[bytes], texts: Iterable[Text], sizes: Iterable[int], metas: Iterable[bytes] | None
) -> bytes:
    """Samples as webdataset's TarWriter lays them out, without an end mark. sizes: bytes of the texts."""
    parts: list[Text] = []
    width = -1
    for key, text, size, meta in zip(keys, texts, sizes, itertools.repeat(None) if metas is None else metas):
        if len(key) != width:
            width = len(key)
            behind_key, behind_size, behind_sum, total = _form(width, "txt")
            meta_key, meta_size, meta_sum, meta_total = _form(width, "json")
        digits = sum(key)
        if meta is not None:
            length = len(meta)
            octal, more = _size_field(length)
            check = _sum_field(meta_total + digits + more)
            parts += (key, meta_key, octal, meta_size, check, meta_sum, meta, _ZEROS[: -length % BLOCK])
        octal, more = _size_field(size)
        check = _sum_field(total + digits + more)
        parts += (key, behind_key, octal, behind_size, check, behind_sum, text, _ZEROS[: -size % BLOCK])
    return b"".join(parts)


@dataclass(slots=True)
class UnitBuilder:
    """Makes units: called with a job it gives its units, in order.

    prefix: what the keys begin with. zstd: each unit is one frame. folder, name: where shards lie into which
    the bytes are written at their place; without a folder, and in frames, whose place is not known yet, they
    are handed over.
    """

    prefix: str
    zstd: bool
    folder: Path | None
    name: str
    _shard: OpenShard = field(default_factory=OpenShard)

    def __call__(self, job: BuildJob) -> list[WrittenUnit]:
        """OSError where a shard cannot be written."""
        texts = _texts(job)
        sizes = job.sizes.tolist()
        metas = list(_written(job.origins)) if job.origins else None
        units, first = [], 0
        for place in job.units:
            stop = first + place.documents
            numbers = range(place.number, place.number + place.documents)
            keys = [key_of(self.prefix, number).encode() for number in numbers]
            meta = None if metas is None else metas[first:stop]
            tar = tar_of(keys, texts[first:stop], sizes[first:stop], meta)
            stored: bytes | None = compressed(tar) if self.zstd else tar
            if self.folder is not None and not self.zstd:
                path = shard_path(self.folder, self.name, place.shard, zstd=False)
                self._shard.write(path, tar, place.offset)
                stored = None
            checksum = xxhash.xxh64_intdigest(tar)
            units.append(WrittenUnit(stored, len(tar), place.documents, sum(sizes[first:stop]), checksum))
            first = stop
        return units


def _texts(job: BuildJob) -> list[Text]:
    """The texts of a job, one by one."""
    front = int(np.searchsorted(np.cumsum(job.sizes), len(job.carried), side="right"))
    data = job.data
    if len(data) < _WORTH_A_VIEW * len(job.sizes):
        data = bytes(data)
    elif isinstance(data, bytes):
        data = memoryview(data)
    return [*_sliced(job.carried, job.sizes[:front]), *_sliced(data, job.sizes[front:])]


def _sliced(data: Text, sizes: np.ndarray) -> list[Text]:
    ends = np.cumsum(sizes).tolist()
    return [data[begin:end] for begin, end in zip([0, *ends], ends)]


def _written(origins: list[Origins]) -> Iterator[bytes]:
    for run in origins:
        yield from run.written()
