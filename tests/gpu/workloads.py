"""What the parts measure with: a size for this machine, packed rows, an engine, a clock that waits.

On a GPU the 1B model of docs/gpu.md; on a CPU everything very small, which shows that it runs and says
nothing of speed.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.stream.rows import Rows
from launcher.distributed.process_group import connect, disconnect
from launcher.distributed.world import World
from launcher.engine.engine import Engine
from launcher.engine.interface import Judge
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig
from model.config import ModelConfig
from model.transformer import Transformer
from tests.bench import attention
from tests.support.engine_cases import agree

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")


@dataclass(frozen=True)
class Size:
    """How large the work is."""

    layers: int
    heads: int
    head_width: int
    vocabulary: int
    positions: int
    """Of a micro-batch."""
    mean: float
    """Tokens of a packed segment."""
    step_lengths: tuple[int, ...]
    attention_lengths: tuple[int, ...]
    rounds: int

    def __str__(self) -> str:
        return (
            f"{self.layers} layers of width {self.width}, {self.heads} heads, vocabulary {self.vocabulary}, "
            f"micro-batches of {self.positions} positions, segments of {self.mean:g} tokens in the mean"
        )

    @property
    def width(self) -> int:
        """Of the model."""
        return self.heads * self.head_width

    def model(self, length: int, **changes: Any) -> ModelConfig:
        """The model for rows of T = length."""
        sizes = {
            "layers": self.layers,
            "width": self.width,
            "heads": self.heads,
            "max_sequence_length": length,
        }
        return ModelConfig(**sizes | changes)


SIZE = (
    Size(16, 16, 128, 32_000, 16_384, 500, (2048, 8192), (512, 2048, 8192), 7)
    if GPU
    else Size(2, 4, 16, 512, 512, 40, (128, 256), (128,), 2)
)


def timed(work: Callable[[], Any]) -> float:
    """Seconds until the device has done it."""
    if GPU:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def packed(length: int, positions: int = SIZE.positions) -> tuple[Tensor, Tensor]:
    """start and bound of packed rows, int32 [positions / length, length], on the device."""
    start, bound = attention.packed(length, SIZE.mean, positions=positions)
    return start.to(DEVICE), bound.to(DEVICE)


def packed_rows(length: int) -> Rows:
    """One micro-batch of packed rows of random tokens, a target at every position."""
    random = np.random.default_rng(0)
    rows = SIZE.positions // length
    arrays = {name: array.copy() for name, array in Rows.blank(rows, length, 0).arrays().items()}
    arrays["tokens"][:] = random.integers(0, SIZE.vocabulary, (rows, length))
    arrays["targets"][:] = np.roll(arrays["tokens"], -1, axis=1)
    arrays["weights"][:] = 1
    arrays["objective"][:] = arrays["corpus"][:] = 0
    arrays["start"], arrays["bound"] = (array.cpu().numpy() for array in packed(length))
    return Rows.of(arrays)


def keys_seen(rows: Rows) -> float:
    """The mean number of positions that a position attends to: start[i] ≤ j ≤ bound[i] are
    bound[i] − start[i] + 1 of them (docs/design/rows.md), none for blank positions whose bound is before."""
    return float(np.maximum(rows.bound.astype(np.int64) - rows.start + 1, 0).mean())


@contextmanager
def one_rank() -> Iterator[World]:
    """torch.distributed with this process alone in it."""
    world = World()
    connect(world)
    try:
        yield world
    finally:
        disconnect()


def fresh_device() -> None:
    """Nothing of what was measured before: neither its memory, nor kernels that torch compiled. (After a
    second T in one process they would be those for any T, which no run has.)"""
    gc.collect()
    if GPU:
        torch.cuda.init()  # in a process that has not used the GPU yet there are no figures to reset
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def engine_of(
    config: ModelConfig,
    layout: LayoutConfig,
    vocabulary: int = SIZE.vocabulary,
    heads: Sequence[str] = ("vocabulary",),
    corpora: int = 1,
) -> Iterator[Engine]:
    """An engine with random weights, drawn on the device, which is quick: the same each time. It is closed at
    the end; its memory is free once the caller has let go of it and the next one is made."""
    fresh_device()
    engine = Engine(
        lambda part, share: Transformer(config, vocabulary, heads, corpora, part=part, share=share),
        (0, config.layers + 2),
        OptimizerConfig(),
        layout,
        World(),
        seed=0,
    )
    torch.manual_seed(0)

    def draw(_name: str, shape: tuple[int, ...]) -> torch.Tensor:
        whole = torch.empty(shape, device=engine.device)
        return whole.fill_(1.0) if len(shape) == 1 else whole.normal_(0.0, config.init_std)

    with torch.no_grad():
        engine.state.fill(draw)
    try:
        yield engine
    finally:
        engine.close()


def one_step(engine: Engine, micro_batches: Sequence[Rows], step: int = 1, judge: Judge = agree) -> float:
    """The loss of one optimizer step, a mean over all targets."""
    targets = sum(float(rows.weights[rows.targets >= 0].sum()) for rows in micro_batches)
    scale = np.full((engine.model.head.objectives, engine.model.head.corpora), 1 / targets)
    return float(engine.step(micro_batches, scale, step, 1e-5, judge).sums.sum())


def peak_memory() -> str:
    """GiB of the GPU that were taken at the most; '–' without one."""
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if GPU else "–"
