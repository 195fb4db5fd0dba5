"""`headrace check`: everything about a run that can be known on a login node, before it costs anything.

Exact: parameters, rows, units, blocks, streams, shares, checkpoint sizes. Estimated, and said to be: tokens
(two units of each corpus are encoded for the bytes a token), epochs, padding (about 0.6 row a block, measured
in facts/data.md), memory. Needs no torch: the model's figures are formulas over its config.
"""

import math
import os
import shutil
from dataclasses import asdict
from typing import Any

import numpy as np

from data.corpus import Corpus
from data.errors import BadInput
from data.places import Blocks
from data.plan import CorpusPlan, History, Plan
from data.planning import make_plan
from data.steps import rows_of_step
from data.tokenizer import Tokenizer
from launcher import output
from launcher.checkpoint import read_progress
from launcher.config import Config, require_files, require_processes
from launcher.plan_history import go_on, run_tokenizer
from launcher.progress import Progress
from launcher.prompts import require_room
from launcher.quarantine import refuse_unknown
from launcher.retention import Retention
from launcher.run_folder import RunFolder
from launcher.start_point import StartPoint, start_point
from launcher.stream_settings import open_corpora, stream_settings
from model.accounting import flops_per_token, memory, parameters

WASTE = 0.6
"""Rows of padding a block."""
OPEN_BYTES = 6
"""A byte of text in an open block, at most about (data/block.py): next-sentence; causal takes 1.4."""
WHOLE_BYTES, WEIGHTS_BYTES = 12, 4
"""A parameter in a checkpoint: fp32 weight and two moments; the weight alone."""


def report(
    config: Config, processes: int, run: RunFolder | None = None, step: int | None = None
) -> dict[str, Any]:
    """JSON-able facts. run: the one that would be gone on with, None for a new one; step: from that of its
    checkpoints, by default the newest. BadInput for whatever would stop the start."""
    require_files(config)
    require_processes(config, processes)
    point = start_point(run, config, step, quick=True) if run else StartPoint(None, [], complete=False)
    at = Progress.from_json(read_progress(point.checkpoint.path)) if point.checkpoint else None
    if run and not point.complete:
        run.refuse_writer()
    tokenizer, corpora, history = _stream(config, run, at)
    require_room(config, tokenizer)
    plan = history.newest
    row = at.row if at else 0
    unknown = refuse_unknown(config, corpora, most=math.inf)
    rows, _ = rows_of_step(history, config.steps)  # the first row after the last step
    count = parameters(config.model, tokenizer.size)
    facts: dict[str, Any] = {
        "run": {
            "folder": str(config.path),
            "exists": run is not None,
            "step": at.step if at else 0,
            "complete": point.complete,
        },
        "model": {"parameters": count, "vocabulary": tokenizer.size},
        "step": _step(config, plan, row, processes),
        "whole": {
            "steps": config.steps,
            "rows": rows,
            "positions": rows * plan.length,
            "flops": flops_per_token(config.model, tokenizer.size, plan.length) * rows * plan.length,
        },
        "corpora": [
            _corpus(plan, part, corpora[part.name], tokenizer, rows)
            for part in plan.corpora
            if part.name in corpora  # a run's plan keeps those that an edit took away
        ],
        "objectives": _objectives(config, row, rows),
        "memory": _memory(config, tokenizer.size, processes),
        "checkpoints": _checkpoints(config, count),
    }
    facts["open_blocks"] = _open_blocks(plan, facts["corpora"], processes)
    passed_over = [f"will be passed over: {line}" for line in point.passed_over]
    return facts | {"warnings": [*passed_over, *unknown, *_warnings(config, facts)]}


def _stream(
    config: Config, run: RunFolder | None, at: Progress | None
) -> tuple[Tokenizer, dict[str, Corpus], History]:
    """What the start would train on, from `at` on. BadInput for what a run that exists refuses."""
    if run is None:
        tokenizer = Tokenizer.load(config.tokenizer.model)
        corpora = open_corpora(config)
        return (
            tokenizer,
            corpora,
            History(((0, make_plan(stream_settings(config, corpora, tokenizer.hash))),)),
        )
    tokenizer = run_tokenizer(run, at.history.newest.tokenizer if at else None)
    corpora = open_corpora(config)
    return tokenizer, corpora, go_on(run, config, corpora, tokenizer.hash, at)


