"""What a start takes of a large corpus before the first row is read: seconds, CPU seconds and memory.

    python -m tests.bench.start FOLDER [--unit-kb 512 64] [--lanes 12 960] [--terabytes 10] [--shards 50000]
        [--length 1024] [--keep]

A synthetic corpus in FOLDER: an index of that many units, and its shards as sparse files, which are looked at
and never read (64 KB units at 10 TB are an index of 8 GiB). Its fingerprint is made up, as nothing works it
out again. One line of JSON for each size of unit and number of lanes, each start a new process on one core:

    first    there is no file of blocks; the index is not in the page cache
    again    the machine's first process of a later start: it looks at every shard and finds the file, which
             is not in the page cache either
    rank     any other process of that machine

A start opens the corpus, makes the plan, opens the stream (Opener), takes the held-out units in the order of
an evaluation and finds the first thousand slots. Memory is what was resident at most, and what still is, over
what was before.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data.access.cache import CacheOptions
from data.plan.make import CorpusSettings, StreamSettings, make_plan
from data.plan.plan import History, OnBad
from data.plan.segments import PlanSegments
from data.shards.corpus import open_corpus
from data.shards.units import UNITS
from data.stream import held_out
from data.stream.block import Opener
from objectives.mixture import Mixture
from objectives.rng import Rng, key
from objectives.schedule import Schedule
from tests.support.fake_tokenizer import FakeTokenizer
from tests.support.memory import measured

MTIME = 1_700_000_000
HELD_OUT = 0.02


def rows(first: int, stop: int, units: int, unit_bytes: int, shards: int) -> np.ndarray:
    """Entries of the table: text of about `unit_bytes` each, as many in each shard."""
    made = np.zeros(stop - first, UNITS)
    numbers = np.arange(first, stop)
    made["shard"] = numbers * shards // units
    made["samples"] = 1 + unit_bytes // 4_000
    within = numbers - (made["shard"].astype(np.int64) * units + shards - 1) // shards
    made["text_bytes"] = unit_bytes * 7 // 8 + Rng(1).at(numbers) % np.uint64(unit_bytes // 4)
    made["length"] = made["stored_length"] = unit_bytes * 3 // 2
    made["offset"] = made["stored_offset"] = within * (unit_bytes * 3 // 2)
    made["checksum"] = Rng(2).at(numbers)
    return made


def make_index(path: Path, units: int, unit_bytes: int, shards: int) -> None:
    """An index of synthetic units, written piece by piece."""
    pieces = [(low, min(low + (1 << 20), units)) for low in range(0, units, 1 << 20)]
    digest = xxhash.xxh3_128()
    for low, high in pieces:
        digest.update(rows(low, high, units, unit_bytes, shards).view(np.uint8).data)
    size = -(-units // shards) * unit_bytes * 3 // 2
    balance = {"used": units // shards, "left_out": {}, "names": {}}
    listed = [
        {"name": name, "size": size, "mtime_ns": MTIME * 10**9, "packing": "plain", "balance": balance}
        for name in names_of(shards)
    ]
    reading = {"text_field": None, "text_member": None}
    header = {"shards": listed, "reading": reading, "units": units, "placed": 0, "names": 0}
    text = json.dumps(header | {"fingerprint": "made up", "checksum": digest.hexdigest()}).encode()
    text += b" " * (-(16 + len(text)) % 64)
    with path.open("wb") as file:
        file.write(b"HEADRACE" + np.array([2, len(text)], "<u4").tobytes() + text)
        for low, high in pieces:
            file.write(rows(low, high, units, unit_bytes, shards).tobytes())
        file.flush()
        os.fsync(file.fileno())
    for name in names_of(shards):
        shard = path.parent / name
        shard.touch()
        os.truncate(shard, size)
        os.utime(shard, (MTIME, MTIME))


def names_of(shards: int) -> Iterator[str]:
    return (f"web-{number:06d}.tar" for number in range(shards))


def forget(folder: Path) -> None:
    """Take index and files of blocks out of the page cache, as far as the system does it for us."""
    for path in [*folder.glob("*.index"), *(folder / "cache").glob("*")]:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start(folder: Path, lanes: int, length: int, look: bool) -> Opener:
    """What a start does."""
    cache = CacheOptions(str(folder / "cache"))
    corpus = open_corpus("web", [str(folder / "web-*.tar")], folder / "web.index", cache, look=look)
    assert corpus.index.has_text
    settings = StreamSettings(
        seed=1,
        tokenizer="none",
        lanes=lanes,
        length=length,
        max_length=length,
        batch_rows=1024,
        corpora={"web": CorpusSettings(corpus, Schedule.parse(1), HELD_OUT)},
        mixture=Mixture.parse({"causal": {"weight": 1.0}}),
        block_bytes=None,
        normalise="global",
        quarantine=[],
        on_bad=OnBad(),
    )
    plan = make_plan(settings)
    opener = Opener(PlanSegments(History(((0, plan),))), {"web": corpus}, FakeTokenizer())
    blocks = held_out._blocks(corpus, plan.corpora[0], plan)
    some = np.empty(0, np.int64)
    rng = Rng(key(1, "evaluate", "web"))
    list(islice(held_out._drawn(rng, corpus.table, blocks, some), 100))
    for slot in range(1000):
        opener.expected_nbytes("web", slot, 0)
    return opener


def report(arguments: argparse.Namespace) -> None:
    """In a process of its own: one start, as JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    wall, cpu = time.perf_counter(), time.process_time()
    opener, most, rest = measured(
        lambda: start(arguments.folder, *arguments.lanes, arguments.length, not arguments.rank)
    )
    found: dict[str, Any] = {
        "wall": round(time.perf_counter() - wall, 2),
        "cpu": round(time.process_time() - cpu, 2),
        "peak_mib": most >> 20,
        "kept_mib": rest >> 20,
        "blocks": len(opener.blocks["web"]),
        "streams": opener.plans["web"].streams,
    }
    print(json.dumps(found))


def of_process(arguments: argparse.Namespace, lanes: int, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.start", str(arguments.folder), "--start", *more]
    command += ["--lanes", str(lanes), "--length", str(arguments.length)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unit-kb", type=int, nargs="+", default=[512, 64])
    parser.add_argument("--lanes", type=int, nargs="+", default=[12, 960])
    parser.add_argument("--terabytes", type=float, default=10.0)
    parser.add_argument("--shards", type=int, default=50_000)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--keep", action="store_true", help="leave the corpus there")
    for name in ("--start", "--rank"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        report(arguments)
        return
    arguments.folder.mkdir(parents=True)
    for unit_kb in arguments.unit_kb:
        unit_bytes = unit_kb << 10
        units = int(arguments.terabytes * 1e12) // unit_bytes
        index = arguments.folder / "web.index"
        make_index(index, units, unit_bytes, arguments.shards)
        for lanes in arguments.lanes:
            shutil.rmtree(arguments.folder / "cache", ignore_errors=True)
            forget(arguments.folder)
            line: dict[str, Any] = {"unit_kb": unit_kb, "units": units, "lanes": lanes}
            line["first"] = of_process(arguments, lanes)
            forget(arguments.folder)
            line["again"] = of_process(arguments, lanes)
            line["rank"] = of_process(arguments, lanes, "--rank")
            kept = (arguments.folder / "cache").glob("*")
            line["file_mib"] = sum(path.stat().st_size for path in kept) >> 20
            print(json.dumps(line), flush=True)
    if not arguments.keep:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
