"""Reading a checkpoint: any element of any parameter, from whichever ranks' files hold it, each byte checked.

Opening reads the small files and checks them against each other, so most damage is known before anything
large is touched; that in the large files is met by whoever reads the block. A reader asks for cuts of
parameters by name; which ranks wrote them, and under which layout, does not matter to it:

    wanted   [ run ]     [ run ]     [ run ]          columns of a matrix, as one rank holds them
    stored   ── file 0 ──────┤├── file 1 ────         stretches, as others wrote them
    copies   └─┬───┘     └─┬─┘└┘     └──┬──┘          by byte in each file, so that a block is read once

A process opens a checkpoint once, and has step, progress, shapes and tensors from that.
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
    INDEX,
    KNOWN,
    MANIFEST,
    PROGRESS,
    READABLE,
    Damaged,
    OtherFormat,
    blocks_name,
    canonical,
    check_blocks,
    read_at,
    sealed,
    sha256,
    unknown_names,
)
from launcher.engine.cut import Cut, Runs


@dataclass(frozen=True)
class Request:
    """Read a cut of a parameter into `out`, a contiguous float32 view [cut.length]."""

    kind: str
    name: str
    cut: Cut
    out: np.ndarray


@dataclass(frozen=True, slots=True)
class _Copy:
    """Bytes of a file and where they go, many of each: int64 [copies]."""

    file: np.ndarray
    begin: np.ndarray
    """First byte in the file."""
    length: np.ndarray
    request: np.ndarray
    """Number of the request."""
    to: np.ndarray
    """First byte in its `out`."""

    def in_order(self, file: int) -> Iterator[tuple[int, int, int, int]]:
        """(begin, length, request, to) of one file, from its first byte to its last."""
        own = np.flatnonzero(self.file == file)
        own = own[np.argsort(self.begin[own], kind="stable")]
        return zip(*(part[own].tolist() for part in (self.begin, self.length, self.request, self.to)))


class StoredCheckpoint:
    """A checkpoint that is read. Opening checks manifest, index, progress and block tables, all small."""

    def __init__(self, path: Path) -> None:
        """Damaged names the file; OtherFormat."""
        self.path = path
        self.manifest = read_manifest(path)
        self.index = json.loads(self._small(INDEX))
        self.progress_file: dict[str, Any] = json.loads(self._small(PROGRESS))
        found = {INDEX: self.index, PROGRESS: self.progress_file, "kinds": self.index["kinds"]}
        if unknown := unknown_names(found, self.manifest.get("optional", ())):
            raise OtherFormat(path, self.manifest["format"], unknown)
        self.kinds: list[str] = [kind for kind in self.index["kinds"] if kind in KNOWN["kinds"]]
        self.shapes = {name: tuple(shape) for name, shape, *_ in self.index["parameters"]}
        self._kept = {name: {*kinds[0]} for name, _, *kinds in self.index["parameters"] if kinds}
        self._tables = [self._table(file) for file in self.index["files"]]
        names = list(self.shapes)
        self.fragments: list[list[tuple[str, Cut]]] = [
            [(names[number], Cut.of(*numbers)) for number, *numbers in file["fragments"]]
            for file in self.index["files"]
        ]
        """Of each file: the cuts of parameters in it, one behind the other."""
        self._places: dict[str, dict[str, _Places]] = {}

    @property
    def step(self) -> int:
        """After which it was saved."""
        return self.manifest["step"]

    @property
    def attempt(self) -> int:
        """Which saved it."""
        return self.manifest["attempt"]

    @property
    def layout(self) -> dict[str, Any]:
        """Facts of the layout that it was saved in; nothing of it matters to who reads it."""
        return self.manifest["layout"]

    @property
    def adam_step(self) -> int:
        """Updates that Adam had made."""
        return self.progress_file["adam_step"]

    @property
    def progress(self) -> dict[str, Any]:
        """What the run gave to be kept."""
        return self.progress_file["run"]

    def keeps(self, name: str, kind: str) -> bool:
        """Whether this kind is kept of this parameter."""
        return kind in self.kinds and kind in self._kept.get(name, self.kinds)

    def read(self, requests: Sequence[Request]) -> None:
        """Fill every request, each touched block checked first. Damaged names file and bytes."""
        copies = self._copies(requests)
        outs = [request.out.data.cast("B") for request in requests]
        for file in np.unique(copies.file).tolist():
            path = self.path / self.index["files"][file]["name"]
            with _readable(path), open(path, "rb", buffering=0) as opened:
                number, block = -1, memoryview(b"")
                for begin, length, request, to in copies.in_order(file):
                    at, end = begin, begin + length
                    while at < end:
                        if at // BLOCK != number:
                            number = at // BLOCK
                            block = memoryview(read_at(opened.fileno(), number * BLOCK, BLOCK))
                            self._check(file, number, block)
                        first, stop = at - number * BLOCK, min(end - number * BLOCK, len(block))
                        out = to + at - begin
                        outs[request][out : out + stop - first] = block[first:stop]
                        at += stop - first

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

    def _copies(self, requests: Sequence[Request]) -> _Copy:
        """All copies that fill the requests, of each parameter and kind in one go."""
        numbers: dict[tuple[str, str], list[int]] = {}
        for number, request in enumerate(requests):
            numbers.setdefault((request.kind, request.name), []).append(number)
        parts = [np.empty((5, 0), dtype=np.int64)]
        for (kind, name), own in numbers.items():
            stored, wanted = self._stored(kind).get(name), [requests[number].cut for number in own]
            found = stored.copies(wanted) if stored else np.empty((5, 0), dtype=np.int64)
            filled = np.bincount(found[3], weights=found[2] // 4, minlength=len(own))
            for cut, count in zip(wanted, filled.tolist()):
                if count != cut.length:
                    raise Damaged(
                        f"{INDEX}: {count:.0f} of {cut.length} elements of {name}, {kind}, are there"
                    )
            found[3] = np.array(own)[found[3]]
            parts.append(found)
        return _Copy(*np.concatenate(parts, axis=1))

    def _stored(self, kind: str) -> dict[str, "_Places"]:
        """Parameter → where its elements of this kind are; made when first asked for."""
        if kind not in self._places:
            found: dict[str, _Places] = {}
            for number, fragments in enumerate(self.fragments):
                at = self.index["files"][number]["data"]
                for stored in self.index["kinds"]:
                    for name, cut in fragments:
                        if stored in self._kept.get(name, self.index["kinds"]):
                            if stored == kind:
                                found.setdefault(name, _Places()).add(cut, number, at)
                            at += 4 * cut.length
            self._places[kind] = found
        return self._places[kind]

    def _check(self, file: int, number: int, block: memoryview) -> None:
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


class _Places:
    """Where the files hold the elements of one kind of one parameter."""

    def __init__(self) -> None:
        self._cuts: list[Cut] = []
        self._at: list[tuple[int, int]] = []

    def add(self, cut: Cut, file: int, begin: int) -> None:
        """A cut lies in that file from byte `begin` on."""
        self._cuts.append(cut)
        self._at.append((file, begin))

    def copies(self, wanted: Sequence[Cut]) -> np.ndarray:
        """The five rows of a _Copy, `request` numbering the cuts wanted."""
        here, there = Runs.of(wanted), Runs.of(self._cuts)
        own, other, begin, length = here.shared(there)
        file, at = np.array(self._at, dtype=np.int64)[there.cut[other]].T
        source = at + 4 * (there.local[other] + begin - there.start[other])
        target = 4 * (here.local[own] + begin - here.start[own])
        return np.stack([file, source, 4 * length, here.cut[own], target])


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
    if manifest["format"] not in READABLE:
        raise OtherFormat(path, manifest["format"])
    if unknown := unknown_names({MANIFEST: manifest}, manifest.get("optional", ())):
        raise OtherFormat(path, manifest["format"], unknown)
    named = path.name.partition("-")[2].partition(".")[0]
    if named != f"{manifest['step']:08d}":
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
