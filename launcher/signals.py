"""A request to stop: SIGINT, SIGTERM or SIGUSR2 sets a flag that the loop reads at a step boundary.

A signal may reach one rank only (facts/slurm.md), so the flag means nothing by itself: the ranks add their
flags up after each step and stop together, with everything saved. USR2 is what the sbatch script asks Slurm
to send ahead of the time limit (USR1 belongs to NCCL). A second SIGINT is for impatient people: it
interrupts.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


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
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
