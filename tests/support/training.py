"""Whole runs for tests: text in small units, a tiny config, and one start of the trainer among real ranks.

    left = train(2, plain)             what 2 ranks left behind, by way of tests/support/ranks.py
    running = begin(2, plain)          the same under way: kill it, or running.wait()
    begun(folder, 7)                   waits until the run has told its 7th step
    told(folder), saved(folder)        the lines of its steps along the lineage; its newest tensors

The case calls run_rank of launcher/training/train.py, which is all that `headrace train` does in a rank once
its arguments are read and the ranks are connected. The loop is looked at from outside: what it trained on and
with.
"""

import contextlib
import io
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import BadInput
from data.stream.rows import Rows
from launcher.checkpoint.catalog import newest
from launcher.checkpoint.read import Request
from launcher.config import run_config
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World
from launcher.engine.cut import Cut
from launcher.engine.interface import Judge, StepResult
from launcher.runs import run_folder
from launcher.runs.lineage import merged, steps
from launcher.runs.progress import Progress
from launcher.training.global_batch import GlobalBatch
from launcher.training.loop import End, fit
from launcher.training.session import Session
from launcher.training.train import run_rank
from objectives.registry import NAMES
from tests.support.engine_cases import tensors
from tests.support.helpers import Corpora, TrainingText
from tests.support.ranks import Running, start
from tests.support.stream_runs import small_units

TIMEOUT = 120.0


def small_text(corpora: Corpora, folder: Path) -> TrainingText:
    """Real text in units of about 2 000 bytes, so that even 40 tiny steps open some twenty blocks."""
    shards = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in (("code", 400_000), ("prose", 200_000)):
            texts: list[str] = []
            corpus = corpora.open(name)
            for unit in range(len(corpus)):
                texts += [sample.text[:5_000] for sample in corpus.read_unit(unit) if sample.text]
                if sum(map(len, texts)) > limit:
                    break
            small_units(patch, folder, name, texts, unit=2_000)
            shards[name] = str(folder / f"{name}-*.tar")
    return TrainingText(folder, corpora.tokenizer_path, shards["code"], shards["prose"])


def config(text: TrainingText, folder: Path, **changes: Any) -> dict[str, Any]:
    """A run of 40 steps of 10 rows on all objectives with dropout, a checkpoint every 5, an average of the
    weights: plain values."""
    plain = {
        "run": {"name": "run", "folder": str(folder)},
        "steps": 40,
        "sequence_length": 64,
        "batch_rows": 10,
        "lanes": 12,
        "tokenizer": {"model": str(text.tokenizer_path)},
        "data": {
            "corpora": {
                "code": {"shards": text.code, "weight": 2, "held_out": 0.1},
                "prose": {"shards": text.prose, "weight": 1, "held_out": 0.1},
            },
            "block_bytes": 4_000,
        },
        "objectives": {name: {"weight": 1} for name in NAMES},
        "model": {"layers": 2, "width": 32, "heads": 2, "dropout": 0.1},
        "optimizer": {"lr": 1e-2, "warmup": 5, "schedule": "constant"},
        "layout": {"zero": 1, "micro_batch": 2},
        "checkpoint": {"every": 5, "keep": 3},
        "ema": {"decay": 0.9, "every": 2},
        "wandb": {"mode": "disabled"},
        "fingerprint": True,
    }
    return plain | changes


@dataclass
class Left:
    """What one rank of a start left behind."""

    code: int = 0
    line: str | None = None
    """What this rank had to show to the user: the text of its BadInput."""
    said: str = ""
    """What it printed."""
    rows: dict[int, int] = field(default_factory=dict)
    """Global row → hash, of the rows that this rank trained on."""
    loaded: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    """(name, kind) → the whole tensor that the ranks together would save before their first step."""
    scales: list[np.ndarray] = field(default_factory=list)
    """Of each step: what each objective's weights were multiplied by."""
    weights: list[np.ndarray] = field(default_factory=list)
    """Of each step: float64 [objectives, corpora], this rank's target weights, added up row by row."""


def trainer(
    world: World,
    plain: dict[str, Any],
    step: int | None = None,
    fresh: bool = False,
    tensors: bool = False,
    before: Callable[[int], None] = lambda number: None,
) -> Left:
    """The case. `fresh`: as `headrace train`, else a run that exists goes on as `headrace resume` does.
    before: called with the number of each step that is about to be made."""
    wanted = run_config.build(plain, {}, "test")
    left = Left()

    def choose(_stop: StopRequest) -> tuple[run_folder.RunFolder, run_config.Config]:
        if not fresh and (wanted.path / "config.yaml").exists():
            return run_folder.open_run(wanted.path), wanted
        return run_folder.start(wanted)

    def loop(session: Session, progress: Progress) -> End:
        return fit(_watched(session, left, tensors, before), progress)

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            left.code = run_rank(world, choose, step, loop)
        except BadInput as error:
            left.code, left.line = error.code, str(error)
    left.said = said.getvalue()
    return left


