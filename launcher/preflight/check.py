"""`headrace check`: everything about a run that can be known on a login node, before it costs anything.

Exact: parameters, rows, units, blocks, streams, shares, checkpoint sizes. Estimated, and said to be: tokens
(a sample of each corpus is encoded, for the bytes a token and for what the tokenizer loses of it), epochs,
padding (about 0.6 row a block, as was measured), memory. Needs no torch: the model's figures are formulas
over its config.
"""

import math
import os
from operator import itemgetter
from typing import Any

import numpy as np

from data.plan.make import make_plan
from data.plan.plan import History
from data.plan.segments import PlanSegments
from data.plan.steps import rows_of_step
from data.shards.corpus import Corpus
from data.stream.block import Opener
from data.tokenization.tokenizer import Tokenizer
from launcher import output
from launcher.config.run_config import Config, require_files, require_processes
from launcher.preflight import achieved, estimates, token_room
from launcher.preflight.lossy import measure, refuse_lossy
from launcher.preflight.prompts import require_room
from launcher.preflight.writable import require_writable
from launcher.runs.beginning import beginning, not_compared
from launcher.runs.lr_change import lr_change_from
from launcher.runs.plan_history import go_on, run_tokenizer
from launcher.runs.progress import Progress
from launcher.runs.quarantine import refuse_unknown
from launcher.runs.resume_point import StartPoint, start_point
from launcher.runs.run_folder import RunFolder
from launcher.runs.stream_settings import open_corpora, require_held_out, stream_settings
from model.accounting import flops_per_token, parameters

BUBBLE = 0.2
"""A share of a step that stages may wait without a warning: that of 8 micro-batches in 3 stages."""


def report(
    config: Config, processes: int, run: RunFolder | None = None, step: int | None = None
) -> dict[str, Any]:
    """JSON-able facts. run: the one that would be gone on with, None for a new one; step: from that of its
    checkpoints, by default the newest. BadInput for whatever would stop the start."""
    require_files(config)
    require_processes(config, processes)
    point = start_point(run, config, step) if run else StartPoint(None, [], complete=False)
    at = Progress.from_json(point.checkpoint.progress) if point.checkpoint else None
    if run and not point.complete:
        run.refuse_writer()
    tokenizer, corpora, history = _stream(config, run, at)
    require_room(config, tokenizer)
    initial = beginning(config, tokenizer, run) if at is None else None
    plan = history.newest
    require_held_out(config, plan, corpora)
    row = at.row if at else 0
    unknown = refuse_unknown(config, corpora, most=math.inf)
    spelled, troubles = measure(config, tokenizer, corpora)
    lossy = [*troubles, *refuse_lossy(config, tokenizer, corpora, spelled)]
    rows = sum(rows_of_step(history, config.steps))  # the last step's first row and its own: all of the run
    count = parameters(config.model, tokenizer.size)
    facts: dict[str, Any] = {
        "run": {
            "folder": str(config.path),
            "exists": run is not None,
            "step": at.step if at else 0,
            "complete": point.complete,
            "init_from": str(initial.path) if initial else None,
        },
        "model": {"parameters": count, "vocabulary": tokenizer.size},
        "step": estimates.step(config, plan, row, processes),
        "whole": {
            "steps": config.steps,
            "rows": rows,
            "positions": rows * plan.length,
            "flops": flops_per_token(config.model, tokenizer.size, plan.length) * rows * plan.length,
        },
        "corpora": [
            estimates.corpus(plan, part, corpora[part.name], spelled[part.name], rows)
            for part in plan.corpora
            if part.name in corpora  # a run's plan keeps those that an edit took away
        ],
        "objectives": _objectives(config, row, rows, achieved.shares(plan, corpora, tokenizer, row)),
        "host_memory": estimates.host_memory(config, tokenizer.size, processes),
        "checkpoints": estimates.checkpoints(config, count),
    }
    facts["token_cache"] = token_room.estimate(config, facts["corpora"], tokenizer.size)
    _estimate(facts, config, tokenizer, Opener(PlanSegments(history), corpora, tokenizer))
    if not point.complete:
        require_writable(RunFolder(config.path))
    passed_over = [f"will be passed over: {line}" for line in point.passed_over]
    lr = lr_change_from(point.checkpoint, run, config) if run and not point.complete else None
    strange = not_compared(initial) if initial else None
    measured = np.array([objective["measured"] for objective in facts["objectives"]])
    short = achieved.shortfalls(config.objectives, row, measured)
    said = [*passed_over, *([lr.line] if lr else []), *([strange] if strange else []), *unknown, *lossy]
    room = token_room.warnings(facts["token_cache"])
    return facts | {"warnings": [*said, *short, *_warnings(config, facts), *room]}


