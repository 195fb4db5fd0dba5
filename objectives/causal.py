"""causal: each token predicts the next one, the end of the document included (GPT).

A piece x[a:b) reads `before`, x[a], …, x[b−2] and predicts x[a], …, x[b−1]; the piece that closes the
document reads its last token too and predicts `end`. So every token of a document is predicted once, wherever
it is cut.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from objectives.draws import DrawsOfMany
from objectives.example import Examples, Lexicon, Objective, Sources, next_token, starts_of


def causal_fit(remaining: int, length: int, last: bool) -> int:
    """Tokens of a causal piece: the closing piece needs one position more than it has tokens."""
    if remaining + last <= length:
        return remaining
    return min(remaining - 1, length)


def causal_runs(sources: Sources) -> tuple[np.ndarray, np.ndarray]:
    """Ragged int32, and its lengths: `before`, the tokens, and `end` where the piece closes its document."""
    return enclosed(sources.text, sources.sizes, sources.before, sources.after, sources.last)


def enclosed(
    text: np.ndarray, sizes: np.ndarray, head: np.ndarray, tail: np.ndarray, with_tail: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ragged text with a token before each piece, and one behind it where `with_tail`; and its lengths."""
    lengths = sizes + 1 + with_tail
    starts = starts_of(lengths)
    ends = (starts + lengths - 1)[with_tail]
    runs = np.empty(int(lengths.sum()), dtype=np.int32)
    is_text = np.ones(len(runs), dtype=bool)
    is_text[starts] = is_text[ends] = False
    runs[is_text] = text
    runs[starts], runs[ends] = head, tail[with_tail]
    return runs, lengths


@dataclass(frozen=True)
class Causal(Objective):
    """No settings."""

    name: ClassVar[str] = "causal"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 0
    pairs: ClassVar[bool] = False
    density: ClassVar[float] = 1.0

    def fit(
        self, remaining: np.ndarray, length: int, lexicon: Lexicon, first: bool = True, last: bool = True
    ) -> int:
        return causal_fit(len(remaining), length, last)

    def make_all(self, sources: Sources, draws: DrawsOfMany) -> Examples:
        return next_token(*causal_runs(sources), self.id)
