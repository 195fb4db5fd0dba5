"""What an objective says of itself: its name, how much text fits, what it makes, and what it exchanges.

Most objectives make the Example of a segment from that segment alone. One that `exchanges` gives some of its
segments the second part of another segment of the block in place of their own:

    segment            0                 1                 2
    as cut             a a a|A A         b b|B B B         c|C C        | stands behind splits[p] tokens
    partners 1, 0, 2   a a a|B B B       b b|A A           c|C C

It is asked once a block, with all segments that it got (BlockSegments), and answers with an Exchange. Then it
makes the Examples of the segments as they are after it: `split` and `foreign` of a Source say what was done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from objectives.example import Example, Examples, Source, Sources, TokenizerView
from objectives.noise import pair_up
from objectives.rng import Rng, RngBatch, extend, extend_all

LEAST_ROOM = 8
"""Positions in which every objective has place for a token and its marks."""


@dataclass(frozen=True, slots=True)
class BlockSegments:
    """The segments of a block that one objective got, as they were cut.

    documents: int64 [segments], the document of each, the same for all parts of a long one; length: T, the
    most positions of an Example; keys: uint64 [segments], of the random numbers of each segment; key: of
    those of the block.
    """

    sources: Sources
    documents: np.ndarray
    length: int
    keys: np.ndarray
    key: int

    def __len__(self) -> int:
        return len(self.sources)

    def rng(self, purpose: str) -> RngBatch:
        """Random numbers for each segment; others for every purpose."""
        return RngBatch(extend_all(self.keys, purpose))

    def block_rng(self, purpose: str) -> Rng:
        """Random numbers for all segments together; others for every purpose."""
        return Rng(extend(self.key, purpose))


def _nobody() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Which segments of a block exchange their second parts.

    splits: int64 [segments], tokens of the first part of each, from 1 to all of them; partners: int64
    [segments], whose second part each takes, its own number where it keeps its own; alone: numbers of the
    segments for which there was no partner. The text of those is cut again, for objectives that exchange
    nothing; where the mixture has none they stay as they are. ValueError where text would be repeated or
    lost.
    """

    splits: np.ndarray
    partners: np.ndarray
    alone: np.ndarray = field(default_factory=_nobody)

    def __post_init__(self) -> None:
        number = np.arange(len(self.splits))
        if not np.array_equal(np.sort(self.partners), number):
            raise ValueError("partners: expected the number of each segment once")
        if not np.array_equal(self.partners[self.alone], self.alone):
            raise ValueError("alone: expected segments that keep their own second part")

    @staticmethod
    def between_documents(own: BlockSegments, splits: np.ndarray, chosen: np.ndarray) -> "Exchange":
        """The chosen segments (int64: their numbers), each of which has a second part, exchange these with
        segments of other documents, long ones for long ones."""
        first, second = splits[chosen], (own.sources.sizes - splits)[chosen]
        documents = own.documents[chosen].tolist()
        pairs, alone = pair_up(documents, first.tolist(), second.tolist(), own.block_rng("exchange"))
        partners = np.arange(len(own))
        for i, j in pairs:
            partners[chosen[i]] = chosen[j]
        return Exchange(splits, partners, chosen[alone])


class Objective(Protocol):
    """A pretraining objective: a frozen dataclass of its settings, derived from this, with these members. Of
    `make` and `make_all` one has to be written; the other then follows. What has a body may be left out."""

    name: ClassVar[str]
    head: ClassVar[str]
    """'vocabulary', or 'binary' for two classes."""
    answers: ClassVar[tuple[str, str]] = ("no", "yes")
    """What targets 0 and 1 of a binary head mean, for the eye."""
    id: ClassVar[int]
    """Place in the registry: what `Example.objective` holds."""
    predicts_text: ClassVar[bool] = False
    """Every token of the text is a target exactly once: its loss is also stated in bits per byte."""

    @property
    def density(self) -> float:
        """Expected loss weight per source token: the planned share in `normalise: objective`."""

    @property
    def reports(self) -> Mapping[int, float]:
        """Registry ids under which targets are reported, and the expected loss weight per source token of
        each. Where another objective's id is among them, that one's coefficient holds for these targets."""
        return {self.id: self.density}

    def fit(
        self,
        remaining: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        first: bool = True,
        last: bool = True,
    ) -> int:
        """How many tokens of `remaining` (a run of a document, int32) one segment may take from its start so
        that its Example has at most `length` positions whatever is drawn. At least 1. `first`, `last`: the
        run opens, closes its document."""

    def takes_whole(self, sizes: np.ndarray, length: int, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """bool [runs]: those of so many tokens (int64) that `fit` takes whole whatever they are, so that it
        need not be asked. Without a body of its own: none is known to be one. first, last: bool [runs]."""
        return np.zeros(len(sizes), dtype=bool)

    @property
    def exchanges(self) -> bool:
        """Segments exchange their second parts. A segment of one token has none, so it is given to such an
        objective only where the mixture has no other."""
        return False

    @property
    def least_room(self) -> int | None:
        """Positions of the least room of a row that a part of one of its segments may be cut for
        (data/stream/padding.py): from there on `fit` keeps its promise. None: its segments stay whole, such
        as those that exchange their parts, for a pair that is cut is another pair."""
        return None if self.exchanges else LEAST_ROOM

    def exchange(self, own: BlockSegments) -> Exchange:
        """Who exchanges parts with whom, of the segments of a block that this objective got (at least one); a
        pure function, asked of an objective that `exchanges`. What it brings together must fit T positions.
        Without a body of its own: nobody."""
        return Exchange(own.sources.sizes, np.arange(len(own)))

    def make(self, source: Source, rng: Rng) -> Example:
        """The Example of a segment; a pure function of its arguments. `rng` must be fresh."""
        return self.make_all(Sources.of([source]), rng.alone())[0]

    def make_all(self, sources: Sources, rng: RngBatch) -> Examples:
        """The Examples of many segments, each what `make` gives for it alone."""
        return Examples.of(
            self.id, [self.make(source, rng.of(i)) for i, source in enumerate(sources.singly())]
        )
