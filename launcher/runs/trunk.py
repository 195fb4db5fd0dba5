"""What a branch knows of its trunk: the run that it goes on from, and at which step.

It stands in the first ledger line of the attempt with which the branch began (branch.py). The trunk itself
may have gone on, gone back or be deleted since: all that is needed of it lies in the branch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.runs.lineage import first_line
from launcher.runs.run_folder import RunFolder

EVENT = "branch"
"""Of the ledger line that says so."""


@dataclass(frozen=True)
class Trunk:
    """The run that another one branched from, after `step`, which its attempt `attempt` had saved."""

    run: str
    step: int
    attempt: int
    trunk: "Trunk | None" = None
    """Where it is a branch too."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the ledger."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Trunk":
        """The trunk of which to_json gave this value."""
        above = value["trunk"]
        return Trunk(value["run"], value["step"], value["attempt"], above and Trunk.from_json(above))

    @property
    def first(self) -> "Trunk":
        """The run at the root, of branches of branches."""
        return self.trunk.first if self.trunk else self

    @property
    def name(self) -> str:
        """Of that run."""
        return Path(self.run).name

    def run_of(self, step: int) -> str | None:
        """Which run made a step of the branch's history; None: the branch itself."""
        if step > self.step:
            return None
        return (self.trunk.run_of(step) if self.trunk else None) or self.run

    def __str__(self) -> str:
        """'runs/first at step 1,000'."""
        above = f", which branched from {self.trunk}" if self.trunk else ""
        return f"{self.run} at step {self.step:,}{above}"


def trunk_of(run: RunFolder) -> Trunk | None:
    """What a run branched from; None where it began by itself. BadInput for a damaged ledger."""
    for attempt in run.attempts():
        line = first_line(run, attempt)
        if line.get("event") == EVENT:
            return Trunk.from_json(line["trunk"])
    return None


def marked(lines: Iterable[dict[str, Any]], trunk: Trunk | None) -> Iterator[dict[str, Any]]:
    """The metrics of a branch, those that it has from other runs with the run in `of`."""
    for line in lines:
        of = trunk.run_of(line["step"]) if trunk else None
        yield {**line, "of": of} if of else line
