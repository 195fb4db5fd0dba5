"""Where an attempt goes on: at the newest checkpoint that every rank could load, or at the beginning.

    rank 0 chooses by the small files and tells the others       resume_point.py
    each rank opens the checkpoint                               load.py
    tokenizer, corpora; the plan's history goes on at its row n  stream_settings.py, plan_history.py
    model and engine, built once                                 engine.py
    each rank reads what it holds, and checks what it reads      load.py
    or, at the beginning, draws it                               engine.py
    or reads the weights alone of another run                    beginning.py, load.py

Where any rank finds damage the checkpoint is passed over on all, and rank 0 chooses again. Nothing of the
run is written before one is loaded, so an attempt's first line names what it really goes on from.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data.access.patience import Patience
from data.plan.plan import History, Plan
from data.shards.corpus import Corpus
from data.tokenization.tokenizer import Tokenizer
from launcher.checkpoint.load import FoundDamaged, load, load_weights, undamaged
from launcher.checkpoint.read import StoredCheckpoint
from launcher.config.run_config import Config
from launcher.distributed.collectives import at_length, found_by_all, from_first, together
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World
from launcher.engine.compiler import require_compiler
from launcher.engine.ema import WeightAverage, weight_average
from launcher.engine.engine import Engine
from launcher.engine.stages import stage_borders
from launcher.inference.trained_model import plain_model
from launcher.preflight.prompts import require_room
from launcher.runs.beginning import beginning
from launcher.runs.plan_history import go_on, run_tokenizer
from launcher.runs.progress import Progress
from launcher.runs.resume_point import StartPoint, start_point
from launcher.runs.run_folder import Attempt, RunFolder
from launcher.runs.stream_settings import OpenedCorpora, open_corpora, require_same


@dataclass(frozen=True)
class ClaimedAttempt:
    """The attempt that this process takes part in; the same on every rank, but for what rank 0 alone has."""

    run: RunFolder
    number: int
    config: Config
    step: int | None
    """The checkpoint that the user asked for; None: the newest."""
    attempt: Attempt | None
    """On rank 0, which alone writes the run."""
    point: StartPoint | None
    """On rank 0: the first choice, made before the attempt was claimed."""
    opened: OpenedCorpora = field(default_factory=dict)
    """What this process has opened so far."""


@dataclass(frozen=True)
class Stream:
    """The text side of an attempt."""

    tokenizer: Tokenizer
    corpora: dict[str, Corpus]
    history: History
    at: Progress

    @property
    def plan(self) -> Plan:
        """The plan in force for the whole attempt."""
        return self.history.newest


@dataclass(frozen=True)
class Restored:
    """Text, model and engine as they stood at a checkpoint."""

    checkpoint: StoredCheckpoint | None
    """None: at the beginning."""
    initial: StoredCheckpoint | None
    """At the beginning: whose weights it is; None: those of the seed."""
    passed_over: list[str]
    """Newer checkpoints that are damaged, and how."""
    stream: Stream
    engine: Engine
    average: WeightAverage | None
    """Of the weights, where the config asks for one."""

    @property
    def average_note(self) -> str | None:
        """What became of the average of the weights, where that is not what it was at the checkpoint."""
        if self.checkpoint is None or ("ema" in self.checkpoint.kinds) == (self.average is not None):
            return None
        step = f"{self.checkpoint.step:,}"
        if self.average is not None:
            return f"ema: the average begins now, as the weights of step {step}"
        return f"ema: the average of step {step} is dropped, for ema.decay is not set"


def restore(
    world: World, claimed: ClaimedAttempt, patience: Patience, stop: StopRequest, stack: ExitStack
) -> Restored:
    """The run as its newest whole checkpoint has it; `stack` closes the engine. A collective. BadInput on all
    ranks, also where no checkpoint is whole, or the one that was asked for is not."""
    point = claimed.point
    damaged = dict(point.damaged) if point else {}
    engine: Engine | None = None
    average: WeightAverage | None = None
    while True:
        choice = _choose(world, claimed, point, damaged)
        try:
            stored = _open(world, choice)
            stream = _open_stream(world, claimed, patience, stored, stop)
            if engine is None:  # of one shape whatever the step, so one serves all tries
                engine = _build(world, claimed.config, stream)
                stack.callback(engine.close)
                average = weight_average(engine.state, claimed.config.ema)
            initial = None
            if stored is not None:
                load(world, stored, engine.state)
            else:
                initial = _begin(world, claimed, stream, engine)
        except FoundDamaged as found:
            damaged[choice.step], point = found.lines, None
            continue
        if average is not None and (stored is None or "ema" not in stored.kinds):
            average.restart()
        # The plan of an older checkpoint may know fewer corpora than the one that the engine was built for.
        engine.count_corpora(len(stream.plan.corpora))
        return Restored(stored, initial, choice.passed_over, stream, engine, average)


def _begin(world: World, claimed: ClaimedAttempt, stream: Stream, engine: Engine) -> StoredCheckpoint | None:
    """The initial weights: those of the seed, or of the checkpoint that init_from names, which is returned. A
    collective. BadInput on all ranks, also where that is damaged: nobody said from which other to begin."""

    def choose() -> str | None:
        found = beginning(claimed.config, stream.tokenizer, claimed.run)
        return str(found.path) if found else None

    path = from_first(world, choose)
    if path is None:
        engine.initialise(claimed.config.seed)
        return None
    try:
        stored = undamaged(world, lambda: StoredCheckpoint(Path(path)))
        load_weights(world, stored, engine.state)
    except FoundDamaged as found:
        lines = "; ".join(f"{path}/{line}" for line in found.lines)
        raise found_by_all(world, f"init_from: is damaged: {lines}; name another checkpoint") from None
    return stored


@dataclass(frozen=True)
class _Choice:
    """A checkpoint by the word of rank 0, which has opened it."""

    step: int
    path: str | None
    """None: the run has saved nothing, and begins."""
    passed_over: list[str]
    stored: StoredCheckpoint | None
    """On rank 0."""


def _choose(
    world: World, claimed: ClaimedAttempt, point: StartPoint | None, damaged: Mapping[int, Sequence[str]]
) -> _Choice:
    """Rank 0's choice: `point`, or one made now, by what was found damaged so far. A collective."""
    own: list[StoredCheckpoint | None] = []

    def choose() -> dict[str, Any]:
        chosen = point or start_point(claimed.run, claimed.config, claimed.step, damaged)
        found = chosen.checkpoint
        own.append(found)
        return {
            "step": found.step if found else 0,
            "path": str(found.path) if found else None,
            "passed_over": chosen.passed_over,
        }

    return _Choice(**from_first(world, choose), stored=own[0] if own else None)


