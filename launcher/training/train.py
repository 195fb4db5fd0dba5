"""A start of a run, from the config to the exit code: what `headrace train` and `resume` do in each rank.

    connect the ranks                                                    process_group.py
    rank 0 finds where the run goes on and claims an attempt             resume_point.py, run_folder.py
    and tells the others                                                 collectives.py
    text, model and engine, at a checkpoint that all could load          restore.py
    everything else that the attempt trains with                         assemble.py
    the loop                                                             loop.py

Whatever can fail for a user's reason fails before the first step, on all ranks together, in one line.
"""

import faulthandler
import signal
import sys
from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any

from data.access.patience import Patience
from data.errors import BadInput, PassingTrouble
from data.shards.corpus import Corpus
from data.tokenization.tokenizer import Tokenizer
from launcher import output
from launcher.config import run_config
from launcher.config.run_config import Config
from launcher.distributed.collectives import ToldByOtherRank, from_first, together
from launcher.distributed.process_group import connect, disconnect
from launcher.distributed.stop_signals import StopRequest, stop_request
from launcher.distributed.world import World, discover
from launcher.engine.memory import enough_memory
from launcher.preflight.lossy import require_spelling
from launcher.preflight.prompts import require_room
from launcher.reporting.summary import show_summary
from launcher.runs import run_folder
from launcher.runs.beginning import beginning
from launcher.runs.eval_corpora import open_all
from launcher.runs.plan_history import run_tokenizer
from launcher.runs.progress import Progress
from launcher.runs.quarantine import refuse_unknown
from launcher.runs.resume_point import StartPoint, start_point
from launcher.runs.run_folder import Attempt, RunFolder
from launcher.runs.stream_settings import OpenedCorpora
from launcher.standard_streams import expendable
from launcher.training.assemble import assemble
from launcher.training.gc_schedule import collected_by_step
from launcher.training.loop import End, fit
from launcher.training.redirect_output import ConsoleLoss, quiet
from launcher.training.restore import ClaimedAttempt
from launcher.training.session import Session
from launcher.training.upcoming import StreamFailed

Choose = Callable[[StopRequest], tuple[RunFolder, Config]]
"""Names the run and the config to go on with; while it waits for shards it looks at whether to stop."""
Loop = Callable[[Session, Progress], End]


def train(config: Config) -> int:
    """Start the run that a config names, or go on with it. The exit code; BadInput for the command line."""
    opened: OpenedCorpora = {}
    return _in_world(lambda stop: start(config, stop, opened), step=None, opened=opened)


def start(config: Config, stop: StopRequest, opened: OpenedCorpora | None = None) -> tuple[RunFolder, Config]:
    """run_folder.start; before a new run is written, that what its config names can be opened. opened: gets
    the corpora that were."""
    if not run_folder.exists(RunFolder(config.path).config_file):
        tokenizer = Tokenizer.load(config.tokenizer.model)
        require_room(config, tokenizer)
        beginning(config, tokenizer)
        corpora = _open_all(config, stop, opened)
        _warn(refuse_unknown(config, corpora))
        _warn(require_spelling(config, tokenizer, lambda: corpora))
    return run_folder.start(config)


def resume(run: RunFolder, config: Config, step: int | None = None) -> int:
    """Go on with a run under an edited config, from its newest checkpoint or from that of `step`."""

    known: OpenedCorpora = {}

    def choose(stop: StopRequest) -> tuple[RunFolder, Config]:
        current = run.current_config()
        if config.data != current.data or config.eval.corpora != current.eval.corpora:
            same = [name for name, text in config.texts.items() if current.texts.get(name) == text]
            opened = _open_all(config, stop, known, read_before=same)
            _warn(refuse_unknown(config, opened, before=current))
        return run, config

    return _in_world(choose, step=step, opened=known)


def _open_all(
    config: Config, stop: StopRequest, known: OpenedCorpora | None, *, read_before: Container[str] = ()
) -> dict[str, Corpus]:
    """All text of a config, by name. BadInput also where what is evaluated on is trained on."""
    patience = Patience(config.data.patience, asked_to_stop=lambda: bool(stop))
    corpora, evaluated = open_all(config, patience, read_before=read_before, known=known)
    return {**corpora, **evaluated}


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"headrace: warning: {line}", file=sys.stderr, flush=True)


def _in_world(choose: Choose, step: int | None, opened: OpenedCorpora) -> int:
    """Connect the ranks, claim an attempt, train; leave nothing connected."""
    world = discover()
    try:
        connect(world)
        with redirect_stdout(expendable(sys.stdout)):
            return run_rank(world, choose, step, opened=opened)
    except ToldByOtherRank as told:
        return told.code
    finally:
        disconnect()


