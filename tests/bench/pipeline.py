"""What a pipeline's schedule wastes: stages that sleep their cost, so that two cores are enough for many.

    python -m tests.bench.pipeline [--stages P ...] [--micro-batches M ...] [--steps N] [--seconds S]

A block sleeps S seconds forward and 2 S backward, one block a stage, everything else of the step is real: the
engine, its sends, its update. A line for each P and M:

    ratio       a step over (M + P − 1) · 3 S, the least that one forward and one backward at a time can take:
                median and worst of the steps
    idle        the share of a step in which a stage does not sleep, mean of the stages, and over the
                (P − 1) / (M + P − 1) of an ideal 1F1B (Narayanan et al. 2021)
    overhead    CPU time of all ranks, a micro-batch and stage: sleeping takes none, so what is left is the
                instructions, the sends, and a small model's arithmetic
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher.distributed.world import World
from model import transformer
from model.config import ModelConfig
from model.layers import Block
from tests.support.engine_cases import LENGTH, agree, make_engine, rows_of, scale_of, share, varied
from tests.support.ranks import run


class _Slow(torch.autograd.Function):
    """The identity, after a while."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:  # type: ignore[override]
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        time.sleep(2 * ctx.seconds)
        return grad, None


def timed_steps(world: World, stages: int, micro_batches: int, steps: int, seconds: float) -> dict[str, Any]:
    """The case: seconds of each step behind the first two, and this rank's CPU seconds of all of them."""

    class SlowBlock(Block):
        def forward(self, *arguments: Any) -> Tensor:
            return _Slow.apply(super().forward(*arguments), seconds)

    transformer.Block = SlowBlock  # type: ignore[misc]
    model = ModelConfig(layers=stages, width=16, heads=2, mlp_width=24, max_sequence_length=LENGTH)
    setting = varied(model=model, pipeline=stages, stages=(1,) * stages, micro_batch=1)
    engine = make_engine(world, setting)
    found, cpu = [], 0.0
    for step in range(1, steps + 3):
        rows = rows_of(step, micro_batches)
        engine.reduce(np.zeros(1))
        begin, begin_cpu = time.perf_counter(), time.process_time()
        engine.step(share(engine.world, rows, 1), scale_of(rows, "global"), step, 1e-3, agree)
        engine.reduce(np.zeros(1))
        if step > 2:
            found.append(time.perf_counter() - begin)
            cpu += time.process_time() - begin_cpu
    return {"steps": found, "cpu": cpu}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1)
    options = parser.parse_args()
    print(f"{'P':>2} {'M':>3} {'ratio':>7} {'worst':>7} {'idle':>6} {'of ideal':>9} {'overhead':>9}")
    for stages in options.stages:
        for count in options.micro_batches:
            ranks = run(timed_steps, stages, stages, count, options.steps, options.seconds, timeout=600)
            least = (count + stages - 1) * 3 * options.seconds
            steps = [max(times) for times in zip(*(rank["steps"] for rank in ranks))]
            step = statistics.median(steps)
            idle = 1 - count * 3 * options.seconds / step
            ideal = (stages - 1) / (count + stages - 1)
            overhead = sum(rank["cpu"] for rank in ranks) / (options.steps * count * stages)
            print(
                f"{stages:2} {count:3} {step / least:7.3f} {max(steps) / least:7.3f} {idle:6.3f} "
                f"{idle / ideal:9.2f} {1000 * overhead:6.1f} ms",
                flush=True,
            )


if __name__ == "__main__":
    from tests.bench import pipeline  # by the name by which ranks import it

    pipeline.main()
