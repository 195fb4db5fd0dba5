"""Two kinds of work in a few processes and one process between them, results in order, memory bounded.

What is read anywhere is looked at here, in order, and then made into something else anywhere:

    tasks ──▶ read (any process) ──▶ batches ──▶ place (here) ──▶ jobs ──▶ build (any process) ──▶ results
                        └───── data, in a slot of memory that all share ──────┘

The bulk of a batch goes through no pipe: its reader puts it into a slot, and the slot is free again when the
job that it became was built. A task may give any number of batches, so it can be a file that nobody can cut;
the process that began it goes on with it. Tasks behind the first one that is not read to its end never take
the last slot, so that one never waits for those, and all goes on.

A worker has one thing to do at a time, so neither side of its pipe ever waits for the other to read. It is
killed when this ends in whatever way, and ends by itself where its parent was killed.
"""

import gc
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from mmap import mmap
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from data.errors import PassingTrouble
from data.prepare.layout import BuildJob, Layout, Step
from data.prepare.parallel import end_with, most_workers
from data.sources.batch import MOST, TextBatch

Read = Callable[[Any], Iterator[TextBatch]]
Build = Callable[[BuildJob], Any]
Result = tuple[list[Step], Any]
"""What `Layout` said, and what the job became."""


def pipeline(
    tasks: Iterable[Any], read: Read, layout: Layout, build: Build, workers: int
) -> Generator[Result, None, None]:
    """(steps, build(job)) of each batch that reading the tasks gives, in order; in this process where
    `workers` is 0 or 1. Close it when it is not used to its end.

    Raises what read and build raise, PassingTrouble where a worker is killed.
    """
    workers = most_workers(workers)
    if workers <= 1:
        for task in tasks:
            for batch in read(task):
                job, steps = layout.place(batch)
                yield steps, build(job)
    else:
        team = _Team(read, build, workers)
        try:
            yield from team.results(iter(tasks), layout)
        finally:
            team.end()
    job, steps = layout.rest()
    yield steps, build(job)


class _Request(NamedTuple):
    """What a worker is to do. task: begin with it, None: go on with the one at hand. slot: where the data
    goes, or lies in so many bytes."""

    slot: int
    size: int = 0
    task: Any = None
    job: BuildJob | None = None


@dataclass
class _TaskStream:
    """A task that is read by one worker. ready: (slot, batch, bytes of its data)."""

    task: Any
    ready: deque[tuple[int, TextBatch, int]] = field(default_factory=deque)
    begun: bool = False
    ended: bool = False


@dataclass
class _Building:
    """A job on its way."""

    steps: list[Step]
    request: _Request | None
    result: Any = None
    built: bool = False


@dataclass
class _Worker:
    """A process. doing: what it was asked for last and has not answered."""

    process: Any
    pipe: Connection
    stream: _TaskStream | None = None
    doing: _TaskStream | _Building | None = None
    slot: int = -1


