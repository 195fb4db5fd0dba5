"""Saving in the background: the loop waits for a copy in memory, the rest happens beside it.

    main thread, all ranks    room on the disk? (agreed)   masters and moments → a host buffer that is kept
    a thread on each rank     the logs are fsynced; buffer → frag-N, its block table; fsync; read back; then
                              rank-N.json
    rank 0's thread           waits for every rank-N.json; each element covered exactly once; index,
                              progress, manifest; still the newest attempt? → one rename; then retention

The threads' part is in save_job.py. Of a failure every rank learns from the flag that the loop adds to its
next reduction. What was published before is touched only after the new one has been read back.
"""

import errno
import math
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import BadInput
from launcher.checkpoint.catalog import abandon
from launcher.checkpoint.format import AVERAGES, BLOCK, FORMAT, Damaged, step_name
from launcher.checkpoint.retention import LEFT_FREE, Retention, clean
from launcher.checkpoint.save_job import SaveFailed, SaveJob
from launcher.distributed.collectives import STILL, ToldByOtherRank
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.world import World
from launcher.engine.engine import Engine
from launcher.engine.sharded_state import StateMap


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that was published: for the ledger."""

    step: int
    path: str
    bytes: int
    seconds: float
    deleted: tuple[str, ...]


class Checkpoints:
    """The saves of one attempt. All ranks have one and call its methods together, except `failed`."""

    def __init__(
        self,
        folder: Path,
        world: World,
        attempt: int,
        reducer: HostSums,
        retention: Retention,
        *,
        parent: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        may_publish: Callable[[], bool] = lambda: True,
        sync: Callable[[], None] = lambda: None,
        patience: float = 600.0,
    ) -> None:
        """parent: {step, attempt} of the checkpoint that the attempt went on from. about: facts that go into
        each manifest (versions, tokenizer). may_publish: asked by rank 0 right before the rename. sync:
        called in each rank's thread, long before that; what the rank logged up to the saved step is on the
        disk when it returns. patience: seconds that rank 0 waits for the slowest rank. What lies beyond the
        parent, damaged or given up, steps aside: BadInput on rank 0 where the disk refuses that. What dead
        attempts left unfinished is cleared away as far as it can be."""
        self.folder, self._world, self._attempt = folder, world, attempt
        self._reducer, self._retention, self._patience = reducer, retention, patience
        self._parent, self._about = parent, dict(about or {})
        self._may_publish, self._sync = may_publish, sync
        self._buffer: torch.Tensor | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saved: queue.SimpleQueue[SavedCheckpoint] = queue.SimpleQueue()
        self._damaged: set[int] = set()
        if world.rank == 0:
            try:
                folder.mkdir(exist_ok=True)
                clean(folder, attempt)
                abandon(folder, parent["step"] if parent else -1, attempt)
            except OSError as error:
                path = error.filename2 or error.filename or folder
                raise BadInput(
                    f"{path}: {error.strerror}, where checkpoints are set aside; mend that, then start again"
                ) from error

    def save(self, engine: Engine, step: int, progress: dict[str, Any]) -> None:
        """Begin to save the state after `step`. Returns when it is copied; waits for a save still under way.

        BadInput on rank 0, ToldByOtherRank on the others, when the disk has no room or the save before
        failed.
        """
        self.settle_together()
        state = engine.state
        numbers = {name: number for number, name in enumerate(state.shapes)}
        refusal = self._refusal(state) if self._world.rank == 0 else None
        flags = self._reducer.start(np.array([refusal is not None, self._error is not None])).wait()
        if flags[1]:
            self.raise_failure()
        if flags[0]:
            raise BadInput(refusal) if refusal else ToldByOtherRank("no room for a checkpoint")
        job = SaveJob(
            folder=self.folder,
            partial=self.folder / f"{step_name(step)}.partial-{self._attempt:04d}",
            rank=self._world.rank,
            size=self._world.size,
            begin=time.monotonic(),
            data=self._capture(state),
            fragments=[(numbers[f.name], f.cut) for f in state.owned],
            parameters=[[name, list(shape)] for name, shape in state.shapes.items()],
            progress={"adam_step": state.adam_step, "run": progress},
            manifest={
                "format": FORMAT,
                "step": step,
                "attempt": self._attempt,
                "parent": dict(self._parent) if self._parent else None,
                "about": self._about,
                "optional": [kind for kind in state.kinds if kind in AVERAGES],
                "layout": engine.layout.facts(self._world.size),
            },
        )
        self._parent = {"step": step, "attempt": self._attempt}
        self._thread = threading.Thread(target=self._work, args=(job,), name=f"save-{step}")
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether a save failed as far as this rank knows; to be added to the loop's next reduction."""
        return self._error is not None

    def raise_failure(self) -> None:
        """On every rank, once any rank has `failed`: BadInput on rank 0, which knows why, ToldByOtherRank
        elsewhere."""
        self.settle()
        error = self._error
        if self._world.rank > 0:
            raise ToldByOtherRank("a checkpoint could not be saved")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(
                f"{self.folder}: the disk became full while a checkpoint was saved; the ones before are "
                "untouched. Make room, then start again"
            ) from error
        if isinstance(error, OSError | Damaged | SaveFailed):
            raise BadInput(f"{self.folder}: a checkpoint could not be saved: {error}") from error
        raise error or RuntimeError("a save failed on another rank without a reason")

    def finish(self) -> None:
        """Wait for the save under way; raise what failed on any rank. A collective."""
        self.settle_together()
        if self._reducer.start(np.array([float(self.failed)])).wait()[0]:
            self.raise_failure()

    def published(self) -> list[SavedCheckpoint]:
        """On rank 0: what was published since the last call."""
        saved = []
        while not self._saved.empty():
            saved.append(self._saved.get())
        return saved

    def settle(self) -> None:
        """Wait for the end of the save under way, however it ends."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def settle_together(self) -> None:
        """`settle` on all ranks at once. A collective that takes as long as the slowest rank: a disk may be
        slower than a single reduction waits."""
        busy = True
        while busy:
            if self._thread is not None:
                self._thread.join(STILL)
            own = self._thread is not None and self._thread.is_alive()
            busy = bool(self._reducer.start(np.array([own])).wait()[0])
        self.settle()

    def _refusal(self, state: StateMap) -> str | None:
        elements = sum(math.prod(shape) for shape in state.shapes.values())
        needed = 4 * len(state.kinds) * elements + self._world.size * BLOCK + LEFT_FREE
        free = shutil.disk_usage(self.folder).free
        if free >= needed:
            return None
        return (
            f"{self.folder}: a checkpoint needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; the "
            "ones before are untouched. Make room or keep fewer (checkpoint.keep), then start again"
        )

    @torch.no_grad()
    def _capture(self, state: StateMap) -> dict[str, np.ndarray]:
        """Kind → float32 [elements]: this rank's own pieces, one behind the other, in the kept buffer."""
        elements = sum(fragment.length for fragment in state.owned)
        if self._buffer is None or self._buffer.shape[1] != elements:
            pinned = torch.cuda.is_available()
            shape = (len(state.kinds), elements)
            self._buffer = torch.empty(shape, dtype=torch.float32, pin_memory=pinned)
        for number, kind in enumerate(state.kinds):
            position = 0
            for fragment in state.owned:
                target = self._buffer[number].narrow(0, position, fragment.length)
                target.copy_(state.piece(fragment, kind), non_blocking=True)
                position += fragment.length
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return dict(zip(state.kinds, self._buffer.numpy()))

    def _work(self, job: SaveJob) -> None:
        try:
            job.partial.mkdir(exist_ok=True)  # where a rank that fails says so
            self._sync()
            job.write_own()
            if job.rank == 0:
                size = job.publish(self._may_publish, self._patience)
                seconds = time.monotonic() - job.begin
                deleted: list[str] = []
                try:
                    deleted = self._retention.apply(self.folder, job.step, self._attempt, self._damaged)
                finally:  # it is published, whatever becomes of the older ones
                    self._saved.put(SavedCheckpoint(job.step, str(job.target), size, seconds, tuple(deleted)))
        except BaseException as error:
            self._error = error
            job.give_up(error, self._patience)
