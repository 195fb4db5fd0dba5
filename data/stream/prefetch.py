"""Work done ahead of its need, by threads: blocks that are opened early, and finished batches handed over.

Both are ordinary locks and conditions inside one process: nothing is left behind when it dies. The threads
are daemons, so a killed or crashed run never waits for them; `close` ends them in order.
"""

import heapq
import threading
from collections import deque
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
    """Jobs by key, the most urgent first. With 0 threads nothing is ever done ahead."""

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

    def take(self, key: Hashable) -> T | None:
        """The result of a job, waited for where it has begun; None where it has not: the caller does it.
        Raises what the job raised."""
        with self._condition:
            job = self._jobs.pop(key, None)
            if job is None or not job.started:
                return None
        job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result

    def close(self) -> None:
        """Ends the threads once their present jobs are done."""
        with self._condition:
            self._open = False
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._open and not self._waiting:
                    self._condition.wait()
                if not self._open:
                    return
                job = self._jobs.get(heapq.heappop(self._waiting)[2])
                if job is None or job.started:
                    continue
                job.started = True
            job.run()


class BoundedQueue(Generic[T]):
    """Hands items from one thread to another, `room` at most in between, and the error that ended them."""

    def __init__(self, room: int) -> None:
        self._condition = threading.Condition()
        self._items: deque[T] = deque()
        self._room = room
        self._error: BaseException | None = None
        self._open = True

    def put(self, item: T) -> bool:
        """Waits for room. False once the relay is closed."""
        with self._condition:
            while self._open and len(self._items) >= self._room:
                self._condition.wait()
            self._items.append(item)
            self._condition.notify_all()
            return self._open

    def fail(self, error: BaseException) -> None:
        """After the items there are, `get` raises this."""
        with self._condition:
            self._error = error
            self._condition.notify_all()

    def get(self) -> T:
        """Waits for an item. Raises what the other side failed with."""
        with self._condition:
            while not self._items:
                if self._error is not None:
                    raise self._error
                if not self._open:
                    raise StopIteration
                self._condition.wait()
            item = self._items.popleft()
            self._condition.notify_all()
            return item

    def close(self) -> None:
        """Lets both sides go."""
        with self._condition:
            self._open = False
            self._items.clear()
            self._condition.notify_all()