class _Team:
    """The workers, and what they share."""

    def __init__(self, read: Read, build: Build, workers: int) -> None:
        self._slots = [mmap(-1, MOST) for _ in range(2 * workers + 2)]
        self._free = list(range(len(self._slots)))
        self._workers: list[_Worker] = []
        self._streams: deque[_TaskStream] = deque()
        self._jobs: deque[_Building] = deque()
        """Those that nobody builds yet."""
        context = multiprocessing.get_context("fork")
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, read, build, self._slots, os.getpid()))
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))

    def results(self, tasks: Iterator[Any], layout: Layout) -> Iterator[Result]:
        """See `pipeline`."""
        order: deque[_Building] = deque()
        while True:
            self._ask(tasks)
            while self._streams and (self._streams[0].ready or self._streams[0].ended):
                if not self._streams[0].ready:
                    self._streams.popleft()
                    continue
                order.append(self._place(*self._streams[0].ready.popleft(), layout))
            while order and order[0].built:
                done = order.popleft()
                yield done.steps, done.result
            self._ask(tasks)
            busy = [worker for worker in self._workers if worker.doing is not None]
            if not busy and not order and not self._streams:
                return
            if busy:
                for pipe in wait([worker.pipe for worker in busy]):
                    self._hear(next(worker for worker in busy if worker.pipe is pipe))

    def _place(self, slot: int, batch: TextBatch, size: int, layout: Layout) -> _Building:
        with memoryview(self._slots[slot]) as whole, whole[:size] as data:
            job, steps = layout.place(batch._replace(data=data))
        if not job.units:
            self._free.append(slot)
            return _Building(steps, None, [], built=True)
        if job.data is data:
            job = job._replace(data=b"")
        building = _Building(steps, _Request(slot, size, job=job))
        self._jobs.append(building)
        return building

    def _ask(self, tasks: Iterator[Any]) -> None:
        """Give each idle worker something to do: what is to be built goes before what is to be read."""
        for worker in self._workers:
            if worker.doing is not None:
                continue
            if self._jobs:
                worker.doing = self._jobs.popleft()
                assert worker.doing.request is not None
                worker.slot = worker.doing.request.slot
                self._send(worker, worker.doing.request)
            elif self._free:
                self._ask_to_read(worker, tasks)

    def _ask_to_read(self, worker: _Worker, tasks: Iterator[Any]) -> None:
        if worker.stream is None:
            task = next(tasks, None) if len(self._free) > 1 or not self._streams else None
            if task is None:
                return
            worker.stream = _TaskStream(task)
            self._streams.append(worker.stream)
        stream = worker.stream
        if stream is not self._streams[0] and len(self._free) == 1:
            return
        worker.doing, worker.slot = stream, self._free.pop()
        self._send(worker, _Request(worker.slot, task=None if stream.begun else stream.task))
        stream.begun = True

    def _send(self, worker: _Worker, request: _Request) -> None:
        try:
            worker.pipe.send(request)
        except OSError:
            self._died(worker)

    def _hear(self, worker: _Worker) -> None:
        """Take the answer of a worker."""
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            self._died(worker)
        if isinstance(answer, BaseException):
            raise answer
        doing, worker.doing = worker.doing, None
        if isinstance(doing, _Building):
            doing.result, doing.built = answer, True
            self._free.append(worker.slot)
        elif isinstance(doing, _TaskStream) and answer is None:
            doing.ended, worker.stream = True, None
            self._free.append(worker.slot)
        elif isinstance(doing, _TaskStream):
            doing.ready.append((worker.slot, *answer))

    def _died(self, worker: _Worker) -> None:
        worker.process.join(5)
        raise PassingTrouble(
            f"a worker was ended from outside (signal {-(worker.process.exitcode or 0)}): where memory "
            "ran out, take fewer --workers, else try again"
        )

    def end(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()


def _work(pipe: Connection, read: Read, build: Build, slots: list[mmap], parent: int) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent hears it too, and ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent)
    gc.freeze()  # what the parent made is looked at no more, and its pages need no copy
    batches: Iterator[TextBatch] = iter(())
    while True:
        try:
            request: _Request = pipe.recv()
        except EOFError:
            return
        answer: Any
        try:
            if request.job is not None and request.job.data:
                answer = build(request.job)
            elif request.job is not None:
                with memoryview(slots[request.slot]) as whole, whole[: request.size] as data:
                    answer = build(request.job._replace(data=data))
            else:
                batches = batches if request.task is None else read(request.task)
                batch = next(batches, None)
                answer = None if batch is None else _shared(batch, slots[request.slot])
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            answer = error
        pipe.send(answer)


def _shared(batch: TextBatch, slot: mmap) -> tuple[TextBatch, int]:
    """A batch whose data lies in a slot, and its size."""
    size = len(batch.data)
    slot[:size] = bytes(batch.data)
    return batch._replace(data=b""), size
