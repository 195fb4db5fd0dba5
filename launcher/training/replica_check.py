"""Whether the copies of weights, ties, optimizer and progress are still the same on all ranks that have them.

    every n steps, before each save, after each load
        engine      weights, masters, moments, Adam's count    launcher/engine/replicas.py
        here        step, row, config: what the seeds of dropout and the rows follow from
        compare     → nothing, or what differs between whom; the same on every rank

A flipped bit, a faulty link or a fault in a schedule makes ranks drift apart without a word: the loss stays a
number, and a checkpoint then holds a mixture of models. What is saved has been compared, so every checkpoint
is from before a difference.
"""

import hashlib
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data.errors import BadInput
from launcher.config import run_config
from launcher.config.run_config import Config
from launcher.distributed.collectives import found_by_all, gather
from launcher.distributed.world import World
from launcher.engine.engine import Engine
from launcher.engine.replicas import Held, Mismatch, compare, shared_labels
from launcher.runs.progress import Progress
from launcher.runs.run_folder import Attempt


class ReplicaCheck:
    """The comparison of one attempt."""

    def __init__(self, world: World, engine: Engine, config: Config) -> None:
        """A collective: ranks learn what of theirs others have too; what an engine keeps stays the same."""
        self._world, self._engine, self._every = world, engine, config.replicas.every
        self._config = int(hashlib.sha256(run_config.dump(config).encode()).hexdigest()[:15], 16)
        self._shared = shared_labels(world, self._held(step=0, row=0))
        self.agreed: int | None = None
        """The step after which all were last seen equal, in this attempt."""

    def due(self, step: int) -> bool:
        """Whether this step is one of every n."""
        return step % self._every == 0

    def compare(self, progress: Progress) -> list[Mismatch]:
        """What differs after a step, and between whom; the same on every rank. A collective."""
        if self.agreed == progress.step:
            return []
        found = compare(self._world, self._held(progress.step, progress.row), self._shared)
        if not found:
            self.agreed = progress.step
        return found

    def _held(self, step: int, row: int) -> Held:
        yield from (("step", step), ("row", row), ("config", self._config))
        yield from self._engine.replicas()

    def stop(
        self, found: Sequence[Mismatch], step: int, saved: int, run: Path, ledger: Attempt | None
    ) -> BadInput:
        """The error of replicas that differ after a step; on rank 0 recorded in the ledger with all that is
        known. saved: the step of the newest checkpoint, 0: none. A collective."""
        hosts = gather(self._world, socket.gethostname())
        if ledger is not None:
            differ = [asdict(one) for one in found]
            ledger.record("replicas", step=step, agreed=self.agreed, saved=saved, hosts=hosts, differ=differ)
        return found_by_all(self._world, f"{run}: {told(found, step, self.agreed, saved, hosts)}")


def replica_check(world: World, engine: Engine, config: Config) -> ReplicaCheck | None:
    """What a config asks for; None: no comparison. A collective."""
    return ReplicaCheck(world, engine, config) if config.replicas.every else None


def told(found: Sequence[Mismatch], step: int, agreed: int | None, saved: int, hosts: Sequence[str]) -> str:
    """One line: what differs between whom, since when, from where to go on, whom to suspect."""
    first = found[0]
    more = f" (and {len(found) - 1:,} more, in the ledger)" if len(found) > 1 else ""
    since = "as they were loaded" if agreed is None else f"they were equal after step {agreed:,}"
    whence = (
        f"The checkpoints are from before (the newest of step {saved:,}): resume the run"
        if saved
        else "There is no checkpoint: begin the run again"
    )
    suspects = {rank for one in found for rank in one.odd} or {
        rank for group in first.groups for rank in group
    }
    where = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in sorted(suspects))
    return (
        f"replicas differ after step {step:,}: {first}{more}; {since}. {whence}, and suspect the memory and "
        f"the links of {where}"
    )
