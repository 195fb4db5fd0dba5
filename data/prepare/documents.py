"""The documents in a user's files: text, Markdown, Python, JSON, JSON lines, as they are or packed; Parquet.

One reader for each format, each a generator that holds one document (or one batch of Parquet rows) at a time.
The order is that of the inputs as given, files inside a folder or a glob by name, so the same inputs always
give the same documents (data/shards/walk.py). What cannot become a document (not UTF-8, empty, field missing)
is yielded with its problem, so that whoever packs can count it instead of losing it.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.errors import BadInput
from data.prepare.json_values import json_values
from data.prepare.suffixes import LINES, PARQUET, READ, TEXT, Format, format_of, refusal
from data.shards.compression import packing_of, unpack
from data.shards.transports import ShardTrouble
from data.shards.walk import Found, Walk, below, meant, printable, unreadable

_CHUNK = 1 << 18
_SKIPPABLE = b"\x2a\x4d\x18"
"""Behind its first byte: the zstd frame without content that pzstd writes first."""


class Document(NamedTuple):
    """A text and whence it came. `text` is None where `problem` says why there is none."""

    source: str
    text: str | None
    problem: str | None
    line: int | None = None
    """Number of the line (from 1) or row (from 0) of `source`, where it holds many documents."""


def find_files(inputs: Sequence[str | Path]) -> Walk:
    """The files that files, folders and globs name, in order, each once, and what was passed over.

    BadInput for a file that is named and cannot be read, and where there is nothing to read at all.
    """
    walk = Walk(lambda path: refusal(path) or unreadable(path))
    entered: set[tuple[int, int]] = set()
    for entry in map(str, inputs):
        found = meant(entry)
        if not found:
            raise BadInput(f"{printable(entry)}: no such file or folder, and as a glob it matches no file")
        if found[0].path == entry and not found[0].folder:
            _require_readable(found[0])
        for one in found:
            walk.add(below(one.path, entered) if one.folder and not one.reason else [one])
    if not walk.files:
        passed = "".join(f"; {line}" for line in walk.lines())
        raise BadInput(f"{', '.join(map(str, inputs))}: no file with one of {READ} in it{passed}")
    return walk


def _require_readable(file: Found) -> None:
    if reason := file.reason:
        raise BadInput(f"{printable(file.path)}: {reason}, expected a file or a folder")
    if reason := refusal(file.path):
        raise BadInput(f"{printable(file.path)}: is {reason}; expected one of {READ}, or a folder")
    if reason := unreadable(file.path):
        raise BadInput(f"{printable(file.path)}: {reason}")


def read_files(
    paths: Iterable[str], field: str = "text", progress: Callable[[int], None] | None = None
) -> Iterator[Document]:
    """The documents of files, in order. `progress` is told the bytes of each file when it is done."""
    for path in paths:
        document = None
        try:
            for document in _read(path, field):
                yield document
        except OSError as error:
            line = document.line if document else None
            yield Document(path, None, f"cannot be read to its end ({error.strerror or error})", line)
        except ShardTrouble as error:
            behind = "" if document is None else f", after line {document.line}"
            raise BadInput(f"{printable(path)}: {error}{behind}; is it complete?") from error
        if document is None:
            yield Document(path, None, "empty")
        if progress is not None:
            progress(size_of(path))


def size_of(path: str) -> int:
    """Bytes of a file, 0 where it is gone."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _read(path: str, field: str) -> Iterator[Document]:
    """The documents of one file."""
    kind, packing = format_of(path) or Format(TEXT, "plain")
    if kind == PARQUET:
        yield from _parquet(path, field)
        return
    with open(path, "rb") as file:
        head = file.peek(4)[:4]
        found = "zstd" if head[1:] == _SKIPPABLE else packing_of(head)
        if head and found != packing:
            yield Document(path, None, f"{found} data under a name that says {packing}: rename it")
            return
        chunks = unpack(iter(lambda: file.read(_CHUNK), b""), packing)
        if kind == TEXT:
            yield _document(path, b"".join(chunks))
        elif kind == LINES:
            yield from _lines(path, chunks, field)
        else:
            yield from _json(path, chunks, field)


def _document(source: str, data: bytes) -> Document:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Document(source, None, f"not UTF-8 at byte {error.start}")
    return Document(source, text, None) if text else Document(source, None, "empty")


def _lines(path: str, chunks: Iterable[bytes], field: str) -> Iterator[Document]:
    """One JSON object a line. A line that is no JSON is a problem of that line, not of the file."""
    for number, line in enumerate(_split(chunks), 1):
        if not line.isspace():
            yield _json_document(path, number, line, field)


def _json(path: str, chunks: Iterable[bytes], field: str) -> Iterator[Document]:
    """JSON lines, values one behind the other, or an array; `line` is the number of the value."""
    for number, (value, problem) in enumerate(json_values(chunks), 1):
        if problem is not None:
            yield Document(path, None, problem, number)
        else:
            yield _field(path, number, value, field)


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, their ends kept, from chunks that end anywhere."""
    parts: list[bytes] = []
    for chunk in chunks:
        lines = chunk.split(b"\n")
        for line in lines[:-1]:
            yield b"".join(parts) + line + b"\n"
            parts = []
        parts.append(lines[-1])
    if last := b"".join(parts):
        yield last


def _json_document(path: str, number: int, line: bytes, field: str) -> Document:
    try:
        record = json.loads(line)
    except UnicodeDecodeError:
        return Document(path, None, "not UTF-8", number)
    except (ValueError, RecursionError):
        return Document(path, None, "not JSON", number)
    return _field(path, number, record, field)


def _field(path: str, number: int, record: object, field: str) -> Document:
    return _value(path, number, record.get(field) if isinstance(record, dict) else None, field)


def _value(path: str, number: int, text: object, field: str) -> Document:
    if not isinstance(text, str):
        return Document(path, None, f"no text in field '{field}'", number)
    try:
        text.encode()
    except UnicodeEncodeError:
        return Document(path, None, "not UTF-8 (half of a surrogate pair)", number)
    return Document(path, text, None, number) if text else Document(path, None, "empty", number)


def _parquet(path: str, field: str) -> Iterator[Document]:
    try:
        import pyarrow  # the one optional package here: absent unless headrace[parquet] was installed
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput(f"{path}: reading Parquet needs pyarrow: pip install 'headrace[parquet]'") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if field not in file.schema_arrow.names:
            names = ", ".join(file.schema_arrow.names[:10])
            raise BadInput(f"{path}: no column '{field}'; it has {names}: name one with --field")
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[field]):
            for value in batch.column(0):
                try:
                    document = _value(path, row, value.as_py(), field)
                except UnicodeDecodeError:  # Parquet does not hold its writers to the UTF-8 of its strings
                    document = Document(path, None, "not UTF-8", row)
                yield document
                row += 1
    except pyarrow.ArrowException as error:
        raise BadInput(f"{path}: is not a readable Parquet file ({str(error).splitlines()[0]})") from error
