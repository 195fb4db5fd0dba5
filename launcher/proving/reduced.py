"""The user's config at a size that trains some steps in seconds, on the same text in the same layout.

    degrees        above 2 become 2; two data-parallel ranks beside them, so that something is shared out
    model          layers, heads and their width fall; kv heads in the same ratio; every choice stays
    rows           a few a step, one more than divides: ranks hold unequal numbers
    T              as short as still packs several segments into some row
    schedule       steps, warm-up and decay shrink together; the peak learning rate stays

Nothing else changes a number that is trained on. What did change is said, a line each.
"""

from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any

from launcher.config import run_config
from launcher.config.run_config import Config
from launcher.proving.measure import AXES

STEPS = 8
MICRO_BATCH = 2
OTHER_MICRO_BATCH = 3
"""Of the runs that show that its size makes no difference."""
LAYERS, HEADS, WIDTH, HEAD_WIDTH = 4, 16, 128, 16
"""Smaller models are left as they are; a head is not made narrower than FlexAttention takes it."""
SHORTEST = 128
"""The first T that is tried."""


@dataclass(frozen=True)
class Reduced:
    """The config of the proof and its ranks."""

    plain: dict[str, Any]
    """Of the run that shows the layout, with dropout as the user has it."""
    processes: int
    said: tuple[str, ...]
    """What is smaller than in the user's config."""

    @property
    def config(self) -> Config:
        """Checked."""
        return run_config.build(self.plain, {}, "the reduced config")

    @property
    def dropout(self) -> bool:
        """The model has any."""
        return bool(self.plain["model"]["dropout"] or self.plain["model"]["attention_dropout"])

    @property
    def degrees(self) -> dict[str, int]:
        """Of the axes that the layout uses, above 1."""
        degrees = self.config.layout.degrees
        return {axis: getattr(degrees, axis) for axis in AXES if getattr(degrees, axis) > 1}

    @property
    def data_ranks(self) -> int:
        """That share the rows out."""
        return self.processes // self.config.layout.degrees.ranks

    def without_dropout(self) -> dict[str, Any]:
        """Its masks follow the micro-batches, so layouts are compared without."""
        return self.plain | {"model": self.plain["model"] | {"dropout": 0.0, "attention_dropout": 0.0}}

    def of_length(self, length: int) -> "Reduced":
        """With rows of another T."""
        plain = self.plain | {"sequence_length": length, "max_sequence_length": length}
        return replace(self, plain=plain)

    def without(self, *axes: str) -> dict[str, Any]:
        """Its layout with these axes undone, without dropout. As the single process all of them are, and ZeRO
        with them where it can: that is torch's own optimizer on whole weights."""
        layout = self.plain["layout"] | dict.fromkeys(axes, 1)
        if "pipeline" in axes:
            layout["stages"] = []
        return self.without_dropout() | {"layout": layout}

    def single(self, micro_batch: int = MICRO_BATCH) -> dict[str, Any]:
        """The config of the single process."""
        plain = self.without(*self.degrees)
        whole = self.config.layout.precision == "fp32"
        changes: dict[str, Any] = {"zero": 0 if whole else 1, "offload": "none", "micro_batch": micro_batch}
        if whole:
            changes["deepspeed"] = {}
        return plain | {"layout": plain["layout"] | changes}


def reduce(config: Config, folder: Path, gpu: bool) -> Reduced:
    """The reduced config of a user's, its runs in `folder`. gpu: the ranks have one each."""
    plain = run_config.plain(config)
    said: list[str] = []
    degrees = config.layout.degrees
    shared = min(2, degrees.sequence) * min(2, degrees.tensor)
    plain["model"] = _model(plain["model"], shared, said)
    plain["layout"], ranks = _layout(config, plain, gpu, said)
    data_ranks = 2
    plain |= {
        "run": {"name": "run", "folder": str(folder)},
        "steps": STEPS,
        "batch_rows": 2 * MICRO_BATCH * data_ranks + 1,
        "eval": {},
        "replicas": {"every": 0},
        "init_from": None,
        "checkpoint": {"every": 1, "keep": 10 * STEPS},
        "wandb": plain["wandb"] | {"mode": "disabled"},
        "fingerprint": True,
    }
    if config.init_from:
        said.append(f"begins from the seed, not from {config.init_from}")
    said.append(f"steps {STEPS} of {config.steps:,}; rows a step {plain['batch_rows']}")
    plain["optimizer"] = _schedule(plain["optimizer"])
    plain["sequence_length"] = plain["max_sequence_length"] = min(config.sequence_length, SHORTEST)
    return Reduced(plain, ranks * data_ranks, tuple(said))


def _schedule(optimizer: dict[str, Any]) -> dict[str, Any]:
    short = {"warmup": min(optimizer["warmup"], STEPS // 4)}
    if optimizer["decay"] is not None:
        short["decay"] = min(optimizer["decay"], STEPS // 4)
    return optimizer | short


def _model(model: dict[str, Any], shared: int, said: list[str]) -> dict[str, Any]:
    """shared: ranks that will share the heads of a block."""
    small = dict(model)
    small["layers"] = min(model["layers"], LAYERS)
    kv_heads = model["kv_heads"] or model["heads"]
    fewer = _divisor(model["heads"], kv_heads, shared)
    small["heads"] = model["heads"] // fewer
    if model["kv_heads"] is not None:
        small["kv_heads"] = kv_heads // fewer
    width = model["width"] // model["heads"]
    if small["heads"] * width > WIDTH:
        width = max(HEAD_WIDTH, WIDTH // small["heads"] // 8 * 8)
    small["width"] = small["heads"] * min(width, model["width"] // model["heads"])
    if model["mlp_width"] is not None:
        small["mlp_width"] = max(8, model["mlp_width"] * small["width"] // model["width"] // 8 * 8)
    changed = [f"{key} {small[key]} of {model[key]}" for key in small if small[key] != model[key]]
    if changed:
        said.append(f"model: {', '.join(changed)}")
    return small


def _divisor(heads: int, kv_heads: int, shared: int) -> int:
    """By which both are divided: at most HEADS are left, a multiple of the ranks that share them, and of the
    kv heads an even number, for a cut."""
    both = gcd(heads, kv_heads)
    fitting = [
        d
        for d in range(1, both + 1)
        if both % d == 0 and (d == 1 or (kv_heads // d % 2 == 0 and heads // d % shared == 0))
    ]
    return next((d for d in fitting if heads // d <= HEADS), fitting[-1])


def _layout(config: Config, plain: dict[str, Any], gpu: bool, said: list[str]) -> tuple[dict[str, Any], int]:
    """And the ranks that hold a model together."""
    layout, ranks = dict(plain["layout"]), 1
    for axis in AXES:
        asked = getattr(config.layout.degrees, axis)
        ranks *= min(2, asked)
        if asked > 2:
            layout[axis] = 2
            said.append(f"layout.{axis} 2 of {asked}")
    if plain["model"]["layers"] != config.model.layers or config.layout.pipeline > 2:
        layout["stages"] = []
    layout["micro_batch"] = MICRO_BATCH
    if layout["compile"] and not gpu:
        layout["compile"] = False
        said.append("layout.compile: off, for the ranks are on the CPU, where it takes minutes")
    return layout, ranks
