"""JSON lines, a chunk of whole lines at once: what json.loads says of each line, at less than its price.

A chunk is decoded once and each value is scanned where it stands in it: no copy of the line, no search for
blanks around it. A line of which that is not the whole truth (bad JSON, blanks, a mark in front, a value that
goes on in the next line, bytes that are no UTF-8) is asked again by itself, and json.loads decides.
"""

import itertools
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data.shards.parts import PART
from data.shards.text import NotText, decode
from data.sources.batch import Batcher, TextBatch
from data.sources.documents import Document, Limits, field_of
from data.sources.long_lines import BLANK, text_of_long_line
from data.sources.long_text import put_aside
from data.sources.pieces import Piece

_CHUNK = 1 << 19
_MARK = b"\xef\xbb\xbf"
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def lines_of(file: BinaryIO, piece: Piece) -> Iterator[bytes]:
    """The bytes of the lines that begin in a piece of a file, in chunks."""
    begin = piece.first
    if begin:
        begin = _next_line(file, begin, piece.stop)
    file.seek(begin)
    ended = True
    while piece.stop is None or begin < piece.stop:
        chunk = file.read(_CHUNK if piece.stop is None else min(_CHUNK, piece.stop - begin))
        if not chunk:
            return
        yield chunk
        begin += len(chunk)
        ended = chunk.endswith(b"\n")
    while not ended and (chunk := file.read(_CHUNK)):  # the last line goes on behind the piece
        line, end, _ = chunk.partition(b"\n")
        yield line + end
        ended = bool(end)


def _next_line(file: BinaryIO, begin: int, stop: int | None) -> int:
    """Where the first line from `begin` on begins; `stop` or beyond where none does before it."""
    at = begin - 1  # a line that ends there lets the next one begin at `begin`
    file.seek(at)
    while chunk := file.read(_CHUNK):
        found = chunk.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(chunk)
        if stop is not None and at >= stop:
            return stop
    return at


def read_lines(
    chunks: Iterable[bytes], path: str, field: str, limits: Limits, out: Batcher
) -> Iterator[TextBatch]:
    """The documents of lines of JSON; a line that is no JSON is a problem of that line, not of the file.

    Ends the source in `out`, with the number of its lines.
    """
    number = 0
    for lines in _whole_lines(chunks, limits):
        if isinstance(lines, Path):
            number += 1
            text, problem = text_of_long_line(lines, field, limits.scratch, 4 * limits.memory)
            lines.unlink()
            if problem != BLANK:
                out.document(Document(path, text, problem, number))
        else:
            number = _read(lines, number, path, field, out)
        if out.full:
            yield out.take()
    out.end(number)


def _whole_lines(chunks: Iterable[bytes], limits: Limits) -> Iterator[bytes | Path]:
    """Runs of whole lines from chunks that end anywhere; of a line that is too long a file with it."""
    parts: list[bytes] = []
    size, waiting = 0, b""
    chunks = iter(chunks)
    while chunk := waiting or next(chunks, b""):
        waiting = b""
        if end := chunk.rfind(b"\n") + 1:
            parts.append(chunk[:end])
            yield b"".join(parts)
            parts, size = [], 0
            chunk = chunk[end:]
        parts.append(chunk)
        size += len(chunk)
        if size > limits.memory:
            ending = _Until(itertools.chain(parts, chunks))
            path = limits.scratch / f"held-{uuid.uuid4().hex}"
            put_aside(path, ending)
            yield path
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


def _read(lines: bytes, number: int, path: str, field: str, out: Batcher) -> int:
    """Read whole lines, the first of which follows line `number`; the number of the last."""
    try:
        chunk = lines.decode()
    except UnicodeDecodeError:
        *whole, last = lines.split(b"\n")
        for line in [*(one + b"\n" for one in whole), *([last] if last else [])]:
            number += 1
            _ask(line, number, path, field, out)
        return number
    texts: list[bytes] = []
    numbers: list[int] = []
    at, length = 0, len(chunk)
    find, scan = chunk.find, _scan
    while at < length:
        number += 1
        stop = find("\n", at)
        if stop < 0:
            stop = length
        try:
            record, end = scan(chunk, at)
            if end == stop or chunk[end:stop] == "\r":
                text = record[field].encode()
                if text and len(text) <= PART and b"\0" not in text and not text.startswith(_MARK):
                    texts.append(text)
                    numbers.append(number)
                    at = stop + 1
                    continue
        except (StopIteration, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            pass  # json.loads says what it is
        out.texts(texts, numbers)
        texts, numbers = [], []
        _ask(chunk[at : stop + 1].encode(), number, path, field, out)
        at = stop + 1
    out.texts(texts, numbers)
    return number


def _ask(line: bytes, number: int, path: str, field: str, out: Batcher) -> None:
    """One line, as json.loads reads it; a blank one is passed over."""
    if line.isspace():
        return
    try:
        document = field_of(path, number, json.loads(decode(line)), field)
    except NotText as error:
        document = Document(path, None, str(error), number)
    except (ValueError, RecursionError):
        document = Document(path, None, "not JSON", number)
    out.document(document)
