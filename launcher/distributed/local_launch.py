"""`headrace train --processes N`: the same command N times on this machine, as one thing to the outside.

The ranks meet through a file in a private folder, so no port can be taken by another between its choice and
its use. Each rank asks the kernel to die with this process (PR_SET_PDEATHSIG): nothing outlives it, even
after kill -9. A signal is handed on once to every rank, which then save and leave; a second one ends them. A
rank that has not come to its first line yet gets it there (stop_signals.deliver).
No torch here: the parent only waits.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.distributed.allocator import ENVIRONMENT
from launcher.distributed.stop_signals import ASKING, STOPPED, deliver, hold_back

BAD_INPUT = 2
GRACE = {STOPPED: 60.0, BAD_INPUT: 5.0}
"""Seconds that the others are given to end after the first rank has ended with this code."""
GRACE_OTHERWISE = 10.0

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> Callable[[], None]:
    """A function that a child runs first: it is killed when its parent (process id) ends. Linux only;
    elsewhere it does nothing. The library is opened here, in the parent: after a fork only system calls."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def arm() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it ended between the fork and the line above
                os._exit(1)

    return arm


def launch(processes: int, command: Sequence[str]) -> int:
    """Run `command` as `processes` ranks and return the exit code of the whole. It must call
    stop_signals.deliver, or its ranks cannot be stopped.

    2 when a rank ended with 2 (bad input); else the code of the first rank that failed, 128 + signal number
    where a signal ended it; 0 when all ended well. When one rank fails the others get a short grace and are
    then killed.
    """
    folder = tempfile.mkdtemp(prefix="headrace-")
    ranks: list[subprocess.Popen] = []
    received: list[int] = []

    def forward(number: int, _frame: object) -> None:
        received.append(number)
        _send(ranks, number if len(received) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, forward) for number in ASKING}
    # It asks each rank for its stacks, as often as it comes.
    before[signal.SIGQUIT] = signal.signal(signal.SIGQUIT, lambda number, _frame: _send(ranks, number))
    try:
        hold_back()  # in the ranks too, which inherit it
        try:
            for rank in range(processes):
                ranks.append(
                    subprocess.Popen(
                        list(command),
                        env=os.environ | _variables(rank, processes, Path(folder)),
                        # A group of its own: Ctrl-C reaches this process only, which hands it on once.
                        process_group=0,
                        preexec_fn=die_with_parent(os.getpid()),
                    )
                )
        finally:
            deliver()
        return _wait(ranks)
    finally:
        _kill(ranks)
        for number, handler in before.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)


def _variables(rank: int, processes: int, folder: Path) -> dict[str, str]:
    variables = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    variables |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "HEADRACE_RENDEZVOUS": f"file://{folder}/store",
    }
    if "GLOO_SOCKET_IFNAME" not in os.environ and any(name == "lo" for _, name in socket.if_nameindex()):
        variables["GLOO_SOCKET_IFNAME"] = "lo"  # the hostname of a laptop often resolves to nothing
    if "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
    return variables


def _wait(ranks: Sequence[subprocess.Popen]) -> int:
    codes: list[int] = []
    deadline = float("inf")
    waiting = list(ranks)
    while waiting:
        for rank in list(waiting):
            code = rank.poll()
            if code is None:
                continue
            waiting.remove(rank)
            if code != 0:
                codes.append(code if code > 0 else 128 - code)
                deadline = min(deadline, time.monotonic() + GRACE.get(codes[0], GRACE_OTHERWISE))
        if waiting and time.monotonic() > deadline:
            _kill(waiting)
            break
        if waiting:
            time.sleep(0.02)
    if BAD_INPUT in codes:
        return BAD_INPUT
    return codes[0] if codes else 0


def _send(ranks: Sequence[subprocess.Popen], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def _kill(ranks: Sequence[subprocess.Popen]) -> None:
    _send(ranks, signal.SIGKILL)
    for rank in ranks:
        rank.wait()