def run_rank(
    world: World,
    choose: Choose,
    step: int | None = None,
    loop: Loop = fit,
    opened: OpenedCorpora | None = None,
) -> int:
    """This rank's part, in a world that is connected. `choose`, asked on rank 0, names the run and the config
    to go on with; `loop` trains; opened: the corpora that `choose` opens. The exit code; BadInput on the rank
    that has the line to show."""
    try:
        with ExitStack() as stack:
            stop = stack.enter_context(stop_request())
            claimed = _claim(world, choose, step, stop, stack, {} if opened is None else opened)
            if claimed is None:
                return End.FINISHED.value
            world = replace(world, degrees=claimed.config.layout.degrees)
            return _attempt(world, claimed, stop, loop)
    except ToldByOtherRank as told:
        return told.code


def _claim(
    world: World,
    choose: Choose,
    step: int | None,
    stop: StopRequest,
    stack: ExitStack,
    known: OpenedCorpora,
) -> ClaimedAttempt | None:
    """This start's attempt. None: the run is complete already."""
    held: list[tuple[Attempt, StartPoint]] = []

    def claim() -> dict[str, Any]:
        run, config = choose(stop)
        point = _start_point(run, config, step)
        found = point.checkpoint
        if point.complete and found:
            show_summary(run)
            output.say(f"{run.path}: is complete, {found.step:,} steps; nothing was changed")
            return {"complete": True}
        if run.attempts():  # a new run was asked in `start`, before it was written
            tokenizer = run_tokenizer(run, None)
            opened = partial(_open_all, config, stop, known, read_before=config.texts)
            _warn(require_spelling(config, tokenizer, opened))
        attempt = run_folder.claim(run, config)
        stack.callback(attempt.close)
        held.append((attempt, point))
        return {
            "complete": False,
            "run": str(run.path),
            "number": attempt.number,
            "config": run_config.plain(config),
        }

    told = from_first(world, claim, stop)
    if told["complete"]:
        return None
    attempt, point = held[0] if held else (None, None)
    return ClaimedAttempt(
        run=run_folder.open_run(told["run"]),
        number=told["number"],
        config=run_config.build(told["config"], {}, "config"),
        step=step,
        attempt=attempt,
        point=point,
        opened=known,
    )


def _start_point(run: RunFolder, config: Config, step: int | None) -> StartPoint:
    """The start point. Of a complete run nobody loads the checkpoint, so every byte is read here: a run whose
    end is damaged is not complete."""
    damaged: dict[int, list[str]] = {}
    point = start_point(run, config, step)
    while point.complete and point.checkpoint and (lines := point.checkpoint.problems()):
        damaged[point.checkpoint.step] = lines
        point = start_point(run, config, step, damaged)
    return point


def _attempt(world: World, claimed: ClaimedAttempt, stop: StopRequest, loop: Loop) -> int:
    """Train as this attempt. What libraries print goes to its log, the console's lines to the terminal; so do
    the stacks of all threads whenever SIGQUIT asks for them."""
    folder = claimed.run.attempt_path(claimed.number)
    loss = ConsoleLoss(folder, world.rank)
    log = folder / f"rank-{world.rank:04d}.log"
    with quiet(log, partial(loss.note, "stdout")) as terminal, ExitStack() as stack:
        faulthandler.register(signal.SIGQUIT, all_threads=True)  # written by C: also when Python is stuck
        try:
            with enough_memory(claimed.config.layout):
                session, progress = assemble(world, claimed, stop, stack, terminal)
            loss.note_earlier()
            end = _train(session, progress, loop)
            error = _common(world, end) if isinstance(end, StreamFailed) else None
            session.finish(_how(end, error), error)
        except BadInput as error:
            if claimed.attempt is not None:
                claimed.attempt.give_up(error)
            raise
        if error is not None:
            raise error
    assert isinstance(end, End)
    if end is End.FINISHED and world.rank == 0:
        show_summary(claimed.run)
    return end.value


def _common(world: World, failed: StreamFailed) -> BadInput:
    """The error of the rank whose line is to be shown; on the others what they are told of it."""
    try:
        together(world, failed.repeat)
    except BadInput as error:
        return error
    raise failed  # not reached: it was the trouble of some rank


def _how(end: End | StreamFailed, error: BadInput | None) -> str:
    """In a word, for the ledger."""
    if isinstance(end, End):
        return end.name.lower()
    return "out of patience" if error is not None and error.code == PassingTrouble.code else "trouble"


def _train(session: Session, progress: Progress, loop: Loop) -> End | StreamFailed:
    """How the loop ended. BadInput: on all ranks where what was trained last could not be kept, on one whose
    GPU or machine has too little memory."""
    try:
        with enough_memory(session.config.layout), collected_by_step():
            if progress.step == 0:
                session.evaluate(0)
            return loop(session, progress)
    except StreamFailed as trouble:
        return trouble
    except BadInput:
        session.settle()
        raise
