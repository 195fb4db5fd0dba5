"""A run of the proof on one rank: `headrace train` itself, with a look at what it does.

run_rank is all that `headrace train` does in a rank; its loop is the real one. Round it, as a task asks:

    nudge        before     the last place of each weight, for the control
    probes       before     the loss of chosen positions under chosen tokens (probes.py)
    save_first              a checkpoint after step 1, whose first moment is the gradient
    poison       in a step  one element of one rank's gradient is no number
    replicas     after      what this rank holds and another holds too, compared
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.errors import BadInput
from data.stream.rows import Rows
from launcher.config import run_config
from launcher.config.run_config import Config
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World
from launcher.engine.engine import Engine
from launcher.engine.interface import Judge, StepResult
from launcher.engine.replicas import compare, shared_labels
from launcher.proving.probes import evaluated, read_rows_file
from launcher.runs import run_folder
from launcher.runs.progress import Progress
from launcher.runs.run_folder import RunFolder
from launcher.training.loop import End, fit
from launcher.training.session import Session
from launcher.training.train import run_rank


def train(world: World, task: dict[str, Any]) -> dict[str, Any]:
    """Start the run of a task, or go on with it. code: of its end; line: what this rank had to say; and what
    was looked at."""
    config = run_config.build(task["config"], {}, task["name"])
    found: dict[str, Any] = {"line": None}

    def choose(_stop: StopRequest) -> tuple[RunFolder, Config]:
        return (run_folder.open_run(config.path), config) if task.get("resume") else run_folder.start(config)

    def loop(session: Session, progress: Progress) -> End:
        engine = session.engine
        if amount := task.get("nudge"):
            nudge(engine, amount)
        if path := task.get("probes"):
            found["probes"] = evaluated(through(engine), read_rows_file(Path(path)))
        if task.get("save_first"):
            save_first(session)
        if poison := task.get("poison"):
            found["poison"] = poisoned_at(engine, poison["step"], poison["rank"])
        end = fit(session, progress)
        if task.get("replicas"):
            found["replicas"] = replicas(engine)
        return end

    try:
        found["code"] = run_rank(world, choose, None, loop)
    except BadInput as error:
        found["code"], found["line"] = error.code, str(error)
    return found


@torch.no_grad()
def nudge(engine: Engine, amount: float) -> None:
    """Each master weight, up or down by `amount` of itself, as a coin falls."""
    coins = torch.Generator().manual_seed(1)
    state = engine.state
    for flat in range(len(state.flats)):
        weights = state.tensor(flat, "w")
        signs = torch.randint(0, 2, weights.shape, generator=coins, dtype=torch.float32) * 2 - 1
        weights.mul_(1 + amount * signs.to(weights.device))
    state.refresh()


def save_first(session: Session) -> None:
    """Have the session save after its first step too."""
    after_step = session.after_step

    def saving(progress: Progress, save_due: bool = False) -> None:
        after_step(progress, save_due)
        if progress.step == 1:
            session.save(progress)

    session.after_step = saving  # type: ignore[method-assign]


def through(engine: Engine) -> Any:
    """rows → the sum of their loss terms, by the layout at work. Every data rank is given the same rows."""

    def loss(rows: Rows) -> float:
        sums = engine.reduce(engine.evaluate([rows]).sums.ravel())
        return float(sums.sum()) / engine.world.mesh.data.size

    return loss


def poisoned_at(engine: Engine, at: int, rank: int) -> dict[str, Any]:
    """Have one element of the gradient be no number in step `at` on `rank`. What becomes of it, filled in
    when that step is made: applied, norm, moved (the state changed), lost (masters that are no number)."""
    found: dict[str, Any] = {}
    step = engine.step

    def stepping(
        micro_batches: Sequence[Rows], scale: np.ndarray, number: int, lr: float, judge: Judge
    ) -> StepResult:
        if number != at:
            return step(micro_batches, scale, number, lr, judge)
        before = state_hash(engine)
        parameter = next(iter(engine.model.parameters()))
        hook = parameter.register_hook(_spoiled) if engine.world.rank == rank else None
        found["applied"], found["norm"] = False, "none"
        try:
            result = step(micro_batches, scale, number, lr, judge)
            found["applied"], found["norm"] = result.verdict.apply, str(result.grad_norm)
        finally:
            if hook is not None:
                hook.remove()
            found["moved"] = state_hash(engine) != before
            masters = [engine.state.tensor(flat, "w") for flat in range(len(engine.state.flats))]
            found["lost"] = sum(int((~torch.isfinite(one)).sum()) for one in masters)
        return result

    engine.step = stepping  # type: ignore[assignment, method-assign]
    return found


def _spoiled(gradient: Tensor) -> Tensor:
    spoiled = gradient.clone()
    spoiled.view(-1)[0] = float("nan")
    return spoiled


def state_hash(engine: Engine) -> str:
    """Of the masters and moments that this rank holds."""
    digest = hashlib.sha256()
    for flat in range(len(engine.state.flats)):
        for kind in ("w", "exp_avg", "exp_avg_sq"):
            digest.update(_bytes(engine.state.tensor(flat, kind)))
    return digest.hexdigest()


def replicas(engine: Engine) -> dict[str, Any]:
    """number: of the copies that this rank shares with others, of weights, masters, moments and counts;
    unlike: a line for each that is not alike everywhere. A collective."""
    shared = shared_labels(engine.world, engine.replicas())
    found = compare(engine.world, engine.replicas(), shared)
    return {"number": len(shared), "unlike": [str(mismatch) for mismatch in found]}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).cpu().view(torch.uint8).numpy().tobytes()