def _open(world: World, choice: _Choice) -> StoredCheckpoint | None:
    """The chosen checkpoint, opened once on every rank. A collective; FoundDamaged on all ranks."""
    if choice.path is None:
        return None
    path = Path(choice.path)
    return undamaged(world, lambda: choice.stored or StoredCheckpoint(path))


def _open_stream(
    world: World,
    claimed: ClaimedAttempt,
    patience: Patience,
    stored: StoredCheckpoint | None,
    stop: StopRequest,
) -> Stream:
    """The text from the checkpoint's row on. One process of each machine verifies tables, looks at shards and
    works out blocks; then the others open the same, and take its word. A collective. BadInput on all ranks
    for whatever of it is not as the run needs it."""
    looks = world.looks
    stream = at_length(world, lambda: _stream(claimed, patience, stored, look=True) if looks else None, stop)
    checksums = from_first(world, lambda: _checksums(stream))

    def follow() -> Stream:
        own = stream or _stream(claimed, patience, stored, look=False)
        require_same(own.corpora, checksums)
        return own

    return at_length(world, follow, stop)


def _checksums(stream: Stream | None) -> dict[str, str]:
    corpora = stream.corpora if stream else {}
    return {name: corpus.index.checksum for name, corpus in corpora.items()}


def _stream(
    claimed: ClaimedAttempt, patience: Patience, stored: StoredCheckpoint | None, look: bool
) -> Stream:
    """This process's."""
    config = claimed.config
    at = Progress.from_json(stored.progress) if stored else None
    tokenizer = run_tokenizer(claimed.run, at.history.newest.tokenizer if at else None)
    require_room(config, tokenizer)
    read_before = config.data.corpora if stored else ()
    corpora = open_corpora(config, patience, read_before=read_before, known=claimed.opened, look=look)
    history = go_on(claimed.run, config, corpora, tokenizer.hash, at)
    return Stream(tokenizer, corpora, history, at or Progress(history))


def _build(world: World, config: Config, stream: Stream) -> Engine:
    """The engine, its weights not filled. A collective."""
    together(world, lambda: require_compiler(config.layout, config.model, stream.plan.length))
    build = partial(plain_model, config, stream.tokenizer, len(stream.plan.corpora))
    borders = stage_borders(config.layout, config.model, stream.tokenizer.size, stream.plan.length)
    return Engine(build, borders, config.optimizer, config.layout, world, config.seed)
