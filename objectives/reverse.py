"""reverse: the text backwards, each token predicting the one that stands before it (UniLM's right-to-left).

The mirror image of causal: a segment x[a:b) reads `after`, x[b−1], …, x[a+1] and predicts x[b−1], …, x[a];
the segment that opens the document reads its first token too and predicts `begin`.

With `unit: character` the text itself is turned round and encoded anew, which makes 1.7 to 1.9 times the
tokens on English text; the tokenizer's `spread` bounds them. A segment is reversed by tokens where its bytes
are no whole characters (it was cut inside one, or the text holds U+FFFD), or turned round it makes more
tokens than `spread` says: no byte of text is lost, and the Example fits whatever a tokenizer does.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from objectives.example import Examples, Sources, TokenizerView, next_token
from objectives.objective import LEAST_ROOM, Objective
from objectives.rng import RngBatch

BROKEN = "\ufffd"
_CHARACTER_BYTES = 4  # the longest UTF-8 form


@dataclass(frozen=True)
class Reverse(Objective):
    """unit: what is turned round, tokens or characters."""

    name: ClassVar[str] = "reverse"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 1
    predicts_text: ClassVar[bool] = True

    unit: Literal["token", "character"] = "token"

    def __post_init__(self) -> None:
        if self.unit not in ("token", "character"):
            raise ValueError(f"unit: expected token or character, got {self.unit!r}")

    @property
    def density(self) -> float:
        """Spelt out anew, a token of English text becomes 1.7 to 1.9 of them, as measured."""
        return 1.0 if self.unit == "token" else 1.8

    @property
    def least_room(self) -> int | None:
        return 2 if self.unit == "token" else LEAST_ROOM

    def fit(
        self,
        remaining: np.ndarray,
        length: int,
        tokenizer: TokenizerView,
        first: bool = True,
        last: bool = True,
    ) -> int:
        if self.unit == "token":
            return min(len(remaining), length - first)
        room = length - 1  # one position for `begin`
        n = int(np.searchsorted(np.cumsum(tokenizer.spread[remaining[:length]]), room, side="right"))
        n = max(n, 1)
        return n if n == len(remaining) else _whole(remaining, n, tokenizer)

    def make_all(self, sources: Sources, rng: RngBatch) -> Examples:
        if self.unit == "character":
            sources = sources.respelt(_spelt(sources.segments(), sources.first, sources.tokenizer))
        # Turned round, `after` stands in front of each segment, and before it what the segment begins with.
        around = sources.around[::-1]
        starts = len(around) - 1 - (sources.starts + sources.sizes)
        return next_token(self.id, around, starts, sources.sizes + sources.first)


def _spelt(segments: list[np.ndarray], first: np.ndarray, tokenizer: TokenizerView) -> list[np.ndarray]:
    """For each segment the tokens which, read from the last to the first, are its text backwards.

    first: bool [segments]: the segment opens its document; any other goes on from text. A single token is
    never spelt out: so a segment of one token fits whatever its spread.
    """
    texts = [
        tokenizer.decode(tokens, inside=not opens) if len(tokens) > 1 else BROKEN
        for tokens, opens in zip(segments, first.tolist())
    ]
    whole = [i for i, text in enumerate(texts) if BROKEN not in text]
    spelt = list(segments)
    for i, backwards in zip(whole, tokenizer.encode_documents([texts[i][::-1] for i in whole], inside=True)):
        if len(backwards) <= tokenizer.spread[segments[i]].sum():
            spelt[i] = backwards[::-1]
    return spelt


def _whole(remaining: np.ndarray, n: int, tokenizer: TokenizerView) -> int:
    """The last border at or before n that does not cut a character spelt in bytes; n where there is none."""
    for border in range(n, max(n - _CHARACTER_BYTES, 0), -1):
        window = remaining[max(border - 2 * _CHARACTER_BYTES, 0) : border]
        if not tokenizer.decode(window).endswith(BROKEN):
            return border
    return n
