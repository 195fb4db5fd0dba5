"""A request to stop: SIGINT, SIGTERM or SIGUSR2, before training begins and while it goes on.

    EarlyStop       from the start of the command: nothing was begun, so the process leaves at once, code 75
    stop_request    from the claim of an attempt on: a flag that the loop reads at a step boundary

A signal may reach one rank only (a `kill` by hand, a node that is taken away), so the flag means nothing by
itself: the ranks add their flags up after each step and stop together, with everything saved. TERM is what
the sbatch script asks Slurm to send ahead of the time limit; USR2 does the same (USR1 belongs to NCCL). A
second SIGINT is for impatient people: it interrupts.

Before that, seconds to minutes pass inside C (torch is imported, ranks wait for each other), where Python
puts its handlers off. So a thread waits for the signal's number in a pipe, into which the C handler writes.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
STOPPED = 75


class EarlyStop:
    """From `arm` to `disarm` a signal ends the process with code 75. In the main thread alone."""

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    def arm(self) -> None:
        """Begin to watch. Signals that local_launch.py had held back until now arrive."""
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._thread = threading.Thread(
            target=self._watch, args=self._pipe[:1], name="early stop", daemon=True
        )
        self._thread.start()
        hold_back()
        for number in ASKING:
            signal.signal(number, self._noted)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        deliver()

    def disarm(self) -> None:
        """Whoever calls this has handlers of its own in place. One from before still ends the process."""
        if self._pipe is None or self._thread is None:
            return
        signal.set_wakeup_fd(-1)
        os.write(self._pipe[1], b"\0")
        self._thread.join()
        for end in self._pipe:
            os.close(end)
        self._pipe = self._thread = None

    def _watch(self, pipe: int) -> None:
        while number := os.read(pipe, 1)[0]:
            if number in ASKING:
                if os.environ.get("RANK", "0") == "0":
                    os.write(2, b"headrace: stopped before training had begun; start it again\n")
                os._exit(STOPPED)

    def _noted(self, number: int, _frame: FrameType | None) -> None:
        """While armed the thread acts. In force again after training, when the exit code stands already."""
        if self._pipe is None and number == signal.SIGINT:
            raise KeyboardInterrupt


early_stop = EarlyStop()
"""Of this process: it has one set of handlers."""


def hold_back() -> None:
    """Signals that ask to stop wait, here and in processes started from now on, until `deliver`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)


def deliver() -> None:
    """The end of `hold_back`, in the process that calls it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


class StopRequest:
    """What the signals so far have asked for."""

    def __init__(self) -> None:
        self.name: str | None = None
        """The signal that asked first; None while nobody has."""

    def __bool__(self) -> bool:
        return self.name is not None

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = self.name or signal.Signals(number).name


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Within it, signals only set the flag. In the main thread alone."""
    request = StopRequest()
    before = {number: signal.signal(number, request._ask) for number in ASKING}
    early_stop.disarm()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
