"""Text into WebDataset shards and their unit index: `headrace data pack`.

The parent reads documents, names them by running numbers and cuts them into units; workers turn batches of
units into tar bytes with webdataset's TarWriter; the parent appends these to the shards in order. Cutting
depends on the documents alone and every member carries mtime 0, so the shards are the same bytes for any
number of workers, today and next year.

Everything is written into a folder of its own beside the target and renamed at the end, the index last: an
interrupted pack leaves no shard, and no index vouches for a part.
"""

import glob
import io
import itertools
import json
import os
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import xxhash
from webdataset.writer import TarWriter

from data.balance import Balance
from data.durable import folder_aside, writing
from data.errors import BadInput
from data.prepare import builtin
from data.prepare.documents import Document, Limits, find_files, read_files, size_of
from data.prepare.long_text import LongText
from data.prepare.parallel import MEMORY_MIB, Progress, ordered_map
from data.prepare.shard_writer import ShardWriter, WrittenUnit, compressed
from data.shards.index import Shard, fingerprint, write
from data.shards.parts import PART, parts
from data.shards.tar_fields import BLOCK, padded
from data.shards.units import UNIT_TEXT, Size, runs, unit_text_for
from data.shards.walk import Walk, printable

SHARD_BYTES = 1 << 28
_COPIES = 16
"""Of a document, about, while it is read, packed and on its way from one process to another."""
_BATCH_BYTES = 1 << 20


@dataclass
class PackReport:
    """What was packed. `walk`: the files that were read and what was passed over, None where no file was
    named."""

    index: Path
    shards: list[Path] = field(default_factory=list)
    units: int = 0
    unit_text: int = UNIT_TEXT
    text_bytes: int = 0
    fingerprint: str = ""
    balance: Balance = field(default_factory=Balance)
    """Of the documents: those packed, and those that could not be."""
    walk: Walk | None = None

    @property
    def samples(self) -> int:
        """Documents packed."""
        return self.balance.used


class _Entry(NamedTuple):
    """A sample on its way into a unit."""

    key: str
    text: bytes | LongText
    meta: bytes

    def size(self) -> Size:
        """Of its two members: a header and whole blocks of content for each. A long text is alone."""
        text = len(self.text)
        return Size(text, sum(BLOCK + padded(length) for length in (text, len(self.meta))), alone=text > PART)


