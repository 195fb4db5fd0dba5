"""`headrace data show`, `trace` and `seen`: a row back to its documents, and a document to its rows.

`show` has no run to look into: it makes the plan of a fresh run and walks the streams of the wanted rows up
to them, which costs what reading that text costs in training. `trace` and `seen` look into the openings log
of a run, along the attempts that led to its newest step, and open only the blocks that they need.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from data.errors import BadInput
from data.plan.history_file import read_history
from data.plan.make import make_plan
from data.plan.plan import History
from data.plan.steps import rows_of_step
from data.provenance.openings import merge_openings, read_openings
from data.provenance.trace import TracedRow, TracedSegment, Tracer, Use, walk
from data.shards.corpus import Corpus
from data.shards.find import Located, find_documents, full_name, is_ambiguous, several
from data.stream.rows import DTYPES, step_fingerprint
from data.tokenization.tokenizer import Tokenizer
from launcher import output
from launcher.config.require import require_files
from launcher.config.run_config import Config
from launcher.reporting import row_view
from launcher.runs.lineage import first_line, lineage, merged, steps
from launcher.runs.plan_history import run_tokenizer
from launcher.runs.quarantine import refuse_unknown
from launcher.runs.run_folder import RunFolder
from launcher.runs.stream_settings import open_corpora, stream_settings
from launcher.runs.trunk import trunk_of


def show(config: Config, step: int, row: int | None, json: bool) -> None:
    """Print the rows of a step of a run that would be started afresh with this config."""
    if step > (last := config.timetable().steps):  # the rows up to it would all be read first
        raise BadInput(
            f"--step: the config has {last:,} steps, got {step:,}; to look further, add steps={step}"
        )
    require_files(config)
    tokenizer = Tokenizer.load(config.tokenizer.model)
    corpora = open_corpora(config)
    for warning in refuse_unknown(config, corpora):
        _note(warning)
    history = History(((0, make_plan(stream_settings(config, corpora, tokenizer.hash))),))
    wanted = _global_rows(history, step, row)
    if os.path.exists(config.path / "plan.jsonl"):
        what = f"headrace data trace {config.path} --step {step}"
        _note(f"{config.path} exists; these are the rows of a fresh run; what it really did: {what}")
    with output.progress(f"reading up to step {step:,}") as report:
        rows = walk(history, corpora, tokenizer, step, only=wanted, progress=report)
    _print(rows, history, tokenizer, step, json)


def trace(run: RunFolder, step: int, row: int | None, json: bool) -> None:
    """Print the rows that a run trained on in a past step. BadInput where they cannot be the ones."""
    line, newest = _lines(run, step)
    if line is None:
        raise BadInput(f"--step: {run.path} has not done step {step:,}; its newest is {newest['step']:,}")
    history, tokenizer = _plan_of(run)
    wanted = _global_rows(history, step, row)
    first, count = rows_of_step(history, step)
    if first + count != line["rows"]:
        raise BadInput(
            f"{run.plan}: puts step {step:,} at the rows up to {first + count:,}, metrics.jsonl at those "
            f"up to {line['rows']:,}; a start recorded another plan but never began"
        )
    trunk = trunk_of(run)
    if trunk and (of := trunk.run_of(step)):
        _note(f"step {step:,} was made by {of}: {run.path} branched from {trunk}")
    rows = _tracer(run, history, tokenizer, open_corpora(run.current_config())).rows(wanted)
    trained = line["fingerprint"]
    if trained is not None and row is None:
        found = step_fingerprint([traced.rows.fingerprints()[0] for traced in rows])
        if found != trained:
            raise BadInput(
                f"step {step:,}: its rows come out as {found}, but the run trained on {trained} "
                "(metrics.jsonl, fingerprint): the text or headrace itself is not what it was"
            )
        _note(f"fingerprint agrees: {trained}")
    _print(rows, history, tokenizer, step, json)


def seen(run: RunFolder, keys: Sequence[str], json: bool) -> None:
    """Print the steps in which a run used documents: each 'KEY', 'SHARD/KEY', or one of these behind
    'CORPUS/', without which it is searched everywhere."""
    _, newest = _lines(run, None)
    if trunk := trunk_of(run):
        _note(f"{run.path} branched from {trunk}: uses up to there are of that run")
    history, tokenizer = _plan_of(run)
    corpora = open_corpora(run.current_config())
    end = int(newest["rows"])
    tracer = _tracer(run, history, tokenizer, corpora)
    known = [corpus.name for corpus in history.at(end - 1).corpora]
    for key in keys:
        searched = {name: corpora[name] for name in known if name in corpora}
        for name, document in _documents(key, searched):
            uses = tracer.uses(name, document.places, end)
            held_out = all(tracer.held_out(name, *place) for place in document.places)
            _print_uses(name, document, uses, history, end, held_out, json)


def _global_rows(history: History, step: int, row: int | None) -> range:
    """The rows of a step, or one of them. BadInput where the step has no such row."""
    first, count = rows_of_step(history, step)
    if row is None:
        return range(first, first + count)
    if row >= count:
        raise BadInput(f"--row: step {step:,} has the rows 0 to {count - 1}, got {row}")
    return range(first + row, first + row + 1)


def _lines(run: RunFolder, step: int | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The metrics of a step, None where the run has not done it, and those of its newest step."""
    line = newest = None
    for newest in steps(merged(run)):
        if newest["step"] == step:
            line = newest
    if newest is None:
        raise BadInput(f"{run.path}: has not finished a step yet")
    return line, newest


