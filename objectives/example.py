"""What an objective is given (Source), what it makes of it (Example), and what it may know of a tokenizer.
What it says of itself stands in objectives/objective.py.

A document is the token sequence  begin, x₀, …, x₍ₘ₋₁₎, end.  It is cut into segments, each a run x[a:b) of
its tokens, and one objective makes the example of each. `Source` is such a segment with the two tokens around
it, so that an objective can predict every token of the document exactly once without asking where the segment
lies.

An Example is written in positions relative to its own first position; packing lays Examples side by side in
a row of T positions and adds their offset. The model adds no shift of its own: `targets[i]` is what is
predicted *at* position i, and position i may see position j iff 0 ≤ j ≤ bound[i]  (docs/design/rows.md).

A block has hundreds of short segments, and a numpy call costs as much as a hundred tokens. So segments travel
in *ragged* arrays, one behind the other: `Sources` in, `Examples` out. An objective may be written for one
segment or for many at once; what a segment becomes is a function of that segment and its random numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from objectives.ragged import positions_in, runs_of, starts_of, surrounded

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


class TokenizerView(Protocol):
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
        """bool [size]: the id's piece begins a word whatever stands before it: it starts with white space, or
        its script has none between words and it is one."""

    @property
    def joined(self) -> np.ndarray:
        """bool [size]: the id's piece goes on with the character before it (a byte of it, a mark on it)."""

    @property
    def unspaced(self) -> np.ndarray:
        """bool [size]: the id's piece is of a script that writes no blanks between words."""

    @property
    def spread(self) -> np.ndarray:
        """int32 [size]: the most tokens that the id's characters can become when encoded in another order."""

    def encode_documents(self, texts: list[str], *, inside: bool = False) -> list[np.ndarray]:
        """int32 [n] for each text: its ids, without begin and end. inside: the texts go on from others, so no
        blank is put before them (as Llama's and T5's tokenizers do to a document)."""

    def decode(self, tokens: np.ndarray, *, inside: bool = False) -> str:
        """The text of ids; bytes that are no whole character come out as U+FFFD. inside: the ids go on from
        others, so a blank at their front is kept."""


@dataclass(frozen=True, slots=True)
class Source:
    """A segment x[a:b) of a document. tokens: int32 [b−a], at least one."""

    tokens: np.ndarray
    before: int
    """x[a−1], or `begin` where the segment opens the document."""
    after: int
    """x[b], or `end` where the segment closes the document."""
    first: bool
    last: bool
    tokenizer: TokenizerView
    split: int = 0
    """Tokens of the first part, where the objective exchanges second parts; 0 where nothing was decided."""
    foreign: bool = False
    """The tokens from `split` on are the second part of another segment."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Many segments. Segment p is around[starts[p] : starts[p] + sizes[p]]; its `before` and `after` stand
    beside it there, so an objective that reads straight on takes views of `around`. The others take `text()`.

    around: int32, may be read-only and hold much else; starts, sizes: int64 [segments]; the rest is one value
    a segment, named as in Source."""

    around: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    last: np.ndarray
    split: np.ndarray
    foreign: np.ndarray
    tokenizer: TokenizerView

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def before(self) -> np.ndarray:
        """int32 [segments]."""
        return self.around[self.starts - 1]

    @property
    def after(self) -> np.ndarray:
        """int32 [segments]."""
        return self.around[self.starts + self.sizes]

    def segments(self) -> list[np.ndarray]:
        """The tokens of each segment, as views."""
        return runs_of(self.around, self.starts, self.sizes)

    def text(self) -> np.ndarray:
        """Ragged int32 [Σ sizes]: the tokens of the segments and nothing else."""
        return np.concatenate(self.segments())

    def singly(self) -> Iterator[Source]:
        """The segments one by one."""
        around = zip(self.before.tolist(), self.after.tolist(), self.first.tolist(), self.last.tolist())
        halves = zip(self.split.tolist(), self.foreign.tolist())
        for tokens, (before, after, first, last), (split, foreign) in zip(self.segments(), around, halves):
            yield Source(tokens, before, after, first, last, self.tokenizer, split, foreign)

    def respelt(self, segments: Sequence[np.ndarray]) -> "Sources":
        """The same with other tokens in place of each segment's own."""
        around, starts, sizes = surrounded(segments, self.before, self.after)
        return replace(self, around=around, starts=starts, sizes=sizes)

    @staticmethod
    def of(sources: Sequence[Source]) -> "Sources":
        """Several segments as one."""
        around, starts, sizes = surrounded(
            [source.tokens for source in sources],
            np.array([source.before for source in sources]),
            np.array([source.after for source in sources]),
        )
        return Sources(
            around=around,
            starts=starts,
            sizes=sizes,
            first=np.array([source.first for source in sources]),
            last=np.array([source.last for source in sources]),
            split=np.array([source.split for source in sources]),
            foreign=np.array([source.foreign for source in sources]),
            tokenizer=sources[0].tokenizer,
        )


