"""Telling what happened: every finished step becomes one line of metrics.jsonl, and observers see it too.

The file is the truth (DESIGN §7): the console, wandb and the report only repeat it. A record is made once,
frozen, from numbers that were already on the host, so telling costs the step nothing; the names are those
of the design, a value that is not known or not a number is null. Observers run in the training process and
must be quick; wandb is none of them (wandb_feed.py reads the file from a process of its own).
"""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data.durable import append, sync_folder, writing


@dataclass(frozen=True, slots=True)
class ObjectiveRecord:
    """One objective over the interval since the last line."""

    loss: float | None
    """Mean cross-entropy, nats per unit of target weight."""
    weight: float
    """Target weight."""
    tokens: int
    """Of the source text."""
    share: float
    """Of the source tokens of all objectives."""


@dataclass(frozen=True, slots=True)
class CorpusRecord:
    """One corpus over the interval since the last line."""

    loss: float | None
    rows: int
    share: float
    """Of the source tokens of all corpora."""
    epoch: float
    """Passes over the corpus since the run began."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished optimizer step. Cumulative: rows, tokens, target_tokens (padding never counts)."""

    step: int
    attempt: int
    rows: int
    tokens: int
    target_tokens: int
    loss: float | None
    objectives: dict[str, ObjectiveRecord]
    corpora: dict[str, CorpusRecord]
    lr: float
    grad_norm: float | None
    tokens_per_second: float | None
    mfu: float | None
    data_wait: float | None
    """Fraction of the step."""
    step_seconds: float | None
    memory_gib: float | None
    """The most that any process held: of the GPU, or resident where there is none."""
    fingerprint: str | None
    time: float = field(default_factory=lambda: round(time.time(), 3))


@dataclass(frozen=True, slots=True)
class EvalCell:
    """One objective on the held-out rows of one corpus."""

    loss: float | None
    accuracy: float | None
    bits_per_byte: float | None
    tokens: int


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """A held-out evaluation after a step: eval[corpus][objective]."""

    step: int
    attempt: int
    eval: dict[str, dict[str, EvalCell]]
    seconds: float
    time: float = field(default_factory=lambda: round(time.time(), 3))


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """Texts generated after a step: [{prompt, text}, …]."""

    step: int
    attempt: int
    samples: list[dict[str, str]]
    time: float = field(default_factory=lambda: round(time.time(), 3))


Record = StepRecord | EvalRecord | SampleRecord


class Observer(Protocol):
    """Whoever wants to see the records of this process as they are made."""

    def see(self, record: Record) -> None:
        """Called after the record's line was written."""

    def note(self, text: str) -> None:
        """A line for the reader: a checkpoint was saved, a resume began."""

    def close(self) -> None:
        """No more records."""


class Tracker:
    """Writes the records of one attempt and shows them to the observers. Rank 0 has the only one."""

    def __init__(self, attempt_path: Path, observers: Sequence[Observer] = ()) -> None:
        self._path = attempt_path / "metrics.jsonl"
        self._observers = tuple(observers)

    def write(self, record: Record) -> None:
        """Append the record's line, then show it. BadInput when the disk refuses it."""
        append(self._path, to_json(record), sync=False)
        for observer in self._observers:
            observer.see(record)

    def sync(self) -> None:
        """The lines written so far are on the disk when this returns; BadInput where it refuses. To be
        called before a checkpoint is published: a run that goes on from it tells no step of before again."""
        with writing(self._path):
            with self._path.open("ab") as file:
                os.fsync(file.fileno())
            sync_folder(self._path.parent)

    def note(self, text: str) -> None:
        """Show a line that is no measurement; the ledger has the lasting form of it."""
        for observer in self._observers:
            observer.note(text)

    def close(self) -> None:
        """End the observers."""
        for observer in self._observers:
            observer.close()


def to_json(record: Record) -> str:
    """One line of strict JSON: NaN and infinities become null."""
    return json.dumps(_finite(asdict(record)), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
