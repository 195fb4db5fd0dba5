"""From a block's units to token ids: range reads, then one encode call for all documents.

A sample without usable text is set apart, not dropped in silence: what to do about it is the plan's policy
(data/stream/skipping.py). It is a property of the text alone, so skipping it needs no record.
"""

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from data.shards.corpus import Corpus, ReadTrouble
from data.shards.find import full_name, is_named
from data.shards.samples import Sample
from data.stream.encoded import BadSample, EncodedUnits
from data.stream.token_cache import TokenCache, key_of
from objectives.example import TokenizerView
from objectives.rng import extend_all, key
from objectives.segments import Texts, between


class Encoder(TokenizerView, Protocol):
    """What the stream needs of a tokenizer (data/tokenization/tokenizer.py)."""

    @property
    def encoding(self) -> str:
        """Names what `encode_documents` gives: two tokenizers that agree in it give the same ids."""

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
    cache: TokenCache | None = None,
) -> Documents:
    """Reads and encodes the documents of some units of one shard, or takes them from the cache. without: of a
    unit, the numbers of the documents that are left there: they are held out. Raises UnitTrouble."""
    texts: list[str] = []

    def encode() -> EncodedUnits:
        return encode_units(corpus, encoder, units, texts)

    if cache is None or keep_texts or not len(units):
        found = encode()
    else:
        text_bytes = int(corpus.index.units["text_bytes"][np.asarray(units)].sum())
        found = cache.obtain(key_of(corpus, units, encoder.encoding), text_bytes, encode)
    shard = corpus.shard_of(units[0]) if len(units) else ""
    bad = [
        Bad(units[one.at], shard, one.key, one.problem)
        for one in found.bad
        if one.number not in without.get(units[one.at], ())
    ]
    if not without.keys().isdisjoint(units):
        left = [without.get(units[at], ()) for at in found.at.tolist()]
        stays = np.array([n not in numbers for n, numbers in zip(found.numbers.tolist(), left)], dtype=bool)
        texts = [text for text, kept in zip(texts, stays.tolist()) if kept]
        found = found.only(stays, encoder.control)
    units_ = np.asarray(units, dtype=np.int64)[found.at]
    epoch_key = np.full(len(units_), key(seed, "document", name, epoch), np.uint64)
    rng_keys = extend_all(epoch_key, units_, found.numbers)
    begins = units_ - found.parts
    origin = _first_of_each(list(zip(begins.tolist(), found.numbers.tolist()))) if found.parts.any() else None
    tokens = Texts.laid(found.around, found.sizes, found.closes, origin)
    kept = tuple(texts) if keep_texts else ()
    return Documents(shard, found.keys, units_, found.numbers, tokens, rng_keys, tuple(bad), kept)


def encode_units(corpus: Corpus, encoder: Encoder, units: Sequence[int], texts: list[str]) -> EncodedUnits:
    """Reads and encodes all documents of some units of one shard. texts: takes what was read of each."""
    usable: list[Sample] = []
    counts: list[int] = []
    numbers: list[Iterable[int]] = []
    bad: list[BadSample] = []
    for at, samples in enumerate(_samples(corpus, units)):
        good = [sample for sample in samples if sample.text and sample.problem is None]
        numbers.append(range(len(good)))
        if len(good) < len(samples):
            fit = [bool(sample.text) and sample.problem is None for sample in samples]
            numbers[-1] = [number for number, fits in enumerate(fit) if fits]
            bad += [
                BadSample(at, number, sample.key, sample.problem or "no text")
                for number, (sample, fits) in enumerate(zip(samples, fit))
                if not fits
            ]
        usable += good
        counts.append(len(good))
    texts += [sample.text or "" for sample in usable]
    encoded = encoder.encode_documents(texts) if texts else []
    return EncodedUnits(
        keys=[sample.key for sample in usable],
        at=np.repeat(np.arange(len(counts)), counts),
        numbers=np.fromiter(chain.from_iterable(numbers), np.int64, len(usable)),
        parts=np.fromiter([sample.part for sample in usable], np.int64, len(usable)),
        closes=np.fromiter([sample.last for sample in usable], bool, len(usable)),
        sizes=np.fromiter(map(len, encoded), np.int64, len(encoded)),
        around=between(encoded, encoder.control),
        bad=tuple(bad),
    )


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
