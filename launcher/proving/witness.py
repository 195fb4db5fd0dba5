"""What a run of the proof has left on the disk: the lines of its steps, and its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import BadInput
from launcher.checkpoint.format import Damaged
from launcher.checkpoint.read import Request, StoredCheckpoint
from launcher.checkpoint.retention import steps_in
from launcher.engine.cut import Cut
from launcher.runs.lineage import merged, steps
from launcher.runs.run_folder import RunFolder

Tensors = dict[tuple[str, str], np.ndarray]
"""(name, kind) → the whole float32 tensor; kind: 'w', 'exp_avg' or 'exp_avg_sq'."""


class Missing(Exception):
    """A run has not left what a check needs; the text says why."""


@dataclass(frozen=True)
class Witness:
    """A run, by its folder. failed: how its ranks ended, where they did not end well."""

    path: Path
    failed: str | None = None

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Of the steps along the lineage, in order."""
        try:
            return list(steps(merged(RunFolder(self.path))))
        except BadInput as error:
            raise Missing(self.failed or str(error)) from None

    def all_lines(self, count: int) -> list[dict[str, Any]]:
        """So many, from step 1 on. Missing where the run was not told to its end."""
        if [line["step"] for line in self.lines] != list(range(1, count + 1)):
            told = self.lines[-1]["step"] if self.lines else 0
            raise Missing(self.failed or f"{count} steps were to be told, the run ended after step {told}")
        return self.lines

    @property
    def saved(self) -> list[int]:
        """The steps of its checkpoints."""
        return sorted(steps_in(self.path / "checkpoints"))

    def stored(self, step: int) -> StoredCheckpoint:
        """A checkpoint of it. Missing where it is not there, or not whole."""
        try:
            return StoredCheckpoint(self.path / "checkpoints" / f"step-{step:08d}")
        except Damaged as damage:
            raise Missing(self.failed or f"its checkpoint of step {step}: {damage}") from None

    def tensors(self, step: int) -> Tensors:
        """Masters and moments after a step."""
        stored = self.stored(step)
        found: Tensors = {
            (name, kind): np.empty(shape, np.float32)
            for name, shape in stored.shapes.items()
            for kind in stored.kinds
        }
        try:
            stored.read(
                [
                    Request(kind, name, Cut.of(0, whole.size), whole.reshape(-1))
                    for (name, kind), whole in found.items()
                ]
            )
        except Damaged as damage:
            raise Missing(f"its checkpoint of step {step}: {damage}") from None
        return found


def unequal(found: Mapping[tuple[str, str], np.ndarray], expected: Tensors) -> list[str]:
    """A line for each tensor that differs in a bit: its name, kind, and which elements."""
    lines = []
    for (name, kind), tensor in expected.items():
        other = found.get((name, kind))
        if other is None or other.shape != tensor.shape:
            lines.append(f"{name} ({kind}) is not there")
            continue
        differs = np.flatnonzero(other.reshape(-1).view(np.uint32) != tensor.reshape(-1).view(np.uint32))
        if len(differs):
            at = f"elements {differs[0]:,} to {differs[-1]:,} of {tensor.size:,}"
            lines.append(f"{name} ({kind}): {len(differs):,} differ, {at}")
    return lines
