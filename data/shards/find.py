"""Where documents lie in a corpus, by their sample keys.

The index has no keys (it stays small at any size). Shards that headrace packed number their samples, so the
key of a shard's first sample tells where in the shard a number lies; any other key costs a look through the
whole corpus.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data.shards.corpus import Corpus


def find_documents(
    corpus: Corpus, keys: Iterable[str], progress: Callable[[int, int], None] | None = None
) -> dict[str, list[tuple[int, int]]]:
    """Key → [(unit, number of the sample in it), …]: empty where there is no such sample, several where packs
    were joined that number alike. progress(units done, units in all), where all of them are read."""
    wanted = set(keys)
    found: dict[str, list[tuple[int, int]]] = {key: [] for key in wanted}
    units = corpus.index.units
    firsts = np.unique(units["shard"], return_index=True)[1]
    ends = [*firsts[1:].tolist(), len(units)]
    for first, end in zip(firsts.tolist(), ends):
        for unit in _guess(corpus, wanted, first, end):
            _look(corpus, unit, wanted, found)
    missing = {key for key, locations in found.items() if not locations}
    if missing:
        for unit in range(len(units)):
            _look(corpus, unit, missing, found)
            if progress:
                progress(unit + 1, len(units))
    return found


def _guess(corpus: Corpus, wanted: set[str], first: int, end: int) -> Sequence[int]:
    """The units of a shard that hold the wanted running numbers, if its samples have such."""
    opening = corpus.read_unit(first)[0].key
    if not opening.isdecimal():
        return []
    counts = np.cumsum(corpus.index.units["samples"][first:end].astype(np.int64))
    locations = [int(key) - int(opening) for key in wanted if key.isdecimal() and len(key) == len(opening)]
    inside = [location for location in locations if 0 <= location < counts[-1]]
    return sorted({first + int(np.searchsorted(counts, location, side="right")) for location in inside})


def _look(corpus: Corpus, unit: int, wanted: set[str], found: dict[str, list[tuple[int, int]]]) -> None:
    for number, sample in enumerate(corpus.read_unit(unit)):
        if sample.key in wanted:
            found[sample.key].append((unit, number))
