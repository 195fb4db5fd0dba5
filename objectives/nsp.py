"""nsp: [CLS] A [SEP] B [SEP], is B what follows A in the text? With mlm on both halves (BERT).

A piece falls into two halves near its middle, at a word start where there is one. A true pair keeps both; of
a false pair the second half comes from another document. False pieces exchange their second halves among
themselves (`exchange`, which objectives/dressing.py calls), so no text is repeated or lost: for any two
halves to fit a row together, each has at most (T − 3) div 2 tokens.

`order` is ALBERT's variant: no partner, the halves of a false pair are swapped.

The pair target (1 = true) stands at [CLS] and is this objective's; the masked targets are reported as mlm. By
default the pair target weighs as much as the masked ones of its piece together. A piece of a single token has
no second half and no pair target. There is no segment embedding: [SEP] says where B begins.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from objectives.draws import Draws, DrawsOfMany
from objectives.example import IGNORE, Examples, Lexicon, Objective, Sources
from objectives.mlm import Mlm
from objectives.noise import LONGEST
from objectives.ragged import starts_of

TYPICAL_PIECE = 256
"""Source tokens assumed of a piece where a weight per piece is stated per token."""


@dataclass(frozen=True)
class Nsp(Objective):
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

    def make_all(self, sources: Sources, draws: DrawsOfMany) -> Examples:
        text, sizes, lexicon = sources.text(), sources.sizes, sources.lexicon
        first, luck = sources.split, draws.numbers()
        if not first.all():
            first = np.where(first > 0, first, split_points(text, sizes, lexicon, sizes, luck))
        paired = first < sizes
        swapped = np.zeros(len(sizes), dtype=bool)
        if self.order:
            swapped = (draws.numbers() >= self.true_rate) & paired
        seams = starts_of(sizes) + first
        noisy, chosen = self.mlm.corrupt(text, sizes, lexicon, draws, seams[paired])

        # Each piece is [CLS] A [SEP] B [SEP]; `place` is where a token of the text comes to stand.
        control, taken = lexicon.control, sizes + 3
        starts = starts_of(taken)
        halves = np.column_stack([first, sizes - first])
        halves_at = np.column_stack([starts + 1, starts + first + 2])
        halves_at[swapped] = np.column_stack([starts + sizes - first + 2, starts + 1])[swapped]
        lengths = halves.ravel()
        place = np.repeat(halves_at.ravel() - starts_of(lengths), lengths) + np.arange(len(text))
        tokens = np.full(int(taken.sum()), control.sep, dtype=np.int32)
        tokens[starts], tokens[place] = control.cls, noisy
        targets = np.full(len(tokens), IGNORE, dtype=np.int32)
        targets[place[chosen]] = text[chosen]
        weights = np.zeros(len(tokens), dtype=np.float32)
        weights[place[chosen]] = 1
        objective = np.full(len(tokens), self.id, dtype=np.int8)
        objective[place[chosen]] = self.mlm.id
        true = ~(swapped | sources.foreign)
        masked = np.diff(np.searchsorted(chosen, np.append(0, np.cumsum(sizes))))
        targets[starts[paired]] = true[paired]
        weights[starts[paired]] = masked[paired] if self.pair_weight is None else self.pair_weight
        bound = np.repeat((taken - 1).astype(np.int32), taken)
        return Examples(self.id, starts, taken, tokens, targets, weights, bound, objective)


def half_limit(length: int) -> int:
    """The most tokens of a half, so that any two halves and three marks fit `length` positions."""
    return (length - 3) // 2


def split_points(
    text: np.ndarray, sizes: np.ndarray, lexicon: Lexicon, limits: np.ndarray | int, luck: np.ndarray
) -> np.ndarray:
    """int64 [pieces]: the lengths of the first halves. text: ragged. Even in the middle half of the piece,
    moved to the nearest word start there (the left of two); both halves have at least one token and at most
    limits[p]. A single token is a first half without a second. luck: a number in [0, 1) for each piece."""
    low = np.maximum(np.maximum(1, sizes - limits), sizes // 4)
    high = np.maximum(low, np.minimum(np.minimum(sizes - 1, limits), sizes - sizes // 4))
    split = low + (luck * (high - low + 1)).astype(np.int64)
    begins = np.flatnonzero(lexicon.word_start[text])
    begins = np.concatenate([[-LONGEST], begins, [len(text) + LONGEST]])  # one on each side, out of reach
    base = starts_of(sizes)
    place = np.searchsorted(begins, base + split)
    left, right = begins[place - 1] - base, begins[place] - base
    to_left = np.where(left >= low, split - left, LONGEST)
    to_right = np.where(right <= high, right - split, LONGEST)
    nearest = np.where(to_left <= to_right, left, right)
    return np.where(np.minimum(to_left, to_right) < LONGEST, nearest, split)


def exchange(
    documents: Sequence[int], firsts: Sequence[int], seconds: Sequence[int], draws: Draws
) -> tuple[list[tuple[int, int]], list[int]]:
    """Partners for false pieces. documents[i] is the document of piece i; firsts[i] and seconds[i] are the
    lengths of its halves.

    Returns pairs (i, j): piece i takes the second half of piece j, of another document; every i of a pair is
    the j of exactly one. And the pieces left without a partner, where one document has more pieces than all
    others together.

    The longest first half takes the longest second half, and so on down; of equals, whichever the luck says.
    So a false pair is as long as true ones are: lengths do not give it away, and rows fill as well. Where
    both halves are of one document, a near pair changes partners with it. There always is one: at most half
    of the pieces are of that document.
    """
    order = draws.permutation(len(documents)).tolist()
    frequent, count = Counter(documents[i] for i in order).most_common(1)[0] if documents else (0, 0)
    mine = [i for i in order if documents[i] == frequent]
    alone = mine[: max(0, 2 * count - len(documents))]
    without = set(alone)
    left = [i for i in order if i not in without]
    takers = sorted(left, key=lambda i: -firsts[i])
    givers = sorted((left[i] for i in draws.permutation(len(left)).tolist()), key=lambda i: -seconds[i])
    _part(givers, [documents[i] for i in takers], [documents[j] for j in givers])
    return list(zip(takers, givers)), alone


def _part(givers: list[int], own: list[int], given: list[int]) -> None:
    """Swaps givers until no place has the same document on both sides (own, given), each with a near one."""

    def swap(place: int, other: int) -> None:
        for listed in (givers, given):
            listed[place], listed[other] = listed[other], listed[place]

    waiting: list[int] = []  # all of one document
    for place, document in enumerate(own):
        if given[place] == document:
            if waiting and own[waiting[-1]] != document:
                swap(waiting.pop(), place)
            else:
                waiting.append(place)
    if not waiting:
        return
    document = own[waiting[0]]
    free = [place for place, pair in enumerate(zip(own, given)) if document not in pair]
    for place in waiting:
        at = bisect_left(free, place)
        before = at == len(free) or (at > 0 and place - free[at - 1] <= free[at] - place)
        swap(place, free.pop(at - before))
