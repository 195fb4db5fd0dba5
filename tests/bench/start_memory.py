"""What a start, a save and a load take of a process's memory, in bytes a parameter.

    python -m tests.bench.start_memory [--ranks N] [--zero Z ...] [--precision P] [--layers L] [--width D]
        [--vocabulary V]

One line of JSON for each ZeRO stage, the worst of the ranks. start: an engine with its initial weights; at
rest: what stays of it. save: the first. load: an engine in new processes, from that checkpoint. Of each the
most that was resident, over what was before it began; a tiny model is started before, so the pages of
libraries do not count. On a CPU the device is the host, so the layout's own share is in start and load;
`formula` has what comes on top by `headrace check` (launcher/preflight/estimates.py). The usual size has 159
million parameters, and needs 7 GiB for two ranks.
"""

import argparse
import json
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from launcher.checkpoint.load import load
from launcher.checkpoint.read import StoredCheckpoint
from launcher.checkpoint.retention import Retention
from launcher.checkpoint.save import Checkpoints
from launcher.distributed.process_group import connect, disconnect
from launcher.distributed.world import World
from launcher.engine.engine import Engine
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig
from launcher.engine.stages import stage_borders
from model.accounting import largest_parameter, parameters
from model.config import ModelConfig
from model.share import Share
from model.transformer import Transformer
from tests.support.memory import measured


def engine_of(config: ModelConfig, vocabulary: int, layout: LayoutConfig, world: World) -> Engine:
    """An engine whose weights are not filled."""

    def build(part: range, share: Share) -> Transformer:
        return Transformer(config, vocabulary, ("vocabulary",), 1, part=part, share=share)

    borders = stage_borders(layout, config, vocabulary, config.max_sequence_length)
    return Engine(build, borders, OptimizerConfig(), layout, world, seed=0)


def started(*arguments: Any) -> Engine:
    """An engine with its initial weights."""
    engine = engine_of(*arguments)
    engine.initialise(0)
    return engine


def loaded(path: Path, *arguments: Any) -> Engine:
    """An engine with what a checkpoint holds."""
    engine = engine_of(*arguments)
    load(engine.world, StoredCheckpoint(path), engine.state)
    return engine


@dataclass(frozen=True)
class Cell:
    """What is measured."""

    config: ModelConfig
    vocabulary: int
    layout: LayoutConfig
    ranks: int
    folder: Path
    """Of checkpoints."""


Part = Callable[[Cell, World], dict[str, int]]


def of_start(cell: Cell, world: World) -> dict[str, int]:
    """A rank's bytes for start and save."""
    engine, start, rest = measured(lambda: started(cell.config, cell.vocabulary, cell.layout, world))
    saves = Checkpoints(cell.folder, world, 1, engine.reducer, Retention(keep=1))

    def save() -> None:
        saves.save(engine, 1, {})
        saves.finish()

    _, most, _ = measured(save)
    engine.close()
    return {"start": start, "at_rest": rest, "save": most}


def of_load(cell: Cell, world: World) -> dict[str, int]:
    """A rank's bytes for the load of what `of_start` saved."""
    path = cell.folder / "step-00000001"
    engine, most, _ = measured(lambda: loaded(path, cell.config, cell.vocabulary, cell.layout, world))
    engine.close()
    return {"load": most}


def in_rank(part: Part, cell: Cell, rank: int, port: int, out: Any) -> None:
    """A process of a part; what libraries print goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    world = World(rank, cell.ranks, rank, rendezvous=f"tcp://127.0.0.1:{port}")
    connect(world)
    started(ModelConfig(layers=1, width=64, heads=1), 64, cell.layout, world).close()
    out.put(part(cell, world))
    disconnect()


def worst(part: Part, cell: Cell) -> dict[str, int]:
    """Each figure of a part, of the rank that needs the most."""
    spawn = get_context("spawn")
    out = spawn.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [spawn.Process(target=in_rank, args=(part, cell, r, port, out)) for r in range(cell.ranks)]
    for process in ranks:
        process.start()
    found = [out.get(timeout=600) for _ in ranks]
    for process in ranks:
        process.join()
    return {name: max(one[name] for one in found) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--zero", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--precision", default="bf16")
    for name, default in (("layers", 10), ("width", 1024), ("vocabulary", 32000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    config = ModelConfig(layers=options.layers, width=options.width, heads=options.width // 64)
    count = parameters(config, options.vocabulary)
    drawn = 4 * largest_parameter(config, options.vocabulary) / count
    for zero in options.zero:
        layout = LayoutConfig(zero=zero, precision=options.precision)
        with tempfile.TemporaryDirectory() as folder:
            cell = Cell(config, options.vocabulary, layout, options.ranks, Path(folder))
            found = worst(of_start, cell) | worst(of_load, cell)
        line = {"parameters": count, "ranks": options.ranks, "zero": zero, "precision": options.precision}
        line |= {name: round(size / count, 2) for name, size in found.items()}
        line |= {"formula": {"start": round(drawn, 2), "save": round(12 / options.ranks, 2)}}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
