"""Shards on a server that goes away while a run trains: it waits, and either goes on as if nothing had been, or
is saved and leaves with 75 on all ranks; and what the ranks leave out, counted over all of them."""

import os
import random
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
from tests.support.helpers import TrainingText
from tests.support.ranks import start
from tests.support.shard_server import Server
from tests.support.sources import ROOT
from tests.support.training import TIMEOUT, Left, assert_same_run, config, last_step, saved, train, trainer

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
    assert len(server.requests) > 60


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
