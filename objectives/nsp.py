"""nsp: [CLS] A [SEP] B [SEP], is B what follows A in the text? With mlm on both halves (BERT).

A segment falls into two halves near its middle, at a word start where there is one. A true pair keeps both;
of a false pair the second half comes from another document. False segments exchange their second halves among
themselves, so no text is repeated or lost: for any two halves to fit a row together, each has at most
(T − 3) div 2 tokens. A false segment without a partner is cut again, for other objectives.

`order` is ALBERT's variant: no partner, the halves of a false pair are swapped.

The pair target (1 = true) stands at [CLS] and is this objective's; the masked targets are reported as mlm. By
default the pair target weighs as much as the masked ones of its segment together, at least as one. A segment
of a single token has no second half and no pair target. There is no segment embedding: [SEP] says where B
begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from objectives.example import IGNORE, Examples, Sources, TokenizerView
from objectives.mlm import Mlm
from objectives.noise import LONGEST
from objectives.objective import BlockSegments, Exchange, Objective
from objectives.ragged import moved, starts_of
from objectives.rng import RngBatch

TYPICAL_SEGMENT = 256
"""Source tokens assumed of a segment where a weight per segment is stated per token."""


@dataclass(frozen=True)
class Nsp(Objective):
    """mlm: the noise on both halves; true_rate: share of true pairs; order: swap the halves instead of
    exchanging them; pair_weight: loss weight of the pair target (None: as its masked targets together)."""

    name: ClassVar[str] = "nsp"
    head: ClassVar[str] = "binary"
    answers: ClassVar[tuple[str, str]] = ("not the next", "the true next")
    id: ClassVar[int] = 3
    least_room: ClassVar[int | None] = None
    """A pair stays whole, also where its halves are its own: of a part either half would be shorter still."""

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
    def exchanges(self) -> bool:
        return not self.order

    @property
    def density(self) -> float:
        """Of the pair target alone; the masked ones are mlm's."""
        return self.mlm.select if self.pair_weight is None else self.pair_weight / TYPICAL_SEGMENT

    @property
    def reports(self) -> Mapping[int, float]:
        return {self.id: self.density, self.mlm.id: self.mlm.density}

    def fit(
        self,
        remaining: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        first: bool = True,
        last: bool = True,
    ) -> int:
        most, rest = 2 * half_limit(length), len(remaining)
        # A single token left over would be a segment without a second half.
        return rest if rest <= most else most - (rest == most + 1 and most > 2)

    def exchange(self, own: BlockSegments) -> Exchange:
        text, sizes, tokenizer = own.sources.text(), own.sources.sizes, own.sources.tokenizer
        splits = split_points(text, sizes, tokenizer, half_limit(own.length), own.rng("split").numbers())
        false = (own.rng("true").numbers() >= self.true_rate) & (splits < sizes)
        return Exchange.between_documents(own, splits, np.flatnonzero(false))

    def make_all(self, sources: Sources, rng: RngBatch) -> Examples:
        text, sizes, tokenizer = sources.text(), sources.sizes, sources.tokenizer
        first, uniform = sources.split, rng.numbers()
        if not first.all():
            first = np.where(first > 0, first, split_points(text, sizes, tokenizer, sizes, uniform))
        paired = first < sizes
        swapped = np.zeros(len(sizes), dtype=bool)
        if self.order:
            swapped = (rng.numbers() >= self.true_rate) & paired
        seams = starts_of(sizes) + first
        noisy, chosen = self.mlm.corrupt(text, sizes, tokenizer, rng, seams[paired])

        # `position` is where a token of the text, first half and then second, comes to stand:
        #
        #   in order   [CLS] a a a [SEP] b b [SEP]        halves_at   start + 1, start + first + 2
        #   swapped    [CLS] b b [SEP] a a a [SEP]        halves_at   start + second + 2, start + 1
        control, taken = tokenizer.control, sizes + 3
        starts = starts_of(taken)
        halves = np.column_stack([first, sizes - first])
        halves_at = np.column_stack([starts + 1, starts + first + 2])
        halves_at[swapped] = np.column_stack([starts + sizes - first + 2, starts + 1])[swapped]
        position = moved(halves_at.ravel(), halves.ravel())
        tokens = np.full(int(taken.sum()), control.sep, dtype=np.int32)
        tokens[starts], tokens[position] = control.cls, noisy
        targets = np.full(len(tokens), IGNORE, dtype=np.int32)
        targets[position[chosen]] = text[chosen]
        weights = np.zeros(len(tokens), dtype=np.float32)
        weights[position[chosen]] = 1
        objective = np.full(len(tokens), self.id, dtype=np.int8)
        objective[position[chosen]] = self.mlm.id
        true = ~(swapped | sources.foreign)
        masked = np.diff(np.searchsorted(chosen, np.append(0, np.cumsum(sizes))))
        targets[starts[paired]] = true[paired]
        pair_weights = np.maximum(1, masked) if self.pair_weight is None else self.pair_weight
        weights[starts[paired]] = np.broadcast_to(pair_weights, len(sizes))[paired]
        bound = np.repeat((taken - 1).astype(np.int32), taken)
        return Examples(self.id, starts, taken, tokens, targets, weights, bound, objective)


def half_limit(length: int) -> int:
    """The most tokens of a half, so that any two halves and three marks fit `length` positions."""
    return (length - 3) // 2


def split_points(
    text: np.ndarray,
    sizes: np.ndarray,
    tokenizer: TokenizerView,
    limits: np.ndarray | int,
    uniform: np.ndarray,
) -> np.ndarray:
    """int64 [segments]: the lengths of the first halves. text: ragged. Even in the middle half of the
    segment, moved to the nearest word start there (the left of two); both halves have at least one token and
    at most limits[p]. A single token is a first half without a second. uniform: a number in [0, 1) for each
    segment."""
    low = np.maximum(np.maximum(1, sizes - limits), sizes // 4)
    high = np.maximum(low, np.minimum(np.minimum(sizes - 1, limits), sizes - sizes // 4))
    split = low + (uniform * (high - low + 1)).astype(np.int64)
    begins = np.flatnonzero(tokenizer.word_start[text])
    begins = np.concatenate([[-LONGEST], begins, [len(text) + LONGEST]])  # one on each side, out of reach
    base = starts_of(sizes)
    position = np.searchsorted(begins, base + split)
    left, right = begins[position - 1] - base, begins[position] - base
    to_left = np.where(left >= low, split - left, LONGEST)
    to_right = np.where(right <= high, right - split, LONGEST)
    nearest = np.where(to_left <= to_right, left, right)
    return np.where(np.minimum(to_left, to_right) < LONGEST, nearest, split)
