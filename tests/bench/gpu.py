"""A training step and attention on one GPU, in bf16: tokens per second, MFU, memory, what takes the time.

    python -m tests.bench.gpu [attention] [steps] [--rounds N] [--width W] [--layers L] [--rows R]
                              [--length T] [--profile FILE]

- attention: forward and backward over 16 384 positions, 16 heads of width 128; packed segments as in
  tests/bench/attention.py with a mean of 500 tokens. Making the kernel is counted by a sixteenth, as for one
  of sixteen layers. Printed: medians as ratios to SDPA's is_causal (FlashAttention) over whole rows.
- step: the whole engine step under ZeRO 1 on such rows, a target at every position, one micro-batch; by back
  end, with blocks compiled or not. MFU by model.accounting. Their losses must agree.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from data.stream.rows import Rows
from launcher.distributed.process_group import connect, disconnect
from launcher.distributed.world import World
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig
from launcher.engine.zero_engine import Engine
from model.accounting import flops_per_token, mfu
from model.attention import BACK_ENDS
from model.config import ModelConfig
from model.transformer import Transformer
from tests.bench import attention
from tests.support.engine_cases import agree

VOCABULARY, MEAN = 32_000, 500
POSITIONS, HEADS, WIDTH, LAYERS = 16_384, 16, 128, 16


def timed(work: Callable[[], Any]) -> float:
    """Seconds until the GPU has done it."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def packed(length: int, positions: int) -> tuple[Tensor, Tensor]:
    """start and bound of packed rows, on the GPU."""
    rows = [attention.packed(length, MEAN, seed) for seed in range(-(-positions // attention.POSITIONS))]
    start, bound = (torch.cat(arrays) for arrays in zip(*rows))
    return start[: positions // length].cuda(), bound[: positions // length].cuda()


def of_attention(rounds: int) -> None:
    """Prints a line for each T."""
    for length in (512, 2048, 4096):
        rows = POSITIONS // length
        arrays = packed(length, POSITIONS)
        place = torch.arange(length, dtype=torch.int32, device="cuda").repeat(rows, 1)
        whole = torch.zeros_like(place), place
        shape = (rows, length, HEADS, WIDTH)
        q, k, v, slope = (
            torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=i < 3) for i in range(4)
        )

        def one(back_end: str, arrays: tuple[Tensor, Tensor]) -> float:
            kernel = None

            def make() -> None:
                nonlocal kernel
                kernel = BACK_ENDS[back_end](*arrays)

            made = timed(make)
            assert kernel is not None
            return made / LAYERS + timed(lambda: kernel(q, k, v, 0.0).backward(slope))  # noqa: B023

        work = {"causal": partial(one, "causal", whole), "flex, whole rows": partial(one, "flex", whole)}
        work |= {name: partial(one, name, arrays) for name in ("flex", "dense")}
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(rounds + 3):
            for name, run in work.items():
                times[name].append(run())
        median = {name: statistics.median(found[3:]) for name, found in times.items()}
        ratios = {name: round(value / median["causal"], 3) for name, value in median.items()}
        print(json.dumps({"T": length, "causal_ms": round(1e3 * median["causal"], 3), **ratios}), flush=True)


def rows_of(length: int, rows: int) -> Rows:
    """Packed rows, a target at every position."""
    start, bound = packed(length, rows * length)
    random = np.random.default_rng(0)
    arrays = {name: array.copy() for name, array in Rows.blank(rows, length, 0).arrays().items()}
    arrays["tokens"][:] = random.integers(0, VOCABULARY, (rows, length))
    arrays["targets"][:] = np.roll(arrays["tokens"], -1, axis=1)
    arrays["weights"][:] = 1
    arrays["objective"][:] = arrays["corpus"][:] = 0
    arrays["start"], arrays["bound"] = start.cpu().numpy(), bound.cpu().numpy()
    return Rows.of(arrays)


@torch.no_grad()
def started(config: ModelConfig, layout: LayoutConfig) -> Engine:
    """An engine with random weights, drawn on the GPU, which is quick: the same each time."""
    borders = 0, config.layers + 2
    engine = Engine(
        lambda part: Transformer(config, VOCABULARY, ("vocabulary",), 1, part=part),
        borders,
        OptimizerConfig(),
        layout,
        World(),
        seed=0,
    )
    torch.manual_seed(0)

    def draw(_name: str, shape: tuple[int, ...]) -> torch.Tensor:
        whole = torch.empty(shape, device=engine.device)
        return whole.fill_(1.0) if len(shape) == 1 else whole.normal_(0.0, config.init_std)

    engine.state.fill(draw)
    return engine


def one_step(engine: Engine, rows: Rows) -> float:
    """The loss of one optimizer step."""
    return float(engine.step([rows], np.array([1 / rows.weights.sum()]), 1, 1e-5, agree).sums.sum())


def of_steps(options: argparse.Namespace) -> None:
    """Prints a line for each variant, one engine after the other."""
    config = ModelConfig(
        layers=options.layers,
        width=options.width,
        heads=options.width // WIDTH,
        max_sequence_length=options.length,
    )
    rows = rows_of(options.length, options.rows)
    losses = {}
    variants = {
        "dense": (replace(config, attention="dense"), False),
        "flex": (config, False),
        "flex, chunk 4096": (replace(config, loss_chunk=4096), False),
        "flex, chunk 4096, compiled": (replace(config, loss_chunk=4096), True),
    }
    for name, (chosen, compiled) in variants.items():
        torch.cuda.reset_peak_memory_stats()
        layout = LayoutConfig(zero=1, micro_batch=len(rows), precision="bf16", compile=compiled)
        engine = started(chosen, layout)
        step = partial(one_step, engine, rows)
        first, *found = (timed(step) for _ in range(options.rounds + 4))
        seconds, tokens = statistics.median(found[3:]), rows.tokens.size
        flops = flops_per_token(chosen, VOCABULARY, options.length) * tokens / seconds
        losses[name] = step()
        line = {
            "variant": name,
            "parameters": sum(parameter.numel() for parameter in engine.model.parameters()),
            "tokens_a_step": tokens,
            "first_step_s": round(first, 1),
            "step_ms": round(1e3 * seconds, 1),
            "tokens_per_second": round(tokens / seconds),
            "mfu": round(mfu(flops, engine.device_name) or 0, 3),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
            "loss": round(losses[name], 4),
        }
        print(json.dumps(line), flush=True)
        if options.profile:
            write_profile(step, options.profile.with_suffix(f".{len(losses)}.txt"), name)
        engine.close()
        del engine, step
        gc.collect()
        torch.cuda.empty_cache()
    values = list(losses.values())
    assert max(values) - min(values) < 2e-2 * values[0], losses


def write_profile(work: Callable[[], Any], file: Path, title: str) -> None:
    """What the GPU does in one step, by kernel, and how much of the time it is busy."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        seconds = timed(work)
    kernels = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.self_device_time_total for event in kernels) / 1e6
    head = f"{title}: {seconds * 1e3:.1f} ms, kernels {busy * 1e3:.1f} ms, {len(kernels)} of them\n"
    table = seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90)
    file.write_text(head + table)
    print(head, end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("rounds", 9), ("width", 2048), ("layers", 16), ("rows", 8), ("length", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("parts", nargs="*", default=["attention", "steps"])
    parser.add_argument("--profile", type=Path, help="a table of kernels for each variant, beside this path")
    options = parser.parse_args()
    connect(World())
    print(json.dumps({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
    if "attention" in options.parts:
        of_attention(options.rounds)
    if "steps" in options.parts:
        of_steps(options)
    disconnect()


if __name__ == "__main__":
    main()
