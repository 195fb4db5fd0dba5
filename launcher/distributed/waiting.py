"""What a rank says while it waits for others, and the messages in which ranks speak of themselves.

A message is one line of JSON; whatever else comes over a port is not of ours.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.errors import PassingTrouble
from launcher.distributed.world import World

Say = Callable[[str], None]

FIRST_WORD, FIRST_WORD_OF_OTHERS = 1.0, 15.0
"""Seconds of waiting before a line says so: of rank 0 and the first rank of each machine; of the rest, which
would say the same hundreds of times."""
AGAIN = 60.0
"""Seconds between two such lines."""
LONGEST_LINE = 4096
KNOWN = "headrace"
"""The key that a message of ours has."""


def say(text: str) -> None:
    """A line for the person who waits."""
    print(f"headrace: {text}", file=sys.stderr, flush=True)


def address(world: World) -> tuple[str, int]:
    """Host and port of a rendezvous KIND://HOST:PORT."""
    host, _, port = world.rendezvous.partition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


def ranks_in_words(ranks: Iterable[int]) -> str:
    """'rank 3', 'ranks 1-3, 7'."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    alone = len(runs) == 1 and runs[0][0] == runs[0][1]
    return f"rank{'' if alone else 's'} {', '.join(words)}"


@dataclass
class Waiting:
    """How long a rank has waited, and what it has said of that."""

    world: World
    say: Say
    place: str
    begun: float = field(default_factory=time.monotonic)
    _said: tuple[str, float] | None = None

    @property
    def left(self) -> float:
        """Seconds until it gives up."""
        return self.begun + self.world.patience - time.monotonic()

    @property
    def due(self) -> bool:
        """Whether there may be something to say: soon after it began, and at most once a second."""
        speaker = self.world.rank == 0 or self.world.local_rank == 0 or "LOCAL_RANK" not in os.environ
        now = time.monotonic()
        if now - self.begun < (FIRST_WORD if speaker else FIRST_WORD_OF_OTHERS):
            return False
        return self._said is None or now - self._said[1] >= 1.0

    def tell(self, what: str) -> None:
        """Say whom or what it waits for, where that is due and is new, or was said some time ago."""
        now = time.monotonic()
        if not self.due or (self._said and self._said[0] == what and now - self._said[1] < AGAIN):
            return
        self._said = what, now
        self.say(f"{self.me} waits for {what}, {max(self.left, 0):.0f} s at most")

    @property
    def me(self) -> str:
        """'rank 2 of 4 on n003'."""
        return f"rank {self.world.rank} of {self.world.size} on {socket.gethostname()}"

    def over(self, what: str, why: str = "") -> PassingTrouble:
        """The error of a wait that has ended in vain. why: what is known beside it."""
        return PassingTrouble(f"{self.me}: {what} within {self.world.patience:.0f} s{why}{hint(self.world)}")


def hint(world: World) -> str:
    """What to do about ranks that did not come."""
    hint = "; see why, and start all ranks again (HEADRACE_MEETING_SECONDS=N waits longer)"
    if world.started_by == "srun":
        return f"{hint}. In a shell of a Slurm job, without srun: unset SLURM_PROCID to train in one process"
    return f"{hint}. To train in one process: unset RANK WORLD_SIZE"


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two hellos are of one process."""
    return (one["host"], one["pid"]) == (other["host"], other["pid"])


def about(world: World) -> dict[str, Any]:
    """What a rank says of itself."""
    return {
        KNOWN: 1,
        "job": job(world),
        "rank": world.rank,
        "size": world.size,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def job(world: World) -> str:
    """Which start of which Slurm job this is; empty without one."""
    return f"{world.job.id}.{world.job.restart}" if world.job else ""


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Small enough for the socket's buffer. Whoever has left hears nothing."""
    try:
        connection.send(json.dumps(message).encode() + b"\n")
    except OSError:
        return


def message(line: bytes) -> dict[str, Any] | None:
    """A greeting or hello of ours, or None."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    wanted = {KNOWN, "job", "rank", "size", "host", "pid"}
    return value if isinstance(value, dict) and value.keys() >= wanted else None
