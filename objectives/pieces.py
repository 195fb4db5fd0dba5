"""What dressing takes (Rest) and gives (Pieces): token intervals of documents, and Examples made of them.

The pieces of a block lie in a few large arrays; packing takes views of these, and nobody pays for an object a
piece but who looks at one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from objectives.example import Example, Examples

_BYTES_PER_PIECE = 450
"""Of Python's objects and of what is noted of each piece."""


class Rest(NamedTuple):
    """What is left of a document: [start, stop) of `tokens`, the document's whole token array (int32, without
    begin and end). `document`: its index in `document_keys`."""

    document: int
    tokens: np.ndarray
    start: int
    stop: int


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
    """Pieces of one objective (registry id). spans: int64 [spans, 3] (document, start, stop), counts[p] of
    them for each piece."""

    objective: int
    examples: Examples
    spans: np.ndarray
    counts: np.ndarray


Place = tuple[Examples, slice]
"""Where a piece's Example lies: its positions among many."""


class Pieces(Sequence[Piece]):
    """The pieces of a block, as arrays for the packing and one by one for the eye.

    places: where each lies. lengths, objectives: int64 [pieces]. spans: int64 [spans, 3] (document, start,
    stop); those of piece i are span_ends[i] … span_ends[i+1].
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        examples = [batch.examples for batch in batches]
        ids = np.array([batch.objective for batch in batches], dtype=np.int64)
        self._arrays_nbytes = sum(several.nbytes for several in examples)
        self.places: list[Place] = [
            (several, positions)
            for several in examples
            for positions in map(slice, several.starts.tolist(), (several.starts + several.sizes).tolist())
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
        examples, positions = self.places[piece]
        at = piece % len(self)
        rows = self.spans[self.span_ends[at] : self.span_ends[at + 1]].tolist()
        return Piece(int(self.objectives[at]), tuple(Span(*row) for row in rows), examples.at(positions))

    @property
    def nbytes(self) -> int:
        """Bytes held, to about a tenth."""
        return self._arrays_nbytes + _BYTES_PER_PIECE * len(self)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
