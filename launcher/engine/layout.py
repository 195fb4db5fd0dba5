"""How a run is spread over processes: `layout:` of a config, and the table of what is supported.

The data-parallel degree is not here: it follows from the number of processes. Whatever stands here changes
speed and memory and never the batches, the losses or the checkpoints beyond rounding; each supported cell of
the table has a parity test (tests/launcher/test_engine_parity.py), each refused one a reason that a user can
read. A new way to spread a run is a field of LayoutCell, its values in SUPPORT, and its refusals in why_not.
"""

from itertools import product
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from launcher.distributed.mesh import Degrees
from model.config import ModelConfig

Precision = Literal["fp32", "bf16"]
Stage = Literal[0, 1, 2, 3]
Offload = Literal["none", "optimizer"]


class LayoutCell(NamedTuple):
    """What of a layout decides whether it is supported."""

    precision: Precision
    zero: Stage
    offload: Offload = "none"
    pipeline: bool = False
    """Cut into stages."""
    sequence: bool = False
    """Rows cut into columns."""
    tensor: bool = False
    """Each block shared by several ranks."""

    def __str__(self) -> str:
        words = [f"precision {self.precision} with zero {self.zero}"]
        words += ["pipeline"] if self.pipeline else []
        words += ["sequence"] if self.sequence else []
        words += ["tensor"] if self.tensor else []
        words += [f"offload {self.offload}"] if self.offload != "none" else []
        return " and ".join(words)


def why_not(cell: LayoutCell) -> str | None:
    """Why a cell is refused, and what to take instead; None where it is supported."""
    if cell.zero == 0 and cell.offload != "none":
        return (
            "without ZeRO the optimizer is torch's own, on the weights where they lie; use zero: 1, which is "
            "right for a single process too"
        )
    if cell.zero == 0 and cell.precision == "bf16":
        return (
            "DeepSpeed makes an optimizer step at its start in bf16 without ZeRO, which decays the weights; "
            "use zero: 1, which is right for a single process too"
        )
    if cell.pipeline and cell.zero >= 2:
        return (
            "DeepSpeed's pipeline divides neither gradients nor weights over the data-parallel ranks; use "
            "zero: 1, and more stages where the weights do not fit"
        )
    if cell.pipeline and cell.offload != "none":
        return "an offloaded optimizer was not tried under a pipeline; use offload: none, and more stages"
    return None


SUPPORT: dict[LayoutCell, str | None] = {
    cell: why_not(cell)
    for cell in map(
        LayoutCell._make,
        product(get_args(Precision), get_args(Stage), get_args(Offload), *[(False, True)] * 3),
    )
}
"""Every cell → None where it is supported, or why it is refused. The refusal of a config, the cells of the
tests and the README's table of layouts are made from it."""

RAW_KEYS: dict[str, type] = {
    "reduce_bucket_size": int,
    "allgather_bucket_size": int,
    "overlap_comm": bool,
    "stage3_prefetch_bucket_size": int,
    "stage3_max_live_parameters": int,
    "stage3_param_persistence_threshold": int,
}
"""Keys of DeepSpeed's `zero_optimization` section that may be handed through: sizes and overlap, which change
speed and memory only. Everything else in DeepSpeed's config is headrace's to write."""


