"""What a checkpoint is on disk, and how each byte of it is checked.

    step-00000500/
      MANIFEST.json             step, attempt, parent; sizes of all files, sha256 of small ones; written last
      index.json                parameters and shapes; of each fragment file: which cuts of which parameters
      progress.json             Adam's step count and the run's own progress
      frag-00000.safetensors    one a rank: w, exp_avg, exp_avg_sq as flat F32, nothing gathered, no padding
      frag-00000.blocks         xxh3_64 of each 1 MiB of that file, little-endian
    weights-00000500/           the same without moments: to read from, not to resume
    step-00000600.partial-0002/ under way, or left by a process that died: never chosen

The chain of trust: the manifest holds a hash of itself and of the index, the index holds a hash of each block
table, a block table one of each block, and a block is checked before any of its bytes is used. Nothing here
is a pickle, and nothing is run that was read.

A name that a reader does not know (a kind of tensor, a part of index or progress) it passes over where the
manifest says that it is optional, and refuses where it does not: so a later feature is a name and no format.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data.durable import sync_folder, written_aside
from data.errors import BadInput

FORMAT = 3
READABLE = (2, 3)
"""2 has whole stretches of parameters alone, and the same kinds of each."""
BLOCK = 1 << 20
KINDS = ("w", "exp_avg", "exp_avg_sq")
"""What is kept of each element of a parameter that is trained: fp32 master weight and Adam's two moments."""
AVERAGES = ("ema",)
"""Weights too, kept beside `w` where the run has them; a run can go on without."""
MANIFEST, INDEX, PROGRESS = "MANIFEST.json", "index.json", "progress.json"
KNOWN = {
    MANIFEST: {"format", "step", "attempt", "parent", "about", "layout", "optional", "sizes", "sha256s"},
    INDEX: {"format", "block", "kinds", "parameters", "files"},
    PROGRESS: {"adam_step", "run"},
    "kinds": {*KINDS, *AVERAGES},
}
"""The names that this reader knows: of the keys of each small file, and of the index's kinds."""


class Damaged(Exception):
    """Files of a checkpoint are not as they were written. Each line begins with the name of a file."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = list(lines)


class OtherFormat(BadInput):
    """A checkpoint is of another version of headrace. It is refused and never passed over as damaged: what
    the run had reached would be given up in silence."""

    def __init__(self, path: Path, number: int, unknown: Sequence[str] = ()) -> None:
        """unknown: what it holds, though of a format that this one reads."""
        older = number < READABLE[0]
        self.writer = f"{'an older' if older else 'a newer'} headrace (format {number})"
        if unknown:
            self.writer = f"a newer headrace (with {', '.join(unknown)})"
        own = "the headrace that began the run" if older else "that one"
        reads = "does not know that" if unknown else f"reads formats {' and '.join(map(str, READABLE))}"
        super().__init__(
            f"{path}: was written by {self.writer}; this one {reads}: go on with {own}, or begin a new run"
        )


def step_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def weights_name(step: int) -> str:
    """The folder of a step of which only the weights are kept."""
    return f"weights-{step:08d}"


def fragment_name(rank: int) -> str:
    """The fragment file of a rank."""
    return f"frag-{rank:05d}.safetensors"


def blocks_name(fragment_file: str) -> str:
    """The block table that belongs to a fragment file."""
    return fragment_file.removesuffix(".safetensors") + ".blocks"


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value, so that any changed byte can be seen."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of MANIFEST.json: the value with a hash of itself."""
    return canonical({**manifest, "sha256": sha256(canonical(dict(manifest)))})


def unknown_names(found: Mapping[str, Iterable[str]], optional: Iterable[str]) -> list[str]:
    """What of the names found, where KNOWN has them, a reader must know and does not."""
    return sorted({name for where, names in found.items() for name in {*names} - KNOWN[where] - {*optional}})


