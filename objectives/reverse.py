"""reverse: the text backwards, each token predicting the one that stands before it (UniLM's right-to-left).

The mirror image of causal: a piece x[a:b) reads `after`, x[b−1], …, x[a+1] and predicts x[b−1], …, x[a]; the
piece that opens the document reads its first token too and predicts `begin`.

With `unit: character` the text itself is turned round and encoded anew, which makes 1.7 to 1.9 times the
tokens on English text; the lexicon's `spread` bounds them. A piece whose bytes are no whole characters (it
was cut inside one, or the text holds U+FFFD) is reversed by tokens: no byte of text is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from objectives.draws import Draws, DrawsOfMany
from objectives.example import Example, Lexicon, Objective, Source, next_token

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
        # One position for `begin`, one for a dummy prefix that a foreign tokenizer may put before any text.
        n = int(np.searchsorted(np.cumsum(lexicon.spread[remaining[:length]]), length - 2, side="right"))
        n = max(n, 1)
        return n if n == len(remaining) else _whole(remaining, n, lexicon)

    def make(self, source: Source, draws: Draws) -> Example:
        return next_token([self._run(source)], self.id)[0]

    def make_all(self, sources: Sequence[Source], draws: DrawsOfMany) -> list[Example]:
        return next_token([self._run(source) for source in sources], self.id)

    def _run(self, source: Source) -> np.ndarray:
        """int32 [n+1], or [n+2] where the piece opens its document: `after`, the text backwards, `begin`."""
        backwards = source.tokens[::-1]
        # A single token is never spelt out: so a piece of one token fits whatever its spread.
        if self.unit == "character" and len(backwards) > 1:
            text = source.lexicon.decode(source.tokens)
            if BROKEN not in text:
                backwards = source.lexicon.encode(text[::-1])
        n = len(backwards)
        run = np.empty(n + 1 + source.first, dtype=np.int32)
        run[0] = source.after
        run[1 : n + 1] = backwards
        if source.first:
            run[-1] = source.before
        return run


def _whole(remaining: np.ndarray, n: int, lexicon: Lexicon) -> int:
    """The last border at or before n that does not cut a character spelt in bytes; n where there is none."""
    for border in range(n, max(n - _CHARACTER_BYTES, 0), -1):
        window = remaining[max(border - 2 * _CHARACTER_BYTES, 0) : border]
        if not lexicon.decode(window).endswith(BROKEN):
            return border
    return n
