"""Lines for the user from any rank of an attempt, while it waits: on the terminal, and in the rank's own log.

Rank 0 has a console, which may be a live view that a plain print would tear; the others print. What cannot be
printed is no reason to end a run.
"""

import logging
from contextlib import suppress
from typing import TextIO

from launcher.distributed.world import World
from launcher.tracking.tracker import Tracker

_log = logging.getLogger("headrace")


class Teller:
    """May be called from several threads."""

    def __init__(self, world: World, terminal: TextIO) -> None:
        self._world, self._terminal = world, terminal
        self.tracker: Tracker | None = None
        """Rank 0's, once there is one."""

    def __call__(self, line: str) -> None:
        """Tell it with this rank's name on the terminal."""
        _log.warning(line)
        rank = f"rank {self._world.rank} " if self._world.size > 1 else ""
        with suppress(OSError, ValueError):
            if self.tracker is not None:
                self.tracker.note(f"headrace: {rank}{line}")
            else:
                print(f"headrace: {rank}{line}", file=self._terminal, flush=True)

    def for_all(self, line: str) -> None:
        """What all ranks say at once: rank 0 on the terminal, the others in their logs."""
        if self._world.rank == 0:
            self(line)
        else:
            _log.warning(line)
