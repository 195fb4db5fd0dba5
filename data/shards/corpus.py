"""A corpus that can be read in any order: an index, its shards where they are now, and a store to read them.

`open_corpus` finds both, refuses an index that is not of these shards, and says which command mends it.
`Corpus.read_unit` is the only way by which text enters the stream: a range read, verified against the unit's
checksum, decoded document by document.
"""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import xxhash

from data.errors import BadInput
from data.shards.index import Index
from data.shards.store import CacheOptions, CutOff, Store, expand, is_local, shown
from data.shards.tar import Sample, TarTrouble, samples
from data.shards.transports import ShardTrouble


class ReadTrouble(BadInput):
    """A unit that cannot be read: one line that names corpus, shard, unit and what is wrong."""

    def __init__(self, corpus: str, shard: str, unit: int, offset: int, what: str) -> None:
        super().__init__(f"corpus {corpus}: {shard}, unit {unit} (from byte {offset}): {what}")
        self.corpus, self.shard, self.unit, self.offset, self.what = corpus, shard, unit, offset, what

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), (self.corpus, self.shard, self.unit, self.offset, self.what)


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

    def read_unit(self, unit: int) -> list[Sample]:
        """The documents of a unit, bad ones included with their problem. Raises ReadTrouble."""
        return self.read_units(unit, unit + 1)[0]

    def read_units(self, first: int, stop: int) -> list[list[Sample]]:
        """The documents of units first … stop−1 of one shard, by one range read. Raises ReadTrouble."""
        return [self._decode(unit, data) for unit, data in enumerate(self.read_bytes(first, stop), first)]

    def read_bytes(self, first: int, stop: int) -> list[memoryview]:
        """The tar bytes of units first … stop−1 of one shard, checksums verified. Raises ReadTrouble."""
        rows = self.index.units[first:stop]
        shard = int(rows["shard"][0])
        if int(rows["shard"][-1]) != shard:
            raise ValueError(f"units {first} to {stop - 1} lie in more than one shard")
        offset = int(rows["offset"][0])
        ends = (rows["offset"] + rows["length"]).tolist()
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
            parts, position = [], offset
            for end in ends:
                parts.append(data[position - offset : end - offset])
                position = end
            wrong = [
                first + number
                for number, (part, checksum) in enumerate(zip(parts, checksums, strict=True))
                if xxhash.xxh64_intdigest(part) != checksum
            ]
            if not wrong:
                return parts
        raise self._trouble(wrong[0], "its bytes are not those that were indexed (checksum)")

    def _decode(self, unit: int, data: memoryview) -> list[Sample]:
        try:
            return samples(data, self.index.text_field)
        except TarTrouble as error:
            raise self._trouble(unit, str(error)) from error

    def _trouble(self, unit: int, what: str) -> ReadTrouble:
        row = self.index.unit(unit)
        return ReadTrouble(self.name, shown(self.shards[row.shard]), unit, row.offset, what)


def open_corpus(
    name: str,
    shards: Sequence[str],
    index: str | Path | None = None,
    cache: CacheOptions | None = None,
    text_field: str | None = None,
    location: str | None = None,
) -> Corpus:
    """Open the corpus `name` in `shards` (paths, globs, URLs, braces {000..099}).

    index: its path; by default NAME.index, or that of the shards' common prefix, beside the first shard.
    BadInput where a shard or the index is missing, or the index is not of these shards; its line begins with
    `location`, the key of a config that names the corpus, or with the corpus.
    """
    try:
        return _open(name, shards, index, cache or CacheOptions(), text_field)
    except BadInput as error:
        raise BadInput(f"{location or f'corpus {name}'}: {error}") from error


def _open(
    name: str, shards: Sequence[str], index: str | Path | None, cache: CacheOptions, text_field: str | None
) -> Corpus:
    store = Store(cache)
    try:
        found = expand(shards)
    except BadInput as error:
        known = [path for path in _index_candidates(name, shards, index) if os.path.exists(path)]
        listed = f" (its index: {known[0]})" if known else ""
        raise BadInput(f"{error}{listed}") from error
    path = _find_index(name, found, index)
    opened = Index.open(path)
    if text_field is not None and text_field != opened.text_field:
        raise BadInput(
            f"{path}: was made for text_field {opened.text_field!r}, the corpus asks for"
            f" {text_field!r}; make it again: {remedy(path, shards)} --text-field {shlex.quote(text_field)}"
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
    names = [candidate for candidate in dict.fromkeys((name, stem)) if candidate]
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
    raise BadInput(f"no index at {' or '.join(candidates)}; make it: {remedy(candidates[0], shards)}")


def identity(url: str, index: Path) -> str:
    """A shard's name in an index: relative to the index where it lies below its folder."""
    if not is_local(url):
        return shown(url)
    path = Path(os.path.abspath(url))
    folder = Path(os.path.abspath(index)).parent
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def match(index: Index, urls: Sequence[str], remedy: str) -> list[str]:
    """The given shards in the order of the index: by name, or by last part of the name where they moved."""
    by_name = {identity(url, index.path): url for url in urls}
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
        raise BadInput(f"{index.path}: {what} make the index again: {remedy}")
    repeated = [name for name, count in Counter(identity(u, index.path) for u in urls).items() if count > 1]
    if repeated:
        raise BadInput(f"{repeated[0]}: is given twice")
    return [by_name[name] for name in index.shards]


def _verify_age(corpus: Corpus, number: int, remedy: str) -> None:
    """BadInput where a local shard is not the one that was indexed: by size, then by mtime or content."""
    url, shard = corpus.shards[number], corpus.index.files[number]
    try:
        status = os.stat(url)
    except OSError as error:
        raise BadInput(f"{url}: {error.strerror}; {corpus.index.path} lists it") from error
    if status.st_size < shard.size:
        raise BadInput(
            f"{url}: has {status.st_size} bytes and had {shard.size} when it was"
            f" indexed: if it was cut off, bring it back; if it is another, make the index again: {remedy}"
        )
    if status.st_size != shard.size:
        raise BadInput(
            f"{corpus.index.path}: is older than {url}, which has {status.st_size} bytes and had"
            f" {shard.size}; make it again: {remedy}"
        )
    if status.st_mtime_ns != shard.mtime_ns:  # copied, or rewritten: the content tells
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
