"""The records of a running attempt, one JSON line each: a step, an evaluation, generated texts.

Their fields are the keys of metrics.jsonl, of `headrace metrics --json` and of what wandb is fed.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any


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
    achieved: float
    """Of all rows since the run began, the share that it gave."""
    asked: float
    """The share of them that its weights asked for."""


@dataclass(frozen=True, slots=True)
class DrawnRecord:
    """From how much text a step's rows come, over all ranks."""

    documents: int
    """Of each block, so that one that two epochs bring into a step counts twice."""
    blocks: int
    shards: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished optimizer step. Cumulative: rows, tokens, target_tokens (padding never counts)."""

    step: int
    attempt: int
    rows: int
    tokens: int
    target_tokens: int
    unknown: float
    """Of the tokens that this step read, the share that stands for what the tokenizer cannot spell."""
    loss: float | None
    objectives: dict[str, ObjectiveRecord]
    corpora: dict[str, CorpusRecord]
    drawn: DrawnRecord
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
    padding: float = 0.0
    """Of the positions of this step's rows, the share that holds no text."""
    cuts: int = 0
    """Of segments in this step's rows, made only to fill rows (data.padding)."""
    time: float = field(default_factory=lambda: round(time.time(), 3))


@dataclass(frozen=True, slots=True)
class EvalCell:
    """One objective on the held-out rows of one corpus, or on those of one of eval.corpora."""

    loss: float | None
    accuracy: float | None
    bits_per_byte: float | None
    tokens: int
    rows: str = ""
    """Fingerprint of the rows: two losses compare where it is the same."""


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """A held-out evaluation after a step: eval[corpus][objective]."""

    step: int
    attempt: int
    eval: dict[str, dict[str, EvalCell]]
    seconds: float
    ema: dict[str, dict[str, EvalCell]] | None = None
    """The same with the average of the weights, where one is kept."""
    time: float = field(default_factory=lambda: round(time.time(), 3))


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """Texts generated after a step: [{prompt, text}, …]."""

    step: int
    attempt: int
    samples: list[dict[str, str]]
    time: float = field(default_factory=lambda: round(time.time(), 3))


Record = StepRecord | EvalRecord | SampleRecord


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
