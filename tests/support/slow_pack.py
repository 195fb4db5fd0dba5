"""Packing as it is plainest, and slowest: what the quick way must be the same as, byte by byte.

Line by line, row by row, one document after the other through webdataset's own TarWriter, in one process. It
was headrace's way until packing at speed; nothing of it is shared with data/prepare/ but the readers of
texts, of .json files and of long lines, and the rule that cuts units.
"""

import io
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import xxhash
import zstandard
from webdataset.writer import TarWriter

from data.access.compression import packing_of, unpack
from data.balance import NAMED, Balance
from data.shards.index import Shard, write
from data.shards.parts import PART, parts
from data.shards.samples import METADATA
from data.shards.text import NotText, decode
from data.shards.units import Size, UnitTableBuilder, runs
from data.sources.documents import Document, Limits, field_of, json_documents, text_document, value_of
from data.sources.long_lines import BLANK, text_of_long_line
from data.sources.long_text import LongText, put_aside
from data.sources.suffixes import LINES, PARQUET, TEXT, Format, format_of


class Sample(NamedTuple):
    """A document on its way into a unit."""

    key: str
    text: bytes
    meta: bytes | None

    def size(self) -> Size:
        """Of its members, by the sizes that they take in a tar."""
        members = [self.text] if self.meta is None else [self.text, self.meta]
        return Size(
            len(self.text),
            sum(512 + -(-len(one) // 512) * 512 for one in members),
            alone=len(self.text) > PART,
        )


def slow_pack(
    files: Iterable[Path | str],
    prefix: Path,
    *,
    field: str = "text",
    zstd: bool = False,
    shard_bytes: int = 1 << 28,
    memory: int = 1 << 23,
    meta: bool = True,
) -> Balance:
    """Pack files into PREFIX-000000.tar … and PREFIX.index; returns the account of the documents."""
    balance = Balance()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    limits = Limits(memory, prefix.parent)
    documents = itertools.chain.from_iterable(read(str(path), field, limits) for path in files)
    shards: list[tuple[Path, Balance]] = []
    table = UnitTableBuilder()
    offset = stored = numbered = 0
    out: Any = None
    for unit in runs(samples(documents, balance, meta), Sample.size):
        if out is None:
            path = prefix.parent / f"{prefix.name}-{len(shards):06d}.tar{'.zst' if zstd else ''}"
            shards.append((path, Balance()))
            out, offset, stored = path.open("wb"), 0, 0
        tar, alone = tar_of(unit), unit[0].size().alone
        pieces = pieces_of(unit[0], tar) if alone else [(tar, True)]
        rows = []
        for data, is_unit in pieces:
            kept = zstandard.ZstdCompressor(level=3).compress(data) if zstd else data
            if is_unit:
                text = len(data) if alone else sum(len(sample.text) for sample in unit)
                begin = int(not rows) if alone else len(unit)
                checksum = xxhash.xxh64_intdigest(data)
                rows.append((len(shards) - 1, begin, offset, len(data), text, checksum, stored, len(kept)))
            out.write(kept)
            offset, stored = offset + len(data), stored + len(kept)
        if alone:
            table.place(unit[0].key, "text", rows)
        else:
            table.rows += rows
        shards[-1][1].used += len(unit)
        if meta:
            named = [f"{sample.key}.json" for sample in unit[:NAMED]]
            shards[-1][1].leave_out(METADATA, named, len(unit))
        numbered += len(unit)
        if offset >= shard_bytes:
            out = finished(out, zstd)
    if out is not None:
        finished(out, zstd)
    kind = "zstd" if zstd else "plain"
    known = [
        Shard(path.name, path.stat().st_size, path.stat().st_mtime_ns, kind, account)
        for path, account in shards
    ]
    write(prefix.with_name(prefix.name + ".index"), known, table.table())
    return balance


def finished(out: Any, zstd: bool) -> None:
    end = bytes(1024)
    out.write(zstandard.ZstdCompressor(level=3).compress(end) if zstd else end)
    out.close()


def tar_of(unit: list[Sample]) -> bytes:
    """The members of a unit, by webdataset."""
    stream = io.BytesIO()
    writer = TarWriter(stream, encoder=False, mtime=0)
    for sample in unit:
        members = {} if sample.meta is None else {"json": sample.meta}
        writer.write({"__key__": sample.key, **members, "txt": sample.text})
    writer.close()
    return stream.getvalue()[: sum(sample.size().tar for sample in unit)]


def pieces_of(sample: Sample, tar: bytes) -> Iterator[tuple[bytes, bool]]:
    """(bytes, whether they are a unit) of a long document."""
    begin = len(tar) - -(-len(sample.text) // 512) * 512
    yield tar[:begin], False
    for _, part in parts(lambda at, length: sample.text[at : at + length], len(sample.text)):
        yield part, True
    if rest := tar[begin + len(sample.text) :]:
        yield rest, False


def samples(documents: Iterable[Document], balance: Balance, meta: bool) -> Iterator[Sample]:
    """Documents with a text, numbered; the others are counted."""
    for document in documents:
        if document.text is None:
            place = document.source if document.line is None else f"{document.source}:{document.line}"
            reason, at, byte = str(document.problem).partition(" at byte ")
            balance.leave_out(reason, [place + at + byte])
            continue
        origin: dict[str, Any] = {"source": document.source}
        if document.line is not None:
            origin["line"] = document.line
        text = document.text.taken() if isinstance(document.text, LongText) else document.text.encode()
        yield Sample(f"{balance.used:09d}", text, json.dumps(origin).encode() if meta else None)
        balance.used += 1


def read(path: str, field: str, limits: Limits) -> Iterator[Document]:
    """The documents of a file."""
    found = False
    for document in _read(path, field, limits):
        found = True
        yield document
    if not found:
        yield Document(path, None, "empty")


def _read(path: str, field: str, limits: Limits) -> Iterator[Document]:
    kind, packing = format_of(path) or Format(TEXT, "plain")
    if kind == PARQUET:
        yield from rows(path, field)
        return
    with open(path, "rb") as file:
        head = file.peek(4)[:4]
        if head and packing_of(head) != packing:
            yield Document(path, None, f"{packing_of(head)} data under a name that says {packing}: rename it")
            return
        chunks = unpack(iter(lambda: file.read(1 << 18), b""), packing)
        if kind == TEXT:
            yield text_document(path, chunks, limits)
        elif kind == LINES:
            yield from lines(path, b"".join(chunks), field, limits)
        else:
            yield from json_documents(path, chunks, field)


def lines(path: str, data: bytes, field: str, limits: Limits) -> Iterator[Document]:
    """One JSON object a line."""
    *whole, last = data.split(b"\n")
    for number, line in enumerate([one + b"\n" for one in whole] + [last] * bool(last), 1):
        if len(line) > limits.memory:
            held = limits.scratch / f"line-{uuid.uuid4().hex}"
            put_aside(held, [line])
            text, problem = text_of_long_line(held, field, limits.scratch, 4 * limits.memory)
            held.unlink()
            if problem != BLANK:
                yield Document(path, text, problem, number)
        elif not line.isspace():
            yield line_document(path, number, line, field)


def line_document(path: str, number: int, line: bytes, field: str) -> Document:
    """One line."""
    try:
        return field_of(path, number, json.loads(decode(line)), field)
    except NotText as error:
        return Document(path, None, str(error), number)
    except (ValueError, RecursionError):
        return Document(path, None, "not JSON", number)


def rows(path: str, field: str) -> Iterator[Document]:
    """The rows of a Parquet file."""
    row = 0
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256, columns=[field]):
        for value in batch.column(0):
            try:
                yield value_of(path, row, value.as_py(), field)
            except UnicodeDecodeError:
                yield Document(path, None, "not UTF-8", row)
            row += 1
