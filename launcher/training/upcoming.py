"""The next batch of every rank, and the sums of all ranks over it: taken in a thread, added up in rounds.

A rank may have to wait for its shards for as long as `data.patience` says, far longer than a collective
waits. So none waits for a batch inside a collective:

    take      the next batch, in a thread of its own
    a round   wait for it for ROUND seconds, then add up over all ranks: its sums, or that it is not there yet
              and meanwhile whether anyone was asked to stop
    again     while any rank waits

As long as batches come in time, which is nearly always, one round is all there is. All ranks learn the same
from a round, so they stop, fail and go on together.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

import numpy as np

from data.errors import BadInput, PassingTrouble
from data.plan.plan import Plan
from data.stream.loader import Batch
from launcher.distributed.collectives import beside, ranks_named
from launcher.distributed.host_reduce import HostSums, Pending
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World
from launcher.training.batch_sums import BatchSums, count

ROUND = 5.0
"""Seconds: a rank that is asked to stop is heard within so many."""
HANGS = 600.0
"""Seconds beyond the patience: a batch that has not come by then waits for a read that never answers."""


class StreamFailed(Exception):
    """Some rank has no further batch. `error` is why, on the rank where it happened, and None elsewhere."""

    def __init__(self, error: BadInput | None) -> None:
        super().__init__(str(error))
        self.error = error

    def repeat(self) -> None:
        """Raises what happened on this rank, if anything did."""
        if self.error is not None:
            raise self.error


class StoppedWaiting(Exception):
    """Some rank was asked to stop while some rank waited for its rows: on all ranks, at the same batch."""


@dataclass(frozen=True)
class WaitRules:
    """How the ranks wait for each other's batches. patience: seconds; tell: called on all ranks with a line
    for the user."""

    stop: StopRequest
    patience: float
    tell: Callable[[str], None]


class Upcoming:
    """One batch under way; made by all ranks in the same order."""

    def __init__(
        self,
        batches: Iterator[Batch],
        world: World,
        reducer: HostSums,
        plan: Plan,
        waiting: WaitRules,
        unknown: int,
    ) -> None:
        """Begins to take this rank's next batch; returns after the first round has begun."""
        self._world, self._reducer, self._plan, self._waiting = world, reducer, plan, waiting
        self._unknown = unknown
        self._work: Future[Batch] = beside(lambda: next(batches))
        self._begun = time.monotonic()
        self._pending = self._round()

    def result(self) -> tuple[Batch, BatchSums]:
        """The batch, once no rank waits for its own, and the sums of all. StreamFailed where a rank has none,
        StoppedWaiting; each on all ranks together."""
        rounds = 0
        while True:
            sums = BatchSums.of_vector(self._pending.wait(), self._plan)
            if sums.failures:
                done = self._work.done()
                error = self._work.exception() if done else None
                raise StreamFailed(error if isinstance(error, BadInput) else None)
            late = np.flatnonzero(sums.waiting).tolist()
            if not late:
                return self._work.result(), sums
            if sums.stops:
                raise StoppedWaiting
            rounds += 1
            if rounds > 1 and rounds & (rounds - 1) == 0:  # ever less often
                seconds = time.monotonic() - self._begun
                self._waiting.tell(f"waits for the rows of {ranks_named(late)}, {seconds:.0f} s so far")
            self._pending = self._round()

    def _round(self) -> Pending:
        late = not wait([self._work], ROUND).done
        longest = self._waiting.patience + HANGS
        if late and time.monotonic() - self._begun > longest:
            self._work, late = Future(), False
            self._work.set_exception(
                PassingTrouble(
                    f"rank {self._world.rank} got no rows within {longest / 60:.0f} min (data.patience and "
                    "ten more), and no error either: a file system that does not answer; start again"
                )
            )
        waiting = np.zeros(self._world.size)
        waiting[self._world.rank] = late
        own = BatchSums.none(self._plan) if late else self._own()
        stops = float(bool(self._waiting.stop))
        return self._reducer.start(replace(own, stops=stops, waiting=waiting).vector)

    def _own(self) -> BatchSums:
        """What this rank brings to a round once its batch is there, or the error in its place."""
        error = self._work.exception()
        if error is None:
            batch = self._work.result()
            return count(batch, self._plan, self._unknown, counts=self._world.mesh.leads)
        if isinstance(error, BadInput):
            return BatchSums.none(self._plan, failures=1.0)
        raise error
