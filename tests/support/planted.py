"""Eight faults, planted in the ranks of a proof by patching in what they do; the product has no such option.

    report = examine(plain, folder, fault, only)       `headrace prove` with ranks of tests/support/ranks.py,
                                                       each of which has the fault

The releases of DeepSpeed that have the first two are refused by headrace's requirement, so what they do is
done to the one that is there.
"""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from data.stream.rows import Rows
from launcher.config import run_config
from launcher.distributed.world import World
from launcher.proving import rank as proving_rank
from launcher.proving.jobs import cause_of
from launcher.proving.prove import prove
from tests.support.ranks import RanksFailed, Running, start

TIMEOUT = 300.0


def pipeline_gradient(_world: World) -> None:
    """DeepSpeed 0.18.9, 0.19.2: the first stage gets 1/M of its gradient, M the micro-batches of a step."""
    from launcher.engine.parallel.pipeline import StagePasses

    train = StagePasses.train

    def training(self: Any, micro_batches: Sequence[Rows], scale: np.ndarray, step: int) -> np.ndarray:
        sums = train(self, micro_batches, scale, step)
        if self._mesh.pipeline.is_first:
            for flat in self._deepspeed.optimizer.averaged_gradients.values():
                for gradient in flat or ():
                    gradient.div_(len(micro_batches))
        return sums

    StagePasses.train = training  # type: ignore[method-assign]


def update_left_out(_world: World) -> None:
    """DeepSpeed 0.19.5 in bf16 ZeRO 2: of a gradient that is no number it says the last good norm, and leaves
    the update out without a word."""
    from launcher.engine.deepspeed import update

    ask, apply = update._ZeroUpdate.norm, update._ZeroUpdate.apply
    last: dict[str, Any] = {"norm": 1.0, "lost": False}

    def norm(self: Any) -> float:
        found = ask(self)
        last["lost"] = not np.isfinite(found)
        if not last["lost"]:
            last["norm"] = found
        return last["norm"]

    def applying(self: Any) -> None:
        if last["lost"]:
            self.discard()
        else:
            apply(self)

    update._ZeroUpdate.norm = norm  # type: ignore[method-assign]
    update._ZeroUpdate.apply = applying  # type: ignore[method-assign]


def nan_applied(_world: World) -> None:
    """DeepSpeed 0.19.5 in fp32 ZeRO 1 to 3: a gradient that is no number is applied, its norm 1.4142."""
    from launcher.engine.deepspeed import update

    ask = update._ZeroUpdate.norm

    def norm(self: Any) -> float:
        found = ask(self)
        if np.isfinite(found):
            return found
        self._answer = torch.tensor(2.0**0.5)
        return 2.0**0.5

    update._ZeroUpdate.norm = norm  # type: ignore[method-assign]


def mean_of_means(_world: World) -> None:
    """Each micro-batch's loss is its own mean, and the step's the mean of these, as in most trainers."""
    from launcher.engine.engine import Engine

    step = Engine.step

    def stepping(self: Any, micro_batches: Sequence[Rows], scale: np.ndarray, *rest: Any) -> Any:
        parts = len(micro_batches) * self.world.mesh.data.size
        own = [one for one in micro_batches if one.weights.any()]
        scaled = []
        for rows in own:
            factor = 1.0 / (scale.max() * float(rows.weights.sum()) * parts)
            arrays = rows.arrays() | {"weights": (rows.weights * factor).astype(np.float32)}
            scaled.append(Rows.of(arrays))
        blank = [one for one in micro_batches if not one.weights.any()]
        return step(self, scaled + blank, scale, *rest)

    Engine.step = stepping  # type: ignore[method-assign]


def mask_off_by_one(_world: World) -> None:
    """Every position sees one more than it may, in each way of computing attention that has a mask."""
    from model import attention

    visible = attention.visible
    attention.visible = lambda start, bound, keys: visible(start, bound + 1, keys)  # type: ignore[assignment]


def stream_forgets(_world: World) -> None:
    """A resume begins its streams anew."""
    from data.plan.positions import StreamPositions
    from launcher.training import assemble

    loader = assemble._loader

    def forgetful(world: World, claimed: Any, stream: Any, *rest: Any) -> Any:
        return loader(
            world, claimed, replace(stream, at=replace(stream.at, streams=StreamPositions())), *rest
        )

    assemble._loader = forgetful


