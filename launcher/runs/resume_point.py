"""Where a start of a run goes on: the one answer for `train` and `resume`, and for `check` and --dry-run.

Whatever of a run's folder would stop a start is refused here, before an attempt is claimed. No torch, and
nothing is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data.errors import BadInput
from launcher.checkpoint.catalog import newest
from launcher.checkpoint.read import StoredCheckpoint
from launcher.checkpoint.retention import steps_in
from launcher.config.run_config import Config
from launcher.runs.beginning import refuse_other_beginning
from launcher.runs.lineage import first_line, lineage
from launcher.runs.plan_history import refuse_other_tokenizer
from launcher.runs.progress import Progress
from launcher.runs.run_folder import RunFolder


@dataclass(frozen=True)
class StartPoint:
    """What the next attempt of a run would go on from."""

    checkpoint: StoredCheckpoint | None
    """Opened; None: the run has saved nothing, and begins."""
    passed_over: list[str]
    """A line for each newer checkpoint that is damaged."""
    complete: bool
    """The run has all its steps: there is nothing to start."""
    damaged: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Of those passed over, the ones that only reading told: step → lines."""


def start_point(
    run: RunFolder,
    config: Config,
    step: int | None = None,
    damaged: Mapping[int, Sequence[str]] | None = None,
) -> StartPoint:
    """Where `run` goes on under `config`: at its newest checkpoint that is whole, or at that of `step`.

    Only the small files of checkpoints are read. Damage in the large ones is met by the start that loads
    them, which asks again with what it found, in `damaged`: step → lines. BadInput for another tokenizer or
    other weights to begin from, for checkpoints that are lost, damaged or of another format, and for a
    damaged ledger.
    """
    refuse_other_tokenizer(run, config)
    refuse_other_beginning(run, config)
    found, passed_over = newest(run.checkpoints, step, rewound(run), damaged)
    # All of the ledger: a line that is damaged is told now, and not after the last step.
    saved = [line.get("step") for line in run.ledger() if line["event"] == "checkpoint"]
    lineage(run)
    if found is not None:
        first_line(run, found.attempt)
    elif saved:
        raise BadInput(
            f"{run.checkpoints}: no checkpoint is there, and the run has saved step {saved[-1]}: bring it "
            "back; to begin again, train under another run.name"
        )
    elif steps_in(run.checkpoints, "weights"):
        raise BadInput(
            f"{run.checkpoints}: holds weights alone, which cannot be resumed; a new run begins from them "
            f"with init_from={run.path}"
        )
    complete = found is not None and found.step >= _last_step(config, found)
    return StartPoint(found, passed_over, complete, damaged or {})


def _last_step(config: Config, found: StoredCheckpoint) -> int:
    """Of the run under `config`. Whether it is behind that of the checkpoint, the run's past alone says."""
    history = None if isinstance(config.steps, int) else Progress.from_json(found.progress).history
    return config.timetable(history).steps


def rewound(run: RunFolder) -> tuple[int, int] | None:
    """(attempt, step): the newest attempt, and from which step it went on: what others saved of later steps
    was given up. None where none was started."""
    begun = run.attempts()
    return (begun[-1], first_line(run, begun[-1])["step"]) if begun else None
