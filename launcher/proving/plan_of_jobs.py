"""Which runs the checks need, and in which processes: what can share an interpreter does.

    layout     straight: the reference of all; own: the same with dropout, for the kill; poisoned
    single     single, nudged (its control), other: another micro-batch; what the plain model says
    without-…  the layout with one axis undone, at the same data-parallel degree
    killed, resumed

A check that is not wanted, or has nothing to show in this config, asks for nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.proving.jobs import Job
from launcher.proving.measure import AXES, PRECISIONS
from launcher.proving.reduced import OTHER_MICRO_BATCH, Reduced

POISONED_STEP = 3

COMPARED = ("single", *AXES, "accumulation")
"""Checks that hold runs against each other, with the control beside."""


@dataclass(frozen=True)
class Wanted:
    """What is to be shown, of what config."""

    reduced: Reduced
    checks: tuple[str, ...]
    """Those that have something to show."""
    folder: Path
    source_tokens: float
    probes: bool
    """There are some."""

    @property
    def straight(self) -> str:
        """The run that the killed one is held against."""
        return "own" if self.reduced.dropout else "straight"

    def any_of(self, *checks: str) -> bool:
        """One of these is wanted."""
        return any(check in self.checks for check in checks)

    def config(self, plain: dict[str, Any], name: str) -> dict[str, Any]:
        """A run of that name in the folder of the proof."""
        return plain | {"run": {"name": name, "folder": str(self.folder / "runs")}}

    def run(self, plain: dict[str, Any], name: str, **watch: Any) -> dict[str, Any]:
        """The task of a run."""
        return {"name": name, "do": "train", "config": self.config(plain, name), **watch}

    def jobs(self) -> list[Job]:
        """In order, those alone that have tasks; the killed run and its resume are not among them."""
        found = [self._layout(), self._single(), *self._without()]
        return [job for job in found if job.tasks]

    def killed(self) -> Job:
        """A run that will not come to its end."""
        label = f"a run that is killed ({self.reduced.processes} processes)"
        return self._of_layout("killed", label, [self.run(self.reduced.plain, "killed")])

    def resumed(self) -> Job:
        """The same run, gone on with."""
        label = f"the killed run, resumed ({self.reduced.processes} processes)"
        task = self.run(self.reduced.plain, "killed", resume=True)
        return self._of_layout("resumed", label, [task])

    def again(self) -> Job:
        """The run that the killed one is held against, once more."""
        label = f"the uninterrupted run again, for its noise ({self.reduced.processes} processes)"
        return self._of_layout("again", label, [self.run(self.reduced.plain, "again")])

    def _of_layout(self, name: str, label: str, tasks: list[dict[str, Any]]) -> Job:
        return Job(name, label, self.reduced.processes, tasks)

    def _layout(self) -> Job:
        plain, tasks = self.reduced.without_dropout(), []
        needed = self.any_of("single", *AXES, "segments", "loss", "replicas", "updates")
        if needed or (self.any_of("resume") and not self.reduced.dropout):
            watch: dict[str, Any] = {"replicas": self.any_of("replicas")}
            if self.any_of("segments") and self.probes:
                watch["probes"] = str(self.folder / "probes.safetensors")
            tasks.append(self.run(plain, "straight", **watch))
        if self.any_of("resume") and self.reduced.dropout:
            tasks.append(self.run(self.reduced.plain, "own"))
        if self.any_of("updates"):
            poison = {"step": POISONED_STEP, "rank": self.reduced.processes - 1}
            tasks.append(self.run(plain, "poisoned", poison=poison))
        return self._of_layout("layout", f"this layout ({self.reduced.processes} processes)", tasks)

    def _single(self) -> Job:
        tasks = []
        last = {"checkpoint": self.reduced.plain["checkpoint"] | {"every": self.reduced.plain["steps"]}}
        if self.any_of(*COMPARED):
            alone = self.reduced.single() | last
            nudge = PRECISIONS[self.reduced.config.layout.precision].nudge
            tasks.append(self.run(alone, "single", save_first=True))
            tasks.append(self.run(alone, "nudged", save_first=True, nudge=nudge))
        if self.any_of("accumulation"):
            other = self.reduced.single(OTHER_MICRO_BATCH) | last
            tasks.append(self.run(other, "other", save_first=True))
        config = self.config(self.reduced.without_dropout(), "plain")
        if self.any_of("loss"):
            rows = {"rows": str(self.folder / "rows.safetensors"), "source_tokens": self.source_tokens}
            tasks.append({"name": "recompute", "do": "recompute", "config": config, **rows})
        if self.any_of("segments") and self.probes:
            probes = {"probes": str(self.folder / "probes.safetensors")}
            tasks.append({"name": "back_ends", "do": "back_ends", "config": config, **probes})
        return Job("single", "the single process", 1, tasks)

    def _without(self) -> list[Job]:
        """Of each axis; with one data rank and no other axis that run is the single process."""
        jobs = []
        for axis, degree in self.reduced.degrees.items():
            if axis in self.checks and (processes := self.reduced.processes // degree) > 1:
                name = f"without-{axis}"
                task = self.run(self.reduced.without(axis), name, save_first=True)
                plural = f"the layout without {axis} ({processes} processes)"
                jobs.append(Job(name, plural, processes, [task]))
        return jobs