class LayoutConfig(BaseModel):
    """How the model and its optimizer are spread, and in which numbers they compute."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    zero: Stage = 1
    """0: whole copies; 1: optimizer state, 2: gradients too, 3: weights too are divided over processes."""
    micro_batch: Annotated[int, Field(ge=1, le=2**16)] = 8
    """Rows that one process computes at a time."""
    precision: Precision = "fp32"
    """Weights and activations; masters, moments, gradient sums and their reduction are fp32 always."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Compile each block of the model (torch.compile): faster on a GPU; the first step waits for it."""
    offload: Offload = "none"
    """optimizer: masters, moments and the update are the host's, weights and activations the device's: a
    larger model fits, and each step waits for the host's cores."""
    pipeline: Annotated[int, Field(ge=1, le=2**10)] = 1
    """Stages: each has some of the layers, and micro-batches pass through them. Processes that are left over
    share the rows: pipeline 2 on 8 processes is 4 data-parallel ranks."""
    stages: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Blocks of each stage, such as [9, 8, 7]; by default such that the dearest stage costs least. The
    embedding goes with the first, the head with the last."""
    sequence: Annotated[int, Field(ge=1, le=2**10)] = 1
    """Processes that share each row, for rows too long for one: each has 1/S of its positions, and of what
    layers keep of them. Must divide the rows' length and the model's heads."""
    tensor: Annotated[int, Field(ge=1, le=2**10)] = 1
    """Ranks that share every block, each with some of its attention heads and MLP features: a larger model
    fits, and two sums over them a block and pass want a fast link, so within a node."""
    deepspeed: dict[str, int | bool] = {}
    """Raw keys of DeepSpeed's zero_optimization section (RAW_KEYS)."""

    @property
    def cell(self) -> LayoutCell:
        """Where it stands in the table of what is supported."""
        return LayoutCell(
            self.precision, self.zero, self.offload, self.pipeline > 1, self.sequence > 1, self.tensor > 1
        )

    @property
    def degrees(self) -> Degrees:
        """Ranks along each axis but data."""
        return Degrees(self.pipeline, self.sequence, self.tensor)

    def facts(self, processes: int) -> dict[str, Any]:
        """What of it concerns the division of a run on so many processes, as plain values: a checkpoint's
        manifest keeps it, and a resume compares."""
        own = self.model_dump(exclude={"deepspeed", "stages", "compile", "activation_checkpointing"})
        return {"processes": processes, "data_ranks": processes // self.degrees.ranks, **own}

    @field_validator("deepspeed", mode="after")
    @classmethod
    def _known_keys(cls, raw: dict[str, int | bool]) -> dict[str, int | bool]:
        for key, value in raw.items():
            if key not in RAW_KEYS:
                raise ValueError(f"unknown key '{key}', expected one of {', '.join(RAW_KEYS)}")
            if type(value) is not RAW_KEYS[key]:
                raise ValueError(f"{key}: expected {RAW_KEYS[key].__name__}, got {value!r}")
            if type(value) is int and value < 0:
                raise ValueError(f"{key}: expected 0 or more, got {value}")
        return raw

    @model_validator(mode="after")
    def _supported(self) -> "LayoutConfig":
        if (reason := SUPPORT[self.cell]) is not None:
            raise ValueError(f"{self.cell} is not supported: {reason}")
        if self.zero == 0 and self.deepspeed:
            raise ValueError(f"deepspeed: {next(iter(self.deepspeed))} has no effect with zero: 0")
        if self.stages and len(self.stages) != self.pipeline:
            raise ValueError(
                f"stages: expected the blocks of each of {self.pipeline} stages, as pipeline says, got "
                f"{len(self.stages)}; set layout.stages=[] to have them cut evenly"
            )
        if 0 in self.stages[:-1]:
            raise ValueError("stages: expected a block in each stage but the last, got 0")
        return self


def require_shares(layout: LayoutConfig, model: ModelConfig) -> None:
    """ValueError unless each tensor rank can have an equal part of every block."""
    ranks = layout.tensor
    for key, number in (
        ("heads", model.heads),
        ("kv_heads", model.num_kv_heads),
        ("mlp_width", model.mlp_features),
    ):
        if number % ranks:
            raise ValueError(
                f"layout.tensor: {ranks} ranks cannot have equal parts of model.{key} {number}; expected a "
                f"divisor of {number}"
            )
    if ranks > 1 and model.attention_dropout:
        raise ValueError(
            "model.attention_dropout: with layout.tensor the masks would depend on the number of ranks that "
            f"share the heads; expected 0, or layout.tensor 1, got {model.attention_dropout:g}"
        )
