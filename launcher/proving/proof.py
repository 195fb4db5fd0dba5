"""A proof under way: its runs are made in order, then each check is asked what they show."""

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.errors import BadInput
from launcher.proving.first_rows import FirstStep
from launcher.proving.jobs import Job, Ranks, results
from launcher.proving.measure import AXES, PRECISIONS, Measured, Precision, not_measured
from launcher.proving.parity import check_parity
from launcher.proving.plan_of_jobs import POISONED_STEP, Wanted
from launcher.proving.reduced import STEPS
from launcher.proving.resumed import check_resume
from launcher.proving.step_checks import check_loss, check_replicas, check_segments, check_updates
from launcher.proving.witness import Missing, Witness
from launcher.runs.lineage import first_line
from launcher.runs.run_folder import RunFolder

TRIES = 3
"""Runs that are begun to be killed, where one is too quick."""

WINDOW = 0.2
"""Seconds within which the kill falls: about a step."""


@dataclass
class Proof:
    """A proof under way: the runs are made in order, then the checks are asked."""

    wanted: Wanted
    step: FirstStep
    places: list[dict[str, Any]]
    """What each probe is."""
    ranks: Ranks
    tell: Callable[[str], None]
    failed: dict[str, str | None] = field(default_factory=dict)
    """Job → how its ranks ended, None: well."""
    kill: str = ""
    """How the killed run ended, in words."""

    def make_runs(self) -> None:
        """All of them."""
        for job in self.wanted.jobs():
            self._run(job)
        if "resume" in self.wanted.checks:
            self._kill(self.wanted.killed())
            self._run(self.wanted.resumed())

    def measures(self) -> Iterator[Measured]:
        """The lines of the report, check by check."""
        for check in self.wanted.checks:
            try:
                yield from self._check(check)
            except Missing as missing:
                yield not_measured(check, str(missing))

    def _check(self, check: str) -> Sequence[Measured]:
        processes, straight = self.wanted.reduced.processes, self._witness("straight", "layout")
        if check == "resume":
            return self._resume()
        if check == "accumulation":
            return self._parity(check, self._witness("other", "single"), self._witness("single", "single"))
        if check == "single":
            return self._parity(check, straight, self._witness("single", "single"))
        if check in AXES:
            name = f"without-{check}"
            job = name if name in self.failed else "single"
            return self._parity(check, straight, self._witness(job, job))
        if check == "segments":
            return check_segments(self._seen(), self.places)
        if check == "loss":
            if not (plain := self._found("single", "recompute")):
                raise Missing(self.failed.get("single") or "the plain model did not come to its end")
            return check_loss(straight, plain[0], self.step.fingerprint, self._precision)
        if check == "replicas":
            straight.all_lines(STEPS)
            found = [one["replicas"] for one in self._found("layout", "straight") if "replicas" in one]
            if len(found) < processes:
                raise Missing(straight.failed or "not every rank came to compare its copies")
            return check_replicas(found)
        poisoned = self._found("layout", "poisoned")
        return check_updates(straight, poisoned, POISONED_STEP, processes - 1, processes)

    @property
    def _precision(self) -> Precision:
        return PRECISIONS[self.wanted.reduced.config.layout.precision]

    def _parity(self, check: str, found: Witness, expected: Witness) -> list[Measured]:
        control = self._witness("nudged", "single"), self._witness("single", "single")
        return check_parity(check, found, expected, control, self._precision)

    def _resume(self) -> list[Measured]:
        resumed = self._witness("killed", "resumed")
        run = RunFolder(resumed.path)
        attempts = run.attempts()
        if len(attempts) < 2:
            raise Missing(resumed.failed or f"{self.kill}, and no attempt went on with it")
        first = first_line(run, attempts[-1])["step"]
        how = f"{self.kill}, gone on with after step {first}"

        def again() -> Witness:
            self._run(self.wanted.again())
            return self._witness("again", "again")

        return check_resume(self._witness(self.wanted.straight, "layout"), resumed, first, how, again)

    def _seen(self) -> dict[str, dict[str, list[float]]]:
        """Who evaluated the probes → what was found."""
        if not self.places:
            raise Missing("the first step's rows have no position that must not see something")
        layout = [one["probes"] for one in self._found("layout", "straight") if "probes" in one]
        alone = self._found("single", "back_ends")
        if not layout or not alone:
            raise Missing(self.failed.get("layout") or self.failed.get("single") or "the ranks ended early")
        return {"this layout": layout[0], **{f"attention {name}": one for name, one in alone[0].items()}}

    def _witness(self, name: str, job: str) -> Witness:
        words = (one["line"] for one in self._found(job, name) if one["line"])
        return Witness(self.wanted.folder / "runs" / name, self.failed.get(job) or next(words, None))

    def _found(self, job: str, task: str) -> list[dict[str, Any]]:
        return results(self.wanted.folder / "jobs", job, task)

    def _run(self, job: Job) -> None:
        self.tell(job.label)
        running = self.ranks.start(job.write(self.wanted.folder / "jobs"), job.processes)
        try:
            self.failed[job.name] = running.wait()
        except BaseException:
            running.kill()
            raise

    def _kill(self, job: Job) -> None:
        """Begin a run and kill it at a moment drawn by lot, once something is saved; begin another where it
        has come to its end by then."""
        self.tell(job.label)
        run, lot = Witness(self.wanted.folder / "runs" / "killed"), random.SystemRandom()
        for number in range(TRIES):
            shutil.rmtree(run.path, ignore_errors=True)
            named = replace(job, name=f"{job.name}-{number}")
            running = self.ranks.start(named.write(self.wanted.folder / "jobs"), job.processes)
            step = lot.randint(1, STEPS // 2)
            try:
                while not running.ended() and not (_told(run.path) >= step and run.saved):
                    time.sleep(0.005)
                time.sleep(lot.uniform(0, WINDOW))
            finally:
                ended = running.ended()
                if not ended:
                    running.kill()
            if not ended:
                self.kill = f"killed with signal 9 while it made step {_told(run.path) + 1}"
                return
            self.kill = f"it ended before it could be killed{words_of(running.wait())}"


def words_of(failed: str | None) -> str:
    """': why', where there is something to say."""
    return f": {failed}" if failed else ""


def _told(path: Path) -> int:
    """The newest step that a run has told, 0 for none; it may be writing at this moment."""
    with suppress(BadInput, Missing):
        return max((line["step"] for line in Witness(path).lines), default=0)
    return 0
