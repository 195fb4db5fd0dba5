"""span: sentinels replace runs of tokens, and the runs are predicted (T5); UL2's mixture of such noises.

    [mode]  x₀ x₁ <s0> x₅ x₆ <s1>      <s0> x₂ x₃ x₄ <s1> x₇   → end
    the corrupted text, bidirectional    the runs, causal; loss on this part and nowhere else

The last position of the corrupted text predicts <s0>; the last token of the last run predicts `end`, which
here means "no more runs". Every source token stands in exactly one of the two parts.

Of n tokens n·rate are noise, rounded up or down at random so that the rate is exact in the mean whatever the
lengths of segments, in round(noise / mean) runs, at least one; kept and noisy tokens fall into that many runs
each, every way equally likely, a kept run first: T5's random_spans_noise_mask. A segment so short that it has
no noise is predicted to have none: `end` follows at once.
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
from objectives.ragged import moved, positions_in, starts_of
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

    def amounts(self, sizes: np.ndarray, uniform: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """int64 [segments] twice: noise tokens and runs of segments of these sizes; without noise or without
        anything else there is one run, of no tokens. uniform: from [0, 1), what is less than a token."""
        noise = np.minimum((sizes * self.rate + uniform).astype(np.int64), sizes)
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

    @property
    def least_room(self) -> int | None:
        """A token, a sentinel on either side, and a mode."""
        return 3 + any(noise.mode is not None for noise in self.noises)

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
        noisy, runs, modes = self._drawn(sources.sizes, sources.tokenizer.control, rng)
        kept = sources.sizes - noisy
        kept_runs, noisy_runs = partition(kept, runs, rng), partition(noisy, runs, rng)
        found = _Runs(runs, kept, noisy, kept_runs, noisy_runs)
        tokens, taken, prompts = _written(sources.text(), found, modes, sources.tokenizer.control)
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
        uniform = rng.numbers()
        noisy, runs, modes = np.empty_like(sizes), np.empty_like(sizes), np.empty_like(sizes)
        for i, noise in enumerate(self.noises):
            own = drawn == i
            noisy[own], runs[own] = noise.amounts(sizes[own], uniform[own])
            modes[own] = -1 if noise.mode is None else control.modes[noise.mode]
        return noisy, runs, modes


@dataclass(frozen=True, slots=True)
class _Runs:
    """How segments fall into runs, a kept one and a noisy one in turn. counts: int64 [segments], runs of
    either kind; kept, noisy: int64 [segments], tokens of either kind; kept_runs, noisy_runs: int64
    [Σ counts], the lengths of the runs."""

    counts: np.ndarray
    kept: np.ndarray
    noisy: np.ndarray
    kept_runs: np.ndarray
    noisy_runs: np.ndarray


def _written(
    text: np.ndarray, runs: _Runs, modes: np.ndarray, control: ControlIds
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ragged int32: the tokens of the segments with marks and sentinels; int64 [segments] twice: how many
    each takes, and how many of these are its prompt. text: ragged int32; modes: ids, −1 for none.

        text       x₀ x₁ x₂ x₃ x₄ x₅ x₆ x₇                   kept runs 2, 2; noisy runs 3, 1
        written    [mode] x₀ x₁ <s0> x₅ x₆ <s1>   <s0> x₂ x₃ x₄ <s1> x₇ end
                   start  kept_at    kept_at           noisy_at      noisy_at
                   ╰────────── prompt ────────╯

    A run's sentinel stands behind the kept one and in front of the noisy one. Where there is no noise there
    is no sentinel: [mode] x₀ … x₇ → end.
    """
    moded = modes >= 0
    marks = np.where(runs.noisy > 0, runs.counts, 0)
    prompts = moded + runs.kept + marks
    taken = prompts + marks + runs.noisy + 1
    start = starts_of(taken)
    kept_at = _run_starts(start + moded, runs.kept, runs.kept_runs, runs.counts)
    noisy_at = _run_starts(start + prompts + 1, runs.noisy, runs.noisy_runs, runs.counts)

    tokens = np.empty(int(taken.sum()), dtype=np.int32)
    tokens[start[moded]] = modes[moded]
    sentinels = np.array(control.sentinels, dtype=np.int32)[positions_in(runs.counts)]
    noised = np.repeat(marks > 0, runs.counts)
    for place in (kept_at + runs.kept_runs, noisy_at - 1):
        tokens[place[noised]] = sentinels[noised]
    tokens[start + taken - 1] = control.end
    goes_to = np.column_stack([kept_at, noisy_at]).ravel()
    tokens[moved(goes_to, np.column_stack([runs.kept_runs, runs.noisy_runs]).ravel())] = text
    return tokens, taken, prompts


def _run_starts(
    begins: np.ndarray, totals: np.ndarray, lengths: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """int64 [Σ counts]: where each run begins in parts that have one sentinel between two runs. Part p begins
    at begins[p] with a run and holds totals[p] tokens in counts[p] runs; lengths: of all runs."""
    return starts_of(lengths) + np.repeat(begins - starts_of(totals), counts) + positions_in(counts)


@lru_cache(maxsize=256)
def _capacity(span: Span, length: int, sentinels: int) -> int:
    """The most tokens n such that under every denoiser a segment of up to n fits `length` and the
    sentinels."""
    if sentinels < 1:
        raise ValueError("span: the tokenizer has no sentinel ids")
    sizes = np.arange(1, length + 1)
    fits = np.ones(length, dtype=bool)
    for noise in span.noises:
        runs = np.maximum(noise.amounts(sizes, 0.0)[1], noise.amounts(sizes, np.nextafter(1, 0))[1])
        fits &= (sizes + 2 * runs + (noise.mode is not None) <= length) & (runs <= sentinels)
    return max(1, int(np.argmin(fits)) if not fits.all() else length)
