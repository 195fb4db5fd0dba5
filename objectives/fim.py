"""fim: the middle of a segment moved to its end: a causal model learns to fill in (Bavarian et al. 2022).

A share `rate` of the segments is cut at two even positions into p, m, s and read as
    PSM   <prefix> p <suffix> s <middle> m        or, for a share `spm` of these,
    SPM   <prefix> <suffix> s <middle> p m        (the paper's SPMv2, which keeps p and m side by side)
Every position predicts the next, marks included, and the last predicts `end`: it tells when the middle is
complete, also in a segment that does not close its document. The other segments are causal. All stay tokens:
the text is not encoded anew at the cuts. No token is lost or repeated.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from objectives.example import Examples, Sources, TokenizerView, next_token
from objectives.objective import Objective
from objectives.ragged import moved, starts_of
from objectives.rng import RngBatch

_MARKS = 3  # and `end` behind the middle, which is a target only


@dataclass(frozen=True)
class Fim(Objective):
    """rate: share of segments rearranged; spm: share of these with the suffix first."""

    name: ClassVar[str] = "fim"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 6
    density: ClassVar[float] = 1.0
    least_room: ClassVar[int | None] = _MARKS + 1

    rate: float = 0.5
    spm: float = 0.5

    def __post_init__(self) -> None:
        for name in ("rate", "spm"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")

    def fit(
        self,
        remaining: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        first: bool = True,
        last: bool = True,
    ) -> int:
        return min(len(remaining), length - _MARKS)

    def make_all(self, sources: Sources, rng: RngBatch) -> Examples:
        text, sizes, control = sources.text(), sources.sizes, sources.tokenizer.control
        applied, suffix_first = rng.numbers() < self.rate, rng.numbers() < self.spm
        one, other = ((rng.numbers() * (sizes + 1)).astype(np.int64) for _ in range(2))
        p, m, s = np.minimum(one, other), np.abs(one - other), sizes - np.maximum(one, other)

        # Each segment is one token in front, its parts with the marks between them, and what ends it:
        #
        #   PSM      <prefix> p p p <suffix> s s <middle> m m end
        #   SPM      <prefix> <suffix> s s <middle> p p p m m end
        #   causal   before   p p p m m s s (end)                    end: where it closes its document
        #
        # prefix_at, suffix_at and middle_at are where the first p, s and m stand.
        lengths = sizes + 1 + np.where(applied, _MARKS, sources.last)
        starts = starts_of(lengths)
        psm, spm = applied & ~suffix_first, applied & suffix_first
        prefix_at = starts + 1 + spm * (2 + s)
        middle_at = prefix_at + p + psm * (2 + s)
        suffix_at = np.where(applied, starts + 2 + psm * p, middle_at + m)
        parts = np.column_stack([p, m, s]).ravel()
        goes_to = np.column_stack([prefix_at, middle_at, suffix_at]).ravel()
        runs = np.empty(int(lengths.sum()), dtype=np.int32)
        runs[moved(goes_to, parts)] = text
        runs[starts] = np.where(applied, control.fim_prefix, sources.before)
        runs[(suffix_at - 1)[applied]] = control.fim_suffix
        runs[(suffix_at + s)[applied]] = control.fim_middle
        ended = applied | sources.last
        runs[(starts + lengths - 1)[ended]] = control.end
        return next_token(self.id, runs, starts, lengths - 1)
