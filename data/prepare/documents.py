"""The documents in a user's files: text, Markdown, Python, JSON, JSON lines, as they are or packed; Parquet.

One reader for each format, each a generator that holds one document (or one batch of Parquet rows) at a time.
The order is that of the inputs as given, files inside a folder or a glob by name, so the same inputs always
give the same documents (data/shards/walk.py). What cannot become a document (not UTF-8, empty, field missing)
is yielded with its problem, so that whoever packs can count it instead of losing it.
"""

import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.errors import BadInput
from data.prepare.json_values import json_values
from data.prepare.long_lines import BLANK, text_of_long_line
from data.prepare.long_text import LongText, not_utf8_at, put_aside
from data.prepare.suffixes import LINES, PARQUET, READ, TEXT, Format, format_of, refusal
from data.shards.compression import packing_of, unpack
from data.shards.text import WIDE, NotText, decode, is_wide, mark_bytes, unmarked
from data.shards.trouble import ShardTrouble
from data.shards.walk import Found, Walk, below, meant, printable, unreadable

_CHUNK = 1 << 18


class Document(NamedTuple):
    """A text and whence it came. `text` is None where `problem` says why there is none."""

    source: str
    text: str | LongText | None
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


@dataclass(frozen=True, slots=True)
class Limits:
    """What is held of a document. memory: a text or a line of more bytes goes by way of a file in
    `scratch`."""

    memory: int
    scratch: Path


def read_files(
    paths: Iterable[str], field: str, limits: Limits, progress: Callable[[int], None] | None = None
) -> Iterator[Document]:
    """The documents of files, in order. `progress` is told the bytes of each file when it is done."""
    for path in paths:
        document = None
        try:
            for document in _read(path, field, limits):
                yield document
        except OSError as error:
            line = document.line if document else None
            document = Document(path, None, f"cannot be read to its end ({error.strerror or error})", line)
            yield document
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


def _read(path: str, field: str, limits: Limits) -> Iterator[Document]:
    """The documents of one file."""
    kind, packing = format_of(path) or Format(TEXT, "plain")
    if kind == PARQUET:
        yield from _parquet(path, field)
        return
    with open(path, "rb") as file:
        head = file.peek(4)[:4]
        found = packing_of(head)
        if head and found != packing:
            yield Document(path, None, f"{found} data under a name that says {packing}: rename it")
            return
        chunks = unpack(iter(lambda: file.read(_CHUNK), b""), packing)
        if kind == TEXT and packing == "plain" and size_of(path) > limits.memory:
            yield _long_document(path, Path(path), temporary=False)
        elif kind == TEXT:
            yield _text(path, chunks, limits)
        elif kind == LINES:
            yield from _lines(path, chunks, field, limits)
        else:
            yield from _json(path, chunks, field)


def _text(path: str, chunks: Iterator[bytes], limits: Limits) -> Document:
    """A file that is one document."""
    held = _held(chunks, limits)
    return _document(path, held) if isinstance(held, bytes) else _long_document(path, held, temporary=True)


def _held(chunks: Iterable[bytes], limits: Limits) -> bytes | Path:
    """All these bytes, or the file in which they are because they are too many."""
    parts, size = [], 0
    chunks = iter(chunks)
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > limits.memory:
            path = limits.scratch / f"held-{uuid.uuid4().hex}"
            put_aside(path, itertools.chain(parts, chunks))
            return path
    return b"".join(parts)


def _document(source: str, data: bytes) -> Document:
    try:
        text = decode(data)
    except NotText as error:
        return Document(source, None, str(error) if error.at is None else f"{error} at byte {error.at}")
    return Document(source, text, None) if text else Document(source, None, "empty")


def _long_document(source: str, held: Path, temporary: bool) -> Document:
    with held.open("rb") as file:
        head = file.read(_CHUNK)
        start = mark_bytes(head)
        file.seek(0)
        at = not_utf8_at(file)
        size = file.seek(0, os.SEEK_END) - start
    if at is None and not is_wide(head):
        return Document(source, LongText(str(held), start, size, temporary), None)
    if temporary:
        held.unlink()
    if at is None:
        return Document(source, None, WIDE)
    return _document(source, head) if at < len(head) else Document(source, None, f"not UTF-8 at byte {at}")


def _lines(path: str, chunks: Iterable[bytes], field: str, limits: Limits) -> Iterator[Document]:
    """One JSON object a line. A line that is no JSON is a problem of that line, not of the file."""
    for number, line in enumerate(_split(chunks, limits), 1):
        if isinstance(line, Path):
            text, problem = text_of_long_line(line, field, limits.scratch, 4 * limits.memory)
            line.unlink()
            if problem != BLANK:
                yield Document(path, text, problem, number)
        elif not line.isspace():
            yield _json_document(path, number, line, field)


def _split(chunks: Iterable[bytes], limits: Limits) -> Iterator[bytes | Path]:
    """Lines, their ends kept, from chunks that end anywhere; of a line that is too long a file with it."""
    parts: list[bytes] = []
    size, waiting = 0, b""
    chunks = iter(chunks)
    while chunk := waiting or next(chunks, b""):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield b"".join(parts) + line + b"\n"
            parts, size = [], 0
        parts.append(rest)
        size, waiting = size + len(rest), b""
        if size > limits.memory:
            ending = _Until(itertools.chain(parts, chunks))
            yield _held(ending, limits)
            parts, size, waiting = [], 0, ending.rest
    if last := b"".join(parts):
        yield last


class _Until:
    """Chunks up to the first line end in them; `rest` is then what stood behind it."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.rest = b""

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            line, end, self.rest = chunk.partition(b"\n")
            yield line + end
            if end:
                return


def _json(path: str, chunks: Iterable[bytes], field: str) -> Iterator[Document]:
    """JSON lines, values one behind the other, or an array; `line` is the number of the value."""
    for number, (value, problem) in enumerate(json_values(chunks), 1):
        if problem is not None:
            yield Document(path, None, problem, number)
        else:
            yield _field(path, number, value, field)


def _json_document(path: str, number: int, line: bytes, field: str) -> Document:
    try:
        record = json.loads(decode(line))
    except NotText as error:
        return Document(path, None, str(error), number)
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
    text = unmarked(text)
    if "\0" in text and is_wide(text[:1024].encode()):
        return Document(path, None, WIDE, number)
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
