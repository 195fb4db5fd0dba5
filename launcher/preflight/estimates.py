"""The figures of `headrace check`: what a step, a corpus, the memory and the checkpoints come to.

Exact: rows, micro-batches, blocks, streams, checkpoint sizes. Estimated: tokens, from the bytes a token of
a sample of each corpus; padding; memory.
"""

import shutil
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from data.errors import BadInput
from data.plan.block_file import blocks_of
from data.plan.ownership import Ownership
from data.plan.plan import CorpusPlan, Plan
from data.shards.corpus import Corpus, ReadTrouble
from data.shards.units import UNIT_TEXT
from data.stream.loader import RowShares
from data.tokenization.check import CheckReport
from launcher.checkpoint.retention import Retention
from launcher.config.run_config import Config
from launcher.config.timetable import Timetable
from launcher.engine.footprint import footprint
from launcher.engine.stages import stage_borders, stage_costs
from model.accounting import PLAIN_BYTES, largest_parameter, layer_flops, parameters
from model.accounting import memory as model_memory
from objectives.quantity import Minutes

WASTE = 0.6
"""Rows of padding a block, where none is packed to see (packed_blocks.py)."""
ENCODING = 56
"""Bytes that SentencePiece holds for a byte of the text that it encodes, at most: byte pairs, measured 46 and
its room; unigrams 25 to 43. Of one text at a time, and texts are cut at 1 MiB (data/shards/parts.py)."""
READ = 3
"""Bytes held for a byte of a block while it is opened: as it was read, and as a string of Python."""


def saved_bytes(config: Config) -> tuple[int, int]:
    """A parameter in a checkpoint, whole and as weights alone: the fp32 weight and two moments, the weight;
    and in both the average of the weights where one is kept."""
    average = 0 if config.ema.decay is None else 4
    return 12 + average, 4 + average


def step(config: Config, plan: Plan, row: int, processes: int) -> dict[str, Any]:
    """The step that begins at a global row: the first that the start would make."""
    rows, ranks = plan.rows_at(row), data_ranks(config, processes)
    shares = RowShares(ranks, config.layout.micro_batch)
    height = shares.height(shares.owners(np.arange(row, row + rows), plan.lanes))
    return {
        "rows": rows,
        "length": plan.length,
        "positions": rows * plan.length,
        "processes": processes,
        "data_ranks": ranks,
        "micro_batches": height // shares.micro_batch,
        "blank_rows": height * ranks - rows,
    }


def data_ranks(config: Config, processes: int) -> int:
    """Groups of processes that share no rows."""
    return processes // config.layout.degrees.ranks


def corpus(
    plan: Plan, part: CorpusPlan, corpus: Corpus, sample: CheckReport, shares: dict[str, Any]
) -> dict[str, Any]:
    """The figures of one corpus; tokens and what follows from them are estimates, as the sample has them.
    shares: what is known of it from corpus_shares.py."""
    units = corpus.index.units
    counts = [era.units for era in part.eras]
    blocks = blocks_of(corpus, plan.seed, part.name, counts, part.held_out, plan.block_bytes)
    documents = [corpus.text_bytes_of(unit)[n] for unit, some in part.held_out_documents for n in some]
    held_out = sum(aside for _, aside in blocks.era_text) + sum(documents)
    text_bytes = corpus.index.text_bytes - held_out
    tokens = text_bytes / (sample.bytes_per_token or 1.0)
    waste = padding_share(tokens / plan.length, len(blocks) / plan.slots)
    return {
        "name": part.name,
        "documents": corpus.index.samples,
        "text_bytes": text_bytes,
        "held_out_bytes": held_out,
        "held_out_asked": part.held_out,
        "held_out_share": held_out / max(corpus.index.text_bytes, 1),
        "shards": len(corpus.shards),
        "units": len(units),
        "blocks": len(blocks),
        "largest_block": int(blocks.text_bytes.max(initial=0)),
        "longest_text": int(units["text_bytes"][units["samples"] <= 1].max(initial=UNIT_TEXT)),
        "streams": part.streams,
        "coefficient": part.coefficient,
        **shares,
        "tokens": round(tokens),
        "epochs": shares["rows"] * plan.length * (1 - waste) / tokens if tokens else None,
        "padding": waste,
        "unknown": sample.unknown_share,
        "not_lossless": sample.broken_share,
    }


def padding_share(rows: float, blocks: float) -> float:
    """Of the positions of blocks whose text would fill so many rows; those opened as one are one."""
    return WASTE * blocks / (rows + WASTE * blocks) if blocks else 0.0


def open_blocks(plan: Plan, corpora: list[dict[str, Any]], ranks: int) -> dict[str, int]:
    """How many blocks one of so many data ranks draws from at a time, one of each stream that it follows, and
    about the most bytes that they hold."""
    number = size = 0
    ownership = Ownership(plan.lanes, ranks)
    for corpus in corpora:
        streams = max(len(ownership.streams_of(rank, corpus["streams"])) for rank in range(ranks))
        corpus["encoded"] = followed(ownership, corpus["streams"])
        number += streams
        text = plan.slots * corpus["text_bytes"] // max(corpus["blocks"], 1)
        size += int(streams * corpus["open_bytes"] * text)
    return {"number": number, "bytes": size}


def followed(ownership: Ownership, streams: int) -> float:
    """How many ranks follow a stream, and so encode each of its blocks."""
    ranks = [len(ownership.followers(stream, streams)) for stream in range(streams)]
    return sum(ranks) / streams


