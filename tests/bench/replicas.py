"""What the comparison of replicas costs: one of them over the steps between two of them.

    python -m tests.bench.replicas [--ranks N] [--zero Z ...] [--precision P] [--rounds R] [--rows R]
        [--every n]

The model of tests/bench/model.py (14 million parameters), T 512, in real ranks on gloo. A step of the engine
and a comparison (hashes of all that another rank holds too, gathered) take turns; the figure is the median
over the rounds of comparison / (n · step), of the rank that waits longest. Goal: < 0.5 % at n = 500. One line
of JSON for each ZeRO stage; `first` is what an attempt's first look at the labels costs, once.
"""

import argparse
import json
import os
import socket
import statistics
import time
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import distributed

from launcher.distributed.allocator import keep_memory
from launcher.distributed.process_group import connect, disconnect
from launcher.distributed.world import World
from launcher.engine.engine import Engine
from launcher.engine.layout import LayoutConfig
from launcher.engine.replicas import compare, shared_labels
from launcher.engine.stages import stage_borders
from tests.bench.model import CONFIG, T
from tests.bench.step import OPTIMIZER, VOCABULARY, model, packed
from tests.support.engine_cases import agree


def timed(world: World, layout: LayoutConfig, rounds: int, rows: int) -> dict[str, Any]:
    """Seconds of a rank: `first`, and of each round step and comparison; the bytes that it hashes."""
    borders = stage_borders(layout, CONFIG, VOCABULARY, T)
    engine = Engine(model, borders, OPTIMIZER, layout, world, seed=0)
    engine.initialise(0)
    micro_batches = [packed(rows)]
    scale = np.array([[1 / (micro_batches[0].weights.sum() * world.size)]])

    def seconds(work: Any) -> float:
        distributed.barrier()
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    shared: list[frozenset[str]] = []
    first = seconds(lambda: shared.append(shared_labels(world, engine.replicas())))
    found = [], []
    for number in range(rounds + 2):
        step = seconds(partial(engine.step, micro_batches, scale, number + 1, 1e-4, agree))
        comparison = seconds(partial(check, world, engine, shared[0]))
        if number >= 2:  # the first rounds fill caches
            found[0].append(step)
            found[1].append(comparison)
    held = [what for label, what in engine.replicas() if label in shared[0]]
    hashed = sum(what.nbytes for what in held if isinstance(what, torch.Tensor))
    engine.close()
    return {"first": first, "steps": found[0], "comparisons": found[1], "hashed": hashed, "labels": len(held)}


def check(world: World, engine: Engine, shared: frozenset[str]) -> None:
    """One comparison."""
    assert compare(world, engine.replicas(), shared) == []


def in_rank(layout: LayoutConfig, rank: int, port: int, options: argparse.Namespace, out: Any) -> None:
    """A process; what libraries print goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    keep_memory()
    world = World(rank, options.ranks, rank, rendezvous=f"tcp://127.0.0.1:{port}")
    connect(world)
    out.put(timed(world, layout, options.rounds, options.rows))
    disconnect()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("ranks", 2), ("rounds", 15), ("rows", 4), ("every", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--zero", type=int, nargs="+", default=[0, 1, 3])
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    spawn = get_context("spawn")
    for zero in options.zero:
        out = spawn.Queue()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        layout = LayoutConfig(zero=zero, precision=options.precision, micro_batch=options.rows)
        ranks = [
            spawn.Process(target=in_rank, args=(layout, rank, port, options, out))
            for rank in range(options.ranks)
        ]
        for process in ranks:
            process.start()
        found = [out.get(timeout=600) for _ in ranks]
        for process in ranks:
            process.join()
        shares = [
            [check / (options.every * step) for check, step in zip(one["comparisons"], one["steps"])]
            for one in found
        ]
        median = {
            word: max(statistics.median(one[word]) for one in found) for word in ("steps", "comparisons")
        }
        line = {
            "zero": zero,
            "precision": options.precision,
            "ranks": options.ranks,
            "tokens_a_step": options.ranks * options.rows * T,
            "labels": found[0]["labels"],
            "hashed_mb": round(found[0]["hashed"] / 1e6, 1),
            "first_ms": round(1e3 * max(one["first"] for one in found), 1),
            "step_ms": round(1e3 * median["steps"], 1),
            "comparison_ms": round(1e3 * median["comparisons"], 1),
            "per_cent_of_the_time": round(100 * max(map(statistics.median, shares)), 4),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
