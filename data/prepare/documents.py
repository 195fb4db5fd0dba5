"""The documents in a user's files: text, Markdown, Python, JSON lines, Parquet.

One reader for each suffix, each a generator that holds one document (or one batch of Parquet rows) at a time.
The order is that of the inputs as given, files inside a folder or a glob by name, so the same inputs always
give the same documents. What cannot become a document (not UTF-8, empty, field missing) is yielded with its
problem, so that whoever packs can count it instead of losing it.
"""

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.errors import BadInput
from data.shards.compression import unpack
from data.shards.trouble import ShardTrouble

PLAIN = (".txt", ".md", ".py")
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET = (".parquet",)
SUFFIXES = PLAIN + LINES + PARQUET
_CHUNK = 1 << 18


class Document(NamedTuple):
    """A text and whence it came. `text` is None where `problem` says why there is none."""

    source: str
    text: str | None
    problem: str | None
    line: int | None = None
    """Number of the line (from 1) or row (from 0) of `source`, where it holds many documents."""


class Files(NamedTuple):
    """What the inputs named: files to read, and how many were passed over because of their suffix."""

    paths: list[str]
    ignored: int
    repeated: int


def find_files(inputs: Sequence[str | Path]) -> Files:
    """The files that files, folders and globs name, in order, each once. Hidden files are passed over."""
    found: dict[str, str] = {}
    ignored = repeated = 0
    for entry in map(str, inputs):
        if os.path.isdir(entry):
            paths = list(_walk(entry))
        elif os.path.exists(entry):
            if not entry.endswith(SUFFIXES):
                raise BadInput(f"{entry}: cannot be read; expected one of {' '.join(SUFFIXES)}, or a folder")
            paths = [entry]
        else:
            paths = sorted(p for p in glob.glob(entry, recursive=True) if os.path.isfile(p))
            if not paths:
                raise BadInput(f"{entry}: no such file or folder, and as a glob it matches no file")
        for path in paths:
            if not path.endswith(SUFFIXES):
                ignored += 1
            elif (real := os.path.realpath(path)) in found:
                repeated += 1
            else:
                found[real] = path
    if not found:
        raise BadInput(f"{', '.join(map(str, inputs))}: no file with one of {' '.join(SUFFIXES)} in it")
    return Files(list(found.values()), ignored, repeated)


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(parent, name)


def read_files(
    paths: Iterable[str], field: str = "text", progress: Callable[[int], None] | None = None
) -> Iterator[Document]:
    """The documents of files, in order. `progress` is told the bytes of each file when it is done."""
    for path in paths:
        try:
            if path.endswith(PLAIN):
                yield _plain(path)
            elif path.endswith(LINES):
                yield from _lines(path, field)
            else:
                yield from _parquet(path, field)
            size = os.path.getsize(path)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}") from error
        if progress is not None:
            progress(size)


def _plain(path: str) -> Document:
    return _document(path, Path(path).read_bytes())


def _document(source: str, data: bytes) -> Document:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Document(source, None, f"not UTF-8 at byte {error.start}")
    return Document(source, text, None) if text else Document(source, None, "empty")


def _lines(path: str, field: str) -> Iterator[Document]:
    """One JSON object a line. A line that is no JSON is a problem of that line, not of the file."""
    number = 0
    packing = {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix, "plain")
    try:
        with open(path, "rb") as file:
            chunks = unpack(iter(lambda: file.read(_CHUNK), b""), packing)
            for number, line in enumerate(_split(chunks), 1):
                if not line.isspace():
                    yield _json_document(path, number, line, field)
    except ShardTrouble as error:
        raise BadInput(f"{path}: {error}, after line {number}; is it complete?") from error


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
    text = record.get(field) if isinstance(record, dict) else None
    return _value(path, number, text, field)


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