def data_memory(config: Config, corpora: list[dict[str, Any]], blocks: dict[str, int]) -> dict[str, int]:
    """The most bytes that a process holds of its text. blocks: those that it draws from, and as many opened
    ahead, within data.memory_mib. encoding: of the blocks that its threads open at one time; what they are
    made of is then held twice."""
    threads = max(config.data.threads, 1)
    largest = max(corpus["largest_block"] * (READ + corpus["open_bytes"]) for corpus in corpora)
    longest = max(corpus["longest_text"] for corpus in corpora)
    return {
        "blocks": min(config.data.memory_mib << 20, 2 * blocks["bytes"]),
        "encoding": threads * int(ENCODING * longest + largest),
    }


def sampled_texts(corpus: Corpus) -> list[str]:
    """Those of the first unit and of one in the middle, as far as they can be read."""
    texts = []
    for unit in {0, len(corpus) // 2}:
        with suppress(ReadTrouble):  # whether that ends a run is for data.on_bad
            texts += [sample.text for sample in corpus.read_unit(unit) if sample.text is not None]
    return texts


def stages(config: Config, vocabulary: int, processes: int, micro_batches: int) -> list[dict[str, Any]]:
    """Of each stage of a pipeline, or of the whole model: blocks, parameters, cost (its FLOPs over the mean
    of all stages) and `memory` of a process. Stage s holds the activations of P − s micro-batches, where
    there are as many (1F1B, Narayanan et al. 2021)."""
    layout, model = config.layout, config.model
    borders = stage_borders(layout, model, vocabulary, config.sequence_length)
    costs = stage_costs(layer_flops(model, vocabulary, config.sequence_length), borders)
    found = []
    for number, (begin, end) in enumerate(pairwise(borders)):
        part, in_flight = range(begin, end), min(micro_batches, layout.pipeline - number)
        found.append(
            {
                "blocks": sum(0 < layer <= model.layers for layer in part),
                "parameters": parameters(model, vocabulary, part),
                "cost": costs[number] / sum(costs) * len(costs),
                "memory": memory(config, vocabulary, processes // layout.pipeline, part, in_flight),
            }
        )
    return found


def bubble(stages: int, micro_batches: int) -> float:
    """The share of a step in which a stage waits for the others (Narayanan et al. 2021)."""
    return (stages - 1) / (micro_batches + stages - 1)


def memory(
    config: Config, vocabulary: int, processes: int, part: range | None = None, in_flight: int = 1
) -> dict[str, float]:
    """Bytes a process: `total` of its device, by what they hold, and `host` beside them. The average of the
    weights is fp32, and lies where the masters lie. processes: that share the layers of `part`; in_flight:
    micro-batches whose activations it holds."""
    layout = config.layout
    count, processes = parameters(config.model, vocabulary, part, layout.tensor), processes // layout.tensor
    held = footprint(layout, count, largest_parameter(config.model, vocabulary), processes)
    average = 0.0 if config.ema.decay is None else 4.0 / (processes if layout.zero else 1)
    host = held.host + (average * count if held.host else 0.0)
    use = model_memory(
        config.model,
        vocabulary,
        rows=layout.micro_batch,
        length=config.sequence_length // layout.sequence,
        checkpoint_blocks=layout.activation_checkpointing,
        weight=held.weights / count,
        gradient=held.gradients / count,
        optimizer=held.optimizer / count + (0.0 if held.host else average),
        element=2 if layout.precision == "bf16" else 4,
        part=part,
        in_flight=in_flight,
        shares=layout.tensor,
    )
    return asdict(use) | {"total": use.total, "host": host}


def host_memory(config: Config, vocabulary: int, processes: int) -> dict[str, float]:
    """Bytes on the host that a process needs for a while, beside what its layout keeps on its device.

    start: one parameter at a time is drawn whole, in fp32. load: where the device is a GPU, one of the three
    kinds of tensors that it holds. save: all three of its share of the elements, from the first save on.
    samples: the whole model in fp32, on rank 0 alone; 0 where none are made. On a CPU all this comes on top
    of `memory`, but for the load, which reads into place.
    """
    count, shares, cut = parameters(config.model, vocabulary), config.layout.tensor, config.layout.pipeline
    alike = processes // (shares * cut)  # that have the same part
    own = parameters(config.model, vocabulary, shares=shares) / cut  # about: of a mean stage
    return {
        "start": 4.0 * largest_parameter(config.model, vocabulary),
        "load": 4.0 * own / (alike if config.layout.zero else 1),
        "save": saved_bytes(config)[0] * own / alike,
        "samples": float(PLAIN_BYTES * count) if config.eval.every and config.eval.samples.prompts else 0.0,
    }


def checkpoints(config: Config, timetable: Timetable, count: int) -> dict[str, Any]:
    """What the retention keeps when the run is over, and the disk that its folder lies on. Saves by the clock
    are not foreseen: they are among the newest, or go."""
    intervals = [every for every in config.checkpoint.every if not isinstance(every, Minutes)]
    saved = sorted({timetable.steps, *(step for every in intervals for step in timetable.steps_of(every))})
    settings = config.checkpoint
    keep = Retention(settings.keep, timetable.keeps, settings.weights_only_after)
    deleted, bare = keep.plan(saved)
    whole = len(saved) - len(deleted) - len(bare)
    if timetable.minutes is not None:
        whole = max(whole, settings.keep)
    whole_bytes, weights_bytes = (size * count for size in saved_bytes(config))
    existing = config.path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise BadInput(f"run.folder: {existing} is a file; expected a folder, or a name that is free")
    return {
        "bytes": whole_bytes,
        "whole": whole,
        "weights_only": len(bare),
        # One more is written before the oldest is deleted.
        "disk": (whole + 1) * whole_bytes + len(bare) * weights_bytes,
        "free": shutil.disk_usage(existing).free,
    }
