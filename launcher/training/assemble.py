"""What an attempt trains with, put together in the order in which the parts need each other.

    text, model and engine, at a checkpoint or at the beginning    restore.py
    on rank 0 the ledger's first line, the plan, the tracker       run_folder.py, plan_history.py, start.py
    held-out rows, samples                                         held_out.py, samples.py
    the openings log, the loader from row n                        data/provenance, data/stream/loader.py
    its batches, also on ranks that share its rows                 shared_rows.py
    how long shards are waited for, and who is told                teller.py, upcoming.py
    the folder of checkpoints, put in order                        save.py
    replicas compared as they were loaded                          replica_check.py

Whatever can fail for a user's reason fails here, on all ranks together, before the first step.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TextIO

from data.access.patience import Patience
from data.provenance.openings import OpeningsLog
from data.shards.corpus import Corpus
from data.stream.loader import Loader, RowShares, blank_batches
from data.stream.skipping import LeftOut
from data.stream.token_cache import token_cache
from launcher.checkpoint.retention import Retention
from launcher.checkpoint.save import Checkpoints
from launcher.config.run_config import Config
from launcher.distributed.allocator import keep_memory
from launcher.distributed.collectives import at_length, from_first, together
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World
from launcher.engine.host_memory import host_memory_free
from launcher.inference.held_out import HeldOut
from launcher.inference.samples import Sampler, no_room
from launcher.inference.trained_model import plain_model
from launcher.runs.beginning import on_record
from launcher.runs.eval_corpora import refuse_trained_on
from launcher.runs.eval_rows import require_same_rows, rows_before, rows_changed
from launcher.runs.longer_rows import longer_rows
from launcher.runs.lr_change import lr_change_from
from launcher.runs.plan_history import keep, left_out_before, record_skip
from launcher.runs.progress import Progress
from launcher.runs.stream_settings import open_texts, require_held_out
from launcher.runs.versions import versions
from launcher.tracking.start import tracking
from launcher.tracking.tracker import Tracker
from launcher.training.corpus_shares import CorpusShares
from launcher.training.global_batch import global_batches
from launcher.training.moved import layout_changes, shown
from launcher.training.replica_check import replica_check
from launcher.training.restore import ClaimedAttempt, Restored, Stream, restore
from launcher.training.session import Session
from launcher.training.shared_rows import row_sharing
from launcher.training.teller import Teller
from launcher.training.upcoming import WaitRules


def assemble(
    world: World, claimed: ClaimedAttempt, stop: StopRequest, stack: ExitStack, terminal: TextIO
) -> tuple[Session, Progress]:
    """The session and where it starts. What must be closed is left to `stack`. BadInput on all ranks."""
    keep_memory()
    config = claimed.config
    teller = Teller(world, terminal)
    patience = Patience(config.data.patience, tell=teller, asked_to_stop=lambda: bool(stop))
    restored = restore(world, claimed, patience, stop, stack)
    stream, engine = restored.stream, restored.engine
    # Nobody reads rows of a plan that is not on the disk yet.
    tracker = together(world, lambda: _begin(world, claimed, restored, stack, terminal))
    teller.tracker = tracker
    held_out = _evaluation(world, claimed, restored, patience, stop, tracker)
    sampler = _sampler(world, config, stream, tracker)
    openings = together(world, lambda: _openings(world, claimed, stack))
    left_out = _left_out(world, claimed, stream)
    loader = together(world, lambda: _loader(world, claimed, stream, openings, left_out, teller, stack))
    stack.callback(patience.end)  # before the loader's end, which waits for its threads
    shares = RowShares(world.mesh.data.size, config.layout.micro_batch)
    batches = loader or blank_batches(stream.history, shares, stream.at.row)

    sync = partial(_sync, openings, tracker)
    checkpoints = together(world, lambda: _checkpoints(world, claimed, restored, sync))
    session = Session(
        config=config,
        timetable=config.timetable(stream.history),
        plan=stream.plan,
        vocabulary=stream.tokenizer.size,
        world=world,
        attempt=claimed.number,
        hold=claimed.attempt,
        engine=engine,
        batches=global_batches(
            batches,
            row_sharing(world, shares),
            world,
            engine.reducer,
            stream.plan,
            WaitRules(stop, patience.seconds, teller.for_all),
            left_out,
            stream.tokenizer.unknown,
        ),
        shards_of=loader.shards_of if loader else lambda _: 0,  # rank 0, which tells, has a loader
        average=restored.average,
        checkpoints=checkpoints,
        stop=stop,
        tracker=tracker,
        held_out=held_out,
        sampler=sampler,
        saved=stream.at.step,
        replicas=replica_check(world, engine, config),
        corpus_shares=CorpusShares(stream.history, stream.at.row),
    )
    session.compare_replicas(stream.at)
    return session, stream.at


def _sync(openings: OpeningsLog | None, tracker: Tracker | None) -> None:
    """What a checkpoint is published behind."""
    if openings is not None:
        openings.sync()
    if tracker is not None:
        tracker.sync()


def _begin(
    world: World, claimed: ClaimedAttempt, restored: Restored, stack: ExitStack, terminal: TextIO
) -> Tracker | None:
    """On rank 0 the ledger's first line: where this attempt goes on, and with what; then the plan.

    In this order a kill between the two leaves a run that is whole: the lineage ends at the row from which
    the plan would have changed. The other way round the rows after it, still those of the attempt before,
    would stand under a plan that they never followed.
    """
    if claimed.attempt is None:
        return None
    stream, found = restored.stream, restored.checkpoint
    moved = layout_changes(found.layout, claimed.config.layout, world) if found else []
    timetable = claimed.config.timetable(stream.history)
    lr = lr_change_from(found, claimed.run, timetable)
    claimed.attempt.begin(
        step=stream.at.step,
        parent=found.attempt if found else None,
        row=stream.at.row,
        checkpoint=str(found.path) if found else None,
        init_from=on_record(restored.initial) if restored.initial else None,
        passed_over=restored.passed_over,
        average=restored.average_note,
        layout={key: rest for key, *rest in moved} or None,
        lr=[lr.before, lr.after] if lr else None,
        processes=world.size if world.started_by == "headrace" else None,
        tokenizer=stream.tokenizer.hash,
        versions=versions(),
    )
    keep(claimed.run, stream.history)
    tracker = stack.enter_context(
        tracking(claimed.run, claimed.config, claimed.attempt, timetable.steps, terminal)
    )
    for line in restored.passed_over:
        tracker.note(f"passed over: {line}")
    for line in shown(moved) if moved else ():
        tracker.note(line)
    if lr:
        tracker.note(lr.line)
    before = stream.history.before(stream.at.row)
    if (longer := longer_rows(stream.plan)) and not (before and before.slots == stream.plan.slots):
        tracker.note(f"{longer}; padding is in metrics (headrace check foretells it)")
    if restored.average_note:
        tracker.note(restored.average_note)
    return tracker


def _evaluation(
    world: World,
    claimed: ClaimedAttempt,
    restored: Restored,
    patience: Patience,
    stop: StopRequest,
    tracker: Tracker | None,
) -> HeldOut | None:
    """The rows of evaluations, made on all ranks, and on rank 0 told of. As with the stream, one process of
    each machine looks at the shards first. A collective. BadInput on all ranks where the rows are not the
    same on all."""
    opened = partial(_evaluated, claimed, restored, patience)
    first = at_length(world, lambda: opened(look=True) if world.looks else None, stop)

    def follow() -> HeldOut | None:
        return _held_out(world, claimed.config, restored.stream, first or opened(look=False))

    held_out = at_length(world, follow, stop)
    if held_out is not None:
        own = held_out.fingerprints
        of_first = from_first(world, lambda: own)
        together(world, lambda: require_same_rows(own, of_first))
    together(world, lambda: _tell_evaluation(claimed, held_out, tracker))
    return held_out


def _evaluated(
    claimed: ClaimedAttempt, restored: Restored, patience: Patience, look: bool
) -> dict[str, Corpus]:
    """The corpora of `eval.corpora`, where there are evaluations."""
    config = claimed.config
    names = config.eval.corpora if config.eval.every else ()
    read_before = names if restored.checkpoint else ()
    return open_texts(config, names, patience, read_before=read_before, known=claimed.opened, look=look)


def _held_out(world: World, config: Config, stream: Stream, evaluated: dict[str, Corpus]) -> HeldOut | None:
    if not config.eval.every:
        return None
    if world.rank == 0:
        refuse_trained_on(config, stream.corpora, evaluated)
    require_held_out(config, stream.plan, stream.corpora)
    return HeldOut(config, stream.plan, stream.corpora, evaluated, stream.tokenizer, world)


def _tell_evaluation(claimed: ClaimedAttempt, held_out: HeldOut | None, tracker: Tracker | None) -> None:
    """On rank 0: which rows losses are of, on the record; what is told of them, and of those that are others
    than before this start."""
    if claimed.attempt is None or held_out is None or tracker is None:
        return
    changed = rows_changed(rows_before(claimed.run, claimed.number), held_out.fingerprints)
    claimed.attempt.record("evaluation", rows=held_out.fingerprints, changed=changed, told=held_out.lines)
    for line in [*held_out.lines, *changed]:
        tracker.note(line)


def _sampler(world: World, config: Config, stream: Stream, tracker: Tracker | None) -> Sampler | None:
    """On all ranks or on none: rank 0 knows whether its host has room, and says so where it has not."""
    if not config.eval.every or not config.eval.samples.prompts:
        return None
    vocabulary = stream.tokenizer.size
    line = from_first(world, lambda: no_room(config, vocabulary, host_memory_free()))
    if line:
        if tracker is not None:
            tracker.note(line)
        return None
    plain = plain_model(config, stream.tokenizer, len(stream.plan.corpora)) if world.rank == 0 else None
    return Sampler(config, stream.tokenizer, plain)


def _openings(world: World, claimed: ClaimedAttempt, stack: ExitStack) -> OpeningsLog | None:
    """The log of a rank that opens blocks."""
    if not world.mesh.leads:
        return None
    log = OpeningsLog(claimed.run.attempt_path(claimed.number) / f"openings-{world.rank:04d}.bin")
    stack.callback(log.close)
    return log


def _left_out(world: World, claimed: ClaimedAttempt, stream: Stream) -> LeftOut:
    """What the attempts before have left out, the same on all ranks. BadInput where that is too much."""
    before = from_first(world, lambda: left_out_before(claimed.run, stream.plan))
    left_out = LeftOut((corpus, unit, key) for corpus, unit, key in before)
    together(world, lambda: left_out.require_within(stream.plan.on_bad.budget))
    return left_out


def _loader(
    world: World,
    claimed: ClaimedAttempt,
    stream: Stream,
    openings: OpeningsLog | None,
    left_out: LeftOut,
    tell: Callable[[str], None],
    stack: ExitStack,
) -> Loader | None:
    """On the first of the ranks that share rows, which reads them for all."""
    if not world.mesh.leads:
        return None
    path, data = claimed.run.attempt_path(claimed.number), claimed.config.data
    loader = Loader(
        stream.history,
        stream.corpora,
        stream.tokenizer,
        rank=world.mesh.data.rank,
        world=world.mesh.data.size,
        first_row=stream.at.row,
        state=stream.at.streams,
        micro_batch=claimed.config.layout.micro_batch,
        threads=data.threads,
        memory_bytes=data.memory_mib << 20,
        log=openings,
        on_skip=partial(record_skip, claimed.run, path),
        left_out=left_out,
        token_cache=token_cache(data.token_cache, tell),
    )
    stack.callback(loader.close)
    return loader


def _checkpoints(
    world: World, claimed: ClaimedAttempt, restored: Restored, sync: Callable[[], None]
) -> Checkpoints:
    settings, found = claimed.config.checkpoint, restored.checkpoint
    return Checkpoints(
        claimed.run.checkpoints,
        world,
        claimed.number,
        restored.engine.reducer,
        Retention(
            settings.keep,
            claimed.config.timetable(restored.stream.history).keeps,
            settings.weights_only_after,
        ),
        parent={"step": found.step, "attempt": found.attempt} if found else None,
        about={"versions": versions(), "tokenizer": restored.stream.tokenizer.hash},
        may_publish=claimed.attempt.may_publish if claimed.attempt else lambda: False,
        sync=sync,
    )
