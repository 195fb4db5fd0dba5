"""mlm: some tokens are hidden, all positions see all, the original is predicted where one is hidden (BERT).

A segment is its bare tokens. The number of chosen tokens is n·select, rounded up or down at random so that
the rate is exact in the mean, also over segments so short that some have none. Of the chosen, `mask` become
the mask id, `random` an ordinary id drawn evenly, `keep` stay; the guide's other setting is 0.1 / 0.1 / 0.8.

`whole_word` chooses words (objectives/words.py) in random order until n·select tokens are reached; the word
that crosses the line is taken with the chance that makes the mean exact.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from objectives.example import IGNORE, Examples, Sources, TokenizerView
from objectives.noise import choose, shuffle
from objectives.objective import Objective
from objectives.ragged import starts_of
from objectives.rng import RngBatch
from objectives.words import word_starts

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Mlm(Objective):
    """select: share of tokens chosen; mask, random, keep: what becomes of them; whole_word: choose words."""

    name: ClassVar[str] = "mlm"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 2
    least_room: ClassVar[int | None] = 1

    select: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    keep: float = 0.1
    whole_word: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.select <= 1:
            raise ValueError(f"select: expected a share above 0 and at most 1, got {self.select}")
        for name in ("mask", "random", "keep"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        if abs(self.mask + self.random + self.keep - 1) > 1e-6:
            total = self.mask + self.random + self.keep
            raise ValueError(f"mask: mask + random + keep must be 1, got {total:g}")

    @property
    def density(self) -> float:
        return self.select

    def fit(
        self,
        remaining: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        first: bool = True,
        last: bool = True,
    ) -> int:
        return min(len(remaining), length)

    def make_all(self, sources: Sources, rng: RngBatch) -> Examples:
        text, sizes = sources.text(), sources.sizes
        tokens, chosen = self.corrupt(text, sizes, sources.tokenizer, rng)
        targets = np.full(len(text), IGNORE, dtype=np.int32)
        targets[chosen] = text[chosen]
        bound = np.repeat((sizes - 1).astype(np.int32), sizes)
        return Examples(self.id, starts_of(sizes), sizes, tokens, targets, bound=bound)

    def corrupt(
        self,
        text: np.ndarray,
        sizes: np.ndarray,
        tokenizer: TokenizerView,
        rng: RngBatch,
        seams: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(int32 [Σ sizes], int64 [k]): ragged text with noise, and the chosen positions in ascending order.
        `seams`: positions at which a word begins whatever the tokenizer says (where two texts meet)."""
        if self.whole_word:
            starts = word_starts(text, sizes, tokenizer, sizes * self.select, seams)
            chosen = np.flatnonzero(self._words(starts, sizes, rng))
        else:
            counts = (sizes * self.select + rng.numbers()).astype(np.int64)
            chosen = np.flatnonzero(choose(sizes, counts, rng))
        # Of each 64-bit number the upper half decides the choice, the lower half the random token.
        counts = np.diff(np.searchsorted(chosen, np.append(0, np.cumsum(sizes))))
        bits = rng.bits(counts)
        choice = bits >> _HALF
        ordinary = tokenizer.ordinary
        noise = ordinary[((bits & _LOW) * np.uint64(len(ordinary))) >> _HALF]
        noise[choice < np.uint64(round(self.mask * 2**32))] = tokenizer.control.mask
        changed = choice < np.uint64(round((self.mask + self.random) * 2**32))
        tokens = text.astype(np.int32)
        tokens[chosen[changed]] = noise[changed]
        return tokens, chosen

    def _words(self, starts: np.ndarray, sizes: np.ndarray, rng: RngBatch) -> np.ndarray:
        """bool [Σ sizes]: True over whole words, n·select tokens of a segment in the mean. starts: where a
        word begins, at the first token of each segment too."""
        begins = np.flatnonzero(starts)
        lengths = np.diff(begins, append=len(starts))
        words = np.diff(np.searchsorted(begins, np.append(0, np.cumsum(sizes))))
        first = starts_of(words)
        order = shuffle(words, rng)
        drawn = lengths[order]
        before = np.cumsum(drawn) - drawn
        before -= np.repeat(before[first], words)
        room = np.repeat(sizes * self.select, words) - before
        taken = np.repeat(rng.numbers(), words) * drawn < room
        picked = np.zeros(len(lengths), dtype=bool)
        picked[order[taken]] = True
        return np.repeat(picked, lengths)