def _plan_of(run: RunFolder) -> tuple[History, Tokenizer]:
    """The plan that a run followed, and the tokenizer that it names."""
    if not run.plan.exists():
        raise BadInput(f"{run.plan}: is missing; without the plan no row can be found again")
    history = read_history(run.plan)
    tokenizer = run_tokenizer(run, history.at(0).tokenizer)
    return history, tokenizer


def _tracer(run: RunFolder, history: History, tokenizer: Tokenizer, corpora: Mapping[str, Corpus]) -> Tracer:
    """A tracer over the openings of the attempts that led to the newest step."""
    attempts = []
    for attempt, _, _ in lineage(run):
        folder = run.attempt_path(attempt)
        began = first_line(run, attempt)
        logs = [read_openings(path) for path in sorted(folder.glob("openings-*.bin"))]
        attempts.append((int(began["row"]), logs))
    openings = merge_openings(attempts)
    if not len(openings):
        raise BadInput(f"{run.path}/attempts: the openings logs (openings-NNNN.bin) are missing or empty")
    return Tracer(history, corpora, tokenizer, openings)


def _documents(asked: str, corpora: Mapping[str, Corpus]) -> list[tuple[str, Located]]:
    """(corpus, document) of each corpus in which '[CORPUS/][SHARD/]KEY' means one, one at least. BadInput for
    none, and where it means several of one corpus."""
    name, slash, sample = asked.partition("/")
    searched = {name: sample} if slash and name in corpora else dict.fromkeys(corpora, asked)
    found = []
    for corpus, key in searched.items():
        with output.progress(f"looking for {key} in {corpus}") as report:
            documents = find_documents(corpora[corpus], [key], report)[key]
        if is_ambiguous(key, documents):
            raise BadInput(several(key, corpus, documents))
        found += [(corpus, document) for document in documents]
    if not found:
        example = next(iter(searched))
        known = full_name(corpora[example].shard_of(0), corpora[example].read_unit(0)[0].key)
        raise BadInput(f"{asked}: no such sample in {', '.join(searched)}; one that is: {example}/{known}")
    return found


def _note(text: str) -> None:
    """A line beside what was asked for."""
    print(text, file=sys.stderr, flush=True)


def _print(rows: Sequence[TracedRow], history: History, tokenizer: Tokenizer, step: int, json: bool) -> None:
    if json:
        for row in rows:
            output.say_json(_object(row, history, step))
        return
    first, count = rows_of_step(history, step)
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    colour = row_view.can_colour(console)
    names = row_view.control_names(tokenizer)
    console.print(row_view.legend(colour))
    for row in rows:
        lane, stream = _lane_and_stream(row, history)
        title = (
            f"step {step:,}, row {row.number - first} of {count} · global row {row.number:,} · "
            f"corpus {row.segments[0].corpus} · lane {lane} · stream {stream}"
        )
        console.print()
        console.print(row_view.row_lines(row, title, names, tokenizer, colour), end="")


def _lane_and_stream(row: TracedRow, history: History) -> tuple[int, int]:
    plan = history.at(row.number)
    corpus = plan.corpus(row.segments[0].corpus)
    assert corpus is not None, "a row's corpus is in the plan of the row"
    return row.number % plan.lanes, row.number % corpus.streams


def _object(row: TracedRow, history: History, step: int) -> dict[str, Any]:
    """A row as JSON: its seven arrays by their names (docs/design/rows.md), and its segments."""
    lane, stream = _lane_and_stream(row, history)
    arrays = {name: np.asarray(getattr(row.rows, name)[0]).tolist() for name in DTYPES}
    segments = [_segment(segment) for segment in row.segments]
    return {"row": row.number, "step": step, "lane": lane, "stream": stream, **arrays, "pieces": segments}


def _segment(segment: TracedSegment) -> dict[str, Any]:
    parts = [
        {"shard": part.shard, "key": part.key, "part": part.part, "start": part.start, "stop": part.stop}
        for part in segment.parts
    ]
    return {
        "corpus": segment.corpus,
        "shard": segment.parts[0].shard,
        "key": segment.parts[0].key,
        "piece": segment.number,
        "objective": segment.objective,
        "first": segment.first,
        "length": segment.length,
        "cut": segment.cut,
        "parts": parts,
    }


def _print_uses(
    corpus: str,
    document: Located,
    uses: Sequence[Use],
    history: History,
    end: int,
    held_out: bool,
    json: bool,
) -> None:
    key = document.name
    if json:
        listed = [{"step": use.step, "row": use.row, "objective": use.objective} for use in uses]
        named = {"corpus": corpus, "shard": document.shard, "key": document.key}
        output.say_json({**named, "held_out": held_out, "uses": listed})
        return
    if held_out:
        output.say(f"{corpus}/{key}: held out, never trained on")
    elif not uses:
        output.say(f"{corpus}/{key}: not used in the run's {end:,} rows so far")
    else:
        steps = [use.step for use in uses]
        often = "once" if len(uses) == 1 else f"{len(uses):,} times"
        output.say(
            f"{corpus}/{key}: used {often}, different steps: {len({*steps}):,}, from step {min(steps):,} "
            f"to step {max(steps):,}"
        )
    for use in uses:
        in_step = use.row - rows_of_step(history, use.step)[0]
        output.say(
            f"{corpus}/{key}: step {use.step:,}, row {in_step} of the step (global row {use.row:,}), "
            f"{use.objective}"
        )
