"""fim: the middle of a piece moved to its end: a causal model learns to fill in (Bavarian et al. 2022).

A share `rate` of the pieces is cut at two even places into p, m, s and read as
    PSM   <prefix> p <suffix> s <middle> m        or, for a share `spm` of these,
    SPM   <prefix> <suffix> s <middle> p m        (the paper's SPMv2, which keeps p and m side by side)
Every position predicts the next, marks included, and the last predicts `end`: it tells when the middle is
complete, also in a piece that does not close its document. The other pieces are causal. All stay tokens: the
text is not encoded anew at the cuts. No token is lost or repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from objectives.causal import causal_run
from objectives.draws import Draws, DrawsOfMany
from objectives.example import Example, Lexicon, Objective, Source, next_token

_MARKS = 3


@dataclass(frozen=True)
class Fim(Objective):
    """rate: share of pieces rearranged; spm: share of these with the suffix first."""

    name: ClassVar[str] = "fim"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 6
    pairs: ClassVar[bool] = False
    density: ClassVar[float] = 1.0

    rate: float = 0.5
    spm: float = 0.5

    def __post_init__(self) -> None:
        for name in ("rate", "spm"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")

    def fit(
        self, remaining: np.ndarray, length: int, lexicon: Lexicon, first: bool = True, last: bool = True
    ) -> int:
        return min(len(remaining), length - _MARKS)

    def make(self, source: Source, draws: Draws) -> Example:
        return self.make_all([source], draws.alone())[0]

    def make_all(self, sources: Sequence[Source], draws: DrawsOfMany) -> list[Example]:
        chances = zip(*(draws.numbers().tolist() for _ in range(4)))
        return next_token([self._run(source, *four) for source, four in zip(sources, chances)], self.id)

    def _run(self, source: Source, applied: float, order: float, one: float, other: float) -> np.ndarray:
        """The run of tokens; four numbers in [0, 1) decide whether it is rearranged, how, and where."""
        if applied >= self.rate:
            return causal_run(source)
        tokens, control = source.tokens, source.lexicon.control
        n = len(tokens)
        a, b = sorted((int(one * (n + 1)), int(other * (n + 1))))
        run = np.empty(n + _MARKS + 1, dtype=np.int32)
        run[0], run[-1] = control.fim_prefix, control.end
        if order < self.spm:
            run[1], run[2 + n - b] = control.fim_suffix, control.fim_middle
            run[2 : 2 + n - b], run[3 + n - b : -1] = tokens[b:], tokens[:b]
        else:
            run[1 + a], run[2 + a + n - b] = control.fim_suffix, control.fim_middle
            run[1 : 1 + a], run[2 + a : 2 + a + n - b], run[3 + a + n - b : -1] = (
                tokens[:a],
                tokens[b:],
                tokens[a:b],
            )
        return run
