"""What goes wrong while a run trains: all ranks stop together with one line and exit code 2, what was trained
is safe, and once it is mended the run goes on as if nothing had happened."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launcher.checkpoint import save as checkpoint_save
from launcher.checkpoint.catalog import newest, verify
from launcher.distributed.world import World
from launcher.engine.engine import Engine
from launcher.runs.run_folder import open_run
from tests.support.helpers import TrainingText
from tests.support.ranks import Running, start
from tests.support.training import (
    TIMEOUT,
    Left,
    assert_same_run,
    begin,
    begun,
    config,
    last_step,
    saved,
    train,
    trainer,
)

pytestmark = pytest.mark.faults


def one_line(running: Running, code: int = 2) -> str:
    """The one line that the ranks have to show, each ending with this code."""
    left = running.wait()
    assert [one.code for one in left] == [code] * len(left), [one.line for one in left]
    lines = [one.line for one in left if one.line is not None]
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    return lines[0]


@pytest.fixture
def own_text(text: TrainingText, tmp_path: Path) -> TrainingText:
    """A copy of the text that may be broken; times as they were, by which an index knows its shards."""
    folder = tmp_path / "text"
    shutil.copytree(text.folder, folder)
    return TrainingText(folder, text.tokenizer_path, str(folder / "code-*.tar"), str(folder / "prose-*.tar"))


@pytest.mark.parametrize("harm", ["deleted", "truncated"])
def test_a_shard_that_breaks_stops_all_ranks_with_their_work_saved(
    own_text: TrainingText, straight: Path, tmp_path: Path, harm: str
) -> None:
    plain = config(own_text, tmp_path, checkpoint={"every": 1_000})
    plain["data"]["patience"] = 0.02
    shard = next(own_text.folder.glob("code-*.tar"))
    aside = shard.with_suffix(".aside")
    running = begin(2, plain)
    begun(tmp_path, 3, running)
    if harm == "deleted":
        shard.rename(aside)
    else:
        shutil.copy2(shard, aside)
        os.truncate(shard, 100)
    if harm == "deleted":  # as when a file system is gone: that may come back
        assert f"corpus code: {shard}: No such file" in one_line(running, 75)
    else:
        assert f"corpus code: {shard}, unit " in one_line(running)
    steps = last_step(tmp_path)
    assert 3 <= steps < 40
    assert saved(tmp_path), "of the last step"
    aside.rename(shard)
    train(2, plain)
    assert_same_run(tmp_path, straight)
    events = [line["event"] for line in open_run(tmp_path / "run").ledger() if line["event"] != "checkpoint"]
    assert events == ["start", "stop", "resume", "stop"]


@pytest.mark.parametrize("harm", ["a file in its place", "a name that is taken"])
def test_a_folder_of_checkpoints_that_cannot_be_put_in_order(
    text: TrainingText, tmp_path: Path, harm: str
) -> None:
    """Only rank 0 does it; the other does not wait for it."""
    plain = config(text, tmp_path, steps=6)
    train(2, plain | {"steps": 3, "checkpoint": {"every": 1, "keep": 10}})
    run = open_run(tmp_path / "run")
    if harm == "a file in its place":
        shutil.rmtree(run.checkpoints)
        ledger = run.attempt_path(1) / "ledger.jsonl"  # as if killed before the first save
        ledger.write_text(ledger.read_text().splitlines(keepends=True)[0])
        obstacle, step = run.checkpoints, None
    else:
        obstacle, step = run.checkpoints / "step-00000003.abandoned-0002", 2
    obstacle.write_text("")
    line = one_line(begin(2, plain, step=step))
    assert line.startswith(f"{obstacle}: ")
    assert "mend that, then start again" in line
    assert [end["error"] for end in run.ledger() if end.get("reason") == "failed"] == [line]
    obstacle.unlink()
    train(2, plain, step=step)
    assert last_step(tmp_path) == 6
    assert saved(tmp_path)


def trainer_beside_a_reader(world: World, plain: dict[str, Any]) -> Left:
    """The case where, as on NFS, a folder does not go for as long as somebody holds a file in it open."""
    really = shutil.rmtree

    def held(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "step-00000002.deleting" and not (path.parent / "step-00000004").exists():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        really(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", held)
        return trainer(world, plain)


def test_an_old_checkpoint_that_cannot_be_deleted_costs_no_new_one(
    text: TrainingText, tmp_path: Path
) -> None:
    plain = config(text, tmp_path, steps=5, checkpoint={"every": 1, "keep": 1})
    left = start(trainer_beside_a_reader, 2, plain, timeout=TIMEOUT).wait()
    assert [one.code for one in left] == [0, 0], [one.line for one in left]
    run = open_run(tmp_path / "run")
    assert [line["step"] for line in run.ledger() if line["event"] == "checkpoint"] == [1, 2, 3, 4, 5]
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000005"]
    assert "step-00000002: cannot be deleted" in (run.attempt_path(1) / "rank-0000.log").read_text()


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}m", "none", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount: {error}")
    if made.returncode:
        pytest.skip(f"a small file system may not be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """A file that leaves `left` bytes free, at once."""
    path = folder / "filler"
    disk = os.statvfs(folder)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - left)
    return path


def trainer_that_does_not_look(world: World, plain: dict[str, Any]) -> Left:
    """The case without a look at the free space: as when others fill the disk between that and the write."""
    checkpoint_save.LEFT_FREE = -(1 << 40)
    return trainer(world, plain)


@pytest.mark.parametrize(
    ("small_disk", "free", "looks", "expected"),
    [
        pytest.param(80, 60 << 20, True, "a checkpoint needs 0.07 GB and 0.06 GB are free", id="foreseen"),
        pytest.param(12, 400_000, False, "the disk became full while a checkpoint was saved", id="in a save"),
        pytest.param(12, 0, False, "cannot be written: No space left on device", id="no record"),
    ],
    indirect=["small_disk"],
)
def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(
    text: TrainingText, straight: Path, small_disk: Path, free: int, looks: bool, expected: str
) -> None:
    plain = config(text, small_disk)
    case = trainer if looks else trainer_that_does_not_look
    running = start(case, 2, plain, timeout=TIMEOUT)
    begun(small_disk, 6, running)
    filler = fill(small_disk, free)
    line = one_line(running)
    assert expected in line
    assert str(small_disk) in line
    stop = list(open_run(small_disk / "run").ledger())[-1]
    if looks or free:  # else the ledger has no room either
        assert (stop["event"], stop["reason"], stop["error"]) == ("stop", "failed", line)
    saves = small_disk / "run" / "checkpoints"
    each = verify(saves)
    assert each
    assert not any(each.values())
    assert not list(saves.glob("*.partial*"))
    found, _ = newest(saves)
    assert found is not None
    assert 5 <= found.step <= 35
    assert str(small_disk) in one_line(start(case, 2, plain, timeout=TIMEOUT)), "started again too soon"
    again, passed_over = newest(saves)
    assert again is not None
    assert (again.path, passed_over) == (found.path, [])
    filler.unlink()
    assert [left.code for left in start(case, 2, plain, timeout=TIMEOUT).wait()] == [0, 0]
    assert_same_run(small_disk, straight)


def wild_gradient(world: World, plain: dict[str, Any], at: int) -> Left:
    """The case: from step `at` on, the gradient of one layer is no number; the loss stays one."""
    reached = [0]
    make = Engine.__init__

    def made(self: Engine, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)

        def spoil(_module: object, slopes: tuple[torch.Tensor | None, ...], _out: object) -> tuple | None:
            wild = tuple(None if slope is None else slope * float("nan") for slope in slopes)
            return wild if reached[0] >= at else None

        self.model.layers[1].mlp.down.register_full_backward_hook(spoil)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", made)
        return trainer(world, plain, before=lambda number: reached.__setitem__(0, number))


@pytest.mark.parametrize("zero", [0, 1])
def test_a_gradient_that_is_no_number_stops_the_run_before_it_is_saved(
    text: TrainingText, tmp_path: Path, zero: int
) -> None:
    plain = config(text, tmp_path, steps=8, layout={"zero": zero, "micro_batch": 2}, checkpoint={"every": 4})
    line = one_line(start(wild_gradient, 2, plain, 8, timeout=TIMEOUT))
    assert "the loss or its gradient is no longer a number" in line
    assert "the newest of step 4)" in line
    train(2, plain)
    assert last_step(tmp_path) == 8
    assert all(np.isfinite(array).all() for array in saved(tmp_path).values())
