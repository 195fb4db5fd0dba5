"""span: sentinels replace runs of tokens, and the runs are predicted (T5); UL2's mixture of such noises.

    [mode]  x₀ x₁ <s0> x₅ x₆ <s1>      <s0> x₂ x₃ x₄ <s1> x₇   → end
    the corrupted text, bidirectional    the runs, causal; loss on this part and nowhere else

The last position of the corrupted text predicts <s0>; the last token of the last run predicts `end`, which
here means "no more runs". Every source token stands in exactly one of the two parts.

Of n tokens round(n·rate) are noise, in round(noise / mean) runs, at least one each; kept and noisy tokens
fall into that many runs each, every way equally likely, a kept run first: T5's random_spans_noise_mask.
`denoisers` lists several such noises with weights, one of which is drawn per piece; each may put a mode token
in front. A denoiser without a mean has one run, at the end: UL2's S, a prefix LM. `denoisers: ul2` stands for
the seven of the UL2 paper (Tay et al. 2022, table 1), equally weighted.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

import numpy as np

from objectives.draws import Draws
from objectives.example import IGNORE, Example, Lexicon, Source, marked, ramp
from objectives.noise import partition


@dataclass(frozen=True)
class Denoiser:
    """mean: mean run length in tokens (None: one run, at the end); rate: share of noise; mode: the token in
    front (None: none); weight: how often it is drawn, relative to the others."""

    mean: float | None = 3.0
    rate: float = 0.15
    mode: Literal["R", "S", "X"] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.mean is not None and not self.mean >= 1:
            raise ValueError(f"mean: expected a length of at least 1 token, got {self.mean}")
        if not 0 < self.rate < 1:
            raise ValueError(f"rate: expected a share between 0 and 1, got {self.rate}")
        if self.mode not in (None, "R", "S", "X"):
            raise ValueError(f"mode: expected R, S, X or null, got {self.mode!r}")
        if not self.weight > 0:
            raise ValueError(f"weight: expected a number above 0, got {self.weight}")

    def amounts(self, n: int) -> tuple[int, int]:
        """(noise tokens, runs) of a piece of n tokens; T5's rounding. A single token is all noise."""
        noise = max(1, min(round(n * self.rate), n - 1))
        if self.mean is None:
            return noise, 1
        return noise, max(1, min(round(noise / self.mean), noise, n - noise))

    def positions(self, n: int) -> int:
        """Positions of the Example of n tokens: two sentinels a run, and the mode."""
        return n + 2 * self.amounts(n)[1] + (self.mode is not None)

    def lengths(self, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """int64 [runs] twice: the lengths of kept and of noisy runs, which alternate, a kept one first."""
        noise, runs = self.amounts(n)
        if runs == 1:
            return np.array([n - noise]), np.array([noise])
        return partition(n - noise, runs, draws), partition(noise, runs, draws)


UL2 = (
    Denoiser(mean=3.0, rate=0.15, mode="R"),
    Denoiser(mean=8.0, rate=0.15, mode="R"),
    Denoiser(mean=None, rate=0.25, mode="S"),
    Denoiser(mean=3.0, rate=0.5, mode="X"),
    Denoiser(mean=8.0, rate=0.5, mode="X"),
    Denoiser(mean=64.0, rate=0.15, mode="X"),
    Denoiser(mean=64.0, rate=0.5, mode="X"),
)


@dataclass(frozen=True)
class Span:
    """mean, rate: the one noise, without mode token; or denoisers: several, or `ul2`."""

    name: ClassVar[str] = "span"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 5
    pairs: ClassVar[bool] = False

    mean: float = 3.0
    rate: float = 0.15
    denoisers: tuple[Denoiser, ...] | Literal["ul2"] = ()

    def __post_init__(self) -> None:
        Denoiser(mean=self.mean, rate=self.rate)  # refuses what it cannot be
        if isinstance(self.denoisers, str) and self.denoisers != "ul2":
            raise ValueError(f"denoisers: expected a list or ul2, got {self.denoisers!r}")
        if self.denoisers and (self.mean, self.rate) != (Span.mean, Span.rate):
            raise ValueError("denoisers: mean and rate belong to each of them; leave those of span out")

    @cached_property
    def noises(self) -> tuple[Denoiser, ...]:
        """The denoisers in force."""
        if self.denoisers == "ul2":
            return UL2
        return tuple(self.denoisers) or (Denoiser(mean=self.mean, rate=self.rate),)

    @property
    def density(self) -> float:
        """Noise tokens and their sentinels; of long pieces, where the end mark counts little."""
        total = sum(noise.weight for noise in self.noises)
        return sum(
            noise.weight / total * noise.rate * (1 if noise.mean is None else 1 + 1 / noise.mean)
            for noise in self.noises
        )

    def fit(
        self, remaining: np.ndarray, length: int, lexicon: Lexicon, first: bool = True, last: bool = True
    ) -> int:
        return min(len(remaining), _capacity(self.noises, length, len(lexicon.control.sentinels)))

    def make(self, source: Source, draws: Draws) -> Example:
        noise = self._drawn(draws)
        kept, noisy = noise.lengths(len(source.tokens), draws)
        return self._assemble(source, noise.mode, kept, noisy)

    def _drawn(self, draws: Draws) -> Denoiser:
        noises = self.noises
        if len(noises) == 1:
            return noises[0]
        place = draws.number() * sum(noise.weight for noise in noises)
        for noise in noises:
            place -= noise.weight
            if place < 0:
                return noise
        return noises[-1]

    def _assemble(self, source: Source, mode: str | None, kept: np.ndarray, noisy: np.ndarray) -> Example:
        """Both parts, one behind the other: their text in order, then the sentinels put between."""
        control, runs = source.lexicon.control, len(noisy)
        n, front = len(source.tokens), int(mode is not None)
        run = np.arange(runs)
        prompt = front + n - int(noisy.sum()) + runs
        tokens = np.empty(n + 2 * runs + front, dtype=np.int32)
        is_text = np.ones(len(tokens), dtype=bool)
        places = np.concatenate([front + np.cumsum(kept) + run, prompt + np.cumsum(noisy) - noisy + run])
        is_text[places] = False
        tokens[places] = control.sentinels[:runs] * 2
        if mode is not None:
            tokens[0], is_text[0] = control.modes[mode], False
        is_noise = np.repeat(np.tile([False, True], runs), np.column_stack([kept, noisy]).ravel())
        tokens[is_text] = np.concatenate([source.tokens[~is_noise], source.tokens[is_noise]])

        targets = np.full(len(tokens), IGNORE, dtype=np.int32)
        targets[prompt - 1 : -1] = tokens[prompt:]
        targets[-1] = control.end
        weights = np.zeros(len(tokens), dtype=np.float32)
        weights[prompt - 1 :] = 1
        bound = ramp(len(tokens)).copy()
        bound[:prompt] = prompt - 1
        return Example(tokens, targets, weights, bound, marked(self.id, len(tokens)))


@lru_cache(maxsize=256)
def _capacity(noises: tuple[Denoiser, ...], length: int, sentinels: int) -> int:
    """The most tokens n such that under every denoiser a piece of up to n fits `length` and the sentinels."""
    if sentinels < 1:
        raise ValueError("span: the tokenizer has no sentinel ids")
    n = 1
    while n < length and all(
        noise.positions(n + 1) <= length and noise.amounts(n + 1)[1] <= sentinels for noise in noises
    ):
        n += 1
    return n