def _step(config: Config, plan: Plan, row: int, processes: int) -> dict[str, Any]:
    """The step that begins at a global row: the first that the start would make."""
    rows = plan.rows_at(row)
    shares = np.bincount(np.arange(rows) % plan.lanes % processes, minlength=processes)
    micro = config.layout.micro_batch
    largest = -(-int(shares.max()) // micro) * micro
    return {
        "rows": rows,
        "length": plan.length,
        "positions": rows * plan.length,
        "processes": processes,
        "micro_batches": largest // micro,
        "blank_rows": largest * processes - rows,
    }


def _corpus(plan: Plan, part: CorpusPlan, corpus: Corpus, tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The figures of one corpus; tokens and what follows from them are estimates."""
    units = corpus.index.units
    counts = [era.units for era in part.eras]
    blocks = Blocks(plan.seed, part.name, units, counts, part.held_out, plan.block_bytes)
    held_out = int(units["text_bytes"][blocks.held_out].sum())
    text_bytes = corpus.index.text_bytes - held_out
    tokens = text_bytes / _bytes_per_token(corpus, tokenizer)
    share = part.weight / sum(other.weight for other in plan.corpora)
    full = tokens / plan.length
    waste = WASTE * len(blocks) / (full + WASTE * len(blocks)) if len(blocks) else 0.0
    return {
        "name": part.name,
        "documents": corpus.index.samples,
        "text_bytes": text_bytes,
        "held_out_bytes": held_out,
        "units": len(units),
        "blocks": len(blocks),
        "streams": part.streams,
        "share": share,
        "tokens": round(tokens),
        "epochs": share * rows * plan.length * (1 - waste) / tokens if tokens else None,
        "padding": waste,
    }


def _open_blocks(plan: Plan, corpora: list[dict[str, Any]], processes: int) -> dict[str, int]:
    """How many blocks a process draws from at a time, one of each stream that its lanes follow, and about the
    most bytes that they hold."""
    number = size = 0
    lanes = np.arange(0, plan.lanes, processes)
    for corpus in corpora:
        streams = len(np.unique(lanes % corpus["streams"]))
        number += streams
        size += streams * OPEN_BYTES * corpus["text_bytes"] // max(corpus["blocks"], 1)
    return {"number": number, "bytes": size}


def _bytes_per_token(corpus: Corpus, tokenizer: Tokenizer) -> float:
    """Over the first unit and one in the middle."""
    texts = [
        sample.text
        for unit in {0, len(corpus) // 2}
        for sample in corpus.read_unit(unit)
        if sample.text is not None
    ]
    tokens = sum(len(ids) for ids in tokenizer.encode_documents(texts))
    return sum(len(text.encode()) for text in texts) / max(tokens, 1) or 1.0


def _objectives(config: Config, row: int, end: int) -> list[dict[str, Any]]:
    """Their shares at the row where the start would go on, and at the row after the last."""
    mixture = config.mixture
    first, last = mixture.weights(row), mixture.weights(end)
    return [
        {
            "name": entry.objective.name,
            "share": float(first[i]),
            "share_at_end": float(last[i]),
            "coefficient": entry.coefficient,
        }
        for i, entry in enumerate(mixture.entries)
    ]


def _memory(config: Config, vocabulary: int, processes: int) -> dict[str, float]:
    """Bytes a process. ZeRO 1 divides the optimizer's state, 2 the gradients too, 3 the weights too
    (Rajbhandari et al. 2020); masters and moments are fp32."""
    layout = config.layout
    half = layout.precision == "bf16"
    weight, gradient, optimizer = (2.0 if half else 4.0), 4.0, (12.0 if half else 8.0)
    use = memory(
        config.model,
        vocabulary,
        rows=layout.micro_batch,
        length=config.sequence_length,
        checkpoint_blocks=layout.activation_checkpointing,
        weight=weight / (processes if layout.zero >= 3 else 1),
        gradient=gradient / (processes if layout.zero >= 2 else 1),
        optimizer=optimizer / (processes if layout.zero >= 1 else 1),
        element=2 if half else 4,
    )
    return asdict(use) | {"total": use.total}


def _checkpoints(config: Config, count: int) -> dict[str, Any]:
    """What the retention keeps when the run is over, and the disk that its folder lies on."""
    every = config.checkpoint.every
    saved = list(range(every, config.steps + 1, every))
    if config.steps % every:
        saved.append(config.steps)
    deleted, bare = Retention(**config.checkpoint.model_dump(exclude={"every"})).plan(saved)
    whole = len(saved) - len(deleted) - len(bare)
    existing = config.path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise BadInput(f"run.folder: {existing} is a file; expected a folder, or a name that is free")
    return {
        "bytes": WHOLE_BYTES * count,
        "whole": whole,
        "weights_only": len(bare),
        # One more is written before the oldest is deleted.
        "disk": (whole + 1) * WHOLE_BYTES * count + len(bare) * WEIGHTS_BYTES * count,
        "free": shutil.disk_usage(existing).free,
    }


def _warnings(config: Config, facts: dict[str, Any]) -> list[str]:
    lines = []
    step, saves = facts["step"], facts["checkpoints"]
    if step["blank_rows"]:
        lines.append(
            f"{output.counted(step['blank_rows'], 'blank row')} a step: {step['rows']} rows and "
            f"{config.lanes} lanes do not divide into {output.counted(step['processes'], 'process', 'es')} × "
            f"micro-batches of {config.layout.micro_batch}"
        )
    if config.optimizer.warmup >= config.steps:
        lines.append(f"optimizer.warmup: {config.optimizer.warmup} steps, the run has {config.steps}")
    if saves["disk"] > saves["free"]:
        lines.append(f"checkpoints need {output.size(saves['disk'])}, {output.size(saves['free'])} are free")
    blocks, allowed = facts["open_blocks"], config.data.memory_mib << 20
    if blocks["bytes"] > allowed:
        lines.append(
            f"data.memory_mib: a process draws from {output.counted(blocks['number'], 'block')} at a time; "
            f"they may hold {output.size(blocks['bytes'])}, and with {output.size(allowed)} they are read "
            "again and again, and steps wait for them: raise it"
        )
    for corpus in facts["corpora"]:
        if (corpus["epochs"] or 0) > 4:
            lines.append(f"corpus {corpus['name']}: is read about {corpus['epochs']:.1f} times")
    cores = len(os.sched_getaffinity(0))
    if step["processes"] > cores:
        lines.append(f"{step['processes']} processes, this machine has {output.counted(cores, 'core')}")
    return lines


def _standing(run: dict[str, Any]) -> str:
    if not run["exists"]:
        return ""
    if run["complete"]:
        return f" (is complete, {run['step']:,} steps: nothing would be started)"
    return f" (exists: training goes on after step {run['step']:,})"


def show(facts: dict[str, Any]) -> None:
    """The facts as lines for the eye."""
    run, model, step, whole = facts["run"], facts["model"], facts["step"], facts["whole"]
    output.say(f"run          {run['folder']}{_standing(run)}")
    output.say(f"model        {model['parameters']:,} parameters, vocabulary {model['vocabulary']:,}")
    output.say(
        f"step         {step['rows']:,} rows × {step['length']:,} = {step['positions']:,} positions, on "
        f"{output.counted(step['processes'], 'process', 'es')} in "
        f"{output.counted(step['micro_batches'], 'micro-batch', 'es')} each"
    )
    output.say(
        f"whole run    {whole['steps']:,} steps, {whole['rows']:,} rows, {whole['positions']:,} positions, "
        f"{whole['flops']:.3g} FLOPs"
    )
    parts = ", ".join(
        f"{name} {output.size(part)}" for name, part in facts["memory"].items() if name != "total"
    )
    output.say(f"memory       ≈ {output.size(facts['memory']['total'])} a process: {parts}")
    saves = facts["checkpoints"]
    kept = f"kept {saves['whole']} whole and {saves['weights_only']} of weights"
    room = f"{output.size(saves['disk'])} of {output.size(saves['free'])} free"
    output.say(f"checkpoints  {output.size(saves['bytes'])} each; {kept}: {room}")
    output.say("")
    keys = ["name", "share", "documents", "tokens", "epochs", "blocks", "streams", "padding"]
    titles = ["corpus", "share", "documents", "≈ tokens", "≈ epochs", "blocks", "streams", "≈ padding"]
    output.table(titles, [[corpus[key] for key in keys] for corpus in facts["corpora"]])
    output.say("")
    output.table(
        ["objective", "share", "at the end", "coefficient"],
        [list(objective.values()) for objective in facts["objectives"]],
    )
    for line in facts["warnings"]:
        output.say(f"warning: {line}")
