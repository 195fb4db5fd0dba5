"""Ranks that meet, and what is said of those that do not: threads for ranks, real sockets between them."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from data.errors import BadInput, PassingTrouble
from launcher.config.yaml_reader import dump_yaml
from launcher.distributed import meeting, waiting
from launcher.distributed.collectives import ToldByOtherRank
from launcher.distributed.meeting import meet, wait_in_store
from launcher.distributed.waiting import ranks_in_words
from launcher.distributed.world import SlurmJob, World, discover, node_names
from tests.support.commands import Commands
from tests.support.helpers import TrainingText
from tests.support.training import config


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here waits for seconds before a word."""
    monkeypatch.setattr(waiting, "FIRST_WORD", 0.1)
    monkeypatch.setattr(meeting, "GREETING", 0.5)


@pytest.fixture
def port() -> int:
    with socket.create_server(("localhost", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Rank:
    """One that meets in a thread: what it said, and how it ended."""

    world: World
    said: list[str] = field(default_factory=list)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._meet)
        self._thread.start()

    def _meet(self) -> None:
        try:
            if (listener := meet(self.world, self.said.append)) is not None:
                listener.close()
        except BaseException as error:
            self.error = error

    def ended(self) -> "Rank":
        """After its end."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self


def rank(number: int, size: int, port: int, patience: float = 10.0, **more: Any) -> Rank:
    return Rank(World(number, size, 0, f"tcp://localhost:{port}", "tests", patience=patience, **more))


def test_ranks_meet_in_any_order(port: int) -> None:
    ranks = [rank(number, 4, port) for number in (3, 1, 0, 2)]
    assert [one.ended().error for one in ranks] == [None] * 4


def test_those_that_do_not_come_are_named_on_all_that_did(port: int) -> None:
    job = SlurmJob("7", 0, f"{socket.gethostname()},n[08-09]")
    first, other = rank(0, 5, port, patience=1.5, job=job), rank(2, 5, port, job=job)
    assert isinstance(first.ended().error, PassingTrouble)
    line = str(first.error)
    assert "ranks 1, 3-4 did not come" in line
    assert "nobody from n08, n09" in line
    assert any("waits for 3 of 5 ranks" in said and "at most" in said for said in first.said), first.said
    assert isinstance(other.ended().error, ToldByOtherRank), "one rank shows the line"
    assert getattr(other.error, "code", None) == 75


def test_a_rank_that_leaves_while_it_waits_is_missing_again(port: int) -> None:
    first = rank(0, 3, port, patience=2.5)
    while not first.said:
        time.sleep(0.02)
    with socket.create_connection(("localhost", port)) as link:
        link.makefile("rb").readline()
        waiting.send(link, waiting.about(World(1, 3)))
        time.sleep(1.3)
    assert "ranks 1-2 did not come" in str(first.ended().error)
    assert any("1 of 3 ranks" in said for said in first.said), "it was there for a while"


@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        pytest.param([(0, 3), (1, 3), (1, 3)], "rank 1 came twice", id="no two of them with one rank"),
        pytest.param([(0, 3), (1, 4)], "was told that there are 4 ranks", id="all are told the same size"),
    ],
)
def test_what_contradicts_itself_is_bad_input(
    port: int, ranks: list[tuple[int, int]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(100, 200))
    monkeypatch.setattr(os, "getpid", lambda: next(numbers))  # threads have one
    started = [rank(*one, port) for one in ranks]
    errors = [one.ended().error for one in started]
    assert says in str(errors[0])
    assert [getattr(error, "code", None) for error in errors] == [2] * len(ranks)


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with socket.create_server(("localhost", 0)) as server:
        yield server


def test_what_listens_there_but_is_no_rank_0_is_said(stranger: socket.socket) -> None:
    """It accepts and is silent, as a database does; torch's client would wait for ever."""
    error = rank(1, 2, stranger.getsockname()[1], patience=0.2).ended().error
    assert isinstance(error, PassingTrouble)
    assert "is not rank 0 of headrace" in str(error)


def test_a_port_that_is_taken_is_waited_for(stranger: socket.socket) -> None:
    port = stranger.getsockname()[1]
    first, other = rank(0, 2, port), rank(1, 2, port)
    while not first.said:
        time.sleep(0.02)
    assert f"port {port} of {socket.gethostname()}, which another process has taken" in first.said[0]
    stranger.close()
    assert [first.ended().error, other.ended().error] == [None, None]


def test_a_rank_of_another_start_is_let_in_nowhere(port: int) -> None:
    job = SlurmJob("7", 1, "")
    first = rank(0, 2, port, patience=1.0, job=job)
    old = rank(1, 2, port, patience=0.5, job=SlurmJob("7", 0, ""))
    assert "of another job or start (7.1)" in str(old.ended().error)
    assert "rank 1 did not come" in str(first.ended().error)


def test_in_a_store_the_missing_are_named_too(tmp_path: Path) -> None:
    store = distributed.FileStore(str(tmp_path / "store"), 3)
    said: list[str] = []
    with pytest.raises(PassingTrouble, match="ranks 0, 2 did not come within 1 s"):
        wait_in_store(World(1, 3, 0, "file://store", patience=1.0), store, said.append)
    assert "ranks 0, 2" in said[0]


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        pytest.param({"RANK": "1"}, "unset RANK to train", id="RANK alone"),
        pytest.param({"WORLD_SIZE": "2"}, "unset WORLD_SIZE to train", id="WORLD_SIZE alone"),
        pytest.param({"RANK": "1", "WORLD_SIZE": "2"}, "unset RANK WORLD_SIZE to train", id="no address"),
        pytest.param(
            {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "below 2",
            id="a rank too many",
        ),
        pytest.param(
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "http://h", "MASTER_PORT": "1"},
            "MASTER_ADDR=",
            id="a URL",
        ),
        pytest.param(
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "0"},
            "1 to 65535",
            id="port 0",
        ),
        pytest.param(
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "65536"},
            "65535",
            id="a port too far",
        ),
    ],
)
def test_an_environment_that_can_never_work(variables: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        discover(variables)
    assert caught.value.code == 2


def test_tasks_of_slurm_beside_a_size_of_ones_own() -> None:
    """`export WORLD_SIZE=$SLURM_NTASKS MASTER_ADDR=…` in the script, as other tools ask for."""
    variables = {"WORLD_SIZE": "2", "SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
    world = discover(variables | {"MASTER_ADDR": "fe80::1", "MASTER_PORT": "29500"})
    assert (world.rank, world.rendezvous) == (1, "tcp://fe80::1:29500")


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        pytest.param("n1", ["n1"], id="one"),
        pytest.param("n[003-005,9],x", ["n003", "n004", "n005", "n9", "x"], id="ranges"),
        pytest.param("r[1-2]n[1-2]-ib", ["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"], id="two brackets"),
        pytest.param("n[1-2", [], id="no list"),
    ],
)
def test_node_lists(nodes: str, names: list[str]) -> None:
    assert node_names(nodes) == names


def test_ranks_in_words() -> None:
    assert ranks_in_words([3]) == "rank 3"
    assert ranks_in_words([1, 2, 3, 7]) == "ranks 1-3, 7"


SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "localhost"}


def test_the_command_line(text: TrainingText, tmp_path: Path, headrace: Commands) -> None:
    """Of four tasks one has come: told at once and at the end, no traceback, no run begun."""
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(config(text, tmp_path)))
    done = headrace.run("train", file, SLURM_PROCID="0", HEADRACE_MEETING_SECONDS="3", **SLURM)
    assert done.code == 75, done.err
    first, last = done.err.splitlines()
    assert "waits for 3 of 4 ranks at localhost:" in first
    assert "ranks 1-3 did not come" in last
    assert "unset SLURM_PROCID" in last
    assert not (tmp_path / "run").exists()
