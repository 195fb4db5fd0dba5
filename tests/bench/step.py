"""What DeepSpeed adds to a training step: one process under ZeRO, over a plain torch loop of the same model.

    THP_MEM_ALLOC_ENABLE=1 python -m tests.bench.step [--rounds N] [--zero Z] [--rows R] [--micro-batch M]
        [--threads N] [--plain-allocator]

The model of tests/bench/model.py on rows of several packed segments, T 512. In each round one step of the
engine (launcher/engine/engine.py, whole: lr, dropout seed, forward, backward, reduce, clip, fused AdamW,
sums) and one of the plain loop (the same batch from the same rows, clip_grad_norm_, fused AdamW) take turns,
in changing order; the figure is the median of the rounds' ratios. Goal: ≤ 1.05 with 2 048 tokens a step or
more.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch

from data.stream.rows import Rows
from launcher.distributed.allocator import keep_memory
from launcher.distributed.process_group import connect, disconnect
from launcher.distributed.world import World
from launcher.engine.engine import Engine
from launcher.engine.forward import to_device
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig, parameter_groups
from launcher.engine.stages import stage_borders
from model.initialise import initialise
from model.share import WHOLE, Share
from model.transformer import Transformer
from tests.bench.model import CONFIG, T
from tests.support.engine_cases import agree

VOCABULARY = 8192
OPTIMIZER = OptimizerConfig()


def packed(rows: int, segments: int = 4) -> Rows:
    """Causal rows of `segments` segments of unequal length each, a target at every position."""
    random = np.random.default_rng(0)
    arrays = {name: array.copy() for name, array in Rows.blank(rows, T, 0).arrays().items()}
    arrays["tokens"][:] = random.integers(0, VOCABULARY, (rows, T))
    arrays["targets"][:] = np.roll(arrays["tokens"], -1, axis=1)
    arrays["weights"][:] = 1
    arrays["objective"][:] = arrays["corpus"][:] = 0
    for row in range(rows):
        borders = np.sort(random.choice(np.arange(1, T), segments - 1, replace=False))
        starts = np.concatenate([[0], borders])
        arrays["start"][row] = starts[np.searchsorted(borders, np.arange(T), side="right")]
    return Rows.of(arrays)


def model(part: range | None = None, share: Share = WHOLE) -> Transformer:
    """The model or a part of it, its weights not filled."""
    return Transformer(CONFIG, VOCABULARY, ("vocabulary",), 1, part=part, share=share)


class Plain:
    """The loop that one writes by hand."""

    def __init__(self) -> None:
        self.model = model()
        initialise(self.model, CONFIG, 0)
        groups = parameter_groups(self.model.named_parameters(), OPTIMIZER)
        self.adam = torch.optim.AdamW(groups, lr=1e-4, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps, fused=True)

    def step(self, micro_batches: list[Rows], scale: np.ndarray) -> float:
        """The loss of one optimizer step."""
        total = 0.0
        for rows in micro_batches:
            loss, _ = self.model(to_device(rows, scale, torch.device("cpu")))
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.grad_clip)
        self.adam.step()
        self.adam.zero_grad()
        return total


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("rounds", 15), ("zero", 1), ("rows", 8), ("micro-batch", 8), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--plain-allocator", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.plain_allocator:
        keep_memory()
    connect(World())
    layout = LayoutConfig(zero=options.zero, micro_batch=options.micro_batch)
    borders = stage_borders(layout, CONFIG, VOCABULARY, T)
    engine, plain = Engine(model, borders, OPTIMIZER, layout, World(), seed=0), Plain()
    engine.initialise(0)
    rows = packed(options.rows)
    micro_batches = [
        rows[slice(i, i + options.micro_batch)] for i in range(0, len(rows), options.micro_batch)
    ]
    scale = np.array([[1 / rows.weights.sum()]])
    seconds: dict[str, list[float]] = {"deepspeed": [], "plain": []}
    losses: dict[str, float] = {}
    for number in range(options.rounds + 2):
        for name in ("deepspeed", "plain") if number % 2 else ("plain", "deepspeed"):
            begin = time.perf_counter()
            if name == "plain":
                losses[name] = plain.step(micro_batches, scale)
            else:
                losses[name] = float(engine.step(micro_batches, scale, number + 1, 1e-4, agree).sums.sum())
            if number >= 2:  # the first rounds fill caches
                seconds[name].append(time.perf_counter() - begin)
    assert abs(losses["deepspeed"] - losses["plain"]) < 1e-3, losses
    ratios = [a / b for a, b in zip(seconds["deepspeed"], seconds["plain"])]
    disconnect()
    print(
        json.dumps(
            {
                "zero": options.zero,
                "tokens_a_step": len(rows) * T,
                "micro_batches": len(micro_batches),
                "plain_ms": round(1e3 * statistics.median(seconds["plain"]), 1),
                "deepspeed_ms": round(1e3 * statistics.median(seconds["deepspeed"]), 1),
                "deepspeed_over_plain": round(statistics.median(ratios), 3),
                "least_over_least": round(min(seconds["deepspeed"]) / min(seconds["plain"]), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
