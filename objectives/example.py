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
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np

from objectives.draws import Draws, DrawsOfMany

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
    split: int = 0
    """Length of the first half of a next-sentence piece; 0 leaves it to the objective."""


@dataclass(frozen=True, slots=True)
class Example:
    """n positions, relative to the first. All arrays have length n ≤ T. They may be read-only views."""

    tokens: np.ndarray  # int32
    targets: np.ndarray  # int32, IGNORE where nothing is predicted
    weights: np.ndarray  # float32, 0 where nothing is predicted
    bound: np.ndarray  # int32, position i attends to 0 … bound[i]
    objective: np.ndarray  # int8, registry id of who made the target; set at every position of the example


class Objective(Protocol):
    """A pretraining objective: a frozen dataclass of its settings, derived from this, with these members."""

    name: ClassVar[str]
    head: ClassVar[str]
    """'vocabulary', or 'pair' for two classes."""
    id: ClassVar[int]
    """Place in the registry: what `Example.objective` holds."""

    @property
    def pairs(self) -> bool:
        """True where some pieces exchange their second halves (next-sentence)."""

    @property
    def density(self) -> float:
        """Expected loss weight per source token: the planned share in `normalise: objective`."""

    def fit(
        self, remaining: np.ndarray, length: int, lexicon: Lexicon, first: bool = True, last: bool = True
    ) -> int:
        """How many tokens of `remaining` (a run of a document, int32) one piece may take from its start so
        that its Example has at most `length` positions whatever is drawn. At least 1. `first`, `last`: the
        run opens, closes its document."""

    def make(self, source: Source, draws: Draws) -> Example:
        """The Example of a piece; a pure function of its arguments."""

    def make_all(self, sources: Sequence[Source], draws: DrawsOfMany) -> list[Example]:
        """The Examples of many pieces, each what `make` gives for it alone. Overridden where many at once
        are quicker."""
        return [self.make(source, draws.of(i)) for i, source in enumerate(sources)]


def concatenate(*parts: Sequence[int] | np.ndarray) -> np.ndarray:
    """int32: token runs one behind the other."""
    return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])


@lru_cache(maxsize=64)
def _shared(kind: str, capacity: int, value: int) -> np.ndarray:
    """A read-only array of which many Examples hold a view: allocating them anew costs more than the text."""
    array: np.ndarray
    if kind == "ramp":
        array = np.arange(capacity, dtype=np.int32)
    else:
        array = np.full(capacity, value, dtype={"weight": np.float32, "objective": np.int8}[kind])
    array.flags.writeable = False
    return array


def ramp(n: int) -> np.ndarray:
    """int32 [n]: 0, 1, …, n−1, the bound of causal positions. Read-only."""
    return _shared("ramp", 1 << n.bit_length(), 0)[:n]


def ones(n: int) -> np.ndarray:
    """float32 [n]: weight one throughout. Read-only."""
    return _shared("weight", 1 << n.bit_length(), 1)[:n]


def marked(objective: int, n: int) -> np.ndarray:
    """int8 [n]: the registry id at every position. Read-only."""
    return _shared("objective", 1 << n.bit_length(), objective)[:n]


def next_token(runs: Sequence[np.ndarray], objective: int) -> list[Example]:
    """The causal Examples in which each token of a run (int32 [n+1]) but the last predicts its successor."""
    longest = max(map(len, runs))
    weights, bound, marks = ones(longest), ramp(longest), marked(objective, longest)
    examples = []
    for run in runs:
        n = len(run) - 1
        examples.append(Example(run[:-1], run[1:], weights[:n], bound[:n], marks[:n]))
    return examples


def continuations(
    tokens: np.ndarray, sizes: np.ndarray, prompts: np.ndarray, objective: int
) -> list[Example]:
    """Examples of prompts seen bidirectionally and their continuations, causal.

    tokens: ragged int32 [Σ sizes]. Of each piece the first prompts[p] ≥ 1 positions are the prompt; its last
    position and all behind it predict the next token. The last token of a piece is a target only.
    """
    ends = np.cumsum(sizes)
    starts = ends - sizes
    place = np.arange(len(tokens), dtype=np.int32) - np.repeat(starts.astype(np.int32), sizes)
    last_of_prompt = np.repeat((prompts - 1).astype(np.int32), sizes)
    predicts = place >= last_of_prompt
    targets = np.full(len(tokens), IGNORE, dtype=np.int32)
    np.copyto(targets[:-1], tokens[1:], where=predicts[:-1])
    weights = predicts.astype(np.float32)
    bound = np.maximum(place, last_of_prompt)
    return [
        Example(tokens[a:b], targets[a:b], weights[a:b], bound[a:b], marked(objective, b - a))
        for a, b in zip(starts.tolist(), (ends - 1).tolist())
    ]
