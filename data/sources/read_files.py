"""The documents in a user's files as batches: each kind of file by its reader.

What cannot become a document (not UTF-8, empty, field missing) is a problem with its place, so that whoever
packs can count it instead of losing it. A file that cannot be read to its end is one too; packed data that
are cut off or damaged end the pack.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.access.compression import packing_of, unpack
from data.access.trouble import ShardTrouble
from data.errors import BadInput
from data.shards.walk import printable
from data.sources.batch import Batcher, TextBatch
from data.sources.documents import Document, Limits, json_documents, long_document, text_document
from data.sources.json_lines import lines_of, read_lines
from data.sources.parquet import read_parquet
from data.sources.pieces import Piece, size_of
from data.sources.suffixes import LINES, PARQUET, TEXT, Format, format_of

_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads pieces of files, the text of `field` where they hold records."""

    field: str
    limits: Limits

    def __call__(self, task: Iterable[Piece]) -> Iterator[TextBatch]:
        """The documents of some pieces, in order. BadInput for a file that is not what its name says."""
        out = Batcher()
        for piece in task:
            out.begin(piece.path, piece)
            yield from self._piece(piece, out)
        if not out.empty:
            yield out.take()

    def _piece(self, piece: Piece, out: Batcher) -> Iterator[TextBatch]:
        broken = None
        try:
            yield from self._read(piece, out)
        except OSError as error:
            broken = f"cannot be read to its end ({error.strerror or error})"
        except ShardTrouble as error:
            behind = "" if out.last is None else f", after line {out.last}"
            raise BadInput(f"{printable(piece.path)}: {error}{behind}; is it complete?") from error
        if out.open:
            out.end(broken=broken)
        if out.full:
            yield out.take()

    def _read(self, piece: Piece, out: Batcher) -> Iterator[TextBatch]:
        path = piece.path
        kind, packing = format_of(path) or Format(TEXT, "plain")
        if kind == PARQUET:
            yield from read_parquet(piece, self.field, out)
            return
        with open(path, "rb") as file:
            head = file.peek(4)[:4]
            found = packing_of(head)
            if piece.begins and head and found != packing:
                out.problem(None, f"{found} data under a name that says {packing}: rename it")
                return
            if kind == LINES and packing == "plain":
                yield from read_lines(lines_of(file, piece), path, self.field, self.limits, out)
                return
            chunks = unpack(iter(lambda: file.read(_CHUNK), b""), packing)
            if kind == LINES:
                yield from read_lines(chunks, path, self.field, self.limits, out)
            elif kind == TEXT and packing == "plain" and size_of(path) > self.limits.memory:
                out.document(long_document(path, Path(path), temporary=False))
            elif kind == TEXT:
                out.document(text_document(path, chunks, self.limits))
            else:
                yield from _batched(json_documents(path, chunks, self.field), out)


def _batched(documents: Iterable[Document], out: Batcher) -> Iterator[TextBatch]:
    for document in documents:
        out.document(document)
        if out.full:
            yield out.take()
