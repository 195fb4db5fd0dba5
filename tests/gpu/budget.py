"""One part within the time that is left: a process of its own, whose rows come through a pipe.

A part that is still at work at the deadline is killed with everything that it started; what it told before is
kept. One that would begin after the deadline is not begun.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe

from launcher.distributed.local_launch import die_with_parent
from tests.support.sources import ROOT

FINISHED, FAILED, CUT, NOT_REACHED = "finished", "failed", "cut", "not reached"


@dataclass(frozen=True)
class Part:
    """One table of the page."""

    name: str
    title: str
    about: str
    """What is measured, and how: a paragraph above the table."""
    columns: tuple[str, ...]
    work: str
    """module:function; the function calls what it is given once a row (tests/gpu/part.py)."""


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    state: str
    seconds: float = 0.0
    rows: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.state == NOT_REACHED:
            return "not reached: the time was up"
        words = f"{self.state} after {self.seconds:.0f} s, rows: {self.rows}"
        return f"{words} ({self.reason})" if self.reason else words


def measure(command: Sequence[str], deadline: float, tell: Callable[[list[str]], None]) -> Outcome:
    """Run a part's process, which is given the number of a pipe as its last argument, until `deadline` (of
    time.monotonic()). tell: called with each row as it comes."""
    begun = time.monotonic()
    if begun >= deadline:
        return Outcome(NOT_REACHED)
    here, there = Pipe(duplex=False)
    process = subprocess.Popen(
        [*command, str(there.fileno())],
        cwd=ROOT,
        stdout=2,  # what libraries print is no part of what the caller says
        pass_fds=[there.fileno()],
        preexec_fn=die_with_parent(os.getpid()),
        start_new_session=True,
    )
    there.close()
    rows, state, reason = 0, CUT, "the time was up"
    try:
        while here.poll(max(0.0, deadline - time.monotonic())):
            told = here.recv()
            if "error" in told:
                state, reason = FAILED, told["error"]
            else:
                tell(told["row"])
                rows += 1
    except EOFError:  # it has no more to tell
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(max(0.0, deadline - time.monotonic()))
            if state != FAILED:
                state, reason = (FAILED, f"exit code {code}") if code else (FINISHED, "")
    finally:
        here.close()
        _kill(process)
    return Outcome(state, time.monotonic() - begun, rows, reason)


def _kill(process: subprocess.Popen) -> None:
    """The process and whatever of its session is left."""
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