def tie_drifts(_world: World) -> None:
    """From three data ranks on DeepSpeed adds the two ends of a tie in orders that differ between the copies:
    here the last stage's sum is off in its last places."""
    from launcher.engine.deepspeed.pipeline import _Tie

    add_up = _Tie.add_up

    def adding(self: Any, engine: Any) -> None:
        add_up(self, engine)
        if self._table is not None and self._counts and distributed.get_rank() > 0:
            gradient = self._table._hp_grad if engine.using_bf16_optimizer else self._table.grad
            gradient.mul_(1 + 2.0**-20 * torch.randn(gradient.shape))

    _Tie.add_up = adding  # type: ignore[method-assign]


def others_rows(_world: World) -> None:
    """Every data rank trains on the first one's rows; what is counted and fingerprinted is its own."""
    from launcher.engine.engine import Engine

    step = Engine.step

    def stepping(self: Any, micro_batches: Sequence[Rows], *rest: Any) -> Any:
        if self.world.mesh.data.size == 1:
            return step(self, micro_batches, *rest)
        found = []
        for rows in micro_batches:
            content = torch.from_numpy(rows.packed().copy())
            distributed.broadcast(content, 0)
            found.append(Rows.unpacked(content.numpy(), len(rows)))
        return step(self, found, *rest)

    Engine.step = stepping  # type: ignore[method-assign]


def lost_moments(world: World) -> None:
    """A checkpoint is loaded without the moments of one fragment."""
    from launcher.training import restore

    load = restore.load

    def losing(world_: World, stored: Any, state: Any) -> None:
        load(world_, stored, state)
        if world.rank == world.size - 1:
            fragment = state.held[-1]
            for kind in ("exp_avg", "exp_avg_sq"):
                state.piece(fragment, kind).zero_()

    restore.load = losing


def stops_in_a_step(world: World) -> None:
    """No fault of training: a rank ends with an exception in the third step."""
    from launcher.engine.engine import Engine

    step = Engine.step

    def stepping(self: Any, micro_batches: Sequence[Rows], scale: np.ndarray, number: int, *rest: Any) -> Any:
        if number == 3 and world.rank == 1:
            raise RuntimeError("planted: no such memory")
        return step(self, micro_batches, scale, number, *rest)

    Engine.step = stepping  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[World], None]] = {
    function.__name__: function
    for function in (
        pipeline_gradient,
        update_left_out,
        nan_applied,
        mean_of_means,
        mask_off_by_one,
        stream_forgets,
        tie_drifts,
        others_rows,
        lost_moments,
    )
}


def work(world: World, folder: str, fault: str | None) -> None:
    """The case: a rank of a proof, with a fault."""
    if fault:
        globals()[fault](world)
    proving_rank.work(world, Path(folder))


@dataclass
class PlantedRanks:
    """Starts ranks that have a fault; None: none."""

    fault: str | None = None
    started: int = 0
    pids: list[int] = field(default_factory=list)

    def start(self, folder: Path, processes: int) -> "RunningCase":
        """As launcher.proving.jobs.LocalRanks."""
        self.started += 1
        running = start(work, processes, str(folder), self.fault, timeout=TIMEOUT)
        self.pids += running.pids
        return RunningCase(running)


@dataclass
class RunningCase:
    """A launcher.proving.jobs.RunningJob."""

    running: Running

    def ended(self) -> bool:
        return self.running.connection.poll()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.running.kill()
        self.running.outcomes()

    def wait(self) -> str | None:
        try:
            self.running.wait()
        except RanksFailed as failed:
            return f"a rank failed: {cause_of(str(failed))}"
        return None


@dataclass
class Proved:
    """What a proof said."""

    code: int
    report: dict[str, Any]

    def failed(self) -> dict[str, list[dict[str, Any]]]:
        """Check → its lines that failed."""
        found: dict[str, list[dict[str, Any]]] = {}
        for line in self.report["checks"]:
            if line["verdict"] == "FAILED":
                found.setdefault(line["check"], []).append(line)
        return found

    def shown(self) -> set[str]:
        """Checks of which every line was shown."""
        return {line["check"] for line in self.report["checks"] if line["verdict"] == "shown"} - {
            *self.failed()
        }

    def __str__(self) -> str:
        lines = [line for lines in self.failed().values() for line in lines]
        return "\n".join(
            f"  FAILED {line['check']}: {line['what']}: {line['figure']} (tolerance {line['tolerance']}) "
            f"{line['detail']}"
            for line in lines
        )


def examine(plain: dict[str, Any], fault: str | None = None, only: Sequence[str] = ()) -> Proved:
    """A proof of a config's plain values, by ranks that have the fault."""
    config = run_config.build(plain, {}, "test")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = prove(config, only, json=True, keep=False, dry_run=False, ranks=PlantedRanks(fault))
    return Proved(code, json.loads(said.getvalue()))