def _estimate(facts: dict[str, Any], config: Config, tokenizer: Tokenizer, opener: Opener) -> None:
    """Adds what follows from the facts about corpora and step: blocks, memory, stages."""
    processes = facts["step"]["processes"]
    for corpus in facts["corpora"]:
        corpus["open_bytes"] = estimates.open_bytes(opener, corpus["name"])
    facts["open_blocks"] = estimates.open_blocks(
        opener.plan_segments.last.plan, facts["corpora"], facts["step"]["data_ranks"]
    )
    facts["data_memory"] = estimates.data_memory(config, facts["corpora"], facts["open_blocks"])
    facts["stages"] = estimates.stages(config, tokenizer.size, processes, facts["step"]["micro_batches"])
    facts["memory"] = max((stage["memory"] for stage in facts["stages"]), key=itemgetter("total"))
    facts["bubble"] = estimates.bubble(config.layout.pipeline, facts["step"]["micro_batches"])


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


def _objectives(config: Config, row: int, end: int, measured: np.ndarray) -> list[dict[str, Any]]:
    """Their shares at the row where the start would go on, asked and measured, and at the row after the
    last."""
    mixture = config.objectives
    first, last = mixture.weights(row), mixture.weights(end)
    return [
        {
            "name": entry.objective.name,
            "share": float(first[i]),
            "measured": round(float(measured[i]), 4),
            "share_at_end": float(last[i]),
            "coefficient": entry.coefficient,
        }
        for i, entry in enumerate(mixture.entries)
    ]


def _warnings(config: Config, facts: dict[str, Any]) -> list[str]:
    lines = []
    step, saves = facts["step"], facts["checkpoints"]
    if step["blank_rows"]:
        lines.append(
            f"{output.counted(step['blank_rows'], 'blank row')} a step: {step['rows']} rows and "
            f"{config.lanes} lanes do not divide into {_ranks(step)} × micro-batches of "
            f"{config.layout.micro_batch}"
        )
    if facts["bubble"] > BUBBLE:
        lines.append(
            f"layout.pipeline: each stage waits {100 * facts['bubble']:.0f} % of a step; with more than "
            f"{output.counted(step['micro_batches'], 'micro-batch', 'es')} a step (a smaller "
            "layout.micro_batch, more batch_rows) it waits less"
        )
    if config.optimizer.warmup >= config.steps:
        lines.append(f"optimizer.warmup: {config.optimizer.warmup} steps, the run has {config.steps}")
    if config.ema.decay is not None and config.ema.every > config.steps:
        lines.append(f"ema.every: {config.ema.every} steps, the run has {config.steps}: it is never updated")
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
        asked, share = corpus["held_out_asked"], corpus["held_out_share"]
        if abs(share - asked) > 0.1 * asked:
            lines.append(
                f"data.corpora.{corpus['name']}.held_out: {asked:g} was asked for and {share:.3g} of the "
                "text is held out, the nearest that its documents allow"
            )
        if (corpus["epochs"] or 0) > 4:
            lines.append(f"corpus {corpus['name']}: is read about {corpus['epochs']:.1f} times")
    cores = len(os.sched_getaffinity(0))
    if step["processes"] > cores:
        lines.append(f"{step['processes']} processes, this machine has {output.counted(cores, 'core')}")
    return lines


def _ranks(step: dict[str, Any]) -> str:
    """Who shares the rows of a step."""
    if step["data_ranks"] == step["processes"]:
        return output.counted(step["processes"], "process", "es")
    return output.counted(step["data_ranks"], "data-parallel rank")


