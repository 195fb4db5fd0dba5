"""What ranks tell each other outside training: JSON over the host's network, and errors that all ranks obey.

One rank that leaves alone makes the others wait until a time-out. So whatever can fail at the start is done
under `together` (every rank does it, all learn whether anyone failed) or `from_first` (rank 0 does it and
tells the result). Exactly one rank shows the line; the others leave with the same exit code.
"""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import torch
from torch import distributed

from data.errors import BadInput
from launcher.distributed.world import World

T = TypeVar("T")

STILL = 60.0
"""Seconds after which a rank says that it is still at work; far below the time-out of a collective."""


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
    lines = gather(world, None if error is None else str(error))
    first = next((rank for rank, line in enumerate(lines) if line is not None), None)
    if first is None:
        return result[0]
    if error is not None and first == world.rank:
        raise error
    raise ToldByOtherRank(lines[first])


def from_first(world: World, make: Callable[[], Any]) -> Any:
    """Rank 0's `make()`, a JSON-able value, on every rank; its BadInput is every rank's. A collective.

    It may take longer than a collective waits, as reading a large checkpoint does: rank 0 works beside and
    says every now and then that the others are to wait on.
    """
    work: Future = Future()

    def attempt() -> None:
        try:
            work.set_result(make())
        except BaseException as error:
            work.set_exception(error)

    if world.rank == 0:
        # As a daemon: whoever interrupts the wait does not wait for the work either.
        threading.Thread(target=attempt, name="first", daemon=True).start()
    else:
        work.set_result(None)
    while gather(world, not wait([work], STILL).done)[0]:
        pass
    return gather(world, together(world, work.result))[0]
