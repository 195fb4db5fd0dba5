"""Check every byte of a corpus against its index: `headrace data verify`.

Each unit is read as training would read it and its checksum compared; then every header in it is verified,
every text decoded, and the counts compared with the index: of the units, and of the account of each shard,
whose used documents must be those that were found. What is wrong becomes a finding with its place; checking
goes on, so one run shows everything.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from data.access.cache import CacheOptions
from data.access.patience import Patience
from data.access.transports import is_local, shown
from data.balance import Balance
from data.errors import BadInput, PassingTrouble
from data.prepare.parallel import ordered_map
from data.shards.corpus import Corpus, ReadTrouble
from data.shards.index import Index
from data.shards.listed import match, remedy
from data.shards.samples import Sample, samples
from data.shards.store import Store, expand
from data.shards.tar import is_closed, members
from data.shards.tar_fields import BLOCK, TarTrouble


class ShardFinding(NamedTuple):
    """One thing that is wrong. kind: 'shard' or 'unit' (training cannot read it), 'sample' (has no text)."""

    kind: str
    shard: str
    unit: int | None
    offset: int | None
    """Bytes from the start of the tar."""
    key: str | None
    what: str


@dataclass
class VerifyReport:
    """What was checked, and what was found, in the order of the shards."""

    corpus: str
    shards: int = 0
    units: int = 0
    samples: int = 0
    text_bytes: int = 0
    findings: list[ShardFinding] = field(default_factory=list)
    balance: Balance = field(default_factory=Balance)
    """Of the members of the shards: the documents found now, and what the index says was left out."""

    @property
    def damaged(self) -> bool:
        """Whether training could not read all of it. Samples without text are not damage."""
        return any(finding.kind != "sample" for finding in self.findings)


class _VerifyJob(NamedTuple):
    path: Path
    url: str
    number: int
    cache: CacheOptions
    patience: Patience


def verify(
    index: str | Path,
    shards: Sequence[str] | None = None,
    *,
    workers: int = 1,
    cache: CacheOptions | None = None,
    patience: Patience | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> VerifyReport:
    """Check the corpus of an index. `shards` only where they no longer lie where the index says.

    progress: (text bytes checked, text bytes). Raises BadInput where the index itself cannot be read or is
    not of these shards, PassingTrouble where a shard could not be reached for as long as the patience lasts;
    everything else is a finding.
    """
    opened = Index.open(index)
    patience = patience or Patience()
    urls = match(opened, expand(shards, patience), remedy(index, shards)) if shards else recorded(opened)
    report = VerifyReport(opened.name)
    if not opened.intact():
        again = "make it again with headrace data index"
        report.findings.append(
            ShardFinding("shard", str(index), None, None, None, f"its table is damaged; {again}")
        )
        for shard in opened.files:
            report.balance.add(_now(shard.balance, 0), f"{shard.name}/")
        return report
    total = opened.text_bytes
    options = cache or CacheOptions()
    tasks = [_VerifyJob(opened.path, url, number, options, patience) for number, url in enumerate(urls)]
    for number, found in enumerate(ordered_map(_verify_shard, tasks, workers)):
        first, stop = opened.range_of(number)
        report.shards += 1
        report.units += stop - first
        report.samples += int(opened.units["samples"][first:stop].sum())
        report.text_bytes += int(opened.units["text_bytes"][first:stop].sum())
        report.findings += found.findings
        report.balance.add(_now(opened.files[number].balance, found.documents), f"{shown(urls[number])}/")
        if progress is not None:
            progress(report.text_bytes, total)
    return report


def recorded(index: Index) -> list[str]:
    """Where the index says that its shards lie. BadInput for a pipe: no command is taken from an index, which
    may be somebody else's file."""
    hidden = [name for name in index.shards if name.startswith("pipe:")]
    if hidden:
        raise BadInput(f"{index.path}: does not keep the command of {hidden[0]}: name the shards")
    folder = index.path.parent
    return [os.path.join(folder, name) if is_local(name) else name for name in index.shards]


