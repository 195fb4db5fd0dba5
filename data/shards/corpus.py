"""A corpus that can be read in any order: an index, its shards where they are now, and a store to read them.

`open_corpus` finds both, refuses an index that is not of these shards, and says which command mends it.
`Corpus.read_units` is the only way by which text enters the stream: a range read, verified against the units'
checksums, decoded document by document. A unit is a run of samples, or one part of a long document
(data/shards/units.py).
"""

import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from data.errors import BadInput, PassingTrouble
from data.shards.index import Index
from data.shards.patience import Patience
from data.shards.samples import USUAL, Reading, Sample, read_part, read_text, samples
from data.shards.store import CacheOptions, CutOff, Store, expand
from data.shards.tar_fields import TarTrouble
from data.shards.transports import is_local, shown
from data.shards.trouble import ShardTrouble
from data.shards.units import Placed, UnitTable
from data.shards.walk import meant, unreadable

_NEAR = 1 << 16
"""Bytes of tar between two units up to which they are read together."""


class ReadTrouble(BadInput):
    """A unit that cannot be read: one line that names corpus, shard, unit and what is wrong."""

    def __init__(self, corpus: str, shard: str, unit: int, offset: int, what: str) -> None:
        super().__init__(f"corpus {corpus}: {shard}, unit {unit} (from byte {offset}): {what}")
        self.corpus, self.shard, self.unit, self.offset, self.what = corpus, shard, unit, offset, what

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), (self.corpus, self.shard, self.unit, self.offset, self.what)


class GoneShard(BadInput):
    """A shard that an index lists, or the index itself, is not there. To a run that has read it before that
    is trouble that may pass: a file system that is not mounted."""

    def at(self, place: str) -> "GoneShard":
        """See BadInput.at."""
        return GoneShard(f"{place}: {self}")


class Corpus:
    """An open corpus. May be used from several threads."""

    def __init__(self, name: str, index: Index, shards: Sequence[str], store: Store) -> None:
        """shards: paths or URLs to read from, in the order of the index."""
        self.name = name
        self.index = index
        self.shards = tuple(shards)
        self.store = store

    def __len__(self) -> int:
        return len(self.index)

    @property
    def table(self) -> UnitTable:
        """Its units."""
        return self.index.table

    def text_bytes_of(self, unit: int) -> list[int]:
        """Bytes of text of each document of a unit, 0 where it has none. Raises ReadTrouble."""
        return [len((sample.text or "").encode()) for sample in self.read_unit(unit)]

    def shard_of(self, unit: int) -> str:
        """The name, in the index, of the shard in which a unit lies."""
        return self.index.files[int(self.index.units["shard"][unit])].name

    def read_unit(self, unit: int) -> list[Sample]:
        """The documents of a unit, bad ones included with their problem. Raises ReadTrouble."""
        return self.read_units(unit, unit + 1)[0]

    def read_units(self, first: int, stop: int) -> list[list[Sample]]:
        """The documents of units first … stop−1 of one shard, by one range read where they lie side by side.
        Raises ReadTrouble."""
        return [self._decode(unit, data) for unit, data in enumerate(self.read_bytes(first, stop), first)]

    def read_bytes(self, first: int, stop: int) -> list[memoryview]:
        """The tar bytes of units first … stop−1 of one shard, checksums verified. Raises ReadTrouble, which
        trouble that passes is none of: that is waited for, and is PassingTrouble at the end."""
        rows = self.index.units[first:stop]
        ends = rows["offset"] + rows["length"]
        far = np.flatnonzero(rows["offset"][1:] - ends[:-1] > _NEAR) + 1
        borders = [first, *(first + far).tolist(), stop]
        return [data for a, b in pairwise(borders) for data in self._read_near(a, b)]

    def _read_near(self, first: int, stop: int) -> list[memoryview]:
        """The same for units that lie near one another."""
        rows = self.index.units[first:stop]
        shard = int(rows["shard"][0])
        if int(rows["shard"][-1]) != shard:
            raise ValueError(f"units {first} to {stop - 1} lie in more than one shard")
        offset = int(rows["offset"][0])
        begins, lengths = (rows["offset"] - offset).tolist(), rows["length"].tolist()
        if not any(lengths):
            return [memoryview(b"")] * len(rows)
        checksums = rows["checksum"].tolist()
        for fresh in (False, True):  # bytes that arrived wrong once may come right a second time
            try:
                data = memoryview(
                    self.store.read(self.shards[shard], self.index.files[shard], rows, fresh=fresh)
                )
            except ShardTrouble as error:
                if isinstance(error, CutOff) and not fresh:
                    continue
                raise self._trouble(first, str(error)) from error
            except PassingTrouble as error:
                raise error.at(f"corpus {self.name}") from error
            parts = [data[begin : begin + length] for begin, length in zip(begins, lengths)]
            wrong = [
                first + number
                for number, (part, checksum) in enumerate(zip(parts, checksums, strict=True))
                if xxhash.xxh64_intdigest(part) != checksum
            ]
            if not wrong:
                return parts
        raise self._trouble(wrong[0], "its bytes are not those that were indexed (checksum)")

    def _decode(self, unit: int, data: memoryview) -> list[Sample]:
        placed = self.index.placed_at(unit)
        if placed is not None:
            return [self._part(placed, unit, data)]
        try:
            return samples(data, self.index.reading)
        except TarTrouble as error:
            raise self._trouble(unit, str(error)) from error

    def _part(self, placed: Placed, unit: int, data: memoryview) -> Sample:
        """The part of a long document that a unit is; all of a short one."""
        number = unit - placed.unit
        field = self.index.reading.field if placed.kind == "json" else None
        text, problem = None, placed.problem
        if problem is None:
            text, problem = read_part(data) if number else read_text(data, field)
        return Sample(placed.key, text, problem, number, number == placed.parts - 1)

    def _trouble(self, unit: int, what: str) -> ReadTrouble:
        row = self.index.unit(unit)
        return ReadTrouble(self.name, shown(self.shards[row.shard]), unit, row.offset, what)


