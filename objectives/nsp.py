"""nsp: [CLS] A [SEP] B [SEP], is B what follows A in the text? With mlm on both halves (BERT).

A piece falls into two halves near its middle, at a word start where there is one. A true pair keeps both; of
a false pair the second half comes from another document. False pieces exchange their second halves in a ring
(`exchange`, which objectives/mixture.py calls), so no text is repeated or lost: for any two halves to fit a
row together, each has at most (T − 3) div 2 tokens.

`order` is ALBERT's variant: no partner, the halves of a false pair are swapped.

The pair target (1 = true) stands at [CLS] and is this objective's; the masked targets are reported as mlm. By
default the pair target weighs as much as the masked ones of its piece together. A piece of a single token has
no second half and no pair target. There is no segment embedding: [SEP] says where B begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar

import numpy as np

from objectives.draws import Draws
from objectives.example import IGNORE, Example, Lexicon, Source
from objectives.mlm import Mlm

TYPICAL_PIECE = 256
"""Source tokens assumed of a piece where a weight per piece is stated per token."""


@dataclass(frozen=True)
class Nsp:
    """mlm: the noise on both halves; true_rate: share of true pairs; order: swap the halves instead of
    exchanging them; pair_weight: loss weight of the pair target (None: as its masked targets together)."""

    name: ClassVar[str] = "nsp"
    head: ClassVar[str] = "pair"
    id: ClassVar[int] = 3

    mlm: Mlm = field(default_factory=Mlm)
    true_rate: float = 0.5
    order: bool = False
    pair_weight: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.true_rate <= 1:
            raise ValueError(f"true_rate: expected a share from 0 to 1, got {self.true_rate}")
        if self.pair_weight is not None and not self.pair_weight > 0:
            raise ValueError(f"pair_weight: expected a number above 0, got {self.pair_weight}")

    @property
    def pairs(self) -> bool:
        return not self.order

    @property
    def density(self) -> float:
        """Of the pair target alone; the masked ones are mlm's."""
        return self.mlm.select if self.pair_weight is None else self.pair_weight / TYPICAL_PIECE

    def fit(
        self, remaining: np.ndarray, length: int, lexicon: Lexicon, first: bool = True, last: bool = True
    ) -> int:
        most, rest = 2 * half_limit(length), len(remaining)
        # A single token left over would be a piece without a second half.
        return rest if rest <= most else most - (rest == most + 1 and most > 2)

    def make(self, source: Source, draws: Draws) -> Example:
        """A false pair has source.neighbour; both then have `split`."""
        n, control = len(source.tokens), source.lexicon.control
        split = source.split or split_point(source.tokens, source.lexicon, n, draws)
        halves = [source.tokens[:split], source.tokens[split:]]
        true = source.neighbour is None
        if source.neighbour is not None:
            halves[1] = source.neighbour.tokens[source.neighbour.split :]
        elif self.order and n > 1 and draws.number() >= self.true_rate:
            halves.reverse()
            true = False

        seam = len(halves[0])
        text = np.concatenate(halves)
        noisy, chosen = self.mlm.corrupt(text, source.lexicon, draws, seam if seam < len(text) else 0)
        n = len(text) + 3
        tokens = np.empty(n, dtype=np.int32)
        tokens[[0, seam + 1, -1]] = control.cls, control.sep, control.sep
        tokens[1 : seam + 1], tokens[seam + 2 : -1] = noisy[:seam], noisy[seam:]
        at = chosen + 1 + (chosen >= seam)
        targets = np.full(n, IGNORE, dtype=np.int32)
        targets[at] = text[chosen]
        weights = np.zeros(n, dtype=np.float32)
        weights[at] = 1
        objective = np.full(n, self.id, dtype=np.int8)
        objective[at] = self.mlm.id
        if seam < len(text):
            targets[0] = true
            weights[0] = len(chosen) if self.pair_weight is None else self.pair_weight
        return Example(tokens, targets, weights, np.full(n, n - 1, dtype=np.int32), objective)


def half_limit(length: int) -> int:
    """The most tokens of a half, so that any two halves and three marks fit `length` positions."""
    return (length - 3) // 2


def split_point(tokens: np.ndarray, lexicon: Lexicon, limit: int, draws: Draws) -> int:
    """The length of the first half: even in the middle half of the piece, moved to the nearest word start
    (the left of two); both halves have at least one token and at most `limit`. 1 for a single token."""
    n = len(tokens)
    low, high = max(1, n - limit, n // 4), min(n - 1, limit, n - n // 4)
    if high <= low:
        return low
    split = draws.integer(low, high + 1)
    starts = np.flatnonzero(lexicon.word_start[tokens[low : high + 1]])
    if len(starts):
        split = low + int(starts[np.argmin(np.abs(starts + (low - split)))])
    return split


def exchange(documents: Sequence[int], draws: Draws) -> tuple[list[tuple[int, int]], list[int]]:
    """Partners for false pieces. documents[i] is the document of piece i.

    Returns pairs (i, j): piece i takes the second half of piece j, of another document; every i of a pair is
    the j of exactly one. And the pieces left without a partner, where one document has more pieces than all
    others together. The pieces stand in a ring, those of a document (in random order, as the documents are)
    side by side, and each looks as far ahead as the largest group is long.
    """
    luck = draws.permutation(len(documents)).tolist()
    rank: dict[int, int] = {}
    for i in sorted(range(len(documents)), key=luck.__getitem__):
        rank.setdefault(documents[i], len(rank))
    ring = sorted(range(len(documents)), key=lambda i: (rank[documents[i]], luck[i]))
    groups = [list(group) for _, group in groupby(ring, key=lambda i: documents[i])]
    largest = max(groups, key=len, default=[])
    others = len(ring) - len(largest)
    alone = largest[others:]
    del largest[others:]
    ring = [i for group in groups for i in group]
    step = max(map(len, groups), default=0)
    return [(i, ring[(place + step) % len(ring)]) for place, i in enumerate(ring)], alone
