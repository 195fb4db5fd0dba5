"""The index of shards of other people's making: `headrace data index`. They are read once and never repacked.

Each shard is scanned by itself (data/prepare/scan_shard.py), by one of a few processes. An index that exists
already is used for the shards that it still describes, so adding shards to a corpus reads the new ones alone;
they come behind the old ones, which is what the plan's history needs.

Or an index is joined from those of parts that were packed or indexed by several jobs: `data index --merge`.
Then no shard is read, and every doubt is refused: an index of another reading or with a damaged table, a part
that is missing or there twice, a shard that is not as it was.
"""

import mmap
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import xxhash

from data.errors import BadInput, PassingTrouble
from data.prepare.parallel import MEMORY_MIB, Progress, ordered_map
from data.prepare.scan_shard import TarScan
from data.shards.compression import packing_of, unpack
from data.shards.corpus import identity
from data.shards.index import Index, OldIndex, Shard, write
from data.shards.patience import Patience
from data.shards.samples import USUAL, Reading
from data.shards.store import CacheOptions, Store, find_shards, unpacked_key
from data.shards.tar_fields import TarTrouble
from data.shards.transports import is_local, shown
from data.shards.units import UnitTable
from data.shards.walk import Walk, meant, unreadable


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
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Index shards (paths, globs, URLs, braces) where they lie and write the index to `path`.

    reading: which member or field of a sample is its text. memory_mib: about what is held of the shards.
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
    known = _known(path, reading, "added to")
    names = {identity(url, path): url for url in urls}
    if len(names) != len(urls):
        raise BadInput(f"{path}: a shard is given twice")
    order = [name for name in known if name in names] + [name for name in names if name not in known]
    if set(known) - set(names):
        order, known = list(names), {}
    reused = {name: old for name in order if (old := _unchanged(known.get(name), names[name], store))}
    memory = (memory_mib << 20) // (2 * workers)
    tasks = [
        _ScanJob(names[name], name, reading, store.options, memory, store.patience)
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
    write(path, [one.shard for one in results], UnitTable.joined([one.table for one in results]), reading)
    return IndexReport(Index.open(path), walk, len(tasks), [note for one in results for note in one.notes])


def _known(path: Path, reading: Reading, what: str) -> dict[str, _Scanned]:
    """What an index that is there already says of its shards, by name; BadInput where it is no index."""
    if not path.exists():
        return {}
    try:
        index = Index.open(path)
    except OldIndex:
        return {}
    except BadInput as error:
        raise BadInput(
            f"{path}: exists and is no index that can be {what}; remove it, or choose another --out"
        ) from error
    if index.reading != reading or not index.intact():
        return {}
    found = {}
    for number, shard in enumerate(index.files):
        found[shard.name] = _Scanned(shard, index.table.of(*index.range_of(number)), [])
    return found


def _unchanged(old: _Scanned | None, url: str, store: Store) -> _Scanned | None:
    """`old` where the shard still has the size and the mtime that it had."""
    if old is None or not old.shard.mtime_ns:
        return None
    return old if store.status(url) == (old.shard.size, old.shard.mtime_ns) else None


def merge_indexes(indexes: Sequence[str | Path], path: str | Path) -> Index:
    """Join indexes, in the order given, parts of one pack by their numbers; write the index to `path`.

    BadInput where they do not fit together, or a local shard is not there as it was indexed.
    """
    path = Path(path)
    opened = _in_order([Index.open(one) for one in _indexes_of(indexes)])
    for one in opened:
        if one.reading != opened[0].reading:
            raise BadInput(
                f"{one.path}: was made for {_read_by(one)}, {opened[0].path} for {_read_by(opened[0])}: what "
                "is merged must be read alike; make one of them again with headrace data index"
            )
        if not one.intact():
            raise BadInput(f"{one.path}: its table is damaged; make it again with headrace data index")
        if path.exists() and one.path.samefile(path):
            raise BadInput(f"{path}: is one of those that are merged; choose another --out")
    _known(path, opened[0].reading, "replaced")
    shards: list[Shard] = []
    tables = []
    for one in opened:
        units = one.units.copy()
        units["shard"] += len(shards)
        tables.append(UnitTable(units, one.table.placed, one.table.names))
        shards += [replace(shard, name=_moved(shard, one.path, path)) for shard in one.files]
    if not shards:
        raise BadInput(f"{path}: the indexes to be merged have no shard in them: no document was packed")
    table = UnitTable.joined(tables)
    _refuse_repeated(opened, [shard.name for shard in shards])
    write(path, shards, table, opened[0].reading)
    return Index.open(path)


def _indexes_of(names: Sequence[str | Path]) -> list[str]:
    """The files that names and globs mean."""
    found = []
    for name in map(str, names):
        meaning = meant(name)
        if not meaning:
            raise BadInput(f"{name}: no such file, and as a glob it matches none; expected an index")
        found += [one.path for one in meaning]
    return found


def _in_order(indexes: list[Index]) -> list[Index]:
    """Parts of a pack by number. BadInput where some are missing or do not belong together."""
    found = [re.fullmatch(r"(.*)-(\d+)of(\d+)", one.name) for one in indexes]
    named = [(match[1], int(match[3])) for match in found if match]
    if not named:
        return indexes
    stem, parts = named[0]
    for one, match in zip(indexes, found):
        if match is None or (match[1], int(match[3])) != (stem, parts):
            raise BadInput(
                f"{one.path}: is not one of the {parts} parts of {stem}; merge the parts of one pack by "
                "themselves"
            )
    numbers = [int(match[2]) for match in found if match]
    if twice := sorted(number for number in {*numbers} if numbers.count(number) > 1):
        raise BadInput(f"{indexes[numbers.index(twice[0])].path}: part {twice[0]} of {parts} is given twice")
    if missing := sorted({*range(1, parts + 1)} - {*numbers}):
        listed = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise BadInput(
            f"{stem}: of {parts} parts {len(missing)} are missing: {listed}; pack them first (--part "
            f"{missing[0]}/{parts}), or name their indexes too"
        )
    return [one for _, one in sorted(zip(numbers, indexes), key=lambda pair: pair[0])]


def _read_by(index: Index) -> str:
    given = {key: value for key, value in asdict(index.reading).items() if value is not None}
    return ", ".join(f"{key} {value!r}" for key, value in given.items()) or "the usual member"


def _moved(shard: Shard, old: Path, new: Path) -> str:
    """The name of a shard of one index in another. BadInput where it is not there, or has another size."""
    if not is_local(shard.name):
        return shard.name
    path = os.path.join(old.parent, shard.name)
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; {old} lists it: bring it back") from error
    if size != shard.size:
        raise BadInput(f"{path}: has {size} bytes and had {shard.size} when {old} was made; make it again")
    return identity(path, new)


def _refuse_repeated(indexes: Iterable[Index], names: list[str]) -> None:
    """BadInput where a shard, or one of the same documents, is there twice."""
    met: dict[str | bytes, str] = {}
    contents = [
        xxhash.xxh3_128_digest(one.units[["length", "checksum"]][slice(*one.range_of(number))].tobytes())
        for one in indexes
        for number in range(len(one.files))
    ]
    for name, content in zip(names, contents, strict=True):
        for key in (name, content):
            if key in met:
                also = "is given twice" if met[key] == name else f"holds the same documents as {met[key]}"
                raise BadInput(f"{name}: {also}; merge each once")
            met[key] = name


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
            with store.cache.put(unpacked_key(task.url, size, status.mtime_ns), chunks) as unpacked:
                ends = (size, os.fstat(unpacked.fileno()).st_size)
                return _scan_tar(unpacked, shard, [*frames, ends] if packing == "zstd" else [], task)
    except PassingTrouble:
        raise
    except (BadInput, TarTrouble) as error:
        raise BadInput(f"{shown(task.url)}: {error}") from error


def _scan_tar(file: BinaryIO, shard: Shard, frames: list[tuple[int, int]] | None, task: _ScanJob) -> _Scanned:
    where = None if frames is None else {unpacked: packed for packed, unpacked in reversed(frames)}
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        found = TarScan(tar, task.reading, where, task.memory)
        table = found.units()
        notes = [] if found.closed else [f"{shown(task.url)}: has no end mark; it may be cut off"]
    return _Scanned(replace(shard, balance=found.balance), table, notes)
