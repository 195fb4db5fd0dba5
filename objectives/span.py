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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

import numpy as np

from objectives.draws import Draws, DrawsOfMany
from objectives.example import Example, Lexicon, Objective, Source, continuations
from objectives.noise import partition, places_in, starts_of


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
class Span(Objective):
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
        return self.make_all([source], draws.alone())[0]

    def make_all(self, sources: Sequence[Source], draws: DrawsOfMany) -> list[Example]:
        control = sources[0].lexicon.control
        sizes = np.array([len(source.tokens) for source in sources])
        noises = self._drawn(len(sources), draws)
        amounts = np.array([noise.amounts(n) for noise, n in zip(noises, sizes.tolist())])
        modes = np.array([-1 if noise.mode is None else control.modes[noise.mode] for noise in noises])
        noisy, runs = amounts.T
        kept_runs = partition(sizes - noisy, runs, draws)
        noisy_runs = partition(noisy, runs, draws)

        # A piece takes its mode, its tokens, two sentinels a run, and `end`, which is a target only.
        moded = modes >= 0
        prompts = moded + sizes - noisy + runs
        taken = prompts + noisy + runs + 1
        starts, run = starts_of(taken), places_in(runs)
        behind_kept = np.cumsum(kept_runs) + np.repeat(starts + moded - starts_of(sizes - noisy), runs) + run
        before_noisy = starts_of(noisy_runs) + np.repeat(starts + prompts - starts_of(noisy), runs) + run
        tokens = np.empty(int(taken.sum()), dtype=np.int32)
        tokens[starts[moded]] = modes[moded]
        tokens[behind_kept] = tokens[before_noisy] = np.array(control.sentinels, dtype=np.int32)[run]
        tokens[starts + taken - 1] = control.end
        # The text alternates between kept and noisy runs; each moves as a whole.
        lengths = np.column_stack([kept_runs, noisy_runs]).ravel()
        goes_to = np.column_stack([behind_kept - kept_runs, before_noisy + 1]).ravel()
        place = np.repeat(goes_to - starts_of(lengths), lengths) + np.arange(int(sizes.sum()))
        tokens[place] = np.concatenate([source.tokens for source in sources])
        return continuations(tokens, taken, prompts, self.id)

    def _drawn(self, pieces: int, draws: DrawsOfMany) -> list[Denoiser]:
        """A denoiser for each piece, by weight."""
        if len(self.noises) == 1:
            return [self.noises[0]] * pieces
        ends = np.cumsum([noise.weight for noise in self.noises])
        drawn = np.searchsorted(ends[:-1], draws.numbers() * ends[-1], side="right")
        return [self.noises[i] for i in drawn.tolist()]


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
