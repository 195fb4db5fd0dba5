"""Shards on a server that goes away while a run trains: it waits, and either goes on as if nothing had been,
or is saved and leaves with 75 on all ranks; and what the ranks leave out, counted over all of them."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.shards.index import Index
from launcher.distributed.world import World
from launcher.runs.run_folder import open_run
from launcher.training import upcoming
from tests.data.test_stream_trouble import foreign
from tests.support.helpers import TrainingText
from tests.support.ranks import start
from tests.support.shard_server import Server
from tests.support.sources import ROOT
from tests.support.stream_runs import texts
from tests.support.training import (
    TIMEOUT,
    Left,
    assert_same_run,
    begin,
    config,
    last_step,
    saved,
    train,
    trainer,
)

pytestmark = pytest.mark.faults


@pytest.fixture
def server(text: TrainingText) -> Iterator[Server]:
    server = Server(text.folder)
    yield server
    server.close()


def remote(text: TrainingText, server: Server, folder: Path, **data: Any) -> dict[str, Any]:
    """The usual run, its shards on the server."""
    plain = config(text, folder)
    for name, corpus in plain["data"]["corpora"].items():
        index = text.folder / f"{name}.index"
        corpus["index"] = str(index)
        corpus["shards"] = [f"{server.url}/{shard}" for shard in Index.open(index).shards]
    cache = {"folder": str(folder / "cache"), "backoff": 0.01, "timeout": 0.5}
    plain["data"] |= {"cache": cache, "threads": 1} | data
    return plain


def headrace(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The command as a user has it, each rank a process of its own."""
    code = "from launcher.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("threads", [0, 2])
def test_a_server_in_trouble_changes_no_row(
    text: TrainingText, straight: Path, server: Server, tmp_path: Path, threads: int
) -> None:
    luck = random.Random(threads)
    kinds = ["429 after 1", "503", "500", "408", "reset", "cut", "drip", "stall", "", "", "", ""]
    server.faults = luck.choices(kinds, k=60)
    train(2, remote(text, server, tmp_path, threads=threads))
    assert_same_run(tmp_path, straight)
    assert len(server.requests) > 40, "undisturbed it takes 30"


def test_when_patience_ends_the_run_is_saved_and_goes_on_later(
    text: TrainingText, straight: Path, server: Server, tmp_path: Path
) -> None:
    plain = remote(text, server, tmp_path, patience=0.05) | {"log": {"every": 1}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain))
    server.away_after = 12
    out, err = (running := headrace("train", "c.yaml", "--processes", 2, cwd=tmp_path)).communicate(
        timeout=90
    )
    assert running.returncode == 75, (out[-2000:], err[-2000:])
    lines = [line for line in err.splitlines() if line.startswith("headrace: ")]
    assert len(lines) == 1, err
    assert f"{server.url}/" in lines[0]
    assert "HTTP 503" in lines[0]
    assert "data.patience, 0.05 min" in lines[0]
    assert "Traceback" not in err
    told = [line for line in out.splitlines() if "waits for http" in line]
    assert told
    assert all(line.startswith(("headrace: rank 0 waits", "headrace: rank 1 waits")) for line in told)
    assert "for up to 3 s (data.patience)" in told[0]
    assert 0 < last_step(tmp_path) < 40
    assert saved(tmp_path), "of the last step"
    stop = list(open_run(tmp_path / "run").ledger())[-1]
    assert (stop["event"], stop["reason"], stop["error"]) == ("stop", "out of patience", lines[0][10:])
    server.away_after = None
    running = headrace("resume", "run", "--processes", 2, cwd=tmp_path)
    out, err = running.communicate(timeout=90)
    assert running.returncode == 0, err
    assert_same_run(tmp_path, straight)