def _watched(session: Session, left: Left, whole: bool, before: Callable[[int], None]) -> Session:
    """The session, with notes taken of what its engine is given at each step."""
    if whole:
        left.loaded = tensors(session.engine)
    step, batches = session.engine.step, session.batches
    newest: list[GlobalBatch] = []

    def handed_out() -> Iterator[GlobalBatch]:
        for one in batches:
            newest[:] = [one]
            yield one

    def noting(
        micro_batches: Sequence[Rows], scale: np.ndarray, number: int, lr: float, judge: Judge
    ) -> StepResult:
        before(number)
        (ready,) = newest
        batch = ready.batch
        assert micro_batches is batch.micro_batches
        for row, digest in zip(batch.numbers.tolist(), batch.rows.fingerprints(), strict=True):
            if row >= 0:
                assert row not in left.rows
                left.rows[row] = digest
        table = np.zeros_like(ready.batch_sums.weight)
        for place in zip(*np.nonzero(batch.rows.targets >= 0), strict=True):
            table[batch.rows.objective[place], batch.rows.corpus[place]] += batch.rows.weights[place]
        left.weights.append(table)
        left.scales.append(scale)
        return step(micro_batches, scale, number, lr, judge)

    session.batches = handed_out()
    session.engine.step = noting  # type: ignore[method-assign]
    return session


def begin(ranks: int, plain: dict[str, Any], **options: Any) -> Running:
    """A start under way."""
    return start(trainer, ranks, plain, **{"timeout": TIMEOUT} | options)


def train(ranks: int, plain: dict[str, Any], code: int = 0, **options: Any) -> list[Left]:
    """A start, to its end with this exit code on all ranks."""
    left = begin(ranks, plain, **options).wait()
    assert [one.code for one in left] == [code] * ranks, [one.line for one in left]
    return left


def rows_of(left: list[Left]) -> dict[int, int]:
    """Global row → hash, over the ranks of a start; no row on two of them."""
    rows: dict[int, int] = {}
    for one in left:
        assert not rows.keys() & one.rows.keys()
        rows |= one.rows
    return rows


def begun(folder: Path, step: int, running: Running | None = None) -> None:
    """Returns when the newest lineage has told this step. Fails where the ranks end before."""
    end = time.monotonic() + 60
    while last_step(folder) < step:
        assert time.monotonic() < end, f"{folder}: step {step} was not told within 60 s"
        if running is not None and running.connection.poll():
            running.wait()
            raise AssertionError(f"{folder}: ended before step {step}")
        time.sleep(0.005)


def last_step(folder: Path) -> int:
    """The newest step that was told; 0 where none was."""
    return max((line["step"] for line in steps(merged(run_folder.RunFolder(folder / "run")))), default=0)


def told(folder: Path) -> list[dict[str, Any]]:
    """The lines of all steps along the lineage: each step once, in order."""
    lines = list(steps(merged(run_folder.open_run(folder / "run"))))
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return lines


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics."""
    return list(merged(run_folder.open_run(folder / "run")))


def saved(folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """(name, kind) → tensor of the newest checkpoint, which is that of the newest step and whole."""
    run_ = run_folder.open_run(folder / "run")
    stored, passed_over = newest(run_.checkpoints)
    assert stored is not None
    assert passed_over == []
    assert stored.step == last_step(folder)
    arrays = {
        (name, kind): np.empty(shape, np.float32)
        for name, shape in stored.shapes.items()
        for kind in stored.kinds
    }
    stored.read(
        [
            Request(kind, name, Cut.of(0, array.size), array.reshape(-1))
            for (name, kind), array in arrays.items()
        ]
    )
    return arrays


def assert_same_tensors(
    found: dict[tuple[str, str], np.ndarray], expected: dict[tuple[str, str], np.ndarray]
) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key], tensor, err_msg=str(key))


def assert_same_run(folder: Path, other: Path) -> None:
    """Fingerprints and losses of all steps, and weights and moments at the end, bit for bit."""
    lines, expected = told(folder), told(other)
    assert [line["fingerprint"] for line in lines] == [line["fingerprint"] for line in expected]
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]
    assert_same_tensors(saved(folder), saved(other))


def assert_close(one: Any, other: Any, at: str = "") -> None:
    """Every number of two lines, but for those about time and machines, to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for key in one.keys() - {
            "time",
            "tokens_per_second",
            "data_wait",
            "step_seconds",
            "memory_gib",
            "seconds",
        }:
            assert_close(one[key], other[key], f"{at}.{key}")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=2e-5, abs=1e-9), at
    else:
        assert one == other, at


def assert_killed_is_straight(ranks: int, alone: dict[str, Any], killed: dict[str, Any]) -> None:
    """A run that is killed twice, with signal 9 and at steps that are drawn, ends as the same one that is
    not: first every rank is killed, then one alone, and the others end by themselves."""
    folders = [Path(plain["run"]["folder"]) for plain in (alone, killed)]
    train(ranks, alone)
    luck = random.Random(5)
    for one in (False, True):
        running = begin(ranks, killed)
        begun(folders[1], last_step(folders[1]) + luck.randint(1, 3), running)
        for pid in [luck.choice(running.pids)] if one else running.pids:
            os.kill(pid, signal.SIGKILL)
        running.outcomes()
    train(ranks, killed)
    assert_same_run(folders[1], folders[0])
    assert np.isfinite([line["loss"] for line in told(folders[1])]).all()
