"""The documents in a user's files: text, Markdown, Python, JSON, JSON lines, as they are or packed; Parquet.

One reader for each format, each a generator that holds one document (or one batch of Parquet rows) at a time.
The order is that of the inputs as given, files inside a folder or a glob by name, so the same inputs always
give the same documents (data/shards/walk.py). What cannot become a document (not UTF-8, empty, field missing)
is yielded with its problem, so that whoever packs can count it instead of losing it.
"""

import itertools
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.errors import BadInput
from data.shards.text import WIDE, NotText, decode, is_wide, mark_bytes, unmarked
from data.shards.walk import Found, Walk, below, meant, printable, unreadable
from data.sources.json_values import json_values
from data.sources.long_text import LongText, not_utf8_at, put_aside
from data.sources.suffixes import READ, refusal

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


def text_document(path: str, chunks: Iterator[bytes], limits: Limits) -> Document:
    """A file that is one document."""
    held = _held(chunks, limits)
    return _document(path, held) if isinstance(held, bytes) else long_document(path, held, temporary=True)


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


def long_document(source: str, held: Path, temporary: bool) -> Document:
    """A text that is too long to be held; temporary: the file was made for it alone."""
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


def json_documents(path: str, chunks: Iterable[bytes], field: str) -> Iterator[Document]:
    """JSON lines, values one behind the other, or an array; `line` is the number of the value."""
    for number, (value, problem) in enumerate(json_values(chunks), 1):
        if problem is not None:
            yield Document(path, None, problem, number)
        else:
            yield field_of(path, number, value, field)


def field_of(path: str, number: int, record: object, field: str) -> Document:
    """The document in a JSON value: the text of one field."""
    return value_of(path, number, record.get(field) if isinstance(record, dict) else None, field)


def value_of(path: str, number: int, text: object, field: str) -> Document:
    """The document that a value is, if it is a text."""
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
