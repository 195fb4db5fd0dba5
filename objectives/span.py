"""span: sentinels replace runs of tokens, and the runs are predicted (T5); UL2's mixture of such noises.

    [mode]  x₀ x₁ <s0> x₅ x₆ <s1>      <s0> x₂ x₃ x₄ <s1> x₇   → end
    the corrupted text, bidirectional    the runs, causal; loss on this part and nowhere else

The last position of the corrupted text predicts <s0>; the last token of the last run predicts `end`, which
here means "no more runs". Every source token stands in exactly one of the two parts.

Of n tokens round(n·rate) are noise, in round(noise / mean) runs, at least one each; kept and noisy tokens
fall into that many runs each, every way equally likely, a kept run first: T5's random_spans_noise_mask.
`denoisers` lists several such noises with weights, one of which is drawn per segment; each may put a mode
token in front. A denoiser without a mean has one run, at the end: UL2's S, a prefix LM. `denoisers: ul2`
stands for the seven of the UL2 paper (Tay et al. 2022, table 1), equally weighted.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

import numpy as np

from objectives.example import ControlIds, Examples, Sources, TokenizerView, continuations
from objectives.noise import partition
from objectives.objective import Objective
from objectives.ragged import positions_in, starts_of
from objectives.rng import RngBatch


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

    def amounts(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [segments] twice: noise tokens and runs of segments of these sizes, by T5's rounding. A
        single token is all noise."""
        noise = np.maximum(1, np.minimum(np.rint(sizes * self.rate).astype(np.int64), sizes - 1))
        if self.mean is None:
            return noise, np.ones_like(noise)
        runs = np.rint(noise / self.mean).astype(np.int64)
        return noise, np.maximum(1, np.minimum(np.minimum(runs, noise), sizes - noise))


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
        """Noise tokens and their sentinels; of long segments, where the end mark counts little."""
        total = sum(noise.weight for noise in self.noises)
        return sum(
            noise.weight / total * noise.rate * (1 if noise.mean is None else 1 + 1 / noise.mean)
            for noise in self.noises
        )

    def fit(
        self,
        remaining: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        first: bool = True,
        last: bool = True,
    ) -> int:
        return min(len(remaining), _capacity(self, length, len(tokenizer.control.sentinels)))

    def make_all(self, sources: Sources, rng: RngBatch) -> Examples:
        control, sizes = sources.tokenizer.control, sources.sizes
        noisy, runs, modes = self._drawn(sizes, control, rng)
        kept_runs = partition(sizes - noisy, runs, rng)
        noisy_runs = partition(noisy, runs, rng)

        # A segment takes its mode, its tokens, two sentinels a run, and `end`, which is a target only.
        moded = modes >= 0
        prompts = moded + sizes - noisy + runs
        taken = prompts + noisy + runs + 1
        starts, run = starts_of(taken), positions_in(runs)
        behind_kept = np.cumsum(kept_runs) + np.repeat(starts + moded - starts_of(sizes - noisy), runs) + run
        before_noisy = starts_of(noisy_runs) + np.repeat(starts + prompts - starts_of(noisy), runs) + run
        tokens = np.empty(int(taken.sum()), dtype=np.int32)
        tokens[starts[moded]] = modes[moded]
        tokens[behind_kept] = tokens[before_noisy] = np.array(control.sentinels, dtype=np.int32)[run]
        tokens[starts + taken - 1] = control.end
        # The text alternates between kept and noisy runs; each moves as a whole.
        lengths = np.column_stack([kept_runs, noisy_runs]).ravel()
        goes_to = np.column_stack([behind_kept - kept_runs, before_noisy + 1]).ravel()
        position = np.repeat(goes_to - starts_of(lengths), lengths) + np.arange(int(sizes.sum()))
        tokens[position] = sources.text()
        return continuations(self.id, tokens, taken, prompts)

    def _drawn(
        self, sizes: np.ndarray, control: ControlIds, rng: RngBatch
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 [segments] thrice: noise tokens, runs, and the mode's id or −1, by the denoiser that each
        segment draws."""
        drawn = np.zeros(len(sizes), dtype=np.int64)
        if len(self.noises) > 1:
            ends = np.cumsum([noise.weight for noise in self.noises])
            drawn = np.searchsorted(ends[:-1], rng.numbers() * ends[-1], side="right")
        noisy, runs, modes = np.empty_like(sizes), np.empty_like(sizes), np.empty_like(sizes)
        for i, noise in enumerate(self.noises):
            own = drawn == i
            noisy[own], runs[own] = noise.amounts(sizes[own])
            modes[own] = -1 if noise.mode is None else control.modes[noise.mode]
        return noisy, runs, modes


@lru_cache(maxsize=256)
def _capacity(span: Span, length: int, sentinels: int) -> int:
    """The most tokens n such that under every denoiser a segment of up to n fits `length` and the
    sentinels."""
    if sentinels < 1:
        raise ValueError("span: the tokenizer has no sentinel ids")
    sizes = np.arange(1, length + 1)
    fits = np.ones(length, dtype=bool)
    for noise in span.noises:
        runs = noise.amounts(sizes)[1]
        fits &= (sizes + 2 * runs + (noise.mode is not None) <= length) & (runs <= sentinels)
    return max(1, int(np.argmin(fits)) if not fits.all() else length)