def promptly(world: World, plain: dict[str, Any]) -> Left:
    """The case, in rounds of half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upcoming, "ROUND", 0.5)
        return trainer(world, plain)


def test_a_stop_is_heard_while_ranks_wait(
    text: TrainingText, straight: Path, server: Server, tmp_path: Path
) -> None:
    """Of one rank, whichever of them waits."""
    plain = remote(text, server, tmp_path)
    server.away_after = 12
    running = start(promptly, 2, plain, timeout=TIMEOUT)
    end = time.monotonic() + 60
    while server.turned_away < 8:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(running.pids[1], signal.SIGTERM)
    begun = time.monotonic()
    assert [left.code for left in running.wait()] == [75, 75]
    assert time.monotonic() - begun < 10
    stop = list(open_run(tmp_path / "run").ledger())[-1]
    assert (stop["event"], stop["reason"]) == ("stop", "stopped")
    assert saved(tmp_path)
    server.away_after = None
    train(2, plain)
    assert_same_run(tmp_path, straight)


def test_a_start_waits_and_is_stopped_before_a_run_is_begun(
    text: TrainingText, server: Server, tmp_path: Path
) -> None:
    """Held-out text is read at the start: while it waits a signal ends it, and nothing is left in the way."""
    plain = remote(text, server, tmp_path) | {"eval": {"every": 20, "bytes": 2_000}, "steps": 4}
    server.away_after = 0
    running = start(promptly, 2, plain, timeout=TIMEOUT)
    end = time.monotonic() + 60
    while server.turned_away < 8:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(running.pids[1], signal.SIGTERM)
    left = running.wait()
    assert [one.code for one in left] == [75, 75]
    assert len([one.line for one in left if one.line]) == 1
    server.away_after = None
    train(2, plain)
    assert last_step(tmp_path) == 4


def bad_text(text: TrainingText, tmp_path: Path) -> dict[str, Any]:
    """A run of 2 ranks on a corpus of 600 documents of which each 12th is no text."""
    samples = [one.encode() for one in texts(600, 1)]
    samples[5::12] = [b"caf\xe9 %d" % number for number in range(50)]
    corpus = foreign(tmp_path, samples)
    plain = config(text, tmp_path, steps=4, eval={})
    shards = {"shards": list(corpus.shards), "index": str(corpus.index.path)}
    plain["data"] = {"corpora": {"a": shards}, "block_bytes": 1_000}
    return plain


def skipped(tmp_path: Path) -> dict[int, set[str]]:
    """Attempt → the keys that it left out."""
    found: dict[int, set[str]] = {}
    for line in open_run(tmp_path / "run").ledger():
        if line["event"] == "skip":
            found.setdefault(line["attempt"], set()).add(line["key"])
    return found


def test_a_budget_counts_over_ranks_and_starts(text: TrainingText, tmp_path: Path) -> None:
    plain = bad_text(text, tmp_path)
    budget = {"action": "skip", "budget": 50}
    plain["data"]["on_bad"] = budget
    train(2, plain)
    first = skipped(tmp_path)[1]
    assert 4 < len(first) < 40
    more = plain | {"steps": 40, "data": plain["data"] | {"on_bad": budget | {"budget": len(first) + 3}}}
    left = begin(2, more).wait()
    assert [one.code for one in left] == [2, 2]
    (line,) = [one.line for one in left if one.line]
    both = skipped(tmp_path)
    assert len(both[2] - first) <= 4 + len(both[2] & first)
    assert len(both[2]) < len(first) + 3, "in this start alone it would have been within the budget"
    assert f"more than {len(first) + 3}: a/" in line
    assert "raise the budget" in line
    steps = last_step(tmp_path)
    assert steps >= 4
    assert saved(tmp_path)
    # What was found is quarantined: that is settled, and counts no more.
    every = sorted(set.union(*both.values()))
    corpora = {"a": plain["data"]["corpora"]["a"] | {"quarantine": every}}
    settled = more["data"] | {"corpora": corpora, "on_bad": budget | {"budget": 50 - len(every)}}
    train(2, more | {"steps": steps + 30, "data": settled})


def test_ranks_that_together_leave_out_too_much_stop_together(text: TrainingText, tmp_path: Path) -> None:
    """Each of them by itself is within the budget."""
    plain = bad_text(text, tmp_path) | {"steps": 40}
    plain["data"]["on_bad"] = {"action": "skip", "budget": 9}
    left = begin(2, plain).wait()
    assert [one.code for one in left] == [2, 2], [one.line for one in left]
    (line,) = [one.line for one in left if one.line]
    assert "left out over all ranks and starts of this run, more than 9: a/" in line
    everything = skipped(tmp_path)[1]
    assert 9 <= len(everything) < 18, "neither rank had left out nine"
    again = begin(2, plain).wait()
    assert [one.code for one in again] == [2, 2], "a start does not begin to count anew"


def test_a_run_that_goes_on_waits_for_shards_that_are_gone(text: TrainingText, tmp_path: Path) -> None:
    """A file system that is not mounted yet after a requeue. A run that begins is told of a wrong name at
    once."""
    shards = tmp_path / "mounted"
    shutil.copytree(text.folder, shards)
    plain = config(text, tmp_path, steps=4, checkpoint={"every": 2})
    for name, corpus in plain["data"]["corpora"].items():
        corpus |= {"index": str(shards / f"{name}.index"), "shards": str(shards / f"{name}-*.tar")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain))

    def ended(*arguments: object) -> tuple[int | None, str]:
        running = headrace(*arguments, cwd=tmp_path)
        _, err = running.communicate(timeout=90)
        return running.returncode, err

    assert ended("train", "c.yaml")[0] == 0
    shards.rename(tmp_path / "away")
    code, err = ended("resume", "run", "steps=6", "data.patience=0.03")
    assert code == 75, err
    assert "is not there" in err or "no such shard" in err or "No such file" in err
    assert ended("train", "c.yaml", "run.name=new")[0] == 2
    running = headrace("resume", "run", "steps=6", cwd=tmp_path)
    assert running.stdout
    assert any("waits for data.corpora." in line for line in running.stdout)
    (tmp_path / "away").rename(shards)
    assert running.wait(90) == 0
    assert last_step(tmp_path) == 6
