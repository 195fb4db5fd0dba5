"""What dressing takes (Texts) and gives (Pieces): the tokens of documents, and Examples made of them.

The pieces of a block lie in a few large arrays; packing takes views of these, and nobody pays for an object a
piece but who looks at one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from objectives.example import ControlIds, Example, Examples
from objectives.ragged import starts_between

_BYTES_PER_PIECE = 300
"""Of Python's objects and of what is noted of each piece, measured."""


@dataclass(frozen=True, slots=True)
class Texts(Sequence[np.ndarray]):
    """The tokens of documents, one document behind the other, each between the ids of `begin` and `end`:

        begin x₀ x₁ … end begin y₀ y₁ … end …

    So beside any run of a document stand the token before it and the one behind it, and what reads straight
    on is a view. around: int32, read-only; starts, sizes: int64 [documents], where the tokens of each lie."""

    around: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, document: Any) -> Any:
        if isinstance(document, slice):
            return [self[i] for i in range(*document.indices(len(self)))]
        start = self.starts[document]
        return self.around[start : start + self.sizes[document]]

    def whole(self) -> np.ndarray:
        """int64 [n, 3]: each document that has tokens, as (document, 0, its size)."""
        numbers = np.flatnonzero(self.sizes)
        return np.column_stack([numbers, np.zeros_like(numbers), self.sizes[numbers]])

    @staticmethod
    def of(documents: Sequence[np.ndarray], control: ControlIds) -> "Texts":
        """These documents, copied side by side."""
        sizes = np.fromiter(map(len, documents), np.int64, len(documents))
        border = np.array([control.end, control.begin], dtype=np.int32)
        parts = [border[1:], *chain.from_iterable((tokens, border) for tokens in documents)]
        around = np.concatenate(parts, dtype=np.int32)
        around.flags.writeable = False
        return Texts(around, starts_between(sizes), sizes)


@dataclass(frozen=True, slots=True)
class Span:
    """Source tokens [start, stop) of a document."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A dressed piece. objective: registry id; spans: the source tokens it uses (a false next-sentence pair
    has two, of two documents)."""

    objective: int
    spans: tuple[Span, ...]
    example: Example


@dataclass(frozen=True, slots=True)
class Batch:
    """Pieces of one objective. spans: int64 [spans, 3] (document, start, stop), counts[p] of them for each
    piece."""

    examples: Examples
    spans: np.ndarray
    counts: np.ndarray


Place = tuple[Examples, slice, int]
"""Where a piece's Example lies: its positions among many, and how many they are."""


class Pieces(Sequence[Piece]):
    """The pieces of a block, as arrays for the packing and one by one for the eye.

    places: where each lies. lengths, objectives: int64 [pieces]. spans: int64 [spans, 3] (document, start,
    stop); those of piece i are span_ends[i] … span_ends[i+1].
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        examples = [batch.examples for batch in batches]
        ids = np.array([several.maker for several in examples], dtype=np.int64)
        self._arrays_nbytes = sum(several.nbytes for several in examples)
        self.places: list[Place] = [
            (several, slice(start, start + size), size)
            for several in examples
            for start, size in zip(several.starts.tolist(), several.sizes.tolist())
        ]
        self.lengths: np.ndarray = _joined([several.sizes for several in examples])
        self.objectives: np.ndarray = np.repeat(ids, [len(several) for several in examples])
        self.spans: np.ndarray = _joined([batch.spans for batch in batches]).reshape(-1, 3)
        self.span_ends: np.ndarray = np.append(0, np.cumsum(_joined([batch.counts for batch in batches])))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, piece: Any) -> Any:
        if isinstance(piece, slice):
            return [self[i] for i in range(*piece.indices(len(self)))]
        examples, positions, _ = self.places[piece]
        at = piece % len(self)
        rows = self.spans[self.span_ends[at] : self.span_ends[at + 1]].tolist()
        return Piece(int(self.objectives[at]), tuple(Span(*row) for row in rows), examples.at(positions))

    @property
    def nbytes(self) -> int:
        """Bytes held, to about a tenth."""
        return self._arrays_nbytes + _BYTES_PER_PIECE * len(self)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