def open_corpus(
    name: str,
    shards: Sequence[str],
    index: str | Path | None = None,
    cache: CacheOptions | None = None,
    reading: Reading = USUAL,
    location: str | None = None,
    patience: Patience | None = None,
) -> Corpus:
    """Open the corpus `name` in `shards` (paths, globs, URLs, braces {000..099}).

    index: its path; by default NAME.index, or that of the shards' common prefix, beside the first shard.
    BadInput where a shard or the index is missing, or the index is not of these shards; its line begins with
    `location`, the key of a config that names the corpus, or with the corpus. patience: with trouble that
    passes, here and in all reads; PassingTrouble at its end.
    """
    try:
        return _open(name, shards, index, Store(cache, patience), reading)
    except BadInput as error:
        raise error.at(location or f"corpus {name}") from error


def _open(
    name: str, shards: Sequence[str], index: str | Path | None, store: Store, reading: Reading
) -> Corpus:
    try:
        found = expand(shards, store.patience)
    except PassingTrouble:
        raise
    except BadInput as error:
        known = [path for path in _index_candidates(name, shards, index) if os.path.exists(path)]
        listed = f" (its index: {known[0]})" if known else ""
        raise GoneShard(f"{error}{listed}") from error
    path = _find_index(name, found, index)
    opened = Index.open(path)
    for key, asked in asdict(reading).items():
        made = getattr(opened.reading, key)
        if asked is not None and asked != made:
            option = f"--{key.replace('_', '-')} {shlex.quote(asked)}"
            raise BadInput(
                f"{path}: was made for {key} {made!r}, the corpus asks for {asked!r}; make it again: "
                f"{remedy(path, shards)} {option}"
            )
    corpus = Corpus(name, opened, match(opened, found, remedy(path, shards)), store)
    if not opened.intact():
        raise BadInput(f"{path}: its table is damaged; make it again: {remedy(path, shards)}")
    for number, (url, shard) in enumerate(zip(corpus.shards, opened.files, strict=True)):
        if is_local(url):
            _verify_age(corpus, number, remedy(path, shards))
        elif shard.size < 0:
            raise BadInput(f"{path}: its entry for {shard.name} is damaged")
    return corpus


def remedy(index: str | Path, shards: Sequence[str]) -> str:
    """The command that makes the index of these shards."""
    given = " ".join(f"'{shown(shard)}'" for shard in shards[:3]) + (" …" if len(shards) > 3 else "")
    return f"headrace data index {given} --out {shlex.quote(str(index))}"


def default_index(name: str | None, first: str) -> list[str]:
    """Where the index of shards that begin with `first` is looked for, in this order."""
    folder, _, base = first.rpartition("/")
    stem = base.split(".")[0].rstrip("0123456789").rstrip("-_")
    whole = re.sub(r"-\d+of\d+$", "", stem)  # of a part of a pack
    names = [candidate for candidate in dict.fromkeys((name, whole, stem)) if candidate]
    return [os.path.join(folder, candidate + ".index") for candidate in names]


