"""Attention over packed segments against plain causal attention over whole rows, forward and backward.

    THP_MEM_ALLOC_ENABLE=1 python -m tests.bench.attention [--threads N] [--rounds N] [--mean TOKENS]

4096 positions as rows of T 512, 1024 and 2048; 6 heads of width 64. Segment lengths are exponential with the
given mean; a third of the segments each is causal, bidirectional and
prefix. The back ends take turns in one run; making the kernel is counted by a sixth, as for one of six
layers. Printed: medians as ratios to SDPA's is_causal over whole rows. "auto, whole rows" is auto on those.
"""

import argparse
import json
import statistics
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from launcher.distributed.allocator import keep_memory
from model.attention import BACK_ENDS

HEADS, WIDTH, POSITIONS, LAYERS = 6, 64, 4096, 6


def packed(length: int, mean: float, seed: int = 0, positions: int = POSITIONS) -> tuple[Tensor, Tensor]:
    """start and bound, int32 [positions / length, length], of random segments."""
    random = np.random.default_rng(seed)
    rows = positions // length
    start = np.zeros((rows, length), np.int32)
    bound = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    for row in range(rows):
        at = 0
        while at < length:
            end = min(length, at + max(2, int(random.exponential(mean))))
            start[row, at:end] = at
            seen = (at, end, at + (end - at) // 2)[random.integers(3)]
            bound[row, at:seen] = seen - 1
            at = end
    return torch.from_numpy(start), torch.from_numpy(bound)


def seconds(back_end: str, arrays: tuple[Tensor, Tensor], tensors: list[Tensor]) -> float:
    """One forward and backward pass of one layer, and its share of making the kernel."""
    q, k, v, slope = tensors
    for x in (q, k, v):
        x.grad = None
    begun = time.perf_counter()
    kernel = BACK_ENDS[back_end](*arrays)
    made = time.perf_counter()
    kernel(q, k, v, 0.0).backward(slope)
    return (made - begun) / LAYERS + time.perf_counter() - made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--mean", type=float, default=114)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_memory()
    for length in (512, 1024, 2048):
        rows = POSITIONS // length
        arrays = packed(length, arguments.mean)
        whole = (torch.zeros_like(arrays[0]), torch.arange(length, dtype=torch.int32).repeat(rows, 1))
        tensors = [torch.randn(rows, length, HEADS, WIDTH, requires_grad=i < 3) for i in range(4)]
        work = {"causal": partial(seconds, "causal", whole, tensors)}
        work |= {name: partial(seconds, name, arrays, tensors) for name in ("auto", "dense", "segments")}
        work["auto, whole rows"] = partial(seconds, "auto", whole, tensors)
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(arguments.rounds + 2):
            for name, run in work.items():
                times[name].append(run())
        median = {name: statistics.median(list_[2:]) for name, list_ in times.items()}
        ratios = {name: round(value / median["causal"], 3) for name, value in median.items()}
        print(json.dumps({"T": length, "causal_ms": round(1e3 * median["causal"], 1), **ratios}), flush=True)


if __name__ == "__main__":
    main()
