"""From a block's units to token ids: range reads, then one encode call for all documents.

A sample without usable text is set apart, not dropped in silence: what to do about it is the plan's policy
(data/stream/skipping.py). It is a property of the text alone, so skipping it needs no record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from data.shards.corpus import Corpus, ReadTrouble
from data.shards.tar import Sample
from objectives.example import TokenizerView
from objectives.rng import extend_all, key
from objectives.segments import Texts


class Encoder(TokenizerView, Protocol):
    """What the stream needs of a tokenizer (data/tokenization/tokenizer.py)."""

    def byte_lengths(self, text: str, tokens: np.ndarray) -> np.ndarray:
        """int64 [n]: UTF-8 bytes of a text that each of its ids stands for; their sum is that of the text."""


class UnitTrouble(Exception):
    """A unit could not be read, after all retries."""

    def __init__(self, unit: int, reason: str) -> None:
        super().__init__(reason)
        self.unit = unit


class Bad(NamedTuple):
    """A sample that cannot be used."""

    unit: int
    key: str
    problem: str


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of a block, in the order of the shard. numbers: of the document in its unit; rng_keys:
    uint64, their keys in this epoch; texts: as they were read, where they were asked for."""

    keys: list[str]
    units: np.ndarray
    numbers: np.ndarray
    tokens: Texts
    rng_keys: np.ndarray
    bad: tuple[Bad, ...]
    texts: tuple[str, ...] = ()


def read_documents(
    corpus: Corpus,
    encoder: Encoder,
    seed: int,
    name: str,
    epoch: int,
    units: Sequence[int],
    *,
    keep_texts: bool = False,
) -> Documents:
    """Reads and encodes the documents of some units of one shard. Raises UnitTrouble."""
    keys: list[str] = []
    texts: list[str] = []
    of_unit: list[int] = []
    numbers: list[int] = []
    bad: list[Bad] = []
    for unit, samples in zip(units, _samples(corpus, units)):
        for number, (sample, text, problem) in enumerate(samples):
            if problem is None and text:
                keys.append(sample)
                texts.append(text)
                of_unit.append(unit)
                numbers.append(number)
            else:
                bad.append(Bad(unit, sample, problem or "no text"))
    encoded = encoder.encode_documents(texts) if texts else []
    units_, numbers_ = np.array(of_unit, np.int64), np.array(numbers, np.int64)
    epoch_key = np.full(len(texts), key(seed, "document", name, epoch), np.uint64)
    rng_keys = extend_all(epoch_key, units_, numbers_)
    tokens = Texts.of(encoded, encoder.control)
    kept = tuple(texts) if keep_texts else ()
    return Documents(keys, units_, numbers_, tokens, rng_keys, tuple(bad), kept)


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
