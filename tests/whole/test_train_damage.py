"""A start meets damage while it loads: all ranks pass the checkpoint over and go on from the one before.

Each rank reads its own part, so damage may be seen by one rank alone. What follows must be the run that would
have been resumed from the older checkpoint directly.
"""

import errno
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoint import read
from launcher.checkpoint.format import Damaged, step_name
from launcher.distributed.world import World
from launcher.runs.run_folder import RunFolder, open_run
from tests.support.helpers import TrainingText
from tests.support.ranks import start
from tests.support.training import (
    TIMEOUT,
    Left,
    assert_same_run,
    assert_same_tensors,
    config,
    rows_of,
    train,
    trainer,
)

pytestmark = pytest.mark.faults

KEEP_ALL = {"every": 2, "keep": 10}
FRAGMENTS = ("frag-00000.safetensors", "frag-00001.safetensors")


@dataclass
class Watched:
    """One rank of a start, and what it read of checkpoints on the way."""

    left: Left
    opened: Counter[str] = field(default_factory=Counter)
    """Folder of a checkpoint → how often it was opened."""
    blocks: Counter[tuple[str, str, int, int]] = field(default_factory=Counter)
    """(folder, fragment file, offset, bytes) → how often they were read."""

    def files(self, step: int) -> set[str]:
        """The fragment files of a step that were read."""
        return {file for folder, file, _, _ in self.blocks if folder == step_name(step)}

    def bytes(self, step: int) -> int:
        """How many bytes of them."""
        return sum(length for folder, _, _, length in self.blocks if folder == step_name(step))


def watched(world: World, plain: dict[str, Any], trouble: str = "", **options: Any) -> Watched:
    """The trainer. trouble: what rank 1 alone meets in the checkpoint of step 4: `disk`, a block cannot be
    read; `opening`, a small file is damaged as it sees it."""
    seen = Watched(Left())
    pread, open_manifest = os.pread, read.read_manifest

    def noting(descriptor: int, length: int, offset: int) -> bytes:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if trouble == "disk" and world.rank == 1 and path.parent.name == step_name(4):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data = pread(descriptor, length, offset)
        if path.suffix == ".safetensors":
            seen.blocks[path.parent.name, path.name, offset, len(data)] += 1
        return data

    def opening(path: Path) -> dict[str, Any]:
        seen.opened[path.name] += 1
        if trouble == "opening" and world.rank == 1 and path.name == step_name(4):
            raise Damaged("MANIFEST.json: damaged")
        return open_manifest(path)

    os.pread, read.read_manifest = noting, opening  # type: ignore[assignment]
    seen.left = trainer(world, plain, **options)
    return seen


def watch(plain: dict[str, Any], code: int = 0, **options: Any) -> list[Watched]:
    """A start of two ranks, to its end with this exit code."""
    seen: list[Watched] = start(watched, 2, plain, timeout=TIMEOUT, **options).wait()
    assert [one.left.code for one in seen] == [code] * 2, [one.left.line for one in seen]
    return seen


