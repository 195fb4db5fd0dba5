"""From a block's units to token ids: range reads, then one encode call for all documents.

A sample without usable text is set apart, not dropped in silence: what to do about it is the plan's policy
(data/stream/skipping.py). It is a property of the text alone, so skipping it needs no record.
"""

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from data.shards.corpus import Corpus, ReadTrouble
from data.shards.find import full_name, is_named
from data.shards.samples import Sample
from objectives.example import TokenizerView
from objectives.rng import extend_all, key
from objectives.segments import Texts


class Encoder(TokenizerView, Protocol):
    """What the stream needs of a tokenizer (data/tokenization/tokenizer.py)."""

    def byte_lengths(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """int64 [n]: UTF-8 bytes of a text that each of its ids stands for; their sum is that of the text."""


class UnitTrouble(Exception):
    """A unit could not be read, after all retries. block_slot: that of the block which needs it."""

    def __init__(self, unit: int, reason: str, block_slot: int = 0) -> None:
        super().__init__(reason)
        self.unit, self.block_slot = unit, block_slot


class Bad(NamedTuple):
    """A sample that cannot be used."""

    unit: int
    shard: str
    key: str
    problem: str

    @property
    def name(self) -> str:
        """SHARD/KEY."""
        return full_name(self.shard, self.key)


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of a block, in the order of the shard, whose name in the index is `shard`; a part of a
    long one like a document. numbers: of the document in its unit; rng_keys: uint64, their keys in this
    epoch; texts: as they were read, where they were asked for; shards: that of each document, where they are
    of several (data/stream/joining.py)."""

    shard: str
    keys: list[str]
    units: np.ndarray
    numbers: np.ndarray
    tokens: Texts
    rng_keys: np.ndarray
    bad: tuple[Bad, ...]
    texts: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()

    def named(self, names: Container[str]) -> np.ndarray:
        """bool [documents]: those that are among these names."""
        shards = self.shards or repeat(self.shard)
        return np.array([is_named(shard, key, names) for shard, key in zip(shards, self.keys)], dtype=bool)


def read_documents(
    corpus: Corpus,
    encoder: Encoder,
    seed: int,
    name: str,
    epoch: int,
    units: Sequence[int],
    without: Mapping[int, Container[int]] = MappingProxyType({}),
    *,
    keep_texts: bool = False,
) -> Documents:
    """Reads and encodes the documents of some units of one shard. without: of a unit, the numbers of the
    documents that are left there: they are held out. Raises UnitTrouble."""
    shard = corpus.shard_of(units[0]) if units else ""
    keys: list[str] = []
    texts: list[str] = []
    of_unit: list[int] = []
    numbers: list[int] = []
    closes: list[bool] = []
    begins: list[int] = []
    bad: list[Bad] = []
    for unit, samples in zip(units, _samples(corpus, units)):
        left = without.get(unit, ())
        for number, (sample, text, problem, part, last) in enumerate(samples):
            if number in left:
                continue
            if problem is None and text:
                keys.append(sample)
                texts.append(text)
                of_unit.append(unit)
                numbers.append(number)
                closes.append(last)
                begins.append(unit - part)
            else:
                bad.append(Bad(unit, shard, sample, problem or "no text"))
    encoded = encoder.encode_documents(texts) if texts else []
    units_, numbers_ = np.array(of_unit, np.int64), np.array(numbers, np.int64)
    epoch_key = np.full(len(texts), key(seed, "document", name, epoch), np.uint64)
    rng_keys = extend_all(epoch_key, units_, numbers_)
    origin = None if begins == of_unit else _first_of_each(list(zip(begins, numbers)))
    tokens = Texts.of(encoded, encoder.control, np.array(closes, bool), origin)
    kept = tuple(texts) if keep_texts else ()
    return Documents(shard, keys, units_, numbers_, tokens, rng_keys, tuple(bad), kept)


def _first_of_each(names: Sequence[Hashable]) -> np.ndarray:
    """int64 [n]: for each name the first that is equal to it."""
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(name, number) for number, name in enumerate(names)], np.int64)


def _samples(corpus: Corpus, units: Sequence[int]) -> list[list[Sample]]:
    """The samples of each unit; neighbouring units by one range read."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and runs[-1][-1] + 1 == unit:
            runs[-1].append(unit)
        else:
            runs.append([unit])
    found: list[list[Sample]] = []
    for run in runs:
        try:
            found += corpus.read_units(run[0], run[-1] + 1)
        except ReadTrouble:
            found += [_one(corpus, unit) for unit in run]
    return found


def _one(corpus: Corpus, unit: int) -> list[Sample]:
    """A unit by itself, to know which of a run is in trouble."""
    try:
        return corpus.read_unit(unit)
    except ReadTrouble as error:
        raise UnitTrouble(unit, str(error)) from error
