"""One index from those of parts that were packed or indexed by several jobs: `headrace data index --merge`.

No shard is read, and every doubt is refused: an index of another reading or with a damaged table, a part that
is missing or there twice, a shard that is not as it was.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import xxhash

from data.access.transports import is_local
from data.durable import writing
from data.errors import BadInput
from data.shards.index import Index, OldIndex, Shard, write
from data.shards.listed import identity
from data.shards.units import UnitTable
from data.shards.walk import meant


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
        if one.unit_text != opened[0].unit_text:
            raise BadInput(
                f"{one.path}: has units of {one.unit_text >> 10} KiB, {opened[0].path} of "
                f"{opened[0].unit_text >> 10}: give --unit-kib to the command that makes either"
            )
    if path.exists():
        _require_index(path)
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
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write(path, shards, table, opened[0].reading, opened[0].unit_text)
    return Index.open(path)


def _require_index(path: Path) -> None:
    """BadInput where what would be replaced is no index."""
    try:
        Index.open(path)
    except OldIndex:
        return
    except BadInput as error:
        raise BadInput(
            f"{path}: exists and is no index that can be replaced; remove it, or choose another --out"
        ) from error


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
    for one in indexes:
        if one.inputs != indexes[0].inputs and None not in (one.inputs, indexes[0].inputs):
            raise BadInput(
                f"{one.path}: is a part of other inputs than {indexes[0].path}: files were added, gone or of "
                "another size, or --field was another; pack all parts again, of the same inputs"
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
    """BadInput where a shard is there twice, or under two names in two indexes. What one index has twice
    itself was asked for when it was made."""
    met: dict[str | bytes, str] = {}
    ahead = iter(names)
    for one in indexes:
        own: dict[str | bytes, str] = {}
        for number, name in zip(range(len(one.shards)), ahead):
            content = _content(one.units[slice(*one.range_of(number))])
            for key in (name, content):
                if key in met:
                    also = "is given twice" if met[key] == name else f"holds the same documents as {met[key]}"
                    raise BadInput(f"{name}: {also}; merge each once")
            own |= {name: name, content: name}
        met |= own


def _content(units: np.ndarray) -> bytes:
    """A digest of the units of a shard, wherever in an index they stand."""
    digest = xxhash.xxh3_128()
    for field in ("length", "checksum"):
        digest.update(units[field].tobytes())
    return digest.digest()
