"""A request to stop: SIGINT, SIGTERM or SIGUSR2, before training begins and while it goes on.

    before          nothing was begun, so the signal simply ends the process, and its code is 128 + the number
    stop_request    from the claim of an attempt on: a flag that the loop reads at a step boundary, code 75

A signal may reach one rank only (a `kill` by hand, a node that is taken away), so the flag means nothing by
itself: the ranks add their flags up after each step and stop together, with everything saved. TERM is what
the sbatch script asks Slurm to send ahead of the time limit; USR2 does the same (USR1 belongs to NCCL). A
second SIGINT is for impatient people: it interrupts.

Before that, seconds to minutes pass inside C (torch is imported, ranks wait for each other), where handlers
of Python are put off; so there are none. Whoever starts headrace again after 75 does so after those codes
too, as the sbatch script does.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
STOPPED = 75


def hold_back() -> None:
    """Signals that ask to stop wait, here and in processes started from now on, until `deliver`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)


def deliver() -> None:
    """The end of `hold_back`, in the process that calls it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


def end_at_once() -> None:
    """SIGINT ends this process as the others do, and not with an exception as soon as C returns to Python."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class StopRequest:
    """What the signals so far have asked for."""

    def __init__(self) -> None:
        self.name: str | None = None
        """The signal that asked first; None while nobody has."""

    def __bool__(self) -> bool:
        return self.name is not None

    def heard(self, name: str | None) -> None:
        """Another rank was asked to stop by this signal; None: it was not."""
        self.name = self.name or name

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = self.name or signal.Signals(number).name


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Within it, signals only set the flag. In the main thread alone."""
    request = StopRequest()
    before = {number: signal.signal(number, request._ask) for number in ASKING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
