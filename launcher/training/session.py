"""An attempt under way on one rank: the parts that the loop trains with, what is told and what is saved.

    judge         a step over all ranks, before its update                     agreement.py
    refuse        why a step that was not made does not stand
    updated       the average of the weights                                   ema.py
    tell          the step's record                                            step_record.py
    after_step    garbage, replicas, evaluation, checkpoint: each where it is due
    save          the state of engine and streams, in the background
    finish        the last save, the ledger's last line

All ranks call these together, for they hold collectives; after an error each calls `settle` by itself. Rank 0
alone has a tracker and the ledger. What its disk refuses is an error of all ranks at the next `judge` or
`finish`.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import NoReturn

import numpy as np

from data.errors import BadInput
from data.plan.plan import Plan
from data.plan.positions import StreamPositions
from data.stream.mixing import StepDraws
from data.stream.rows import step_fingerprint
from launcher.checkpoint.save import Checkpoints
from launcher.config.run_config import Config
from launcher.config.timetable import Timetable
from launcher.distributed.collectives import ToldByOtherRank, found_by_all, gather
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World
from launcher.engine.ema import WeightAverage
from launcher.engine.engine import Engine
from launcher.engine.memory import memory_in_use
from launcher.inference.held_out import HeldOut
from launcher.inference.samples import Sampler
from launcher.runs.progress import Progress
from launcher.runs.run_folder import Attempt
from launcher.tracking.records import Record
from launcher.tracking.tracker import Tracker
from launcher.training import gc_schedule
from launcher.training.agreement import StepOutcome, own_outcome
from launcher.training.corpus_shares import CorpusShares
from launcher.training.global_batch import GlobalBatch
from launcher.training.replica_check import ReplicaCheck
from launcher.training.step_record import Step, drawn_record, step_record
from model.accounting import flops_per_token, mfu


@dataclass
class Session:
    """The parts of one attempt. The plan stays the same from its first row to its end."""

    config: Config
    timetable: Timetable
    plan: Plan
    world: World
    vocabulary: int
    attempt: int
    hold: Attempt | None
    """Rank 0's: the ledger."""
    engine: Engine
    average: WeightAverage | None
    shards_of: Callable[[StepDraws], int]
    """On rank 0: in how many shards the blocks of a step lie."""
    batches: Iterator[GlobalBatch]
    """This rank's, in order and for ever; StreamFailed on all ranks where the stream of one ends, and
    StoppedWaiting where one was asked to stop meanwhile."""
    checkpoints: Checkpoints
    stop: StopRequest
    tracker: Tracker | None
    held_out: HeldOut | None
    sampler: Sampler | None
    saved: int
    """The step of the newest checkpoint."""
    replicas: ReplicaCheck | None
    corpus_shares: CorpusShares
    _record_failed: BadInput | None = field(default=None, init=False)
    """On rank 0: what the disk refused."""
    _saved_at: float = field(default_factory=time.monotonic, init=False)
    """When the last checkpoint was begun, or else this attempt."""

    def judge(self, sums: np.ndarray, norm: float) -> StepOutcome:
        """A step over all ranks before its update, in one reduction."""
        own = own_outcome(
            sums,
            norm,
            self.world,
            memory_gib=memory_in_use(),
            stop=bool(self.stop),
            save_failed=self.checkpoints.failed,
            record_failed=self._record_failed is not None,
            save_due=self.world.rank == 0 and self._due_by_the_clock(),
        )
        return StepOutcome.of_vector(self.engine.reduce(own.vector), like=own)

    def refuse(self, outcome: StepOutcome) -> NoReturn:
        """BadInput for a step that was not made: a save in the background or a record failed on some rank, or
        the loss or its gradient is no number. A collective."""
        # Rank 0 may have a save to publish, for which local_launch.GRACE is too short once others have left.
        # Where a save failed, this raises that.
        self.checkpoints.finish()
        raise self._lost_record() if outcome.record_failed else self._divergence()

    def updated(self, step: int) -> None:
        """The weights have changed: their average follows, where one is kept and this step is due for it."""
        if self.average is not None:
            self.average.update(step)

    def tell(self, step: Step) -> None:
        """Write the step's record; with `fingerprint` a collective."""
        fingerprint = self._fingerprint(step.global_batch) if self.config.fingerprint else None
        if self.tracker is None:
            return
        record = step_record(
            step,
            attempt=self.attempt,
            corpora=[corpus.name for corpus in self.plan.corpora],
            blocks=[corpus.eras[-1].blocks for corpus in self.plan.corpora],
            shares=self.corpus_shares.after(step.global_batch.batch_sums.rows, step.progress.row),
            drawn=drawn_record(step, self.shards_of),
            mfu=self._mfu(step),
            fingerprint=fingerprint,
        )
        self._write(record)

    def after_step(self, progress: Progress, save_due: bool = False) -> None:
        """Collect garbage, compare replicas, evaluate and save where this step is due for it. save_due: by
        the clock, as the ranks agreed."""
        gc_schedule.after_step(progress.step)
        self._report_saves()
        if self.replicas is not None and self.replicas.due(progress.step):
            self.compare_replicas(progress)
        if self.timetable.evaluates(progress.step):
            self.evaluate(progress.step)
        if save_due or self.timetable.saves(progress.step):
            self.save(progress)

    def compare_replicas(self, progress: Progress) -> None:
        """BadInput on all ranks where copies of the same thing differ, unless nobody asked. A collective."""
        if self.replicas is None or not (found := self.replicas.compare(progress)):
            return
        self.checkpoints.finish()  # as in `refuse`
        self._report_saves()
        run = self.checkpoints.folder.parent
        raise self.replicas.stop(found, progress.step, self.saved, run, self.hold)

    def evaluate(self, step: int) -> None:
        """Losses on the held-out rows, and samples. A collective."""
        if self.held_out is None:
            return
        record = self.held_out.record(self.engine, self.engine.reducer, step, self.attempt, self.average)
        self._write(record)
        samples = self.sampler.record(self.engine, step, self.attempt) if self.sampler else None
        if samples is not None:
            self._write(samples)

    def save(self, progress: Progress) -> None:
        """Save now, unless this very step is saved already. A collective; the writing goes on beside.
        BadInput on all ranks where replicas differ: what is saved is one model."""
        if progress.step == self.saved:
            return
        self.compare_replicas(progress)
        own = progress.streams if self.world.mesh.leads else StreamPositions()
        states = [StreamPositions.from_json(part) for part in gather(self.world, own.to_json())]
        self.checkpoints.save(self.engine, progress.step, progress.whole(states).to_json())
        self.saved, self._saved_at = progress.step, time.monotonic()
        self._report_saves()

    def finish(self, how: str, error: BadInput | None = None) -> None:
        """Wait for the save under way and close the ledger. error: that ended the run. A collective."""
        self.checkpoints.finish()
        self._report_saves()
        if self.engine.reduce(np.array([self._record_failed is not None]))[0]:
            raise self._lost_record()
        if self.hold is not None:
            why = {} if error is None else {"error": str(error)}
            self.hold.record("stop", reason=how, signal=self.stop.name, **why)

    def settle(self) -> None:
        """After an error: wait for the save under way and note it. No collective: each rank leaves alone."""
        self.checkpoints.settle()
        with suppress(BadInput):  # where the ledger cannot be written either, the error is the news
            self._report_saves()

    def _due_by_the_clock(self) -> bool:
        minutes = self.timetable.minutes
        return minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes

    def _lost_record(self) -> BadInput:
        """The error of a record that was refused, on the rank whose disk did so and on the others."""
        return self._record_failed or ToldByOtherRank("a record could not be written")

    def _divergence(self) -> BadInput:
        """The error of a loss or a gradient that is no number."""
        return found_by_all(
            self.world,
            f"{self.checkpoints.folder.parent}: the loss or its gradient is no longer a number. The "
            f"checkpoints are from before (the newest of step {self.saved:,}): resume with a lower "
            "optimizer.lr",
        )

    def _report_saves(self) -> None:
        for saved in self.checkpoints.published():
            if self.hold is not None and self.tracker is not None:
                with self._kept_for_all():
                    self.hold.record("checkpoint", **asdict(saved))
                self.tracker.note(f"step {saved.step:,}: checkpoint {saved.path} in {saved.seconds:.1f} s")

    def _write(self, record: Record) -> None:
        """On rank 0: write a record."""
        if self.tracker is not None:
            with self._kept_for_all():
                self.tracker.write(record)

    @contextmanager
    def _kept_for_all(self) -> Iterator[None]:
        """What the disk refuses within it on this rank is raised on all of them when they next agree: one
        that left alone would make the others wait for it."""
        try:
            yield
        except BadInput as error:
            self._record_failed = error

    def _fingerprint(self, global_batch: GlobalBatch) -> str:
        """Of the step's rows in global order, wherever they were trained on. A collective."""
        batch = global_batch.batch
        own = (batch.numbers >= 0) & self.world.mesh.leads
        hashes = batch.rows[own].fingerprints()
        parts = gather(self.world, list(zip((batch.numbers[own] - batch.first_row).tolist(), hashes)))
        ordered = dict(itertools.chain.from_iterable(parts))
        return step_fingerprint([ordered[row] for row in range(batch.rows_global)])

    def _mfu(self, step: Step) -> float | None:
        """Share of the devices' peak; None on a device whose peak is not known."""
        batch_sums = step.global_batch.batch_sums
        targets = float(batch_sums.targets.sum()) / batch_sums.tokens if batch_sums.tokens else 0.0
        flops = flops_per_token(self.config.model, self.vocabulary, self.plan.length, targets)
        return mfu(flops * batch_sums.tokens / step.seconds, self.engine.device_name, self.world.size)
