"""What ranks tell each other outside training: JSON over the host's network, and errors that all ranks obey.

    together      every rank does it                          all learn whether anyone failed
    at_length     the same, of what may wait for shards       and meanwhile who is still at work, and who was
                                                              asked to stop
    from_first    rank 0 does it and tells the result         the same

One rank that leaves alone makes the others wait until a time-out. So whatever can fail at the start is done
in one of these ways. Exactly one rank shows the line; the others leave with the same exit code.
"""

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import torch
from torch import distributed

from data.errors import BadInput
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World

T = TypeVar("T")

STILL = 5.0
"""Seconds after which a rank says that it is still at work: far below the time-out of a collective, and no
longer than somebody who asks the run to stop has to wait."""
_log = logging.getLogger("headrace")


class ToldByOtherRank(BadInput):
    """Another rank has shown its line already: leave with its exit code, say nothing."""

    def __init__(self, line: str, code: int = BadInput.code) -> None:
        super().__init__(line)
        self.code = code


def found_by_all(world: World, line: str) -> BadInput:
    """The error to raise for what every rank has found by itself: rank 0 is the one that shows the line."""
    return BadInput(line) if world.rank == 0 else ToldByOtherRank(line)


def gather(world: World, value: Any) -> list[Any]:
    """Every rank's JSON-able value, in the order of ranks. A collective."""
    if world.size == 1:
        return [value]
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world.size)]
    distributed.all_gather(sizes, torch.tensor([len(content)]))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(content)] = content
    parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(world.size)]
    distributed.all_gather(parts, padded)
    return [json.loads(bytes(part[: int(size)].numpy())) for part, size in zip(parts, sizes)]


def together(world: World, make: Callable[[], T]) -> T:
    """`make()` on every rank, or BadInput on every rank where it failed on any. A collective."""
    result: list[T] = []
    error: BadInput | None = None
    try:
        result.append(make())
    except BadInput as caught:
        error = caught
    told = gather(world, None if error is None else [error.code, str(error)])
    failed = [rank for rank, one in enumerate(told) if one is not None]
    if not failed:
        return result[0]
    # What will not pass is the news where both happened: started again the run would only meet it later.
    shows = min(failed, key=lambda rank: (told[rank][0], rank))
    if error is not None and shows == world.rank:
        raise error
    code, line = told[shows]
    raise ToldByOtherRank(line, code)


def beside(make: Callable[[], T]) -> "Future[T]":
    """`make()` under way in a thread of its own, a daemon: whoever gives up waiting leaves it behind."""
    work: Future[T] = Future()

    def attempt() -> None:
        try:
            work.set_result(make())
        except BaseException as error:
            work.set_exception(error)

    threading.Thread(target=attempt, name="beside", daemon=True).start()
    return work


def at_length(world: World, make: Callable[[], T], stop: StopRequest | None = None) -> T:
    """As `together`, of what may take longer than a collective waits, such as reading a large checkpoint or
    waiting for a server. A collective.

    It is made in a thread, and every rank says every now and then that it is still at work. `stop`: is told
    what other ranks were asked; whatever waits in `make` has to look at it.
    """
    return _at_length(world, beside(make), stop)


def from_first(world: World, make: Callable[[], Any], stop: StopRequest | None = None) -> Any:
    """Rank 0's `make()`, a JSON-able value, on every rank; its BadInput is every rank's. It may take long, as
    in `at_length`. A collective."""
    if world.rank == 0:
        work = beside(make)
    else:
        work = Future()
        work.set_result(None)
    return gather(world, _at_length(world, work, stop))[0]


def _at_length(world: World, work: "Future[T]", stop: StopRequest | None) -> T:
    beats = 0
    while True:
        own = not wait([work], STILL).done
        told = gather(world, [own, stop.name if stop else None])
        for _, name in told:
            if stop is not None:
                stop.heard(name)
        busy = [rank for rank, (at_work, _) in enumerate(told) if at_work]
        if not busy:
            return together(world, work.result)
        beats += 1
        if not own and beats & (beats - 1) == 0:  # ever less often
            _log.warning("rank %s waits for %s", world.rank, ranks_named(busy))


def ranks_named(ranks: list[int]) -> str:
    """'rank 3', 'ranks 1, 2, 5', 'ranks 0, 1, 2 and 61 more'."""
    more = f" and {len(ranks) - 3} more" if len(ranks) > 3 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:3]))}{more}"
