"""Work in a few processes, results in order, memory bounded: for packing and indexing.

The order of results is that of the items, so what is written does not depend on how many processes there are.
At most a few items a worker are under way. A worker ends by itself when its parent was killed: the pool's own
queues would let it wait for ever.
"""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from operator import length_hint
from typing import TypeVar

from data.errors import BadInput

In = TypeVar("In")
Out = TypeVar("Out")
Progress = Callable[[int, int | None], None]
"""Is told (done, in all), in all None where nobody knows."""
MEMORY_MIB = 256
"""About what packing and indexing hold of the texts, unless the user says otherwise."""
_AHEAD = 2
_MOST_A_CORE = 4


def ordered_map(function: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """function(item) for each item, in order; in this process where `workers` is 0 or 1.

    A pool starts all its processes at once: never more than there are items, as far as that is known, nor
    than a few a core, which is enough to wait for storage with some while the others compute.
    """
    workers = most_workers(min(workers, length_hint(items, workers)))
    if workers <= 1:
        yield from map(function, items)
        return
    try:
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("fork"), initializer=end_with, initargs=(os.getpid(),)
        )
    except OSError as error:  # the locks of its queues are files in /dev/shm, which containers may lack
        raise BadInput(
            f"--workers {workers}: processes cannot share locks here (/dev/shm: {error.strerror}); use "
            "--workers 1, or mount /dev/shm"
        ) from None
    window: deque[Future[Out]] = deque()
    try:
        for item in items:
            window.append(pool.submit(function, item))
            if len(window) > workers * _AHEAD:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def most_workers(wanted: int) -> int:
    """As many as are wanted, but no more than a few a core."""
    return min(wanted, _MOST_A_CORE * len(os.sched_getaffinity(0)))


def end_with(parent: int) -> None:
    """Watch from a thread whether the parent still lives."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
