"""A corpus that can be read in any order: an index, its shards where they are now, and a store to read them.

`open_corpus` finds both, refuses an index that is not of these shards, and says which command mends it.
`Corpus.read_units` is the only way by which text enters the stream: a range read, verified against the units'
checksums, decoded document by document. A unit is a run of samples, or one part of a long document
(data/shards/units.py).
"""

import os
import shlex
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash

from data.access.cache import CacheOptions
from data.access.patience import Patience
from data.access.transports import is_local, shown
from data.access.trouble import ShardTrouble
from data.errors import BadInput, PassingTrouble
from data.shards.index import Index
from data.shards.listed import (
    GoneShard,
    as_indexed,
    find_index,
    index_candidates,
    listed_as_named,
    match,
    named,
    remedy,
    within_sight,
)
from data.shards.samples import USUAL, Reading, Sample, read_part, read_text, samples
from data.shards.store import CutOff, Store, expand
from data.shards.tar_fields import TarTrouble
from data.shards.units import Placed, UnitTable

Made = TypeVar("Made")

LARGE = 1 << 18
"""Units from which on what follows from a table is kept in a file; of fewer it is worked out in no time."""
_NEAR = 1 << 16
"""Bytes of tar between two units up to which they are read together."""


class ReadTrouble(BadInput):
    """A unit that cannot be read: one line that names corpus, shard, unit and what is wrong."""

    def __init__(self, corpus: str, shard: str, unit: int, offset: int, what: str) -> None:
        super().__init__(f"corpus {corpus}: {shard}, unit {unit} (from byte {offset}): {what}")
        self.corpus, self.shard, self.unit, self.offset, self.what = corpus, shard, unit, offset, what

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), (self.corpus, self.shard, self.unit, self.offset, self.what)


class Corpus:
    """An open corpus. May be used from several threads."""

    def __init__(
        self, name: str, index: Index, shards: Sequence[str], store: Store, *, looked_at: bool = True
    ) -> None:
        """shards: paths or URLs to read from, in the order of the index. looked_at: this process has verified
        the table and the shards; else it takes another's word."""
        self.name = name
        self.index = index
        self.shards = tuple(shards)
        self.store = store
        self.looked_at = looked_at
        self._remembered: dict[Hashable, Any] = {}

    def with_store(self, store: Store) -> "Corpus":
        """The same, not looked at again, read through another store."""
        corpus = Corpus(self.name, self.index, self.shards, store, looked_at=self.looked_at)
        corpus._remembered = self._remembered
        return corpus

    def remembered(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """make(), once for each key: what follows from the table, and takes long to work out."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

    def fingerprint_of(self, units: int) -> str:
        """Of its first units. Of a grown table's beginning it is worked out once, and noted in the cache."""
        if units == len(self):
            return self.index.fingerprint
        make = partial(self.index.fingerprint_of, units)
        if units < LARGE:
            return make()
        key = f"fingerprint {self.index.checksum} {units}"
        return str(self.remembered(key, lambda: self.store.found_out(key, make)))

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
        return self.index.shards[int(self.index.units["shard"][unit])]

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
                    self.store.read(self.shards[shard], self.index.stored[shard], rows, fresh=fresh)
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
    *,
    look: bool = True,
) -> Corpus:
    """Open the corpus `name` in `shards` (paths, globs, URLs, braces {000..099}).

    index: its path; by default NAME.index, or that of the shards' common prefix, beside the first shard.
    BadInput where a shard or the index is missing, or the index is not of these shards; its line begins with
    `location`, the key of a config that names the corpus, or with the corpus. patience: with trouble that
    passes, here and in all reads; PassingTrouble at its end. look: verify the table and look at each shard;
    False where another process of this machine has done it.
    """
    store = Store(cache, patience)
    try:
        return _as_listed(name, shards, index, store, reading, look) or _open(
            name, shards, index, store, reading
        )
    except BadInput as error:
        raise error.at(location or f"corpus {name}") from error


def _as_listed(
    name: str, shards: Sequence[str], index: str | Path | None, store: Store, reading: Reading, look: bool
) -> Corpus | None:
    """The corpus where its shards are local and as they were indexed, name by name, as in nearly every start:
    one look at each. None where anything is otherwise."""
    try:
        names = named(shards)
        if not names:
            return None
        opened = Index.open(find_index(name, names, index))
        urls = listed_as_named(opened, names)
        if urls is None or _other_reading(opened, reading):
            return None
        if not (as_indexed(opened, urls) and _intact(opened, store) if look else within_sight(urls)):
            return None
    except BadInput:
        return None
    return Corpus(name, opened, urls, store, looked_at=look)


def _open(
    name: str, shards: Sequence[str], index: str | Path | None, store: Store, reading: Reading
) -> Corpus:
    """The same where it takes a careful look, and says what is wrong."""
    try:
        found = expand(shards, store.patience)
    except PassingTrouble:
        raise
    except BadInput as error:
        known = [path for path in index_candidates(name, shards, index) if os.path.exists(path)]
        listed = f" (its index: {known[0]})" if known else ""
        raise GoneShard(f"{error}{listed}") from error
    path = find_index(name, found, index)
    opened = Index.open(path)
    again = remedy(path, shards, opened.unit_text)
    if other := _other_reading(opened, reading):
        key, made, asked = other
        option = f"--{key.replace('_', '-')} {shlex.quote(asked)}"
        raise BadInput(
            f"{path}: was made for {key} {made!r}, the corpus asks for {asked!r}; make it again: "
            f"{again} {option}"
        )
    corpus = Corpus(name, opened, match(opened, found, again), store)
    if not _intact(opened, store):
        raise BadInput(f"{path}: its table is damaged; make it again: {again}")
    for number, (url, shard) in enumerate(zip(corpus.shards, opened.stored, strict=True)):
        if is_local(url):
            _verify_age(corpus, number, again)
        elif shard.size < 0:
            raise BadInput(f"{path}: its entry for {shard.name} is damaged")
    return corpus


def _other_reading(index: Index, reading: Reading) -> tuple[str, str | None, str] | None:
    """(which, what the index was made for, what is asked) where these differ."""
    for key, asked in asdict(reading).items():
        made = getattr(index.reading, key)
        if asked is not None and asked != made:
            return key, made, asked
    return None


def _intact(index: Index, store: Store) -> bool:
    """Whether the table is the one that was written. Of a large one that is noted in the cache, and holds
    until its file is written again."""
    if len(index) < LARGE:
        return index.intact()
    size, mtime_ns = index.written
    key = f"intact {os.path.abspath(index.path)} {size} {mtime_ns} {index.checksum}"
    return store.found_out(key, lambda: "intact" if index.intact() else None) is not None


def _verify_age(corpus: Corpus, number: int, remedy: str) -> None:
    """BadInput where a local shard is not the one that was indexed: by size, then by mtime or content."""
    url, shard = corpus.shards[number], corpus.index.stored[number]
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
