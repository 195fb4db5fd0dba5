"""The texts in a column of a Parquet file, taken from its buffers: rows by the thousand, no object for each.

Arrow holds a column of strings as one run of bytes and the offsets of each, which is what a batch holds too.
Only where there is something that is no plain text (null, not UTF-8, empty, a mark in front, a column of
another kind) rows are looked at one by one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from data.errors import BadInput
from data.shards.parts import PART
from data.sources.batch import BATCH, Batcher, TextBatch
from data.sources.documents import Document, value_of
from data.sources.pieces import Piece, RowGroup

_MARKS = b"\xef\xbb\xbf", b"\0"
"""What only a look at the text itself can judge."""
_MOST_ROWS = 4096


def row_groups(path: str) -> list[RowGroup]:
    """Those of a file, by its footer."""
    with _opened(path) as file:
        metadata = file.metadata
        return [
            RowGroup(group.num_rows, group.total_byte_size)
            for group in map(metadata.row_group, range(metadata.num_row_groups))
        ]


def read_parquet(piece: Piece, field: str, out: Batcher) -> Iterator[TextBatch]:
    """The rows of a piece."""
    with _opened(piece.path) as file:
        if field not in file.schema_arrow.names:
            names = ", ".join(file.schema_arrow.names[:10])
            raise BadInput(f"{piece.path}: no column '{field}'; it has {names}: name one with --field")
        last = file.metadata.num_row_groups if piece.stop is None else piece.stop
        chosen = list(range(piece.first, last))
        row = piece.row or 0
        for batch in file.iter_batches(_rows_at_once(file, chosen), chosen, [field], use_threads=False):
            yield from _column(batch.column(0), piece.path, field, row, out)
            row += len(batch)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """A pyarrow.parquet.ParquetFile; whatever Arrow finds wrong within is one line."""
    try:
        import pyarrow  # the one optional package here: absent unless headrace[parquet] was installed
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput(f"{path}: reading Parquet needs pyarrow: pip install 'headrace[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowException as error:
        raise BadInput(f"{path}: is not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _rows_at_once(file: Any, groups: list[int]) -> int:
    """As many rows as have about the text of a batch."""
    metadata = [file.metadata.row_group(group) for group in groups]
    each = sum(one.total_byte_size for one in metadata) / max(sum(one.num_rows for one in metadata), 1)
    return int(min(max(BATCH / max(each, 1), 16), _MOST_ROWS))


def _column(column: Any, path: str, field: str, row: int, out: Batcher) -> Iterator[TextBatch]:
    """The values of a column, its first in row `row`."""
    numbers = range(row, row + len(column))
    texts = _texts(column)
    if texts is not None and not _odd(*texts):
        yield from out.joined(*texts, numbers)
        return
    for number, value in zip(numbers, column):
        try:
            document = value_of(path, number, value.as_py(), field)
        except UnicodeDecodeError:  # Parquet does not hold its writers to the UTF-8 of its strings
            document = Document(path, None, "not UTF-8", number)
        out.document(document)
        if out.full:
            yield out.take()


def _texts(column: Any) -> tuple[bytes, np.ndarray] | None:
    """(bytes of all values, bytes of each) of a column of strings without nulls; None for another."""
    import pyarrow

    offsets = {pyarrow.string(): "<i4", pyarrow.large_string(): "<i8"}.get(column.type)
    if offsets is None or column.null_count or not len(column):
        return None
    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid:
        return None
    _, where, data = column.buffers()
    kind = np.dtype(offsets)
    ends = np.frombuffer(where, kind, len(column) + 1, column.offset * kind.itemsize).astype(np.int64)
    first, last = int(ends[0]), int(ends[-1])
    return (data.slice(first, last - first).to_pybytes() if last > first else b""), np.diff(ends)


def _odd(data: bytes, sizes: np.ndarray) -> bool:
    """Whether a text among these has to be looked at."""
    return bool(sizes.min() == 0 or sizes.max() > PART) or any(mark in data for mark in _MARKS)
