"""The optimizer's settings, its learning rate at every step, and which parameters decay.

The learning rate is a pure function of (step, steps, settings): nothing of it is state, so a resume needs
none, and a run whose `steps` are raised goes on along the new curve. What of these is in tokens is brought to
one unit before (launcher/config/timetable.py). AdamW is torch's fused one: a fifth
less time than the plain one on a CPU, and no compiler needed, unlike DeepSpeed's.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from objectives.quantity import Tokens, steps_or_tokens, written

if TYPE_CHECKING:
    from torch import nn

Fraction = Annotated[float, Field(ge=0, lt=1)]


def _warmup(value: Any) -> int | Tokens:
    return steps_or_tokens(value, least=0)


def _decay(value: Any) -> int | Tokens | None:
    return None if value is None else steps_or_tokens(value)


def _decay_written(value: int | Tokens | None) -> int | str | None:
    return None if value is None else written(value)


class OptimizerConfig(BaseModel):
    """AdamW and its learning rate."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    lr: Annotated[float, Field(gt=0)] = 3e-4
    """The peak learning rate."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After the warm-up: half a cosine; constant and then linear over the last `decay` steps; constant."""
    warmup: Annotated[int | Tokens, PlainValidator(_warmup), PlainSerializer(written)] = 100
    """Steps (or tokens) of linear warm-up: step s of them has the rate lr · s / warmup."""
    min_lr: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The rate of the last step, as a fraction of `lr` (cosine, wsd)."""
    decay: Annotated[int | Tokens | None, PlainValidator(_decay), PlainSerializer(_decay_written)] = None
    """Steps (or tokens) of the decay at the end of `wsd`; by default a fifth of all steps."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """For matrices; vectors (norms, biases) never decay."""
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """Bound on the global norm of the gradient; 0: none."""


def lr_at(step: int, steps: int, config: OptimizerConfig) -> float:
    """The learning rate of step `step` of `steps`; the first step is 1, the last one `steps`.

    Beyond `steps` the rate stays at its last value. Cosine as in Loshchilov and Hutter 2016 (one period),
    wsd (warm-up, stable, decay) as in Hu et al. 2024 with a linear decay.
    """
    warmup = _number(config.warmup)
    if step < warmup:
        return config.lr * step / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine":
        span = steps - warmup
        done = min(1.0, (step - warmup) / span) if span > 0 else 1.0
        share = 0.5 * (1.0 + math.cos(math.pi * done))
    else:
        span = decay_steps(steps, config)
        share = min(1.0, max(0.0, (steps - step) / span))
    return config.lr * (config.min_lr + (1.0 - config.min_lr) * share)


def decay_steps(steps: int, config: OptimizerConfig) -> int:
    """Steps of the decay at the end of `wsd`: `decay`, or a fifth of all; at most those after the warm-up."""
    asked = max(1, steps // 5) if config.decay is None else _number(config.decay)
    return min(asked, max(1, steps - _number(config.warmup)))


def _number(value: int | Tokens) -> int:
    assert isinstance(value, int), "tokens are brought to the unit of the steps before"
    return value


def parameter_groups(
    named: Iterable[tuple[str, "nn.Parameter"]],
    config: OptimizerConfig,
    shape_of: "Callable[[nn.Parameter], Sequence[int]]" = attrgetter("shape"),
) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: matrices, which decay, and everything with fewer dimensions.
    shape_of: a parameter's shape over all ranks, where they divide it."""
    parameters = [parameter for _, parameter in named if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if len(shape_of(parameter)) >= 2]
    vectors = [parameter for parameter in parameters if len(shape_of(parameter)) < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
