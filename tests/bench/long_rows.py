"""What a rank's layers keep of a long row, by the number of ranks that share it.

    python -m tests.bench.long_rows [--documents T LONGEST] [--whole T] [--ranks N ...]

One line of JSON for each kind of row, number of ranks, and whether blocks are recomputed. mib: the most that
was resident in a forward and a backward pass over one row, over what was before, the worst of the ranks;
`table`, of it, is the head's fp32 gradient of the token table, which nobody divides. share: mib without
table, over that of the first number of ranks. documents: a packed row of causal segments of all lengths up to
LONGEST; whole: one causal segment. Without DeepSpeed: weights and their gradients are there before. The usual
sizes need 5 GiB.
"""

import argparse
import ctypes
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from data.stream.rows import Rows
from launcher.distributed.mesh import Degrees
from launcher.distributed.world import World
from launcher.engine.forward import to_device
from launcher.engine.parallel.sequence import sequence_columns
from model.config import ModelConfig
from model.initialise import initialise
from model.transformer import Transformer
from tests.support.memory import measured
from tests.support.ranks import run

VOCABULARY = 512
MODEL = ModelConfig(layers=4, width=64, heads=4, kv_heads=2, mlp_width=128, max_sequence_length=1 << 17)
M_MMAP_THRESHOLD = -3
"""Of malloc.h."""


class Case(NamedTuple):
    """What is measured."""

    rows: str
    length: int
    longest: int
    checkpoint: bool


def row_of(case: Case) -> Rows:
    """One row of causal segments, each position with a target."""
    random = np.random.default_rng(0)
    blank = Rows.blank(1, case.length, 0)
    arrays = {name: array.copy() for name, array in blank.arrays().items()}
    begin = 0
    while begin < case.length:
        end = case.length if case.rows == "whole" else begin + int(random.integers(1, case.longest + 1))
        arrays["start"][0, begin:end] = begin
        begin = end
    for name, value in (("objective", 0), ("corpus", 0), ("weights", 1.0 / case.length)):
        arrays[name][:] = value
    for name in ("tokens", "targets"):
        arrays[name][:] = random.integers(0, VOCABULARY, (1, case.length))
    return Rows.of(arrays)


def passes(world: World, case: Case) -> dict[str, float]:
    """A rank's MiB, and its part of the loss; gradients exist before, as those of a second micro-batch's."""
    # From this size on memory goes back as soon as it is free. Left alone, malloc keeps what is below 32 MiB:
    # tensors of parts of a row, and not those of whole ones.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
    model = Transformer(MODEL, VOCABULARY, ("vocabulary",), 1, checkpoint_blocks=case.checkpoint)
    initialise(model, MODEL, 0)
    columns = sequence_columns(replace(world, degrees=Degrees(sequence=world.size)))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def both(case: Case) -> float:
        batch = to_device(row_of(case), np.ones(1), torch.device("cpu"), columns)
        loss, _ = model(batch, columns=columns)
        loss.backward()
        return float(loss.detach())

    both(case._replace(length=256 * world.size, longest=64))  # libraries make what they keep
    loss, most, _ = measured(lambda: both(case))
    return {"loss": loss, "mib": most / 2**20}


def over_ranks(case: Case, ranks: int) -> dict[str, float]:
    """The worst rank's MiB, and the loss of the row."""
    found = run(passes, ranks, case, timeout=1800)
    return {"loss": sum(one["loss"] for one in found), "mib": max(one["mib"] for one in found)}


def cases(options: argparse.Namespace) -> Iterator[Case]:
    for checkpoint in (False, True):
        yield Case("documents", *options.documents, checkpoint)
        yield Case("whole", options.whole, options.whole, checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, nargs=2, default=[1 << 17, 8192], metavar=("T", "LONGEST"))
    parser.add_argument("--whole", type=int, default=1 << 14, metavar="T")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    table = 4 * VOCABULARY * MODEL.width / 2**20
    for case in cases(options):
        first = 0.0
        for ranks in options.ranks:
            found = over_ranks(case, ranks)
            kept = found["mib"] - table
            first = first or kept
            line = case._asdict() | {"ranks": ranks, "mib": round(found["mib"], 1), "table": round(table, 2)}
            line |= {"share": round(kept / first, 3), "loss": round(found["loss"], 6)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    from tests.bench import long_rows  # under the name by which its ranks know it

    long_rows.main()