@dataclass(frozen=True, slots=True)
class Example:
    """n positions, relative to the first. All arrays have length n ≤ T. They may be read-only views."""

    tokens: np.ndarray  # int32
    targets: np.ndarray  # int32, IGNORE where nothing is predicted
    weights: np.ndarray  # float32, 0 where nothing is predicted
    bound: np.ndarray  # int32, position i attends to 0 … bound[i]
    objective: np.ndarray  # int8, registry id of who made the target; set at every position of the example


ARRAYS = tuple(field.name for field in fields(Example))
"""The names of an Example's arrays."""


@dataclass(frozen=True, slots=True)
class Examples(Sequence[Example]):
    """Many Examples: segment p has the positions [starts[p], starts[p] + sizes[p]) of each array. There may
    be gaps between segments, and the arrays may be views of what others hold too.

    maker: registry id of the objective; starts, sizes: int64 [segments]. An array that says only what is
    usual is left out: of weights, that each target weighs 1; of bound, that i attends to 0 … i; of objective,
    that the maker made every target."""

    maker: int
    starts: np.ndarray
    sizes: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None = None
    bound: np.ndarray | None = None
    objective: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, segment: Any) -> Any:
        if isinstance(segment, slice):
            return [self[i] for i in range(*segment.indices(len(self)))]
        return self.at(slice(int(self.starts[segment]), int(self.starts[segment] + self.sizes[segment])))

    @property
    def unusual(self) -> bool:
        """Whether an array is there that may be left out."""
        return self.weights is not None or self.bound is not None or self.objective is not None

    def at(self, positions: slice) -> Example:
        """The Example at these positions, complete."""
        tokens, targets = self.tokens[positions], self.targets[positions]
        n = len(tokens)
        return Example(
            tokens,
            targets,
            usual_weights(targets) if self.weights is None else self.weights[positions],
            np.arange(n, dtype=np.int32) if self.bound is None else self.bound[positions],
            np.full(n, self.maker, dtype=np.int8) if self.objective is None else self.objective[positions],
        )

    @property
    def nbytes(self) -> int:
        """Bytes held: an array of which several are views once, read-only ones, which others hold, never."""
        arrays = [array for name in ARRAYS if (array := getattr(self, name)) is not None]
        owners = [array if array.base is None else array.base for array in arrays if array.flags.writeable]
        return sum(owner.nbytes for owner in {id(owner): owner for owner in owners}.values())

    @staticmethod
    def of(maker: int, examples: Sequence[Example]) -> "Examples":
        """Several Examples of one objective as one."""
        sizes = np.array([len(example.tokens) for example in examples])
        arrays = {name: np.concatenate([getattr(example, name) for example in examples]) for name in ARRAYS}
        return Examples(maker, starts_of(sizes), sizes, **arrays)


def usual_weights(targets: np.ndarray) -> np.ndarray:
    """float32: 1 where something is predicted, else 0."""
    return (targets >= 0).astype(np.float32)


def next_token(maker: int, text: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> Examples:
    """The causal Examples in which the tokens text[starts[p] : starts[p] + sizes[p]] each predict their
    successor. Inputs and targets are views of the text (int32), so that nothing is copied."""
    return Examples(maker, starts, sizes, text[:-1], text[1:])


def continuations(maker: int, runs: np.ndarray, lengths: np.ndarray, prompts: np.ndarray) -> Examples:
    """Of each run each token but the last predicts its successor; but the first prompts[p] ≥ 1 see one
    another, and of them only the last predicts. runs: ragged int32 [Σ lengths], lengths ≥ 2."""
    causal = next_token(maker, runs, starts_of(lengths), lengths - 1)
    position = positions_in(lengths)[:-1]
    last_of_prompt = np.repeat((prompts - 1).astype(np.int32), lengths)[:-1]
    targets = np.where(position >= last_of_prompt, causal.targets, np.int32(IGNORE))
    return replace(causal, targets=targets, bound=np.maximum(position, last_of_prompt))
