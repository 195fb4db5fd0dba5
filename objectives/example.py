"""What an objective is given (Source), what it makes of it (Example), and what it may know of a tokenizer.

A document is the token sequence  begin, x₀, …, x₍ₘ₋₁₎, end.  It is cut into pieces, each a run x[a:b) of its
tokens, and each piece is dressed by one objective. `Source` is such a piece with the two tokens around it, so
that an objective can predict every token of the document exactly once without asking where the piece lies.

An Example is written in positions relative to its own first position; packing lays Examples side by side in
a row of T positions and adds their offset. The model adds no shift of its own: `targets[i]` is what is
predicted *at* position i, and position i may see position j iff 0 ≤ j ≤ bound[i]  (DESIGN §3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from objectives.draws import Draws

IGNORE = -1
"""Target of a position at which nothing is predicted."""


@dataclass(frozen=True, slots=True)
class ControlIds:
    """Ids that no text can produce. `sentinels` are the ids of <s0>, <s1>, …; `modes` maps R, S, X to ids."""

    pad: int
    begin: int
    end: int
    mask: int
    cls: int
    sep: int
    fim_prefix: int
    fim_middle: int
    fim_suffix: int
    modes: dict[str, int]
    sentinels: tuple[int, ...]


class Lexicon(Protocol):
    """What objectives may know of the tokenizer."""

    @property
    def size(self) -> int:
        """Number of ids, control ids included."""

    @property
    def control(self) -> ControlIds: ...

    @property
    def ordinary(self) -> np.ndarray:
        """int32: the ids that stand for text, from which `mlm` draws random replacements."""

    @property
    def word_start(self) -> np.ndarray:
        """bool [size]: the id's piece begins a word (it starts with white space, or follows none)."""

    @property
    def spread(self) -> np.ndarray:
        """int32 [size]: the most tokens that the id's characters can become when encoded in another order."""

    def encode(self, text: str) -> np.ndarray:
        """int32 [n]: the ids of a text, without begin and end."""

    def decode(self, tokens: np.ndarray) -> str:
        """The text of ids; bytes that are no whole character come out as U+FFFD."""


@dataclass(frozen=True, slots=True)
class Source:
    """A piece x[a:b) of a document. tokens: int32 [b−a], at least one."""

    tokens: np.ndarray
    before: int
    """x[a−1], or `begin` where the piece opens the document."""
    after: int
    """x[b], or `end` where the piece closes the document."""
    first: bool
    last: bool
    lexicon: Lexicon
    neighbour: "Source | None" = None
    """The piece whose second half a false next-sentence pair takes."""


@dataclass(frozen=True, slots=True)
class Example:
    """n positions, relative to the first. All arrays have length n ≤ T."""

    tokens: np.ndarray  # int32
    targets: np.ndarray  # int32, IGNORE where nothing is predicted
    weights: np.ndarray  # float32, 0 where nothing is predicted
    bound: np.ndarray  # int32, position i attends to 0 … bound[i]
    objective: np.ndarray  # int8, registry id of who made the target; set at every position of the example


class Objective(Protocol):
    """One pretraining objective: a frozen dataclass of its settings with these members."""

    name: ClassVar[str]
    head: ClassVar[str]
    """'vocabulary', or 'pair' for two classes."""
    pairs: ClassVar[bool]
    """True where half of the pieces exchange their second halves (next-sentence)."""

    @property
    def density(self) -> float:
        """Expected loss weight per source token: the planned share in `normalise: objective`."""

    def fit(self, remaining: np.ndarray, length: int, lexicon: Lexicon) -> int:
        """How many tokens of `remaining` (the rest of a document, int32) one piece may take so that its
        Example has at most `length` positions whatever is drawn. At least 1."""

    def make(self, source: Source, draws: Draws) -> Example:
        """The Example of a piece; a pure function of its arguments."""


def concatenate(*parts: Sequence[int] | np.ndarray) -> np.ndarray:
    """int32: token runs one behind the other."""
    return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])
