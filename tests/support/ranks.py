"""Real ranks for tests: a server imports torch and DeepSpeed once and forks N gloo ranks per case.

    results = run(case, 4, *arguments)      case(world, *arguments) in 4 processes → their 4 results
    running = start(case, 2, *arguments)    the same under way: running.pids, then running.wait()

A case is a function of an importable module; arguments and results travel by pickle. An exception in a rank
is raised here with all ranks' tracebacks and output; a rank that was killed or timed out is named. Ranks die
with the server and the server with the test process, so nothing is left behind. One case at a time.
"""

import atexit
import contextlib
import faulthandler
import functools
import importlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.support.sources import ROOT


class RanksFailed(Exception):
    """What happened in the ranks of a case."""


@dataclass(frozen=True)
class _Case:
    module: str
    name: str
    processes: int
    arguments: tuple
    keywords: dict
    timeout: float


@dataclass
class Running:
    """A case under way."""

    connection: Connection
    pids: list[int]

    def kill(self) -> None:
        """kill -9 of every rank."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)

    def outcomes(self) -> list[tuple[str, Any, str]]:
        """One a rank: ('ok', result, output), ('error', traceback, output) or ('died', how, output)."""
        return self.connection.recv()

    def wait(self) -> list[Any]:
        """The results of all ranks, in order."""
        outcomes = self.outcomes()
        if any(kind != "ok" for kind, _, _ in outcomes):
            text = [f"rank {rank}: {kind}\n{what}\n{out}" for rank, (kind, what, out) in enumerate(outcomes)]
            raise RanksFailed("\n".join(text))
        return [value for _, value, _ in outcomes]


def start(
    case: Callable,
    processes: int,
    *arguments: Any,
    timeout: float = 60,
    gpu: bool = False,
    **keywords: Any,
) -> Running:
    """Begin `case(world, *arguments, **keywords)` in `processes` ranks. gpu: they see the machine's GPUs."""
    connection = _server(gpu)
    connection.send(_Case(case.__module__, case.__name__, processes, arguments, keywords, timeout))
    return Running(connection, connection.recv())


def run(case: Callable, processes: int, *arguments: Any, **options: Any) -> list[Any]:
    """The results of a case: `start` and `wait`."""
    return start(case, processes, *arguments, **options).wait()


@functools.cache
def _server(gpu: bool) -> Connection:
    from launcher.distributed.local_launch import die_with_parent

    here, there = socket.socketpair()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if not gpu:
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.ranks", str(there.fileno()), "gpu" if gpu else "cpu"],
        cwd=ROOT,
        env=environment,
        pass_fds=[there.fileno()],
        preexec_fn=die_with_parent(os.getpid()),
        process_group=0,
    )
    there.close()
    connection = Connection(here.detach())

    def close() -> None:
        connection.close()
        process.kill()
        process.wait()

    atexit.register(close)
    return connection


def _serve(connection: Connection, gpu: bool) -> None:
    if (
        not gpu
    ):  # DeepSpeed's import begins to use a GPU, which a fork cannot go on with: each rank imports it
        from launcher.engine import engine

        # What takes long to import, once for all cases. The first optimizer imports torch._dynamo: 2 s.
        engine.engine_deepspeed.load()
        importlib.import_module("torch._dynamo")

    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        with contextlib.suppress(Exception):  # the ranks will meet the same error and report it
            if not gpu:
                importlib.import_module(case.module)
        folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        ranks = [_fork(case, rank, folder, connection) for rank in range(case.processes)]
        connection.send([pid for pid, _ in ranks])
        connection.send(_collect(ranks, case.timeout, folder))
        shutil.rmtree(folder, ignore_errors=True)


def _fork(case: _Case, rank: int, folder: Path, server: Connection) -> tuple[int, Connection]:
    from launcher.distributed.local_launch import die_with_parent

    receive, give = os.pipe()
    arm = die_with_parent(os.getpid())
    pid = os.fork()
    if pid:
        os.close(give)
        return pid, Connection(receive, writable=False)
    arm()
    server.close()
    out = os.open(folder / f"{rank}.out", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1, case.timeout - 1))
    result = _work(case, rank, folder)
    with os.fdopen(give, "wb") as file:
        pickle.dump(result, file)
    sys.stdout.flush()
    os._exit(0)


def _work(case: _Case, rank: int, folder: Path) -> tuple[str, Any]:
    from launcher.distributed.process_group import connect, disconnect
    from launcher.distributed.world import World

    try:
        world = World(rank, case.processes, rank, f"file://{folder}/store", "tests")
        connect(world, timeout=case.timeout)
        function = getattr(importlib.import_module(case.module), case.name)
        value = function(world, *case.arguments, **case.keywords)
        disconnect()
        return "ok", pickle.loads(pickle.dumps(value))
    except BaseException:
        return "error", traceback.format_exc()


def _collect(ranks: list[tuple[int, Connection]], timeout: float, folder: Path) -> list[tuple[str, Any, str]]:
    """The outcomes, after every rank has ended. A rank that fails ends the others after two seconds."""
    found: dict[int, tuple[str, Any]] = {}
    pending = {connection: rank for rank, (_, connection) in enumerate(ranks)}
    deadline = time.monotonic() + timeout
    while pending and (left := deadline - time.monotonic()) > 0:
        for ready in wait(list(pending), timeout=left):
            assert isinstance(ready, Connection)
            rank = pending.pop(ready)
            with os.fdopen(os.dup(ready.fileno()), "rb") as file:
                data = file.read()
            ready.close()
            found[rank] = pickle.loads(data) if data else ("died", "without a result")
            if found[rank][0] != "ok":
                deadline = min(deadline, time.monotonic() + 2)
    outcomes = []
    for rank, (pid, _) in enumerate(ranks):
        if rank not in found:
            os.kill(pid, signal.SIGKILL)
            found[rank] = ("died", f"stopped after {timeout} s, or because another rank had failed")
        _, status = os.waitpid(pid, 0)
        if found[rank][0] == "died":
            found[rank] = ("died", f"{found[rank][1]} (wait status {status})")
        output = (folder / f"{rank}.out").read_text(errors="replace") if found[rank][0] != "ok" else ""
        outcomes.append((*found[rank], output))
    return outcomes


if __name__ == "__main__":
    # Run under its importable name, so that what is pickled here is known by the same name there.
    from tests.support import ranks

    ranks._serve(Connection(int(sys.argv[1])), sys.argv[2] == "gpu")
