"""Reading a checkpoint: any element of any parameter, from whichever ranks' files hold it, each byte checked.

Opening reads the small files and checks them against each other, so most damage is known before anything
large is touched; that in the large files is met by whoever reads the block. A reader asks for runs of
elements by name; which ranks wrote them, and under which layout, does not matter to it. A process opens a
checkpoint once, and has step, progress, shapes and tensors from that.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from launcher.checkpoint.format import (
    BLOCK,
    FORMAT,
    INDEX,
    MANIFEST,
    PROGRESS,
    Damaged,
    OtherFormat,
    blocks_name,
    canonical,
    check_blocks,
    read_at,
    sealed,
    sha256,
)


@dataclass(frozen=True)
class Request:
    """Read elements [offset, offset + len(out)) of a parameter into `out`, a contiguous float32 view."""

    kind: str
    name: str
    offset: int
    out: np.ndarray


class StoredCheckpoint:
    """A checkpoint that is read. Opening checks manifest, index, progress and block tables, all small."""

    def __init__(self, path: Path) -> None:
        """Damaged names the file; OtherFormat."""
        self.path = path
        self.manifest = read_manifest(path)
        self.index = json.loads(self._small(INDEX))
        self._progress = json.loads(self._small(PROGRESS))
        self.kinds: list[str] = self.index["kinds"]
        self.shapes = {name: tuple(shape) for name, shape in self.index["parameters"]}
        self._tables = [self._table(file) for file in self.index["files"]]
        self._where: dict[str, list[tuple[int, int, int, int]]] = {name: [] for name in self.shapes}
        names = list(self.shapes)
        for number, file in enumerate(self.index["files"]):
            position = 0
            for parameter, offset, length in file["fragments"]:
                self._where[names[parameter]].append((offset, length, number, position))
                position += length
        for fragments in self._where.values():
            fragments.sort()

    @property
    def step(self) -> int:
        """After which it was saved."""
        return self.manifest["step"]

    @property
    def attempt(self) -> int:
        """Which saved it."""
        return self.manifest["attempt"]

    @property
    def adam_step(self) -> int:
        """Updates that Adam had made."""
        return self._progress["adam_step"]

    @property
    def progress(self) -> dict[str, Any]:
        """What the run gave to be kept."""
        return self._progress["run"]

    def read(self, requests: Sequence[Request]) -> None:
        """Fill every request, each touched block checked first. Damaged names file and bytes."""
        for file, jobs in self._jobs(requests).items():
            path = self.path / self.index["files"][file]["name"]
            with _readable(path), open(path, "rb", buffering=0) as opened:
                number, block = -1, b""
                for begin, out in sorted(jobs, key=lambda job: job[0]):
                    at, end = begin, begin + len(out)
                    while at < end:
                        if at // BLOCK != number:
                            number = at // BLOCK
                            block = read_at(opened.fileno(), number * BLOCK, BLOCK)
                            self._check(file, number, block)
                        stop = min(end, number * BLOCK + len(block))
                        out[at - begin : stop - begin] = memoryview(block)[
                            at - number * BLOCK : stop - number * BLOCK
                        ]
                        at = stop

    def problems(self) -> list[str]:
        """A line for every fragment file that is not as it was written, after reading every byte."""

        def problem(name: str, table: np.ndarray) -> list[str]:
            try:
                with _readable(self.path / name):
                    found = check_blocks(self.path / name, table)
            except Damaged as damage:
                return damage.lines
            return [f"{name}: {found}"] if found else []

        names = [file["name"] for file in self.index["files"]]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return [line for found in pool.map(problem, names, self._tables) for line in found]

    def _jobs(self, requests: Sequence[Request]) -> dict[int, list[tuple[int, memoryview]]]:
        """Fragment file → (first byte in it, where its bytes go)."""
        jobs: dict[int, list[tuple[int, memoryview]]] = {}
        for request in requests:
            begin, end = request.offset, request.offset + len(request.out)
            kind = self.kinds.index(request.kind)
            filled = begin
            for offset, length, file, position in self._where[request.name]:
                low, high = max(begin, offset), min(end, offset + length)
                if low >= high:
                    continue
                entry = self.index["files"][file]
                first = entry["data"] + 4 * (kind * entry["elements"] + position + low - offset)
                view = request.out[low - begin : high - begin].data.cast("B")
                jobs.setdefault(file, []).append((first, view))
                filled = high
            if filled != end:
                raise Damaged(f"{INDEX}: {request.name} is not covered from element {filled} on")
        return jobs

    def _check(self, file: int, number: int, block: bytes) -> None:
        table = self._tables[file]
        if number >= len(table) or xxhash.xxh3_64_intdigest(block) != int(table[number]):
            name = self.index["files"][file]["name"]
            raise Damaged(f"{name}: bytes {number * BLOCK} to {number * BLOCK + len(block)} are damaged")

    def _small(self, name: str) -> bytes:
        content = _content(self.path / name)
        if sha256(content) != self.manifest["sha256s"][name]:
            raise Damaged(f"{name}: its content is not what the manifest says")
        return content

    def _table(self, file: Mapping[str, Any]) -> np.ndarray:
        name = blocks_name(file["name"])
        content = _content(self.path / name)
        if sha256(content) != file["blocks"]:
            raise Damaged(f"{name}: its content is not what the index says")
        return np.frombuffer(content, dtype="<u8")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, checked against its own hash and the step that its folder is named after, and every file
    that it names against its size. Damaged, or OtherFormat."""
    content = _content(path / MANIFEST)
    try:
        manifest = json.loads(content)
        claimed = manifest.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Damaged(f"{MANIFEST}: damaged") from None
    if claimed != sha256(canonical(manifest)) or content != sealed(manifest):
        raise Damaged(f"{MANIFEST}: damaged")
    if manifest["format"] != FORMAT:
        raise OtherFormat(path, manifest["format"])
    named = path.name.partition("-")[2].partition(".")[0]
    if int(named) != manifest["step"]:
        raise Damaged(f"{MANIFEST}: is of step {manifest['step']}, its folder is called {path.name}")
    wrong = [line for name, size in manifest["sizes"].items() if (line := _size_problem(path / name, size))]
    if wrong:
        raise Damaged(*wrong)
    return manifest


def _size_problem(path: Path, size: int) -> str | None:
    try:
        with _readable(path):
            found = path.stat().st_size
    except Damaged as damage:
        return str(damage)
    return None if found == size else f"{path.name}: {found} bytes, {size} were written"


def _content(path: Path) -> bytes:
    with _readable(path):
        return path.read_bytes()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A file that cannot be read is damage too, whatever the reason: an older checkpoint may be readable."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"{path.name}: missing") from None
    except OSError as error:
        raise Damaged(f"{path.name}: cannot be read: {error.strerror}") from error
