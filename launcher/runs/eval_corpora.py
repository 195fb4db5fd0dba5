"""`eval.corpora`: text that a run is evaluated on and never trains on; opened, and held against what it does.

It has no part in the plan, so it may be added, dropped or changed at any resume and no row of training
changes by it. That it is never trained on is looked at once a start, on one rank: a shard is refused that is
among a training corpus's too, be it the same file under another name, the same address, or a copy. A copy
shows by the checksums of its units; where the two indexes cut it otherwise, by its size and first unit.
"""

import os
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import xxhash

from data.access.patience import Patience
from data.access.transports import is_local, shown
from data.errors import BadInput, PassingTrouble
from data.plan.plan import Plan
from data.shards.corpus import Corpus
from launcher.config.run_config import Config
from launcher.runs.stream_settings import OpenedCorpora, open_corpora, open_texts

_CHUNK = 1 << 20
"""Units of a training corpus that are looked at together."""


def open_all(
    config: Config,
    patience: Patience | None = None,
    *,
    read_before: Container[str] = (),
    known: OpenedCorpora | None = None,
) -> tuple[dict[str, Corpus], dict[str, Corpus]]:
    """What the config trains on, and what it evaluates on, as `open_texts` opens them. BadInput also where
    text is in both."""
    corpora = open_corpora(config, patience, read_before=read_before, known=known)
    evaluated = open_texts(config, config.eval.corpora, patience, read_before=read_before, known=known)
    refuse_trained_on(config, corpora, evaluated)
    return corpora, evaluated


@contextmanager
def located(config: Config) -> Iterator[None]:
    """What goes wrong within it with one of eval.corpora is said of the key under which it stands."""
    try:
        yield
    except BadInput as error:
        kind = PassingTrouble if isinstance(error, PassingTrouble) else BadInput
        if (line := at_key(config, str(error))) != str(error):
            raise kind(line) from error
        raise


def at_key(config: Config, line: str) -> str:
    """A line 'corpus NAME: …' of one of eval.corpora with its key in place of that beginning."""
    what, colon, rest = line.partition(": ")
    name = what.removeprefix("corpus ")
    return f"{config.location(name)}: {rest}" if colon and name in config.eval.corpora else line


def refuse_trained_on(config: Config, trained: Mapping[str, Corpus], evaluated: Mapping[str, Corpus]) -> None:
    """BadInput where a shard of a corpus that is evaluated on is among those of one that is trained on."""
    for name, corpus in evaluated.items():
        for other, training in trained.items():
            pair = _same_file(corpus, training) or _same_units(corpus, training)
            if pair is None:
                continue
            shard, twin = shown(corpus.shards[pair[0]]), shown(training.shards[pair[1]])
            where = "" if shard == twin else f" as {twin}"
            raise BadInput(
                f"{config.location(name)}: {shard} is trained on too: corpus {other} has it{where}; take it "
                "out of one of the two, for a loss on text that was learned says nothing"
            )


def trained_on_before(plan: Plan, evaluated: Mapping[str, Corpus]) -> list[str]:
    """A line for each corpus that is the whole of one that the run had in its plan before an edit."""
    fingerprints = {era.fingerprint: corpus.name for corpus in plan.corpora for era in corpus.eras}
    return [
        f"eval.corpora.{name}: this run had the same text in its corpus "
        f"{fingerprints[corpus.index.fingerprint]}: what it has learned of it shows in the loss"
        for name, corpus in evaluated.items()
        if corpus.index.fingerprint in fingerprints
    ]


def _same_file(corpus: Corpus, training: Corpus) -> tuple[int, int] | None:
    """The numbers, in each, of a shard that is the same file or address, or a copy as far as size and first
    unit tell."""
    own = {url: number for number, url in enumerate(corpus.shards)}
    by_size: dict[int, list[int]] = {}
    for number, shard in enumerate(corpus.index.stored):
        by_size.setdefault(shard.size, []).append(number)
    for number, (url, shard) in enumerate(zip(training.shards, training.index.stored, strict=True)):
        if url in own:
            return own[url], number
        if shard.size in by_size and is_local(url):
            for mine in by_size[shard.size]:
                if is_local(corpus.shards[mine]) and _alike(corpus, mine, url):
                    return mine, number
    return None


def _alike(corpus: Corpus, number: int, path: str) -> bool:
    """Whether a local file of the size of a shard is that, by its identity or by the bytes of its first
    unit."""
    try:
        if os.path.samefile(corpus.shards[number], path):
            return True
        if corpus.index.stored[number].packing != "plain":
            return False
        first, stop = corpus.index.range_of(number)
        if first == stop:
            return False
        unit = corpus.index.unit(first)
        with open(path, "rb") as file:
            file.seek(unit.offset)
            return xxhash.xxh64_intdigest(file.read(unit.length)) == unit.checksum
    except OSError:  # what cannot be read now is told of where it is read
        return False


def _same_units(corpus: Corpus, training: Corpus) -> tuple[int, int] | None:
    """The numbers of two shards that have a unit in common, byte for byte."""
    own = corpus.index.units
    filled = np.flatnonzero(own["length"] > 0)
    order = filled[np.argsort(own["checksum"][filled], kind="stable")]
    checksums = own["checksum"][order]
    # Nearly all units of the other are told from these by 16 bits: the search is for the rest.
    met = np.zeros(1 << 16, dtype=bool)
    met[(checksums >> np.uint64(48)).astype(np.int64)] = True
    for start in range(0, len(training), _CHUNK):
        part = training.index.units[start : start + _CHUNK]
        sums = part["checksum"]
        maybe = np.flatnonzero(met[(sums >> np.uint64(48)).astype(np.int64)])
        at = np.minimum(np.searchsorted(checksums, sums[maybe]), len(checksums) - 1)
        same = checksums[at] == sums[maybe]
        same &= own["length"][order[at]] == part["length"][maybe]
        if same.any():
            hit = int(np.flatnonzero(same)[0])
            return int(own["shard"][order[at[hit]]]), int(part["shard"][maybe[hit]])
        training.table.release()  # all of it would count as memory of rank 0
    return None
