"""Text into WebDataset shards and their unit index: `headrace data pack`.

    files ──▶ pieces ──read──▶ batches ──Layout──▶ jobs ──build──▶ units ──ShardWriter──▶ shards, index
    pieces.py      read_files.py      layout.py        unit_bytes.py     shard_writer.py

Reading and building are done by as many processes as there are workers (pipeline.py). What decides where a
document goes is its size and its place in the inputs alone, and every member carries mtime 0, so the shards
are the same bytes for any number of workers, today and next year.

Everything is written into a folder of its own beside the target and renamed at the end, the index last: an
interrupted pack leaves no shard, and no index vouches for a part.
"""

import glob
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.balance import Balance
from data.durable import folder_aside, writing
from data.errors import BadInput
from data.prepare.layout import Layout, LongDocument
from data.prepare.parallel import MEMORY_MIB, Progress
from data.prepare.pipeline import pipeline
from data.prepare.shard_writer import ShardWriter, key_of
from data.prepare.unit_bytes import UnitBuilder, header
from data.shards.index import Shard, fingerprint, write
from data.shards.parts import PART, parts
from data.shards.tar_fields import padded
from data.shards.units import UNIT_TEXT, unit_text_for
from data.shards.walk import Walk
from data.sources import builtin
from data.sources.batch import TextBatch, batches
from data.sources.documents import Document, Limits, find_files
from data.sources.long_text import LongText
from data.sources.parquet import row_groups
from data.sources.pieces import PIECE, WHOLE, PackShare, inputs_id, sizes_of, tasks
from data.sources.read_files import FileReader

SHARD_BYTES = 1 << 28
_COPIES = 16
"""Of a document, about, while it is read, packed and on its way from one process to another."""


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


@dataclass(frozen=True, slots=True)
class PackOptions:
    """How shards are written. zstd: .tar.zst, one frame a unit. shard_bytes: a shard is closed when its tar
    exceeds this. meta: a .json with its source beside each text. share: which part of the inputs is packed;
    its number stands in the names of shards and in keys. unit_text: bytes of text that a unit aims at, None:
    the usual. inputs: what the parts share, by which those of other inputs are known."""

    zstd: bool = False
    shard_bytes: int = SHARD_BYTES
    meta: bool = True
    share: PackShare = WHOLE
    unit_text: int | None = None
    inputs: str | None = None