def header(elements: Mapping[str, int]) -> bytes:
    """What a safetensors file begins with: flat F32 tensors, one for each kind, in order, and how long it is.

    Written here, because the library writes whole files from tensors that it is given, and a save streams a
    rank's buffer: each block is hashed as it goes out, nothing is copied, and the file is fsynced. That the
    library reads what is written is tested. Nobody here reads a header: where a file's data begins stands in
    the index, whose hash was checked.
    """
    ends = list(itertools.accumulate(4 * count for count in elements.values()))
    entries = {
        kind: {"dtype": "F32", "shape": [count], "data_offsets": [end - 4 * count, end]}
        for (kind, count), end in zip(elements.items(), ends)
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def blocks(parts: Iterable[memoryview | bytes]) -> Iterator[memoryview]:
    """The parts, one behind the other, cut into blocks; copied only where a block spans two parts."""
    held = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        at = 0
        if held:
            at = min(BLOCK - len(held), len(view))
            held += view[:at]
            if len(held) < BLOCK:
                continue
            yield memoryview(bytes(held))
            held.clear()
        whole = at + (len(view) - at) // BLOCK * BLOCK
        for begin in range(at, whole, BLOCK):
            yield view[begin : begin + BLOCK]
        held += view[whole:]
    if held:
        yield memoryview(bytes(held))


def write_blocks(path: Path, parts: Iterable[memoryview | bytes]) -> np.ndarray:
    """Write the parts as one file, fsynced, and read it back from the disk. The block table, uint64."""
    table = []
    with open(path, "wb", buffering=0) as file:
        for block in blocks(parts):
            table.append(xxhash.xxh3_64_intdigest(block))
            written = 0
            while written < len(block):
                written += file.write(block[written:])
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # so that what is verified comes from the disk
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    result = np.array(table, dtype="<u8")
    problem = check_blocks(path, result)
    if problem is not None:
        raise Damaged(f"{path.name}: {problem}, right after it was written")
    return result


def write_fragments(
    folder: Path, name: str, elements: Mapping[str, int], parts: Iterable[memoryview | bytes]
) -> dict[str, Any]:
    """A fragment file of so many elements of each kind, and its block table, in a folder. What the index says
    of it, beside its fragments."""
    head = header(elements)
    table = write_blocks(folder / name, itertools.chain([head], parts)).tobytes()
    write_file(folder / blocks_name(name), table)
    return {"name": name, "data": len(head), "blocks": sha256(table)}


def write_file(path: Path, content: bytes) -> None:
    """A small file, fsynced, whole or not there."""
    with written_aside(path) as file:
        file.write(content)


def check_blocks(path: Path, table: np.ndarray) -> str | None:
    """What is wrong with a fragment file under its block table; None when every byte is right."""
    with open(path, "rb", buffering=0) as file:
        for number, expected in enumerate(table.tolist()):
            block = read_at(file.fileno(), number * BLOCK, BLOCK)
            if xxhash.xxh3_64_intdigest(block) != expected:
                return f"bytes {number * BLOCK} to {number * BLOCK + len(block)} are damaged"
    return None


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes; fewer only at the end of the file."""
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def seal(
    folder: Path, manifest: Mapping[str, Any], index: Mapping[str, Any], progress: Mapping[str, Any]
) -> int:
    """Index, progress and, last, the manifest of a folder whose fragments are written. Bytes in it."""
    small = {INDEX: canonical(index), PROGRESS: canonical(progress)}
    for name, content in small.items():
        write_file(folder / name, content)
    sizes = {entry.name: entry.stat().st_size for entry in sorted(folder.iterdir())}
    whole = {
        **manifest,
        "sizes": sizes,
        "sha256s": {name: sha256(content) for name, content in small.items()},
    }
    content = sealed(whole)
    write_file(folder / MANIFEST, content)
    sync_folder(folder)
    return sum(sizes.values()) + len(content)


def publish_folder(partial: Path, target: Path, attempt: int) -> None:
    """One rename. What bears the name already (damaged, or of a future that was given up) steps aside."""
    if target.exists():
        aside = target.with_name(f"{target.name}.replaced-{attempt:04d}")
        delete(aside)
        os.rename(target, aside)
    os.rename(partial, target)
    sync_folder(target.parent)


def delete(folder: Path) -> None:
    """A folder gone, if it is there; cut off in the middle it no longer bears a checkpoint's name."""
    if folder.exists():
        aside = folder.with_name(folder.name.removesuffix(".deleting") + ".deleting")
        os.rename(folder, aside)
        shutil.rmtree(aside)
