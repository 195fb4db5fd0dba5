"""What the example builder takes (Texts) and gives (Segments): the tokens of documents, and Examples made of
them.

The segments of a block lie in a few large arrays; packing takes views of these, and nobody pays for an object
a segment but who looks at one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from objectives.example import ControlIds, Example, Examples
from objectives.ragged import starts_between

_BYTES_PER_SEGMENT = 300
"""Of Python's objects and of what is noted of each segment, measured."""


@dataclass(frozen=True, slots=True)
class Texts(Sequence[np.ndarray]):
    """The tokens of documents, one document behind the other, each between the ids of `begin` and `end`:

        begin x₀ x₁ … end begin y₀ y₁ … end …

    So beside any run of a document stand the token before it and the one behind it, and what reads straight
    on is a view. around: int32, read-only; starts, sizes: int64 [documents], where the tokens of each lie.

    A part of a long document stands here like a document. closes: bool [documents], whether its last token is
    the last of the text; origin: int64 [documents], the first of those that are parts of the same one."""

    around: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    closes: np.ndarray
    origin: np.ndarray

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
    def of(
        documents: Sequence[np.ndarray],
        control: ControlIds,
        closes: np.ndarray | None = None,
        origin: np.ndarray | None = None,
    ) -> "Texts":
        """These documents, copied side by side; each by itself unless it is said which are parts of one."""
        sizes = np.fromiter(map(len, documents), np.int64, len(documents))
        closes = np.ones(len(sizes), dtype=bool) if closes is None else closes
        return Texts.laid(between(documents, control), sizes, closes, origin)

    @staticmethod
    def laid(
        around: np.ndarray, sizes: np.ndarray, closes: np.ndarray, origin: np.ndarray | None = None
    ) -> "Texts":
        """The same of documents that lie side by side already, as `between` lays them."""
        origin = np.arange(len(sizes)) if origin is None else origin
        return Texts(around, starts_between(sizes), sizes, closes, origin)


def between(documents: Sequence[np.ndarray], control: ControlIds) -> np.ndarray:
    """`Texts.around` of these documents. Their bytes are joined by one call of Python's, for numpy's costs as
    much a document as 30 tokens."""
    border = np.array([control.end, control.begin], dtype=np.int32).tobytes()
    exact: list[Any] = [
        tokens if tokens.dtype == np.int32 else tokens.astype(np.int32) for tokens in documents
    ]
    return np.frombuffer(border.join([b"", *exact, b""]), dtype=np.int32)[1:]


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """Source tokens [start, stop) of a document."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A built segment. objective: registry id; spans: the source tokens it uses (a false next-sentence pair
    has two, of two documents)."""

    objective: int
    spans: tuple[SourceSpan, ...]
    example: Example


@dataclass(frozen=True, slots=True)
class SegmentBatch:
    """Segments of one objective. spans: int64 [spans, 3] (document, start, stop), counts[p] of them for each
    segment."""

    examples: Examples
    spans: np.ndarray
    counts: np.ndarray


ExampleSlice = tuple[Examples, slice, int]
"""Where a segment's Example lies: its positions among many, and how many they are."""


class Segments(Sequence[Segment]):
    """The segments of a block, as arrays for the packing and one by one for the eye.

    batches: as they were made; slices: where each lies. lengths, objectives: int64 [segments]. spans: int64
    [spans, 3] (document, start, stop); those of segment i are span_ends[i] … span_ends[i+1]. unusual: whether
    any Examples have weights, bounds or objectives of their own.
    """

    def __init__(self, batches: Sequence[SegmentBatch]) -> None:
        self.batches = tuple(batches)
        examples = [batch.examples for batch in batches]
        ids = np.array([several.maker for several in examples], dtype=np.int64)
        self._arrays_nbytes = sum(several.nbytes for several in examples)
        self.unusual = any(several.unusual for several in examples)
        self.slices: list[ExampleSlice] = [
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

    def __getitem__(self, segment: Any) -> Any:
        if isinstance(segment, slice):
            return [self[i] for i in range(*segment.indices(len(self)))]
        examples, positions, _ = self.slices[segment]
        at = segment % len(self)
        rows = self.spans[self.span_ends[at] : self.span_ends[at + 1]].tolist()
        return Segment(
            int(self.objectives[at]), tuple(SourceSpan(*row) for row in rows), examples.at(positions)
        )

    @property
    def nbytes(self) -> int:
        """Bytes held, to about a tenth."""
        return self._arrays_nbytes + _BYTES_PER_SEGMENT * len(self)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
