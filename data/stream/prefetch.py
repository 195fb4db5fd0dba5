"""Work done by threads ahead of its need: blocks that are opened early, batches that are assembled early.

Both are jobs by key of a Prefetcher, blocks on several threads and in the order of their need, batches on one
thread and so one after the other. Nothing here talks to other ranks (launcher/training/global_batch.py does).

Ordinary locks and conditions inside one process: nothing is left behind when it dies. The threads are
daemons, so a killed or crashed run never waits for them; `close` ends them in order.
"""

import heapq
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.started = False
        self.done = threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:
            self.error = error
        self.done.set()


class Prefetcher(Generic[T]):
    """Jobs by key, the most urgent first. With 0 threads nothing is ever done ahead. One thread takes."""

    def __init__(self, threads: int, name: str) -> None:
        self._condition = threading.Condition()
        self._jobs: dict[Hashable, _Job[T]] = {}
        self._waiting: list[tuple[int, int, Hashable]] = []
        self._asked = 0
        self._open = True
        self._threads = [
            threading.Thread(target=self._work, name=f"{name} {number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, key: Hashable, urgency: int, work: Callable[[], T]) -> None:
        """Have `work` done ahead; a smaller urgency comes first. Ignored for a key that is asked already."""
        with self._condition:
            if self._threads and key not in self._jobs:
                self._jobs[key] = _Job(work)
                self._asked += 1
                heapq.heappush(self._waiting, (urgency, self._asked, key))
                self._condition.notify()

    def take(self, key: Hashable, *, in_turn: bool = False) -> T | None:
        """The result of a job, waited for. None where it was not asked for or, unless it must come in its
        turn, where no thread has begun it yet: the caller does it, at once. Raises what the job raised."""
        with self._condition:
            job = self._jobs.get(key)
            if job is None or not (job.started or in_turn):
                self._jobs.pop(key, None)
                return None
        job.done.wait()
        with self._condition:
            del self._jobs[key]
        if job.error is not None:
            raise job.error
        return job.result

    def close(self) -> None:
        """Ends the threads once their present jobs are done. Nobody takes from now on."""
        with self._condition:
            self._open = False
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while job := self._next():
            job.run()
            del job  # its result may be large, and is the taker's

    def _next(self) -> _Job[T] | None:
        """The most urgent job, waited for; None at the end."""
        with self._condition:
            while True:
                while self._open and not self._waiting:
                    self._condition.wait()
                if not self._open:
                    return None
                job = self._jobs.get(heapq.heappop(self._waiting)[2])
                if job is not None and not job.started:
                    job.started = True
                    return job
