"""How a run is spread over processes: `layout:` of a config, and the table of what is supported.

The data-parallel degree is not here: it follows from the number of processes. Whatever stands here changes
speed and memory and never the batches, the losses or the checkpoints beyond rounding; each supported cell of
the table has a parity test (tests/launcher/test_engine_parity.py), each refused one a reason that a user can
read.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Precision = Literal["fp32", "bf16"]
Stage = Literal[0, 1, 2, 3]

SUPPORT: dict[tuple[Precision, Stage], str | None] = {
    ("fp32", 0): None,
    ("fp32", 1): None,
    ("fp32", 2): None,
    ("fp32", 3): None,
    ("bf16", 0): "DeepSpeed makes an optimizer step at its start in bf16 without ZeRO, which decays the "
    "weights; use zero: 1, which is right for a single process too",
    ("bf16", 1): None,
    ("bf16", 2): None,
    ("bf16", 3): None,
}
"""(precision, ZeRO stage) → None where it is supported, or why it is refused."""

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
    deepspeed: dict[str, int | bool] = {}
    """Raw keys of DeepSpeed's zero_optimization section (RAW_KEYS)."""

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
        reason = SUPPORT[self.precision, self.zero]
        if reason is not None:
            raise ValueError(f"precision {self.precision} with zero {self.zero} is not supported: {reason}")
        if self.zero == 0 and self.deepspeed:
            raise ValueError(f"deepspeed: {next(iter(self.deepspeed))} has no effect with zero: 0")
        return self
