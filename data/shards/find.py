"""The names of documents, and where these lie in a corpus.

A name is KEY, or SHARD/KEY where a key is not unique: other people's shards often number their samples from 0
each, so a key may mean one document of every shard. SHARD is the last part of the shard's name, or as many of
its last parts as tell it from others.

The index has the keys of long documents alone (it stays small at any size). Shards that headrace packed
number their samples, behind the number of the part where they were packed in parts, so the key of a shard's
first sample tells where in the shard a number lies; any other key costs a look through the shard that the
name says, or through the whole corpus.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.shards.corpus import Corpus, ReadTrouble


def names_of(shard: str, key: str) -> Iterator[str]:
    """All names of the document `key` of a shard (its name in the index)."""
    yield key
    name, rest = key, shard
    while rest:
        rest, _, last = rest.rpartition("/")
        name = f"{last}/{name}"
        yield name


def full_name(shard: str, key: str) -> str:
    """How a document is shown."""
    return f"{shard.rpartition('/')[2]}/{key}"


def is_named(shard: str, key: str, names: Container[str]) -> bool:
    """Whether a document is among those that are named."""
    return any(name in names for name in names_of(shard, key))


def may_lie_in(name: str, shard: str) -> bool:
    """Whether a name begins with a name of this shard, so that the document lies in it or in one named
    alike."""
    stem = name
    while "/" in stem:
        stem = stem.rpartition("/")[0]
        if shard == stem or shard.endswith("/" + stem):
            return True
    return False


class Located(NamedTuple):
    """A document. shard: its name in the index; places: (unit, number of the sample in it), several where it
    is long."""

    shard: str
    key: str
    places: tuple[tuple[int, int], ...]
    name: str
    """SHARD/KEY, with as much of the shard's name as tells it from others of the corpus."""


def find_documents(
    corpus: Corpus, names: Iterable[str], progress: Callable[[int, int], None] | None = None
) -> dict[str, list[Located]]:
    """Name → the documents that it means: none where there is no such sample, several where a key is not
    unique. progress(units done, units in all), where many of them are read. Raises ReadTrouble where a name
    is not found and there is a unit that cannot be read."""
    found: dict[str, dict[int, Located]] = {name: {} for name in names}
    shards = list(_shards(corpus))
    likely = [
        (shard, unit)
        for shard, first, end in shards
        if (asked := [name for name in found if "/" not in name or may_lie_in(name, shard)])
        for unit in _likely(corpus, asked, first, end)
    ]
    _look_through(corpus, likely, found, progress)
    missing = {name: located for name, located in found.items() if not located}
    units = [(shard, unit) for shard, first, end in shards for unit in range(first, end)]
    _look_through(corpus, units, missing, progress)
    return {name: [located[unit] for unit in sorted(located)] for name, located in found.items()}


def is_ambiguous(name: str, documents: Sequence[Located]) -> bool:
    """Whether another name would tell these documents apart: not those of one name in one shard."""
    shards = {document.shard for document in documents}
    return len(documents) > 1 and (len(shards) > 1 or name == documents[0].key)


def several(name: str, corpus: str, documents: Sequence[Located]) -> str:
    """The line about a name that means more than one document of a corpus."""
    shown = ", ".join(document.name for document in documents[:3])
    more = ", …" if len(documents) > 3 else ""
    return (
        f"{name!r} means {len(documents)} documents of corpus {corpus} ({shown}{more}); name one as SHARD/KEY"
    )


def bytes_to_read(corpus: Corpus, names: Iterable[str]) -> int:
    """At most about so many bytes of tar does it take to find these documents."""
    shards = list(_shards(corpus))
    read: set[tuple[str, int, int]] = set()
    for name in names:
        read.update([shard for shard in shards if may_lie_in(name, shard[0])] or shards)
    lengths = corpus.index.units["length"]
    return sum(int(lengths[first:end].sum()) for _, first, end in read)


def _shards(corpus: Corpus) -> Iterator[tuple[str, int, int]]:
    """(name, first unit, behind the last) of each shard that has units."""
    units = corpus.index.units
    numbers, firsts = np.unique(units["shard"], return_index=True)
    for number, first, end in zip(numbers.tolist(), firsts.tolist(), [*firsts[1:].tolist(), len(units)]):
        yield corpus.index.shards[number], first, end


def _likely(corpus: Corpus, names: list[str], first: int, end: int) -> Sequence[int]:
    """The units of a shard that can hold these documents: where its samples have running numbers, those of
    the wanted numbers, else all."""
    try:
        opening, ending = corpus.read_unit(first)[0].key, corpus.read_unit(end - 1)[-1].key
    except ReadTrouble:
        return range(first, end)
    counts = np.cumsum(corpus.index.units["samples"][first:end].astype(np.int64))
    part, dash, number = opening.rpartition("-")
    front, width = part + dash, len(number)
    if not (_is_numbered(opening, front, width) and _is_numbered(ending, front, width)):
        return range(first, end)
    low = int(number)
    if _number(ending) - low + 1 != counts[-1]:
        return range(first, end)
    keys = {name.rpartition("/")[2] for name in names}
    locations = [_number(key) - low for key in keys if _is_numbered(key, front, width)]
    inside = [location for location in locations if 0 <= location < counts[-1]]
    return sorted({first + int(np.searchsorted(counts, location, side="right")) for location in inside})


def _is_numbered(key: str, front: str, width: int) -> bool:
    """Whether a key is a number of so many digits behind this front."""
    return key.startswith(front) and key[len(front) :].isdecimal() and len(key) == len(front) + width


def _number(key: str) -> int:
    return int(key.rpartition("-")[2])


def _look_through(
    corpus: Corpus,
    units: list[tuple[str, int]],
    found: dict[str, dict[int, Located]],
    progress: Callable[[int, int], None] | None,
) -> None:
    if not found:
        return
    trouble: ReadTrouble | None = None
    for number, (shard, unit) in enumerate(units, 1):
        try:
            _look(corpus, shard, unit, found)
        except ReadTrouble as error:
            trouble = trouble or error
        if progress:
            progress(number, len(units))
    if trouble is not None and not all(found.values()):
        raise trouble  # what was not found may lie there


def _look(corpus: Corpus, shard: str, unit: int, found: dict[str, dict[int, Located]]) -> None:
    """Which of the wanted documents begin in a unit. found: name → by (unit, number)."""
    placed = corpus.index.placed_at(unit)
    if placed is not None:
        if unit == placed.unit:
            parts = range(unit, unit + placed.parts)
            _book(corpus, shard, placed.key, tuple((part, 0) for part in parts), found)
        return
    for number, sample in enumerate(corpus.read_unit(unit)):
        _book(corpus, shard, sample.key, ((unit, number),), found)


def _book(corpus: Corpus, shard: str, key: str, places: tuple[tuple[int, int], ...], found: dict) -> None:
    for name in names_of(shard, key):
        if name in found:
            base = shard.rpartition("/")[2]
            alike = sum(other.rpartition("/")[2] == base for other in corpus.index.shards)
            shown = full_name(shard, key) if alike == 1 else f"{shard}/{key}"
            found[name][places[0]] = Located(shard, key, places, shown)
