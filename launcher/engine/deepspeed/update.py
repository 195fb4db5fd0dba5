"""DeepSpeed's update, asked for: the norm of the whole gradient before it, then the update or none.

Each of DeepSpeed's optimizers takes the norm first in its own step, and where that is no number it discards
the gradients by means of its own. So the norm is asked of the very method that it will ask; in the step the
method answers what it said then, or, where the step is refused, that the norm is infinite:

    fp32 stages 1 and 2, bf16 stage 2    scaled_global_norm()
    bf16 stage 1                         get_grads_for_norm(): the gradients of which it makes the norm;
                                         with an offloaded optimizer it is as stage 2
    stage 3                              _get_norm_groups(): a norm for each group
    stage 0                              none of this: torch's own optimizer, and headrace clips

So a refused step costs no norm of ours, and leaves everything as if it had not been made. One thing DeepSpeed
forgets: with an offloaded optimizer, bf16 stages 1 and 2 add the next gradient to a buffer that a discarded
step leaves full. These are private names; tests/launcher/test_judge.py tells when a release has others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import distributed, nn

from launcher.distributed.process_group import group_along
from launcher.distributed.world import World
from launcher.engine.deepspeed.start import load
from model.transformer import Transformer


class UpdateLost(Exception):
    """DeepSpeed made no update though none was refused."""


class Update(Protocol):
    """The end of an optimizer step, between the reduction of the gradients and the next forward pass."""

    def norm(self) -> float:
        """Of the whole gradient, over all ranks, before clipping; no finite number where the gradient is
        none. A collective."""

    def apply(self) -> None:
        """Clip by the norm just told and update the weights. A collective. UpdateLost where the weights stay
        as they are."""

    def discard(self) -> None:
        """Throw the gradients away: weights, moments and Adam's count stay as they are. A collective."""


def update_of(
    engine: Any, zero: int, clip: float, model: Transformer, world: World, take_step: Callable[[Any], None]
) -> Update:
    """The Update of a DeepSpeed engine of ZeRO stage `zero` around `model`. clip: the bound on the norm, 0:
    none; DeepSpeed was told the same from stage 1 on. take_step: has the engine make its update. A
    collective."""
    if zero:
        return _ZeroUpdate(engine, _source(engine.optimizer, zero), take_step)
    return _PlainUpdate(engine, clip, model, world, take_step)


class _PlainUpdate:
    """Stage 0."""

    def __init__(
        self, engine: Any, clip: float, model: Transformer, world: World, take_step: Callable[[Any], None]
    ) -> None:
        self._engine, self._clip, self._take_step = engine, clip, take_step
        self._parameters, mesh = list(model.parameters()), world.mesh
        self._counted = list(model.counted_weights().values())
        together = mesh.pipeline.size * mesh.tensor.size > 1
        self._group = group_along(world, "pipeline", "tensor") if together else None
        self._norm = torch.zeros(())

    def norm(self) -> float:
        """Of gradients that DeepSpeed has reduced and left on the parameters of all stages and parts."""
        gradients = [p.grad for p in self._counted if p.grad is not None]
        # In float64: over millions of elements torch's sum of fp32 squares on a CPU is 1e-4 off.
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
        squares = torch.stack(norms).square().sum()
        if self._group is not None:
            distributed.all_reduce(squares, group=self._group)
        self._norm = squares.sqrt().float()
        return float(self._norm)

    def apply(self) -> None:
        """Clip here: DeepSpeed reports no norm in this stage."""
        if self._clip:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip, self._norm)
        self._take_step(self._engine)

    def discard(self) -> None:
        """DeepSpeed counts its step, in which nothing has a gradient."""
        for parameter in self._parameters:  # AdamW passes over a parameter without a gradient
            parameter.grad = None
        self._take_step(self._engine)


@dataclass(frozen=True)
class _Source:
    """Where an optimizer takes its norm from. method: its name; norm_of: the norm of an answer; infinite: an
    answer that makes it discard the gradients; forget: what it does not discard itself."""

    method: str
    norm_of: Callable[[Any], Any]
    infinite: Any
    forget: Callable[[], None] = lambda: None


def _source(optimizer: Any, zero: int) -> _Source:
    utils = load().runtime.utils
    endless = torch.tensor(float("inf"))
    if zero == 3:
        return _Source("_get_norm_groups", utils.combine_grad_norm_groups, [endless])
    if hasattr(optimizer, "get_grads_for_norm"):
        return _Source(
            "get_grads_for_norm",
            lambda found: utils.get_global_norm_of_tensors(
                input_tensors=found[0], mpu=optimizer.mpu, norm_type=optimizer.norm_type
            ),
            ([endless], {}),
        )
    return _Source("scaled_global_norm", lambda norm: norm, endless, lambda: _forget_sums(optimizer))


def _forget_sums(optimizer: Any) -> None:
    """Stages 1 and 2: let go of the sums of the gradients, which are made anew where there are none."""
    for group in optimizer.averaged_gradients:
        optimizer.averaged_gradients[group] = None


class _ZeroUpdate:
    """Stages 1 to 3."""

    def __init__(self, engine: Any, source: _Source, take_step: Callable[[Any], None]) -> None:
        self._engine, self._source, self._take_step = engine, source, take_step
        self._ask = getattr(engine.optimizer, source.method)
        self._answer: Any = None

    def norm(self) -> float:
        """By the method that the optimizer itself will ask, which is then answered with this."""
        self._answer = self._ask()
        norm = float(self._source.norm_of(self._answer))
        return norm if norm >= 0 else float("nan")  # it says −1 of a group whose norm is no number

    def apply(self) -> None:
        """DeepSpeed's own step; UpdateLost where it changed nothing."""
        with self._answering(self._answer):
            self._take_step(self._engine)
        if not self._engine.was_step_applied():
            raise UpdateLost

    def discard(self) -> None:
        """DeepSpeed's own step, told of an infinite norm."""
        with self._answering(self._source.infinite):
            self._take_step(self._engine)
        self._source.forget()

    @contextmanager
    def _answering(self, answer: Any) -> Iterator[None]:
        """Within it the optimizer is told this where it asks for its norm; what it clips stays its own."""

        def told(*, for_clipping: bool = False) -> Any:
            return self._ask(for_clipping=True) if for_clipping else answer

        setattr(self._engine.optimizer, self._source.method, told)
        try:
            yield
        finally:
            delattr(self._engine.optimizer, self._source.method)
            self._answer = None