def pack(
    inputs: Sequence[str | Path],
    prefix: str | Path,
    *,
    field: str = "text",
    zstd: bool = False,
    shard_bytes: int = SHARD_BYTES,
    meta: bool = True,
    share: PackShare = WHOLE,
    workers: int = 1,
    memory_mib: int = MEMORY_MIB,
    unit_text: int | None = None,
    progress: Progress | None = None,
) -> PackReport:
    """Pack files, folders, globs and `builtin:code|prose` into PREFIX-000000.tar … and PREFIX.index.

    field: where the text is in .jsonl and .parquet. zstd … share: see PackOptions; of n parts, part i writes
    PREFIX-IofN-000000.tar … and PREFIX-IofN.index. memory_mib: about what is held of the inputs; of a longer
    text or line no more than a part is, but in .json and .parquet, whose values are read whole. unit_text:
    bytes of text that a unit aims at; by default what `unit_text_for` says of the bytes of all inputs.
    progress: called with (bytes done, bytes in all) of the inputs. Raises BadInput where the target exists or
    an input cannot be read.
    """
    names = [str(entry) for entry in inputs if str(entry).startswith("builtin:")]
    others = [entry for entry in inputs if not str(entry).startswith("builtin:")]
    if names and share.named:
        raise BadInput(f"{names[0]}: is small and not packed in parts; leave --part away")
    walk = find_files(others) if others else None
    files = walk.files if walk is not None else []
    sizes = sizes_of(files)
    inputs_told = inputs_id(files, sizes, field) if share.named else None
    unit_text = unit_text or unit_text_for(sum(sizes))
    options = PackOptions(zstd, shard_bytes, meta, share, unit_text, inputs_told)
    low, high = share.of(sum(sizes))
    total = (sum(sizes) if high is None else high) - low
    if not names:
        workers = min(workers, 1 + total // PIECE)
    memory = max(PART, (memory_mib << 20) // (_COPIES * (workers + 1)))
    target = _target(prefix, share)
    read_file = FileReader(field, Limits(memory, _part_folder(target)))

    def read(task: Any) -> Iterator[TextBatch]:
        if isinstance(task, str):
            return batches(builtin.documents(task.removeprefix("builtin:")))
        return read_file(task)

    run = _PackRun(target, options, workers, _running(progress, None if names else total))
    report = run(itertools.chain(names, tasks(files, sizes, row_groups, share)), read)
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
        progress(done if total is None else min(done, total), total)

    return add


def pack_documents(
    documents: Iterable[Document],
    prefix: str | Path,
    *,
    zstd: bool = False,
    shard_bytes: int = SHARD_BYTES,
    meta: bool = True,
    workers: int = 1,
    unit_text: int | None = None,
) -> PackReport:
    """Pack documents into PREFIX-000000.tar … and PREFIX.index; see `pack`."""
    options = PackOptions(zstd, shard_bytes, meta, unit_text=unit_text)
    return _PackRun(_target(prefix, WHOLE), options, workers)(["all of them"], lambda _: batches(documents))


def _target(prefix: str | Path, share: PackShare) -> Path:
    """What the names of all files begin with."""
    if str(prefix).endswith("/") or Path(prefix).name in ("", ".."):
        example = os.path.join(prefix, "mine")
        raise BadInput(f"--out {str(prefix)!r}: expected the beginning of file names, such as {example}")
    prefix = Path(prefix)
    return prefix.with_name(prefix.name + share.name)


@dataclass(frozen=True, slots=True)
class _PackRun:
    """One pack. prefix: what the names of all files begin with."""

    prefix: Path
    options: PackOptions
    workers: int
    progress: Callable[[int], None] | None = None

    def __call__(self, work: Iterable[Any], read: Callable[[Any], Iterator[TextBatch]]) -> PackReport:
        """Pack what `read` gives of the work. BadInput where nothing comes of it, but for a part of many."""
        prefix, options = self.prefix, self.options
        _refuse_existing(prefix)
        part = _part_folder(prefix)
        index = prefix.with_name(prefix.name + ".index")
        report = PackReport(index, unit_text=options.unit_text or UNIT_TEXT)
        with writing(prefix):
            _sweep(prefix)
        with writing(prefix), folder_aside(part):
            shard_bytes, zstd, key, meta = options.shard_bytes, options.zstd, options.share.key, options.meta
            writer = ShardWriter(part, prefix.name, shard_bytes, zstd=zstd, prefix=key, meta=meta)
            self._write(writer, work, read, report)
            if not writer.paths and not options.share.named:
                raise BadInput(f"{prefix}: no document to pack" + _because(report))
            _publish(prefix, writer, report, options.inputs)
        return report

    def _write(
        self,
        writer: ShardWriter,
        work: Iterable[Any],
        read: Callable[[Any], Iterator[TextBatch]],
        report: PackReport,
    ) -> None:
        options = self.options
        layout = Layout(options.shard_bytes, options.meta, options.unit_text, report.balance, self.progress)
        build = UnitBuilder(options.share.key, options.zstd, writer.part, writer.name)
        with closing(pipeline(work, read, layout, build, self.workers)) as results:
            for steps, built in results:
                units = iter(built)
                for step in steps:
                    if isinstance(step, LongDocument):
                        _place(writer, step)
                    else:
                        for unit in itertools.islice(units, step):
                            writer.add(unit)
        writer.close()


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


def _place(writer: ShardWriter, document: LongDocument) -> None:
    """Write a long document part by part, its members laid out as webdataset lays out those of others."""
    text, meta = document.text, document.meta
    key = key_of(writer.prefix, document.number)
    size = len(text)
    front = b"" if meta is None else header(key, "json", len(meta)) + meta + _padding(len(meta))
    read = text.read if isinstance(text, LongText) else lambda offset, length: text[offset : offset + length]
    pieces = (_unchanged(text, data) for _, data in parts(read, size))
    writer.place(key, front + header(key, "txt", size), pieces, _padding(size))
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


def _padding(length: int) -> bytes:
    return bytes(padded(length) - length)


def _publish(prefix: Path, writer: ShardWriter, report: PackReport, inputs: str | None) -> None:
    """Rename the shards to their final names, then write the index."""
    _refuse_existing(prefix)  # another pack may have finished meanwhile
    shards = []
    for path, balance in zip(writer.paths, writer.balances):
        target = prefix.parent / path.name
        path.rename(target)
        status = target.stat()
        packing = "zstd" if writer.zstd else "plain"
        shards.append(Shard(target.name, status.st_size, status.st_mtime_ns, packing, balance))
        report.shards.append(target)
    table = writer.table()
    write(report.index, shards, table, unit_text=report.unit_text, inputs=inputs)
    report.units = len(table)
    report.text_bytes = int(table.units["text_bytes"].sum())
    report.fingerprint = fingerprint(table.units)
