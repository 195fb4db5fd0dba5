"""Progress: everything besides tensors that a resume needs, in one small frozen value (DESIGN §1).

It describes the run after its last finished step and goes into the checkpoint as JSON. It belongs to what
was trained on and not to what the loader has prepared ahead: the loader's state travels with each batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from data.plan import History
from data.state import StreamsState
from launcher.totals import Ready


@dataclass(frozen=True, slots=True)
class Progress:
    """The run after `step` steps. rows, tokens and target_tokens are cumulative, padding never counts."""

    history: History
    step: int = 0
    row: int = 0
    """The next global row."""
    tokens: int = 0
    target_tokens: int = 0
    streams: StreamsState = field(default_factory=StreamsState)
    """Of the streams that this rank reports; of all streams in a checkpoint."""

    def after(self, ready: Ready) -> "Progress":
        """One finished step later."""
        return Progress(
            history=ready.batch.history,
            step=self.step + 1,
            row=self.row + ready.batch.rows_global,
            tokens=self.tokens + round(ready.totals.tokens),
            target_tokens=self.target_tokens + round(ready.totals.targets.sum()),
            streams=ready.batch.state,
        )

    def whole(self, states: list[StreamsState]) -> "Progress":
        """With the streams that all ranks reported."""
        return replace(self, streams=StreamsState.merge(states))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for progress.json."""
        return {
            "step": self.step,
            "row": self.row,
            "tokens": self.tokens,
            "target_tokens": self.target_tokens,
            "streams": self.streams.to_json(),
            "history": self.history.to_json(),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Progress":
        """What to_json made."""
        return Progress(
            history=History.from_json(value["history"]),
            step=value["step"],
            row=value["row"],
            tokens=value["tokens"],
            target_tokens=value["target_tokens"],
            streams=StreamsState.from_json(value["streams"]),
        )