def _index_candidates(name: str, shards: Sequence[str], index: str | Path | None) -> list[str]:
    if index is not None:
        return [str(index)]
    return default_index(name, shards[0]) if shards and is_local(shards[0]) else []


def _find_index(name: str, shards: Sequence[str], index: str | Path | None) -> Path:
    candidates = _index_candidates(name, shards, index)
    if not candidates:
        raise BadInput(
            f"shards that are not local need `index`, a local path; make it:"
            f" {remedy(name + '.index', shards)}"
        )
    for candidate in candidates:
        if os.path.exists(candidate):
            return Path(candidate)
    raise GoneShard(f"no index at {' or '.join(candidates)}; make it: {remedy(candidates[0], shards)}")


def identity(url: str, index: Path) -> str:
    """A shard's name in an index: relative to the index where it lies below its folder."""
    if not is_local(url):
        return shown(url)
    path = Path(os.path.abspath(url))
    folder = Path(os.path.abspath(index)).parent
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def match(index: Index, urls: Sequence[str], remedy: str) -> list[str]:
    """The given shards in the order of the index: by name, or by last part of the name where they moved."""
    by_name = _without_passed_over(index, {identity(url, index.path): url for url in urls})
    if set(by_name) != set(index.shards):
        by_base = {name.rsplit("/", 1)[-1]: url for name, url in by_name.items()}
        bases = [name.rsplit("/", 1)[-1] for name in index.shards]
        if len(by_base) == len(by_name) and len(set(bases)) == len(bases) and set(by_base) == set(bases):
            return [by_base[base] for base in bases]
        missing = sorted(set(index.shards) - set(by_name))
        extra = sorted(set(by_name) - set(index.shards))
        more = f" (and {len(missing or extra) - 1} more)" if len(missing or extra) > 1 else ""
        if missing:
            what = f"lists {missing[0]}, which is not among the shards{more}: bring it back, or"
        else:
            what = f"does not list {extra[0]}{more}:"
        raise (GoneShard if missing else BadInput)(f"{index.path}: {what} make the index again: {remedy}")
    repeated = [name for name, count in Counter(identity(u, index.path) for u in urls).items() if count > 1]
    if repeated:
        raise BadInput(f"{repeated[0]}: is given twice")
    return [by_name[name] for name in index.shards]


def _without_passed_over(index: Index, urls: dict[str, str]) -> dict[str, str]:
    """`urls` without what `data index` passed over too: further names of a file that the index lists, and
    what cannot be read."""
    bases = {name.rsplit("/", 1)[-1] for name in index.shards}
    listed = {name for name in index.shards if name in urls} or {
        name for name in urls if name.rsplit("/", 1)[-1] in bases
    }
    if len(listed) == len(urls):
        return urls
    met = {found.identity for name in listed if is_local(urls[name]) for found in meant(urls[name])}
    return {
        name: url
        for name, url in urls.items()
        if name in listed
        or not is_local(url)
        or not (unreadable(url) or any(found.identity in met for found in meant(url)))
    }


def _verify_age(corpus: Corpus, number: int, remedy: str) -> None:
    """BadInput where a local shard is not the one that was indexed: by size, then by mtime or content."""
    url, shard = corpus.shards[number], corpus.index.files[number]
    try:
        size, mtime_ns = corpus.store.status(url)
    except ShardTrouble as error:
        raise BadInput(f"{url}: {error}; {corpus.index.path} lists it") from error
    if size < shard.size:
        raise BadInput(
            f"{url}: has {size} bytes and had {shard.size} when it was"
            f" indexed: if it was cut off, bring it back; if it is another, make the index again: {remedy}"
        )
    if size != shard.size:
        raise BadInput(
            f"{corpus.index.path}: is older than {url}, which has {size} bytes and had"
            f" {shard.size}; make it again: {remedy}"
        )
    if mtime_ns != shard.mtime_ns:  # copied, or rewritten: the content tells
        first, stop = corpus.index.range_of(number)
        try:
            corpus.read_bytes(first, first + 1)
            corpus.read_bytes(stop - 1, stop)
        except ReadTrouble as error:
            if not os.access(url, os.R_OK):
                raise BadInput(f"{url}: cannot be read: Permission denied") from error
            raise BadInput(
                f"{corpus.index.path}: is older than {url}, whose content changed; make it again: {remedy}"
            ) from error