def flip(path: Path) -> str:
    """Change a byte in the middle; the line that tells of it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return f"{path}: bytes 0 to {len(content)} are damaged"


def resumes(run: RunFolder) -> list[tuple[int, list[str]]]:
    """(step, passed over) of each start that went on from a checkpoint."""
    return [(line["step"], line["passed_over"]) for line in run.ledger() if line["event"] == "resume"]


@pytest.mark.parametrize(
    ("zero", "trouble"),
    [(1, ""), pytest.param(2, "", marks=pytest.mark.full), (3, ""), (1, "disk"), (1, "opening")],
)
def test_damage_that_one_rank_alone_meets(
    text: TrainingText, tmp_path: Path, zero: int, trouble: str
) -> None:
    layout = {"zero": zero, "micro_batch": 2}
    direct, passing = (
        config(text, tmp_path / name, layout=layout, steps=5, checkpoint=KEEP_ALL) for name in ("a", "b")
    )
    train(2, direct | {"steps": 4})
    run = RunFolder(Path(shutil.copytree(tmp_path / "a" / "run", tmp_path / "b" / "run")))
    newest = run.checkpoints / step_name(4)
    if trouble:
        name, what = {
            "disk": (FRAGMENTS[1], "cannot be read: Input/output error"),
            "opening": ("MANIFEST.json", "damaged"),
        }[trouble]
        line = f"{newest}/{name}: {what}"
    else:
        line = flip(newest / FRAGMENTS[1])
    expected = train(2, direct, step=2, tensors=True)
    seen = watch(passing, trouble=trouble, tensors=True)
    for rank, one in enumerate(seen):
        assert one.files(2) == {FRAGMENTS[rank]}, "each rank reads what it holds, and nothing else"
        assert one.files(4) <= {FRAGMENTS[rank]}
        assert one.opened[step_name(2)] == one.opened[step_name(4)] == 1
        assert_same_tensors(one.left.loaded, expected[rank].loaded)
    assert rows_of([one.left for one in seen]) == rows_of(expected)
    assert_same_run(tmp_path / "b", tmp_path / "a")
    assert resumes(run) == [(2, [line])]
    assert (run.checkpoints / f"{step_name(4)}.abandoned-0002").is_dir()
    assert (run.plan).read_bytes() == (tmp_path / "a" / "run" / "plan.jsonl").read_bytes()


def test_a_start_reads_each_byte_in_one_rank(text: TrainingText, tmp_path: Path) -> None:
    """No rank reads the whole checkpoint: with two ranks each reads its half, the small files apart."""
    plain = config(text, tmp_path, checkpoint=KEEP_ALL)
    train(2, plain | {"steps": 2})
    folder = tmp_path / "run" / "checkpoints" / step_name(2)
    sizes = [(folder / name).stat().st_size for name in FRAGMENTS]
    seen = watch(plain | {"steps": 3})
    distinct = [
        sum(length for _, _, _, length in {key for key in one.blocks if key[0] == folder.name})
        for one in seen
    ]
    assert distinct == sizes
    assert [one.opened for one in seen] == [{folder.name: 1}] * 2


def test_damage_everywhere_is_one_line_and_begins_nothing(text: TrainingText, tmp_path: Path) -> None:
    plain = config(text, tmp_path, checkpoint=KEEP_ALL)
    train(2, plain | {"steps": 4})
    run = open_run(tmp_path / "run")
    lines = [flip(run.checkpoints / step_name(step) / FRAGMENTS[1]) for step in (4, 2)]
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for step in (None, 4):
        first, second = watch(plain, code=2, step=step)
        if step is None:
            assert first.left.line == f"no checkpoint is whole: {'; '.join(lines)}"
        else:
            others = f"'headrace checkpoint ls {run.path}' shows the others"
            assert first.left.line == f"the checkpoint of step 4 is damaged: {lines[0]}; {others}"
        assert second.left.line is None, "one line, whoever saw the damage"
        assert run.attempts() == [1]
        assert run.writer() is None
        assert {path: path.read_bytes() for path in before} == before


def test_the_end_of_a_complete_run_is_read_by_nobody_else(text: TrainingText, tmp_path: Path) -> None:
    """So its bytes are looked at before the run is said to be complete."""
    plain = config(text, tmp_path, steps=4, checkpoint=KEEP_ALL)
    train(2, plain)
    run = open_run(tmp_path / "run")
    seen = watch(plain)
    assert "is complete, 4 steps; nothing was changed" in seen[0].left.said
    assert [one.files(4) for one in seen] == [set(FRAGMENTS), set()]
    older = run.checkpoints / step_name(2) / FRAGMENTS[1]
    whole = older.read_bytes()
    lines = [flip(run.checkpoints / step_name(4) / FRAGMENTS[0]), flip(older)]
    seen = watch(plain, code=2)
    assert seen[0].left.line == f"no checkpoint is whole: {'; '.join(lines)}"
    assert [one.files(4) for one in seen] == [set(FRAGMENTS), set()], "known to be damaged when ranks load"
    older.write_bytes(whole)
    line = lines[0]
    left = train(2, plain)
    assert "is complete" not in left[0].said
    assert min(rows_of(left)) == 2 * plain["batch_rows"]
    assert resumes(run) == [(2, [line])]


def test_an_older_plan_with_fewer_corpora(text: TrainingText, tmp_path: Path) -> None:
    """Prose is added at step 2 and taken away at the start that finds step 4 damaged. Then the plan from
    step 2 on never knew of it, and losses are added up as in a run that goes back to step 2."""
    plain = config(text, tmp_path / "a", steps=5, checkpoint=KEEP_ALL)
    both = plain["data"]
    alone = both | {"corpora": {"code": both["corpora"]["code"]}}
    train(2, plain | {"steps": 2, "data": alone})
    train(2, plain | {"steps": 4})
    run = RunFolder(Path(shutil.copytree(tmp_path / "a" / "run", tmp_path / "b" / "run")))
    line = flip(run.checkpoints / step_name(4) / FRAGMENTS[1])
    train(2, plain | {"data": alone}, step=2)
    train(2, plain | {"data": alone, "run": {"name": "run", "folder": str(tmp_path / "b")}})
    assert resumes(run)[-1] == (2, [line])
    assert_same_run(tmp_path / "b", tmp_path / "a")