def pack(
    inputs: Sequence[str | Path],
    prefix: str | Path,
    *,
    field: str = "text",
    zstd: bool = False,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    memory_mib: int = MEMORY_MIB,
    unit_text: int | None = None,
    progress: Progress | None = None,
) -> PackReport:
    """Pack files, folders, globs and `builtin:code|prose` into PREFIX-000000.tar … and PREFIX.index.

    field: where the text is in .jsonl and .parquet. zstd: write .tar.zst, one frame a unit. shard_bytes: a
    shard is closed when its tar exceeds this. memory_mib: about what is held of the inputs; of a longer text
    or line no more than a part is, but in .json and .parquet, whose values are read whole. unit_text: bytes
    of text that a unit aims at; by default what `unit_text_for` says of the inputs' bytes. progress: called
    with (bytes done, bytes in all) of the inputs. Raises BadInput where the target exists or an input cannot
    be read.
    """
    names = [str(entry) for entry in inputs if str(entry).startswith("builtin:")]
    others = [entry for entry in inputs if not str(entry).startswith("builtin:")]
    documents: Iterator[Document] = itertools.chain.from_iterable(
        builtin.documents(name.removeprefix("builtin:")) for name in names
    )
    walk = find_files(others) if others else None
    if walk is not None:
        size = sum(map(size_of, walk.files))
        unit_text, total = unit_text or unit_text_for(size), None if names else size
        limits = Limits(
            max(PART, (memory_mib << 20) // (_COPIES * (workers + 1))), _part_folder(Path(prefix))
        )
        read = read_files(walk.files, field, limits, _running(progress, total))
        documents = itertools.chain(documents, read)
    report = pack_documents(
        documents, prefix, zstd=zstd, shard_bytes=shard_bytes, workers=workers, unit_text=unit_text
    )
    report.walk = walk
    return report


def _running(progress: Progress | None, total: int | None) -> Callable[[int], None] | None:
    """A callback that adds up what it is told and passes the sum on."""
    if progress is None:
        return None
    done = 0

    def add(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    return add


def pack_documents(
    documents: Iterable[Document],
    prefix: str | Path,
    *,
    zstd: bool = False,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    unit_text: int | None = None,
) -> PackReport:
    """Pack documents into PREFIX-000000.tar … and PREFIX.index; see `pack`."""
    if str(prefix).endswith("/") or Path(prefix).name in ("", ".."):
        example = os.path.join(prefix, "mine")
        raise BadInput(f"--out {str(prefix)!r}: expected the beginning of file names, such as {example}")
    prefix = Path(prefix)
    _refuse_existing(prefix)
    part = _part_folder(prefix)
    report = PackReport(index=prefix.with_name(prefix.name + ".index"), unit_text=unit_text or UNIT_TEXT)
    with writing(prefix):
        _sweep(prefix)
    with writing(prefix), folder_aside(part):
        units = ordered_map(_Packer(zstd), _batches(_entries(documents, report), unit_text), workers)
        writer = ShardWriter(part, prefix.name, ".tar.zst" if zstd else ".tar", shard_bytes)
        for packed in itertools.chain.from_iterable(units):
            if isinstance(packed, _Entry):
                _place(writer, packed)
            else:
                writer.add(packed)
        writer.close()
        if not writer.paths:
            raise BadInput(f"{prefix}: no document to pack" + _because(report))
        _publish(prefix, writer, zstd, report)
    return report


def _part_folder(prefix: Path) -> Path:
    """Where everything is made before it gets its name."""
    return prefix.parent / f".{prefix.name}.part-{socket.gethostname()}-{os.getpid()}"


def _because(report: PackReport) -> str:
    reasons = "; ".join(report.balance.reasons()[:3])
    return f": {reasons}" if reasons else ""


def _refuse_existing(prefix: Path) -> None:
    """BadInput where anything of this name is there already: pack never overwrites."""
    pattern = glob.escape(str(prefix))
    there = sorted(glob.glob(pattern + "-[0-9]*.tar*") + glob.glob(pattern + ".index"))
    if there:
        raise BadInput(f"{there[0]}: exists already; choose another --out or remove it first")


def _sweep(prefix: Path) -> None:
    """Remove what a killed pack of this name on this host left behind; its process number may be ours."""
    start = f".{prefix.name}.part-{socket.gethostname()}-"
    for folder in prefix.parent.glob(glob.escape(start) + "*"):
        pid = folder.name.removeprefix(start)
        if pid.isdigit() and (int(pid) == os.getpid() or not Path(f"/proc/{pid}").exists()):
            shutil.rmtree(folder, ignore_errors=True)


def _entries(documents: Iterable[Document], report: PackReport) -> Iterator[_Entry]:
    """Number the documents that hold text, count the others."""
    for document in documents:
        if document.text is None:
            source = printable(document.source)
            place = source if document.line is None else f"{source}:{document.line}"
            reason, at, byte = str(document.problem).partition(" at byte ")
            report.balance.leave_out(reason, [place + at + byte])
            continue
        origin: dict[str, str | int] = {"source": document.source}
        if document.line is not None:
            origin["line"] = document.line
        meta = json.dumps(origin, ensure_ascii=True).encode()
        text = document.text.encode() if isinstance(document.text, str) else document.text
        if isinstance(text, LongText) and text.size <= PART:  # of a long line, the rest of it
            text = text.taken()
        yield _Entry(f"{report.samples:09d}", text, meta)
        report.balance.used += 1


def _batches(entries: Iterable[_Entry], unit_text: int | None) -> Iterator[list[list[_Entry]]]:
    """Units in batches that are worth sending to another process."""
    batch: list[list[_Entry]] = []
    waiting = 0
    for unit in runs(entries, _Entry.size, unit_text):
        batch.append(unit)
        waiting += sum(entry.size().tar for entry in unit if not isinstance(entry.text, LongText))
        if waiting >= _BATCH_BYTES:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


class _Packer:
    """Units of samples → their bytes. A class and no closure, so that it reaches a worker process."""

    def __init__(self, zstd: bool) -> None:
        self.zstd = zstd

    def __call__(self, batch: list[list[_Entry]]) -> list[WrittenUnit | _Entry]:
        """The long documents as they came: their parts are made where they are written."""
        return [entries[0] if entries[0].size().alone else self._unit(entries) for entries in batch]

    def _unit(self, entries: list[_Entry]) -> WrittenUnit:
        stream = io.BytesIO()
        writer = TarWriter(stream, encoder=False, mtime=0)
        for entry in entries:
            writer.write({"__key__": entry.key, "json": entry.meta, "txt": entry.text})
        writer.close()
        length = sum(entry.size().tar for entry in entries)
        tar = stream.getvalue()
        data, end = tar[:length], tar[length:]  # without the end mark: more units follow
        if len(end) < 2 * BLOCK or end.strip(b"\0"):
            raise RuntimeError(
                f"webdataset laid {len(entries)} samples out in other than {length} bytes of tar"
            )
        stored = compressed(data) if self.zstd else data
        text_bytes = sum(len(entry.text) for entry in entries)
        return WrittenUnit(stored, length, len(entries), text_bytes, xxhash.xxh64_intdigest(data))


def _place(writer: ShardWriter, entry: _Entry) -> None:
    """Write a long document part by part, its members laid out as webdataset lays out those of others."""
    text = entry.text
    size = len(text)
    front = _header(entry.key, "json", len(entry.meta)) + entry.meta + _padding(len(entry.meta))
    read = text.read if isinstance(text, LongText) else lambda offset, length: text[offset : offset + length]
    pieces = (_unchanged(text, data) for _, data in parts(read, size))
    writer.place(entry.key, front + _header(entry.key, "txt", size), pieces, _padding(size))
    if isinstance(text, LongText):
        text.done()


def _unchanged(text: bytes | LongText, part: bytes) -> bytes:
    """The part, which is UTF-8 as the text was when it was looked at. BadInput where it is no more."""
    try:
        part.decode()
    except UnicodeDecodeError as error:
        assert isinstance(text, LongText)
        raise BadInput(f"{text.path}: has changed while it was packed; pack it again") from error
    return part


def _header(key: str, suffix: str, size: int) -> bytes:
    info = tarfile.TarInfo(f"{key}.{suffix}")
    info.size, info.mtime, info.mode = size, 0, 0o444
    info.uname = info.gname = "bigdata"
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(length: int) -> bytes:
    return bytes(padded(length) - length)


def _publish(prefix: Path, writer: ShardWriter, zstd: bool, report: PackReport) -> None:
    """Rename the shards to their final names, then write the index."""
    _refuse_existing(prefix)  # another pack may have finished meanwhile
    shards = []
    for path, balance in zip(writer.paths, writer.balances):
        target = prefix.parent / path.name
        path.rename(target)
        status = target.stat()
        packing = "zstd" if zstd else "plain"
        shards.append(Shard(target.name, status.st_size, status.st_mtime_ns, packing, balance))
        report.shards.append(target)
    table = writer.table()
    write(report.index, shards, table, unit_text=report.unit_text)
    report.units = len(table)
    report.text_bytes = int(table.units["text_bytes"].sum())
    report.fingerprint = fingerprint(table.units)
