"""reverse: the text backwards, each token predicting the one that stands before it (UniLM's right-to-left).

The mirror image of causal: a piece x[a:b) reads `after`, x[b−1], …, x[a+1] and predicts x[b−1], …, x[a]; the
piece that opens the document reads its first token too and predicts `begin`.

With `unit: character` the text itself is turned round and encoded anew, which makes 1.7 to 1.9 times the
tokens on English text; the lexicon's `spread` bounds them. A piece is reversed by tokens where its bytes are
no whole characters (it was cut inside one, or the text holds U+FFFD), or an id that is unknown decodes to
more text than it stands for: no byte of text is lost, and the Example fits whatever a tokenizer does.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from objectives.draws import DrawsOfMany
from objectives.example import Examples, Lexicon, Objective, Sources, next_token

BROKEN = "\ufffd"
_CHARACTER_BYTES = 4  # the longest UTF-8 form


@dataclass(frozen=True)
class Reverse(Objective):
    """unit: what is turned round, tokens or characters."""

    name: ClassVar[str] = "reverse"
    head: ClassVar[str] = "vocabulary"
    id: ClassVar[int] = 1
    pairs: ClassVar[bool] = False

    unit: Literal["token", "character"] = "token"

    def __post_init__(self) -> None:
        if self.unit not in ("token", "character"):
            raise ValueError(f"unit: expected token or character, got {self.unit!r}")

    @property
    def density(self) -> float:
        """Characters: the mean of the measured 1.7 to 1.9 (facts/data.md)."""
        return 1.0 if self.unit == "token" else 1.8

    def fit(
        self, remaining: np.ndarray, length: int, lexicon: Lexicon, first: bool = True, last: bool = True
    ) -> int:
        if self.unit == "token":
            return min(len(remaining), length - first)
        room = length - 1  # one position for `begin`
        n = int(np.searchsorted(np.cumsum(lexicon.spread[remaining[:length]]), room, side="right"))
        n = max(n, 1)
        return n if n == len(remaining) else _whole(remaining, n, lexicon)

    def make_all(self, sources: Sources, draws: DrawsOfMany) -> Examples:
        if self.unit == "character":
            sources = sources.respelt(_spelt(sources.pieces(), sources.first, sources.lexicon))
        # Turned round, `after` stands in front of each piece, and before it what the piece begins with.
        around = sources.around[::-1]
        starts = len(around) - 1 - (sources.starts + sources.sizes)
        return next_token(self.id, around, starts, sources.sizes + sources.first)


def _spelt(pieces: list[np.ndarray], first: np.ndarray, lexicon: Lexicon) -> list[np.ndarray]:
    """For each piece the tokens which, read from the last to the first, are its text backwards.

    first: bool [pieces]: the piece opens its document; any other goes on from text. A single token is never
    spelt out: so a piece of one token fits whatever its spread.
    """
    texts = [
        lexicon.decode(tokens, inside=not opens) if len(tokens) > 1 else BROKEN
        for tokens, opens in zip(pieces, first.tolist())
    ]
    whole = [i for i, text in enumerate(texts) if BROKEN not in text]
    spelt = list(pieces)
    for i, backwards in zip(whole, lexicon.encode_documents([texts[i][::-1] for i in whole], inside=True)):
        if len(backwards) <= lexicon.spread[pieces[i]].sum():
            spelt[i] = backwards[::-1]
    return spelt


def _whole(remaining: np.ndarray, n: int, lexicon: Lexicon) -> int:
    """The last border at or before n that does not cut a character spelt in bytes; n where there is none."""
    for border in range(n, max(n - _CHARACTER_BYTES, 0), -1):
        window = remaining[max(border - 2 * _CHARACTER_BYTES, 0) : border]
        if not lexicon.decode(window).endswith(BROKEN):
            return border
    return n
