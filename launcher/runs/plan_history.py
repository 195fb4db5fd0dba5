"""How the plan's history goes on when a run is started or resumed at row n (docs/design/stream.md).

The segments before n are those of the checkpoint; from n on holds what the config asks for now. A changed
plan is appended to plan.jsonl and on the disk before a row uses it. Units skipped are read from plan.jsonl
alone: they name a slot of their corpus, so they hold whichever checkpoint a resume starts from.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from data.durable import append_record
from data.errors import BadInput
from data.plan.history_file import append_skip, read_history
from data.plan.make import make_plan
from data.plan.plan import History, Plan
from data.shards.corpus import Corpus
from data.stream.skipping import Identity, SkipNotice
from data.tokenization.tokenizer import Tokenizer
from launcher.config.run_config import Config
from launcher.config.timetable import Timetable
from launcher.runs.lineage import attempt_of, lineage
from launcher.runs.progress import Progress
from launcher.runs.run_folder import RunFolder, record
from launcher.runs.stream_settings import stream_settings


def go_on(
    run: RunFolder, config: Config, corpora: Mapping[str, Corpus], tokenizer: str, at: Progress | None
) -> History:
    """The history in force from the row of `at` on (None: from row 0); nothing is written. tokenizer: its
    hash. BadInput for an edit that is refused."""
    past, row = (at.history, at.row) if at else (None, 0)
    settings = stream_settings(config, dict(corpora), tokenizer, past, row)
    skips = read_history(run.plan).skips if run.plan.exists() else ()
    if at is None or at.row == 0:
        return History(((0, make_plan(settings)),), skips)
    known = replace(at.history, skips=skips) if run.plan.exists() else at.history
    plan = make_plan(settings, before=known.before(at.row), state=at.streams)
    return known.extended(at.row, plan)


def timetable_of(run: RunFolder, step: int | None = None) -> Timetable:
    """Of the newest attempt of a run, or of the one that made a step, by its files alone. BadInput where its
    plan is needed for that, and damaged."""
    made = attempt_of(lineage(run), step) if step is not None else None
    config = run.attempt_config(made) if made else run.current_config()
    timetable = config.timetable()
    return (
        config.timetable(read_history(run.plan)) if timetable.in_tokens and run.plan.exists() else timetable
    )


def run_tokenizer(run: RunFolder, planned: str | None) -> Tokenizer:
    """The run's copy of its tokenizer. BadInput where its hash is not `planned` (None: not known)."""
    tokenizer = Tokenizer.load(run.tokenizer)
    if planned is not None and tokenizer.hash != planned:
        raise BadInput(
            f"{run.tokenizer}: is not the tokenizer that the run was started with (hash {planned[:16]}, "
            f"now {tokenizer.hash[:16]}); bring that one back"
        )
    return tokenizer


def refuse_other_tokenizer(run: RunFolder, config: Config) -> None:
    """BadInput where an edit names a tokenizer that is not the run's."""
    if config.tokenizer.model == run.current_config().tokenizer.model:
        return
    own, asked = Tokenizer.load(run.tokenizer).hash, Tokenizer.load(config.tokenizer.model).hash
    if own != asked:
        raise BadInput(
            f"tokenizer.model: the run was started with {run.tokenizer} (hash {own[:16]}), "
            f"{config.tokenizer.model} is another (hash {asked[:16]}); this cannot be edited"
        )


def keep(run: RunFolder, history: History) -> None:
    """Record the newest segment, unless plan.jsonl says so already. Rank 0, before any row uses it."""
    if not run.plan.exists():  # at the start, or lost: then the checkpoint's copy is all there is
        for line in history.to_json():
            append_record(run.plan, line)
    elif read_history(run.plan).segments != history.segments:
        history.append_to(run.plan)


def left_out_before(run: RunFolder, plan: Plan) -> list[Identity]:
    """What all attempts so far have left out by `data.on_bad`, each once, without samples that the plan has
    in quarantine: those are settled."""
    found = [(line["corpus"], line["unit"], line["key"]) for line in run.ledger() if line["event"] == "skip"]
    return [one for one in dict.fromkeys(found) if not _settled(one, plan)]


def _settled(left_out: Identity, plan: Plan) -> bool:
    """Whether the plan's quarantine means this sample, by less or more of its SHARD/KEY."""
    corpus, _, name = left_out
    names = [asked for of, asked in plan.quarantine if of == corpus] if name else []
    return any(
        name == asked or f"/{name}".endswith(f"/{asked}") or asked.endswith(f"/{name}") for asked in names
    )


def record_skip(run: RunFolder, attempt_path: Path, notice: SkipNotice) -> None:
    """Put on record what the stream skips, before it acts; any rank may be the one that finds it."""
    if notice.of_unit:
        append_skip(run.plan, notice.of_unit)
    fields = asdict(notice)
    slot = fields.pop("block_slot")  # its name in the ledger is a promise: readers know it as `place`
    record(attempt_path, "skip", place=slot, **fields)
