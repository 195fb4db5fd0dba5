"""mlm: some tokens are hidden, all positions see all, the original is predicted where one is hidden (BERT).

A piece is its bare tokens. The number of chosen tokens is n·select, rounded up or down at random so that the
rate is exact in the mean also for short pieces, but at least one. Of the chosen, `mask` become the mask id,
`random` an ordinary id drawn evenly, `keep` stay; the guide's other setting is 0.1 / 0.1 / 0.8.

`whole_word` chooses words (a word runs from one word start to the next) in random order until n·select tokens
are reached; the word that crosses the line is taken with the chance that makes the mean exact.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from objectives.draws import Draws
from objectives.example import IGNORE, Example, Lexicon, Source, marked
from objectives.noise import choose, round_randomly

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Mlm:
    """select: share of tokens chosen; mask, random, keep: what becomes of them; whole_word: choose words."""

    name: ClassVar[str] = "mlm"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 2
    pairs: ClassVar[bool] = False

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
        self, remaining: np.ndarray, length: int, lexicon: Lexicon, first: bool = True, last: bool = True
    ) -> int:
        return min(len(remaining), length)

    def make(self, source: Source, draws: Draws) -> Example:
        tokens, chosen = self.corrupt(source.tokens, source.lexicon, draws)
        n = len(tokens)
        targets = np.full(n, IGNORE, dtype=np.int32)
        targets[chosen] = source.tokens[chosen]
        weights = np.zeros(n, dtype=np.float32)
        weights[chosen] = 1
        return Example(tokens, targets, weights, np.full(n, n - 1, dtype=np.int32), marked(self.id, n))

    def corrupt(
        self, tokens: np.ndarray, lexicon: Lexicon, draws: Draws, border: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """(int32 [n], int64 [k]): the tokens with noise, and the chosen places in ascending order. `border`:
        a place at which a word begins whatever the lexicon says (the seam of two texts)."""
        if self.whole_word:
            chosen = self._words(lexicon.word_start[tokens], border, draws)
        else:
            chosen = choose(len(tokens), max(1, round_randomly(len(tokens) * self.select, draws)), draws)
        # Of each 64-bit number the upper half decides the fate, the lower half the random token.
        bits = draws.bits(len(chosen))
        fate = bits >> _HALF
        masked = round(self.mask * 2**32)
        replaced = fate < np.uint64(round((self.mask + self.random) * 2**32))
        ordinary = lexicon.ordinary
        noise = ordinary[((bits & _LOW) * np.uint64(len(ordinary))) >> _HALF]
        noise[fate < np.uint64(masked)] = lexicon.control.mask
        noisy = tokens.astype(np.int32)
        noisy[chosen[replaced]] = noise[replaced]
        return noisy, chosen

    def _words(self, starts: np.ndarray, border: int, draws: Draws) -> np.ndarray:
        """int64 [k]: the places of whole words, n·select of them in the mean. `starts`: bool [n]."""
        starts[[0, border]] = True
        word = np.cumsum(starts) - 1
        sizes = np.bincount(word)
        order = draws.permutation(len(sizes))
        ends = np.cumsum(sizes[order])
        room = len(starts) * self.select - (ends - sizes[order])
        taken = draws.number() * sizes[order] < room
        taken[0] = True
        picked = np.zeros(len(sizes), dtype=bool)
        picked[order[taken]] = True
        return np.flatnonzero(picked[word])
