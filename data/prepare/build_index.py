"""The index of shards of other people's making: `headrace data index`. They are read once and never repacked.

Each shard is scanned by itself (data/prepare/scan_shard.py), by one of a few processes. An index that exists
already is used for the shards that it still describes, so adding shards to a corpus reads the new ones alone;
they come behind the old ones, which is what the plan's history needs.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.access.cache import CacheOptions
from data.access.compression import packing_of, unpack
from data.access.patience import Patience
from data.access.transports import is_local, shown
from data.access.trouble import ShardTrouble
from data.errors import BadInput, PassingTrouble
from data.prepare.parallel import MEMORY_MIB, Progress, ordered_map
from data.prepare.scan_shard import TarScan
from data.shards.index import Index, OldIndex, Shard, write
from data.shards.listed import identities
from data.shards.samples import USUAL, Reading
from data.shards.store import Store, find_shards, unpacked_key
from data.shards.tar_fields import TarTrouble
from data.shards.units import UnitTable, unit_text_for
from data.shards.walk import Walk, unreadable

_ASKED = 16
"""Shards of which the size is asked, where each is a request."""


@dataclass
class IndexReport:
    """What was indexed; the index has the account of it."""

    index: Index
    walk: Walk
    """What the given names mean, and what of it was passed over."""
    read: int = 0
    """Shards that were read; the others were known already."""
    notes: list[str] = field(default_factory=list)


class _ScanJob(NamedTuple):
    url: str
    name: str
    reading: Reading
    cache: CacheOptions
    memory: int
    unit_text: int
    patience: Patience


class _Scanned(NamedTuple):
    shard: Shard
    table: UnitTable
    notes: list[str]


def build_index(
    shards: Sequence[str],
    path: str | Path,
    *,
    reading: Reading = USUAL,
    workers: int = 1,
    cache: CacheOptions | None = None,
    memory_mib: int = MEMORY_MIB,
    unit_text: int | None = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Index shards (paths, globs, URLs, braces) where they lie and write the index to `path`.

    reading: which member or field of a sample is its text. memory_mib: about what is held of the shards.
    unit_text: bytes, of a unit; by default as in an index that is there, else as `unit_text_for` says.
    progress: (shards done, shards). Raises BadInput for a shard that is missing, empty, cut off or no tar,
    PassingTrouble for one that could not be reached for as long as the patience lasts; the index is then not
    touched.
    """
    path = Path(path)
    store = Store(cache, patience)
    walk = find_shards(shards, Walk(unreadable), store.patience)
    urls = walk.files
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise BadInput(f"{path}: cannot be written: {path.parent} is a file") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from error
    known, recorded = _known(path, reading)
    if unit_text not in (None, recorded):
        known = {}
    unit_text = unit_text or recorded or unit_text_for(_total(urls, store))
    names = dict(zip(identities(urls, path), urls))
    if len(names) != len(urls):
        raise BadInput(f"{path}: a shard is given twice")
    order = [name for name in known if name in names] + [name for name in names if name not in known]
    if set(known) - set(names):
        order, known = list(names), {}
    reused = {name: old for name in order if (old := _unchanged(known.get(name), names[name], store))}
    memory = (memory_mib << 20) // (2 * workers)
    tasks = [
        _ScanJob(names[name], name, reading, store.options, memory, unit_text, store.patience)
        for name in order
        if name not in reused
    ]
    scanned = ordered_map(_scan, tasks, workers)
    results: list[_Scanned] = []
    for number, name in enumerate(order):
        result = reused.get(name) or next(scanned)
        units = result.table.units.copy()
        units["shard"] = number
        table = UnitTable(units, result.table.placed, result.table.names)
        results.append(result._replace(table=table))
        if progress is not None:
            progress(number + 1, len(order))
    table = UnitTable.joined([one.table for one in results])
    write(path, [one.shard for one in results], table, reading, unit_text)
    return IndexReport(Index.open(path), walk, len(tasks), [note for one in results for note in one.notes])


def _total(urls: Sequence[str], store: Store) -> int:
    """Bytes of the shards as they lie; about, where they lie far away: there a few are asked for all."""
    far = [url for url in urls if not is_local(url)]
    few = far[:: max(len(far) // _ASKED, 1)]
    near = sum(_size(url, store) for url in urls if is_local(url))
    return near + sum(_size(url, store) for url in few) * len(far) // max(len(few), 1)


def _size(url: str, store: Store) -> int:
    try:
        return max(store.status(url).size, 0)
    except ShardTrouble:  # whoever scans it says so
        return 0


def _known(path: Path, reading: Reading) -> tuple[dict[str, _Scanned], int | None]:
    """What an index that is there already says of its shards, by name, and what its units aim at; BadInput
    where it is no index."""
    if not path.exists():
        return {}, None
    try:
        index = Index.open(path)
    except OldIndex:
        return {}, None
    except BadInput as error:
        raise BadInput(
            f"{path}: exists and is no index that can be added to; remove it, or choose another --out"
        ) from error
    if index.reading != reading or not index.intact():
        return {}, None
    found = {}
    for number, shard in enumerate(index.files):
        found[shard.name] = _Scanned(shard, index.table.of(*index.range_of(number)), [])
    return found, index.unit_text


def _unchanged(old: _Scanned | None, url: str, store: Store) -> _Scanned | None:
    """`old` where the shard still has the size and the mtime that it had."""
    if old is None or not old.shard.mtime_ns:
        return None
    return old if store.status(url) == (old.shard.size, old.shard.mtime_ns) else None


def _scan(task: _ScanJob) -> _Scanned:
    """Read one shard from end to end."""
    store = Store(task.cache, task.patience)
    try:
        status = store.status(task.url)
        with store.fetched(task.url) as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise BadInput("is empty (0 bytes)")
            packing = packing_of(os.pread(file.fileno(), 4, 0))
            shard = Shard(task.name, size, status.mtime_ns, packing)
            if packing == "plain":
                return _scan_tar(file, shard, None, task)
            frames: list[tuple[int, int]] = []
            chunks = unpack(iter(lambda: file.read(1 << 20), b""), packing, frames)
            with store.put(unpacked_key(task.url, size, status.mtime_ns), chunks) as unpacked:
                ends = (size, os.fstat(unpacked.fileno()).st_size)
                return _scan_tar(unpacked, shard, [*frames, ends] if packing == "zstd" else [], task)
    except PassingTrouble:
        raise
    except (BadInput, TarTrouble) as error:
        raise BadInput(f"{shown(task.url)}: {error}") from error


def _scan_tar(file: BinaryIO, shard: Shard, frames: list[tuple[int, int]] | None, task: _ScanJob) -> _Scanned:
    where = None if frames is None else {unpacked: packed for packed, unpacked in reversed(frames)}
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        found = TarScan(tar, task.reading, where, task.memory, task.unit_text)
        table = found.units()
        notes = [] if found.closed else [f"{shown(task.url)}: has no end mark; it may be cut off"]
    return _Scanned(replace(shard, balance=found.balance), table, notes)
