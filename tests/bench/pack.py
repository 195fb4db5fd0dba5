"""What packing costs over the least that it could: parsing the input and writing its text.

    python -m tests.bench.pack [--rounds 7] [--documents 50000] [--folder F]

Each line has a ratio: bytes of input a CPU second, packed, over those of the baseline of its kind, both
measured in turn within a round; printed are the median and the range of the rounds. CPU seconds are those of
the process and of its children that ended.

- JSONL, documents of 2 KB: over `json.loads` of each line and a write of the text. Goal .6 a core.
- Parquet, the same documents: over `to_pylist` of each batch and a write of the text. Goal .5.
- short: a million documents of ten bytes (as many as --short says), in seconds. Goal 20.
- workers: wall time of one process over that of 2 (and as many as there are cores), one JSONL, one Parquet
  file. Goal 1.7 where two cores are free; CPU seconds beside it, which say what it would be if they were.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from data.prepare.pack import pack

WORDS = ("the", "river", "mill", "stone", "wheel", "race", "head", "water", "grain", "village", "road", "of")
Work = Callable[[Path], None]


def cpu() -> float:
    """CPU seconds of this process and of its children that ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usages)


def texts(count: int, size: int) -> list[str]:
    """Texts of about `size` bytes."""
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=max(size // 5, 1)))[:size] for _ in range(count)]


def make(folder: Path, documents: int, short: int) -> None:
    """The inputs."""
    long = texts(documents, 2_000)
    with (folder / "long.jsonl").open("w") as file:
        for number, text in enumerate(long):
            file.write(
                json.dumps({"id": number, "url": f"https://example.org/{number}", "text": text}) + "\n"
            )
    with (folder / "short.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": f"{number:010d}"}) + "\n" for number in range(short))
    table = pyarrow.table({"id": range(documents), "text": long})
    pyarrow.parquet.write_table(table, folder / "long.parquet", row_group_size=5_000)


def plain_lines(path: Path) -> Work:
    """json.loads of each line and a write of the text."""

    def work(out: Path) -> None:
        with path.open("rb") as file, (out / "text").open("wb") as written:
            for line in file:
                written.write(json.loads(line)["text"].encode())

    return work


def plain_rows(path: Path) -> Work:
    """to_pylist of each batch and a write of the text."""

    def work(out: Path) -> None:
        with (out / "text").open("wb") as written:
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024, columns=["text"]):
                for text in batch.column(0).to_pylist():
                    written.write(text.encode())

    return work


def packing(path: Path, workers: int = 1, meta: bool = True) -> Work:
    """headrace data pack."""

    def work(out: Path) -> None:
        pack([path], out / "c", workers=workers, meta=meta)

    return work


def timed(work: Work, folder: Path) -> tuple[float, float]:
    """(CPU seconds, seconds) of some work; what it wrote is removed."""
    out = folder / "out"
    out.mkdir()
    begun, before = time.perf_counter(), cpu()
    work(out)
    taken = cpu() - before, time.perf_counter() - begun
    shutil.rmtree(out)
    return taken


def ratios(base: Work, work: Work, folder: Path, rounds: int, clock: int = 0) -> str:
    """Time of the base over that of the work, by CPU seconds (clock 0) or by the wall's (1)."""
    found = []
    for _ in range(rounds):
        found.append(timed(base, folder)[clock] / timed(work, folder)[clock])
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--short", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make(folder, options.documents, options.short)
        lines, rows, rounds = folder / "long.jsonl", folder / "long.parquet", options.rounds
        print("JSONL over json.loads + write", ratios(plain_lines(lines), packing(lines), folder, rounds))
        bare = packing(lines, meta=False)
        print("JSONL --no-meta, over the same", ratios(plain_lines(lines), bare, folder, rounds))
        print("Parquet over to_pylist + write", ratios(plain_rows(rows), packing(rows), folder, rounds))
        seconds = timed(packing(folder / "short.jsonl"), folder)
        print(f"{options.short:,} documents of ten bytes: {seconds[0]:.1f} CPU s, {seconds[1]:.1f} s")
        for kind, path in (("JSONL", lines), ("Parquet", rows)):
            for workers in sorted({2, len(os.sched_getaffinity(0))}):
                one, many = packing(path), packing(path, workers)
                wall = ratios(one, many, folder, rounds, clock=1)
                print(f"{kind}, {workers} workers: wall {wall}, CPU {ratios(one, many, folder, rounds)}")


if __name__ == "__main__":
    main()
