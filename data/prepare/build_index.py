"""The index of shards of other people's making: `headrace data index`. They are read once and never repacked.

Each shard is scanned by itself, by one of a few processes: every header is verified, every text decoded (so
that the count of bad samples is known before training and not after), units are cut by the rule that pack
uses. An index that exists already is used for the shards that it still describes, so adding shards to a
corpus reads the new ones alone; they come behind the old ones, which is what the plan's history needs.
"""

import mmap
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import xxhash

from data.errors import BadInput, PassingTrouble
from data.prepare.parallel import Progress, ordered_map
from data.shards.compression import packing_of, unpack
from data.shards.corpus import identity
from data.shards.index import UNITS, Index, Shard, runs, write
from data.shards.patience import Patience
from data.shards.store import CacheOptions, Store, expand, shown, unpacked_key
from data.shards.tar import Extent, TarTrouble, extents, has_end_mark, members_end

_NAMED_PROBLEMS = 20


@dataclass
class IndexReport:
    """What was indexed. `problems` counts samples without a text, by reason; `examples` names some."""

    index: Index
    read: int = 0
    """Shards that were read; the others were known already."""
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _ScanJob(NamedTuple):
    url: str
    name: str
    text_field: str | None
    cache: CacheOptions
    patience: Patience


class _Scanned(NamedTuple):
    shard: Shard
    units: np.ndarray
    problems: Counter[str]
    examples: list[str]
    notes: list[str]


def build_index(
    shards: Sequence[str],
    path: str | Path,
    *,
    text_field: str | None = None,
    workers: int = 1,
    cache: CacheOptions | None = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Index shards (paths, globs, URLs, braces) where they lie and write the index to `path`.

    text_field: take the text from this field of the .json member. progress: (shards done, shards).
    Raises BadInput for a shard that is missing, empty, cut off or no tar, PassingTrouble for one that could
    not be reached for as long as the patience lasts; the index is then not touched.
    """
    path = Path(path)
    store = Store(cache, patience)
    urls = expand(shards, store.patience)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise BadInput(f"{path}: cannot be written: {path.parent} is a file") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from error
    known = _known(path, text_field)
    names = {identity(url, path): url for url in urls}
    if len(names) != len(urls):
        raise BadInput(f"{path}: a shard is given twice")
    order = [name for name in known if name in names] + [name for name in names if name not in known]
    if set(known) - set(names):
        order, known = list(names), {}
    reused = {name: old for name in order if (old := _unchanged(known.get(name), names[name], store))}
    tasks = [
        _ScanJob(names[name], name, text_field, store.options, store.patience)
        for name in order
        if name not in reused
    ]
    scanned = ordered_map(_scan, tasks, workers)
    results: list[tuple[Shard, np.ndarray]] = []
    problems: Counter[str] = Counter()
    examples: list[str] = []
    notes: list[str] = []
    for number, name in enumerate(order):
        result = reused.get(name) or next(scanned)
        units = result.units.copy()
        units["shard"] = number
        results.append((result.shard, units))
        problems += result.problems
        examples += result.examples[: _NAMED_PROBLEMS - len(examples)]
        notes += result.notes
        if progress is not None:
            progress(number + 1, len(order))
    write(path, [shard for shard, _ in results], np.concatenate([units for _, units in results]), text_field)
    return IndexReport(Index.open(path), len(tasks), problems, examples, notes)


def _known(path: Path, text_field: str | None) -> dict[str, _Scanned]:
    """What an index that is there already says of its shards, by name."""
    if not path.exists():
        return {}
    try:
        index = Index.open(path)
    except BadInput as error:
        raise BadInput(
            f"{path}: exists and is no index that can be added to; remove it, or choose another --out"
        ) from error
    if index.text_field != text_field or not index.intact():
        return {}
    found = {}
    for number, shard in enumerate(index.files):
        first, stop = index.range_of(number)
        found[shard.name] = _Scanned(shard, index.units[first:stop], Counter(), [], [])
    return found


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
            with store.cache.put(unpacked_key(task.url, size, status.mtime_ns), chunks) as unpacked:
                ends = (size, os.fstat(unpacked.fileno()).st_size)
                return _scan_tar(unpacked, shard, [*frames, ends] if packing == "zstd" else [], task)
    except PassingTrouble:
        raise
    except (BadInput, TarTrouble) as error:
        raise BadInput(f"{shown(task.url)}: {error}") from error


def _scan_tar(file: BinaryIO, shard: Shard, frames: list[tuple[int, int]] | None, task: _ScanJob) -> _Scanned:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        found = list(extents(tar, task.text_field))
        if not found:
            raise BadInput("holds no sample (no file member with a name like KEY.txt)")
        end = members_end(tar, found[-1].start)
        starts = [extent.start for extent in found] + [end]
        sized = list(zip(found, starts[1:], strict=False))
        cut = runs(sized, lambda pair: (pair[0].text_bytes, pair[1] - pair[0].start))
        where = None if frames is None else {unpacked: packed for packed, unpacked in reversed(frames)}
        units = np.array([_row(tar, unit, where) for unit in cut], UNITS)
        bad = [extent for extent in found if extent.problem]
        notes = [] if has_end_mark(tar, end) else [f"{shown(task.url)}: has no end mark; it may be cut off"]
    problems = Counter(str(extent.problem).split(":")[0] for extent in bad)
    examples = [f"{shown(task.url)}: {extent.key}: {extent.problem}" for extent in bad[:_NAMED_PROBLEMS]]
    return _Scanned(shard, units, problems, examples, notes)


def _row(tar: mmap.mmap, unit: list[tuple[Extent, int]], where: dict[int, int] | None) -> tuple[int, ...]:
    """An entry of the index. where: unpacked → packed offset of the frames, None for a plain tar."""
    start, stop = unit[0][0].start, unit[-1][1]
    checksum = xxhash.xxh64_intdigest(memoryview(tar)[start:stop])
    stored, stored_length = start, stop - start
    if where is not None:
        whole = start in where and stop in where
        stored, stored_length = (where[start], where[stop] - where[start]) if whole else (0, 0)
    text_bytes = sum(extent.text_bytes for extent, _ in unit)
    return 0, len(unit), start, stop - start, text_bytes, checksum, stored, stored_length
