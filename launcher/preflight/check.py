"""`headrace check`: everything about a run that can be known on a login node, before it costs anything.

Exact: parameters, rows, units, blocks, streams, shares, checkpoint sizes. Estimated, and said to be: tokens
(a sample of each corpus is encoded, for the bytes a token and for what the tokenizer loses of it), epochs,
padding (a few blocks are packed), memory. Needs no torch: the model's figures are formulas
over its config.
"""

import math
import os
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from data.plan.make import make_plan
from data.plan.plan import History
from data.plan.segments import PlanSegments
from data.plan.steps import rows_of_step
from data.shards.corpus import Corpus
from data.stream.block import Opener
from data.tokenization.check import CheckReport
from data.tokenization.tokenizer import Tokenizer
from launcher import output
from launcher.config.require import require_files, require_processes
from launcher.config.run_config import Config
from launcher.config.timetable import Timetable
from launcher.preflight import achieved, corpus_shares, estimates, evaluation, mixing, token_room
from launcher.preflight.lossy import measure, refuse_lossy
from launcher.preflight.packed_blocks import look_into, packing_warnings
from launcher.preflight.prompts import require_room
from launcher.preflight.schedule import decay_cut, schedule
from launcher.preflight.unit_sizes import coarse
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
from objectives.mixture import Mixture

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
    evaluated = evaluation.opened(config, corpora)
    spelled, read = _read(config, tokenizer, {**corpora, **evaluated})
    outside, told = evaluation.report(config, plan, evaluated, spelled, tokenizer)
    timetable = config.timetable(history)
    rows = sum(rows_of_step(history, timetable.steps))  # those before the last step, and its own
    shares = corpus_shares.shares(history, row, rows)
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
            "steps": timetable.steps,
            "rows": rows,
            "positions": timetable.positions,
            "flops": flops_per_token(config.model, tokenizer.size, plan.length) * timetable.positions,
        },
        "schedule": schedule(config, timetable, plan),
        "corpora": [
            estimates.corpus(plan, part, corpora[part.name], spelled[part.name], shares[part.name])
            for part in plan.corpora
            if part.name in corpora  # a run's plan keeps those that an edit took away
        ],
        "eval_corpora": outside,
        "objectives": _objectives(plan.mixture, row, rows, achieved.shares(plan, corpora, tokenizer, row)),
        "host_memory": estimates.host_memory(config, tokenizer.size, processes),
        "checkpoints": estimates.checkpoints(config, timetable, count),
    }
    few = _estimate(facts, config, tokenizer, Opener(PlanSegments(history), corpora, tokenizer), row)
    if not point.complete:
        require_writable(RunFolder(config.path))
    passed_over = [f"will be passed over: {line}" for line in point.passed_over]
    lr = lr_change_from(point.checkpoint, run, timetable) if run and not point.complete else None
    strange = not_compared(initial) if initial else None
    moved = [*([lr.line] if lr else []), *([strange] if strange else [])]
    said = [*passed_over, *moved, *read, *told, *_of_text(facts, history, corpora, row), *few]
    return facts | {"warnings": [*said, *_warnings(config, timetable, facts)]}


def _of_text(facts: dict[str, Any], history: History, corpora: dict[str, Corpus], row: int) -> list[str]:
    """What is to be said of shares and units."""
    plan, measured = history.newest, np.array([one["measured"] for one in facts["objectives"]])
    return [
        *corpus_shares.uncounted(history),
        *coarse(plan, corpora),
        *achieved.shortfalls(plan.mixture, row, measured),
    ]


def _read(
    config: Config, tokenizer: Tokenizer, texts: Mapping[str, Corpus]
) -> tuple[dict[str, CheckReport], list[str]]:
    """What a sample of each text becomes as tokens, and what there is to be warned of. BadInput for documents
    that are not there, and text that the tokenizer loses."""
    unknown = refuse_unknown(config, texts, most=math.inf)
    spelled, troubles = measure(config, tokenizer, texts)
    return spelled, [*unknown, *troubles, *refuse_lossy(config, tokenizer, texts, spelled)]


def _estimate(
    facts: dict[str, Any], config: Config, tokenizer: Tokenizer, opener: Opener, row: int
) -> list[str]:
    """Adds what follows from the facts about corpora and step: blocks, memory, stages. Returns what
    there is to be warned of."""
    processes = facts["step"]["processes"]
    shapes, segment = {}, opener.plan_segments.last
    for corpus in facts["corpora"]:
        block = look_into(opener, corpus)
        shapes[corpus["name"]] = mixing.block_shape(block, corpus, segment.plan.length)
    facts["mixing"] = mixing.foretell(segment, row, facts["corpora"], shapes)
    facts["open_blocks"] = estimates.open_blocks(
        opener.plan_segments.last.plan, facts["corpora"], facts["step"]["data_ranks"]
    )
    facts["token_cache"] = token_room.estimate(config, facts["corpora"], tokenizer.size)
    facts["data_memory"] = estimates.data_memory(config, facts["corpora"], facts["open_blocks"])
    facts["stages"] = estimates.stages(config, tokenizer.size, processes, facts["step"]["micro_batches"])
    facts["memory"] = max((stage["memory"] for stage in facts["stages"]), key=itemgetter("total"))
    facts["bubble"] = estimates.bubble(config.layout.pipeline, facts["step"]["micro_batches"])
    few = mixing.warnings(segment.plan, row, facts["mixing"], facts["corpora"])
    room = token_room.warnings(facts["token_cache"])
    return [*few, *packing_warnings(segment.plan, facts["corpora"]), *room]


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


def _objectives(mixture: Mixture, row: int, end: int, measured: np.ndarray) -> list[dict[str, Any]]:
    """Their shares at the row where the start would go on, asked and measured, and at the row after the
    last."""
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


def _warnings(config: Config, timetable: Timetable, facts: dict[str, Any]) -> list[str]:
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
    if timetable.warmup >= timetable.steps:
        lines.append(f"optimizer.warmup: {timetable.warmup} steps, the run has {timetable.steps}")
    shortened = decay_cut(timetable)
    if shortened:
        lines.append(shortened)
    if config.ema.decay is not None and config.ema.every > timetable.steps:
        lines.append(
            f"ema.every: {config.ema.every} steps, the run has {timetable.steps}: it is never updated"
        )
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
