"""Documents on their way from their readers to the packer: many at once, their texts joined.

A document by itself costs more to hand on than to read. So readers give batches: one run of bytes with all
texts in it, how long each is, and for each stretch of the same source where its documents stand and which
have no text:

    data      "first textsecond texta third one"
    sizes      10         11         11
    stretches  a.jsonl: 2 documents, of lines 1 and 3; line 2 is not JSON │ b.txt: 1 document

A text longer than a part is not joined to the others: it becomes units of its own and may lie on the disk.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data.shards.parts import PART
from data.sources.documents import Document
from data.sources.long_text import LongText
from data.sources.pieces import Piece

BATCH = 1 << 21
"""Bytes of text after which a batch is full."""
MOST = 3 * BATCH
"""Bytes that the joined texts of a batch never exceed: a full one, a chunk of lines and a part more."""
_DOCUMENTS = 1 << 14
"""After so many documents a batch is full too."""


class Stretch(NamedTuple):
    """Neighbours of one source. numbers: int64 of the lines or rows of those with a text, None where the
    source is one document. problems: (line or row, why there is no text), None for what has no line.

    piece: of which piece of a file they are, None where of none; ended: whether it is read, after `lines`
    lines; broken: it could not be read to its end, the last problem says why.
    """

    source: str
    documents: int
    numbers: np.ndarray | None
    problems: Sequence[tuple[int | None, str]]
    piece: Piece | None = None
    ended: bool = False
    lines: int = 0
    broken: bool = False


class TextBatch(NamedTuple):
    """See above. sizes: int64 bytes of each text; long: those that are not in `data`, by number."""

    data: bytes | memoryview
    sizes: np.ndarray
    long: dict[int, bytes | LongText]
    stretches: list[Stretch]


class Batcher:
    """Takes documents in order; `take` gives them as a batch. `begin` and `end` are called around those of a
    source."""

    def __init__(self) -> None:
        self._clear()
        self._source: str | None = None
        self._piece: Piece | None = None
        self._last: int | None = None

    def _clear(self) -> None:
        self._texts: list[bytes] = []
        self._sizes: list[int] = []
        self._long: dict[int, bytes | LongText] = {}
        self._stretches: list[Stretch] = []
        self._bytes = self._before = 0
        self._numbers: list[int] = []
        self._problems: list[tuple[int | None, str]] = []

    def begin(self, source: str, piece: Piece | None = None) -> None:
        """What follows is of this source."""
        self._source, self._piece, self._last = source, piece, None

    def text(self, text: bytes | LongText, number: int | None) -> None:
        """A document."""
        if len(text) > PART:
            self._long[len(self._sizes)] = text
        else:
            assert isinstance(text, bytes)
            self._texts.append(text)
        self._sizes.append(len(text))
        self._bytes += len(text)
        if number is not None:
            self._numbers.append(number)

    def texts(self, texts: list[bytes], numbers: Sequence[int]) -> None:
        """Documents that are no longer than a part."""
        sizes = list(map(len, texts))
        self._texts += texts
        self._sizes += sizes
        self._bytes += sum(sizes)
        self._numbers += numbers

    def joined(self, data: bytes, sizes: np.ndarray, numbers: range) -> Iterator[TextBatch]:
        """Documents that are no longer than a part, joined already; gives the batches that became full."""
        ends = np.cumsum(sizes)
        borders = [0, *np.searchsorted(ends, np.arange(BATCH, len(data), BATCH)).tolist(), len(sizes)]
        for first, stop in pairwise(borders):
            start = int(ends[first - 1]) if first else 0
            end = int(ends[stop - 1]) if stop else 0
            self._texts.append(data[start:end])
            self._sizes += sizes[first:stop].tolist()
            self._bytes += end - start
            self._numbers += numbers[first:stop]
            if self.full:
                yield self.take()

    def problem(self, number: int | None, what: str) -> None:
        """What cannot become a document."""
        self._problems.append((number, what))

    def document(self, document: Document) -> None:
        """One of either."""
        if document.text is None:
            self.problem(document.line, str(document.problem))
        else:
            text = document.text.encode() if isinstance(document.text, str) else document.text
            if isinstance(text, LongText) and text.size <= PART:  # of a long line, the rest of it
                text = text.taken()
            self.text(text, document.line)

    def end(self, lines: int = 0, broken: str | None = None) -> None:
        """The source was read; it had so many lines. broken: why not to its end."""
        if broken is not None:
            self.problem(None, broken)
        self._close(True, lines, broken is not None)

    def _close(self, ended: bool, lines: int = 0, broken: bool = False) -> None:
        count = len(self._sizes) - self._before
        numbers = np.array(self._numbers, np.int64) if self._numbers else None
        if self._source is not None and (count or self._problems or ended):
            self._stretches.append(
                Stretch(self._source, count, numbers, self._problems, self._piece, ended, lines, broken)
            )
        self._last = self.last
        self._before = len(self._sizes)
        self._numbers, self._problems = [], []
        if ended:
            self._source = None

    @property
    def last(self) -> int | None:
        """The line or row of the last document of this source so far, None where it has none."""
        fresh = [*self._numbers[-1:], *(number for number, _ in self._problems[-1:] if number is not None)]
        return max(fresh, default=self._last)

    @property
    def open(self) -> bool:
        """Whether a source was begun and not ended."""
        return self._source is not None

    @property
    def full(self) -> bool:
        """Whether it is time to take a batch."""
        return self._bytes >= BATCH or len(self._sizes) >= _DOCUMENTS or len(self._problems) >= _DOCUMENTS

    @property
    def empty(self) -> bool:
        """Whether a batch would have nothing to say."""
        return not (self._sizes or self._stretches or self._problems)

    def take(self) -> TextBatch:
        """What was taken since the last time."""
        self._close(False)
        sizes = np.array(self._sizes, np.int64)
        batch = TextBatch(b"".join(self._texts), sizes, self._long, self._stretches)
        self._clear()
        return batch


def batches(documents: Iterable[Document]) -> Iterator[TextBatch]:
    """Documents of any making as batches."""
    out = Batcher()
    for document in documents:
        out.begin(document.source)
        out.document(document)
        out.end()
        if out.full:
            yield out.take()
    if not out.empty:
        yield out.take()
