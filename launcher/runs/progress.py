"""Progress: everything besides tensors that a resume needs, in one small frozen value.

It describes the run after its last finished step and goes into the checkpoint as JSON. It belongs to what
was trained on and not to what the loader has prepared ahead: the loader's state travels with each batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from data.plan.plan import History
from data.plan.positions import StreamPositions
from data.stream.loader import Batch


@dataclass(frozen=True, slots=True)
class Progress:
    """The run after `step` steps. rows, tokens and target_tokens are cumulative, padding never counts."""

    history: History
    step: int = 0
    row: int = 0
    """The next global row."""
    tokens: int = 0
    target_tokens: int = 0
    streams: StreamPositions = field(default_factory=StreamPositions)
    """Of the streams that this rank reports; of all streams in a checkpoint."""

    def after(self, batch: Batch, tokens: int, target_tokens: int) -> "Progress":
        """One finished step later. tokens, target_tokens: of this step, over all ranks."""
        return Progress(
            history=batch.history,
            step=self.step + 1,
            row=self.row + batch.rows_global,
            tokens=self.tokens + tokens,
            target_tokens=self.target_tokens + target_tokens,
            streams=batch.state,
        )

    def whole(self, states: list[StreamPositions]) -> "Progress":
        """With the streams that all ranks reported."""
        return replace(self, streams=StreamPositions.merge(states))

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
        """The Progress of which `to_json` gave this value; also after a trip through JSON."""
        return Progress(
            history=History.from_json(value["history"]),
            step=value["step"],
            row=value["row"],
            tokens=value["tokens"],
            target_tokens=value["target_tokens"],
            streams=StreamPositions.from_json(value["streams"]),
        )