def _standing(run: dict[str, Any]) -> str:
    if run["init_from"]:
        return f" (begins from the weights of {run['init_from']})"
    if not run["exists"]:
        return ""
    if run["complete"]:
        return f" (is complete, {run['step']:,} steps: nothing would be started)"
    return f" (exists: training goes on after step {run['step']:,})"


def _stages(facts: dict[str, Any]) -> str:
    stages = facts["stages"]
    blocks = ", ".join(str(stage["blocks"]) for stage in stages)
    sizes = ", ".join(output.size(stage["memory"]["total"]) for stage in stages)
    dearest = max(stage["cost"] for stage in stages)
    return (
        f"{len(stages)} stages of {blocks} blocks; the dearest costs {dearest:.2f} of the mean; each waits "
        f"{100 * facts['bubble']:.1f} % of a step; memory ≈ {sizes}"
    )


def _memory(held: dict[str, float]) -> str:
    parts = ", ".join(f"{name} {output.size(held[name])}" for name in held if name not in ("total", "host"))
    beside = f"; and of the host ≈ {output.size(held['host'])}: the optimizer" if held["host"] else ""
    return f"≈ {output.size(held['total'])} a process: {parts}{beside}"


def show(facts: dict[str, Any]) -> None:
    """The facts as lines for the eye."""
    run, model, step, whole = facts["run"], facts["model"], facts["step"], facts["whole"]
    shared = "" if step["data_ranks"] == step["processes"] else f" ({step['data_ranks']} of the data)"
    output.say(f"run          {run['folder']}{_standing(run)}")
    output.say(f"model        {model['parameters']:,} parameters, vocabulary {model['vocabulary']:,}")
    output.say(
        f"step         {step['rows']:,} rows × {step['length']:,} = {step['positions']:,} positions, on "
        f"{output.counted(step['processes'], 'process', 'es')}{shared} in "
        f"{output.counted(step['micro_batches'], 'micro-batch', 'es')} each"
    )
    output.say(
        f"whole run    {whole['steps']:,} steps, {whole['rows']:,} rows, {whole['positions']:,} positions, "
        f"{whole['flops']:.3g} FLOPs"
    )
    if len(facts["stages"]) > 1:
        output.say(f"pipeline     {_stages(facts)}")
    output.say(f"memory       {_memory(facts['memory'])}")
    host = {
        name: f"{output.size(part)} ({part / model['parameters']:.3g} bytes a parameter)"
        for name, part in facts["host_memory"].items()
    }
    samples = f"; samples {host['samples']}, on rank 0" if facts["host_memory"]["samples"] else ""
    output.say(
        f"host         ≈ {host['start']} a process beside it at the start; a load {host['load']}, "
        f"saves {host['save']}{samples}"
    )
    text = facts["data_memory"]
    output.say(
        f"data         ≤ {output.size(sum(text.values()))} a process on its host: open blocks "
        f"{output.size(text['blocks'])}, encoding {output.size(text['encoding'])}"
    )
    if facts["token_cache"]:
        output.say(f"token cache  {token_room.line(facts['token_cache'])}")
    saves = facts["checkpoints"]
    kept = f"kept {saves['whole']} whole and {saves['weights_only']} of weights"
    room = f"{output.size(saves['disk'])} of {output.size(saves['free'])} free"
    output.say(f"checkpoints  {output.size(saves['bytes'])} each; {kept}: {room}")
    output.say("")
    keys = ["name", "share", "documents", "tokens", "epochs", "blocks", "streams", "padding"]
    titles = ["corpus", "share", "documents", "≈ tokens", "≈ epochs", "blocks", "streams", "≈ padding"]
    output.table(titles, [[corpus[key] for key in keys] for corpus in facts["corpora"]])
    for corpus in facts["corpora"]:
        if corpus["held_out_asked"]:
            output.say(
                f"held out     {corpus['name']}: {output.size(corpus['held_out_bytes'])} of text, "
                f"{100 * corpus['held_out_share']:.3g} % ({100 * corpus['held_out_asked']:.3g} % asked)"
            )
    output.say("")
    output.table(
        ["objective", "share", "≈ measured", "at the end", "coefficient"],
        [list(objective.values()) for objective in facts["objectives"]],
    )
    for line in facts["warnings"]:
        output.say(f"warning: {line}")
