"""A run under way on one rank: what the loop asks for, answered by engine, loader, checkpoints and tracker.

Everything here was decided elsewhere; this file only connects. Rank 0 alone has a tracker and tells; every
rank takes part in what is a collective (sums, gathering the streams, evaluation).
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

import numpy as np

from data.errors import BadInput
from data.plan.plan import Plan
from data.plan.positions import StreamPositions
from data.stream.loader import Loader
from data.stream.rows import step_fingerprint
from launcher.checkpoint.save import Checkpoints
from launcher.config.run_config import Config
from launcher.distributed.collectives import ToldByOtherRank, gather
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World
from launcher.engine.interface import StepResult
from launcher.engine.memory import memory_in_use
from launcher.engine.optimizer import lr_at
from launcher.engine.zero_engine import Engine
from launcher.inference.held_out import HeldOut
from launcher.inference.samples import Sampler
from launcher.runs.progress import Progress
from launcher.runs.run_folder import Attempt
from launcher.tracking.records import Record
from launcher.tracking.tracker import Tracker
from launcher.training import gc_schedule
from launcher.training.global_batch import GlobalBatch, ahead, scales
from launcher.training.loop import Step, StepOutcome
from launcher.training.step_record import step_record
from model.accounting import flops_per_token, mfu


@dataclass
class TrainingSession:
    """launcher.loop.Session for one attempt. The plan stays the same from its first row to its end."""

    config: Config
    plan: Plan
    world: World
    vocabulary: int
    attempt: int
    hold: Attempt | None
    """Rank 0's: the ledger."""
    engine: Engine
    loader: Loader
    checkpoints: Checkpoints
    stop: StopRequest
    tracker: Tracker | None
    held_out: HeldOut | None
    sampler: Sampler | None
    saved: int
    """The step of the newest checkpoint."""
    _record_failed: BadInput | None = field(default=None, init=False)
    """On rank 0: what the disk refused."""

    @property
    def steps(self) -> int:
        """The step after which the run is complete."""
        return self.config.steps

    def batches(self) -> Iterator[GlobalBatch]:
        """This rank's batches with the sums of all ranks."""
        return ahead(iter(self.loader), self.engine.reducer, len(self.plan.corpora))

    def scale(self, global_batch: GlobalBatch) -> np.ndarray:
        """float64 [objectives]: what every loss weight is multiplied by."""
        return scales(
            global_batch.batch_sums, self.plan.mixture, global_batch.batch.first_row, self.plan.normalise
        )

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        return lr_at(step, self.config.steps, self.config.optimizer)

    def step(self, global_batch: GlobalBatch, scale: np.ndarray, step: int, lr: float) -> StepResult:
        """One optimizer step."""
        return self.engine.step(global_batch.batch.micro_batches, scale, step, lr)

    def agree(self, result: StepResult) -> StepOutcome:
        """What all ranks must know of a finished step, in one reduction. BadInput where a background save
        failed on any rank, a record could not be written, or the loss or its gradient is no number: before
        anything of it can be saved. (With such a gradient DeepSpeed skips the update without a word.)"""
        world, sums = self.world, result.sums
        no_number = not math.isfinite(result.grad_norm)
        flags = [bool(self.stop), self.checkpoints.failed, self._record_failed is not None, no_number]
        memory = np.zeros(world.size)
        memory[world.rank] = memory_in_use()
        vector = self.engine.reducer.start(np.concatenate([sums.ravel(), flags, memory])).wait()
        whole, (stop, failed, record_failed, non_finite), memory = np.split(
            vector, [sums.size, sums.size + len(flags)]
        )
        diverged = non_finite or not np.isfinite(whole).all()
        if failed or record_failed or diverged:
            # Rank 0 may have a save to publish, for which launch.GRACE is too short once others have left.
            self.checkpoints.settle_together()
            failed = self.engine.reduce(np.array([self.checkpoints.failed]))[0]
        if failed:
            self.checkpoints.raise_failure()
        if record_failed:
            raise self._record_failed or ToldByOtherRank("a record could not be written")
        if diverged:
            error = BadInput if world.rank == 0 else ToldByOtherRank
            raise error(
                f"{self.checkpoints.folder.parent}: the loss or its gradient is no longer a number. The "
                f"checkpoints are from before (the newest of step {self.saved:,}): resume with a lower "
                "optimizer.lr"
            )
        return StepOutcome(whole.reshape(sums.shape), bool(stop), float(memory.max()))

    def tell(self, step: Step) -> None:
        """Write the step's record."""
        fingerprint = self._fingerprint(step.global_batch) if self.config.fingerprint else None
        if self.tracker is None:
            return
        record = step_record(
            step,
            attempt=self.attempt,
            corpora=[corpus.name for corpus in self.plan.corpora],
            blocks=[corpus.eras[-1].blocks for corpus in self.plan.corpora],
            mfu=self._mfu(step),
            fingerprint=fingerprint,
        )
        self._write(record)

    def after_step(self, progress: Progress) -> None:
        """Evaluate, save and collect garbage where this step is due for it."""
        gc_schedule.after_step(progress.step)
        self._report_saves()
        every = self.config.eval.every
        if every and (progress.step % every == 0 or progress.step == self.steps):
            self.evaluate(progress.step)
        if progress.step % self.config.checkpoint.every == 0:
            self.save(progress)

    def evaluate(self, step: int) -> None:
        """Losses on the held-out rows, and samples. A collective."""
        if self.held_out is None:
            return
        record = self.held_out.record(self.engine, self.engine.reducer, step, self.attempt)
        self._write(record)
        samples = self.sampler.record(self.engine, step, self.attempt) if self.sampler else None
        if samples is not None:
            self._write(samples)

    def save(self, progress: Progress) -> None:
        """Save now, unless this very step is saved already. A collective; the writing goes on beside."""
        if progress.step == self.saved:
            return
        states = [StreamPositions.from_json(part) for part in gather(self.world, progress.streams.to_json())]
        self.checkpoints.save(self.engine, progress.step, progress.whole(states).to_json())
        self.saved = progress.step
        self._report_saves()

    def finish(self, how: str) -> None:
        """Wait for the save under way and close the ledger. A collective."""
        self.checkpoints.finish()
        self._report_saves()
        if self.engine.reduce(np.array([self._record_failed is not None]))[0]:
            raise self._record_failed or ToldByOtherRank("a record could not be written")
        if self.hold is not None:
            self.hold.record("stop", reason=how, signal=self.stop.name)

    def settle(self) -> None:
        """After an error: wait for the save under way and note it. No collective: each rank leaves alone."""
        self.checkpoints.settle()
        with suppress(BadInput):  # where the ledger cannot be written either, the error is the news
            self._report_saves()

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
        own = batch.numbers >= 0
        hashes = batch.rows[own].fingerprints()
        parts = gather(self.world, list(zip((batch.numbers[own] - batch.first_row).tolist(), hashes)))
        ordered = dict(itertools.chain.from_iterable(parts))
        return step_fingerprint([ordered[row] for row in range(batch.rows_global)])

    def _mfu(self, step: Step) -> float | None:
        """Share of the devices' peak; None on a device whose peak is not known."""
        batch_sums = step.global_batch.batch_sums
        targets = batch_sums.targets.sum() / batch_sums.tokens if batch_sums.tokens else 0.0
        flops = flops_per_token(self.config.model, self.vocabulary, self.plan.length, targets)
        return mfu(flops * batch_sums.tokens / step.seconds, self.engine.device_name, self.world.size)