def _now(indexed: Balance, documents: int) -> Balance:
    """The account of a shard in which so many documents were found."""
    now = Balance(min(documents, indexed.used))
    now.add(replace(indexed, used=0))
    if lost := indexed.used - now.used:
        now.leave_out("cannot be read as it was indexed", [], lost)
    return now


class _Verified(NamedTuple):
    """documents: those with a text."""

    documents: int
    findings: list[ShardFinding]


def _verify_shard(task: _VerifyJob) -> _Verified:
    index = Index.open(task.path)
    store = Store(task.cache, task.patience)
    shard = index.files[task.number]
    urls = list(index.shards)
    urls[task.number] = task.url
    corpus = Corpus(index.name, index, urls, store)
    name = shown(task.url)
    try:
        size = store.status(task.url).size
    except PassingTrouble:
        raise
    except BadInput as error:
        return _Verified(0, [ShardFinding("shard", name, None, None, None, str(error))])
    found = []
    documents = 0
    if size != shard.size and not task.url.startswith("pipe:"):
        found.append(
            ShardFinding(
                "shard", name, None, None, None, f"has {size} bytes and had {shard.size} when indexed"
            )
        )
    first, stop = index.range_of(task.number)
    for unit in range(first, stop):
        read = _read(corpus, unit, name)
        if isinstance(read, ShardFinding):
            found.append(read)
            continue
        found += _verify_unit(corpus, unit, name, read)
        documents += sum(sample.text is not None and not sample.part for sample in read)
    if not any(finding.kind != "sample" for finding in found) and documents != shard.balance.used:
        what = f"holds {documents} documents with a text, indexed were {shard.balance.used}"
        found.append(ShardFinding("shard", name, None, None, None, what))
    if is_local(task.url) and shard.packing == "plain" and any(index.table.placed_in(first, stop)):
        found += _headers(task.url, name)
    if is_local(task.url) and shard.packing == "plain" and not found and not _closed(task.url, shard.balance):
        found.append(ShardFinding("shard", name, None, size, None, "has no end mark"))
    return _Verified(documents, found)


def _headers(path: str, name: str) -> list[ShardFinding]:
    """What is wrong with the headers of a tar: those of long documents lie in no unit."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        try:
            for _ in members(tar):
                pass
        except TarTrouble as error:
            return [ShardFinding("shard", name, None, None, None, str(error))]
    return []


def _closed(path: str, balance: Balance) -> bool:
    """Whether a tar ends with its mark."""
    with open(path, "rb") as file:
        file.seek(-BLOCK, os.SEEK_END)
        return is_closed(file.read(), balance.left_out)


def _read(corpus: Corpus, unit: int, name: str) -> list[Sample] | ShardFinding:
    """The documents of a unit, headers verified; or why it cannot be read."""
    try:
        if corpus.index.placed_at(unit) is not None:
            return corpus.read_unit(unit)
        return samples(corpus.read_bytes(unit, unit + 1)[0], corpus.index.reading, check=True)
    except ReadTrouble as error:
        what = error.what
    except TarTrouble as error:
        what = str(error)
    return ShardFinding("unit", name, unit, corpus.index.unit(unit).offset, None, what)


def _verify_unit(corpus: Corpus, unit: int, name: str, documents: list[Sample]) -> Iterator[ShardFinding]:
    row = corpus.index.unit(unit)
    begin = sum(not document.part for document in documents)
    text_bytes = sum(len(document.text.encode()) for document in documents if document.text is not None)
    if (begin, text_bytes) != (row.samples, row.text_bytes):
        what = f"holds {begin} samples and {text_bytes} bytes of text, indexed were {row.samples} and"
        yield ShardFinding("unit", name, unit, row.offset, None, f"{what} {row.text_bytes}")
    for document in documents:
        if document.problem is not None:
            yield ShardFinding("sample", name, unit, row.offset, document.key, document.problem)
