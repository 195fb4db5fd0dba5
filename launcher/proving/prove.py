"""`headrace prove CONFIG`: what is promised, shown on this config, this text, this machine. In minutes.

    the config at reduced size                          reduced.py
    the first step's rows, drawn here; probes           first_rows.py, probes.py
    the runs that the checks need, in real processes    plan_of_jobs.py, jobs.py
      each rank: the real loop, looked at               rank.py, watched.py; plain.py
    what they left, held against each other             resumed.py, parity.py, step_checks.py
    a line a figure: tolerance, its reason, verdict     measure.py

The runs lie in a folder of their own, which is deleted at the end. Exit code 0 where everything was shown, 1
where anything was not, 2 for input that cannot be used.
"""

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.errors import BadInput
from launcher import output
from launcher.config.run_config import Config, require_files
from launcher.distributed.world import discover
from launcher.proving.first_rows import FirstStep, packing
from launcher.proving.jobs import Job, LocalRanks, Ranks, results
from launcher.proving.measure import AXES, CHECKS, PRECISIONS, Measured, Precision, not_measured, skipped
from launcher.proving.parity import check_parity
from launcher.proving.plan_of_jobs import POISONED_STEP, Wanted
from launcher.proving.probes import chosen, write_rows_file
from launcher.proving.reduced import STEPS, Reduced, reduce
from launcher.proving.resumed import check_resume
from launcher.proving.step_checks import check_loss, check_replicas, check_segments, check_updates
from launcher.proving.witness import Missing, Witness
from launcher.runs.lineage import first_line
from launcher.runs.run_folder import RunFolder


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
            return check_loss(
                straight, self._found("single", "recompute"), self.step.fingerprint, self._precision
            )
        if check == "replicas":
            found = [one["replicas"] for one in self._found("layout", "straight") if "replicas" in one]
            return check_replicas(found, processes)
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
        return Witness(self.wanted.folder / "runs" / name, self.failed.get(job))

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
        """Begin a run and kill it at a moment drawn by lot, once something is saved."""
        self.tell(job.label)
        running = self.ranks.start(job.write(self.wanted.folder / "jobs"), job.processes)
        run = Witness(self.wanted.folder / "runs" / "killed")
        lot = random.SystemRandom()
        step = lot.randint(1, STEPS // 2)
        try:
            while not running.ended() and not (_told(run.path) >= step and run.saved):
                time.sleep(0.005)
            time.sleep(lot.uniform(0, 0.2))
        finally:
            ended = running.ended()
            running.kill()
        self.kill = "it ended before it could be killed" if ended else f"killed after step {_told(run.path)}"


def _told(path: Path) -> int:
    """The newest step that a run has told; it may be writing at this moment."""
    with suppress(BadInput, Missing):
        lines = Witness(path).lines
        return lines[-1]["step"] if lines else 0
    return 0


def prove(
    config: Config, only: Sequence[str], *, json: bool, keep: bool, dry_run: bool, ranks: Ranks | None = None
) -> int:
    """Print the report. only: the checks that are wanted, all if none is named; keep: the runs stay where
    they are; ranks: who starts them, by default this machine's. The exit code. BadInput."""
    for name in only:
        if name not in CHECKS:
            raise BadInput(f"--only: no check '{name}'; there are {', '.join(CHECKS)}")
    if discover().size > 1:
        raise BadInput("prove starts its own processes: call it once, without torchrun or srun")
    require_files(config)
    begun = time.monotonic()
    with _folder(keep) as folder:
        reduced, step, gpu = _prepare(config, folder)
        ranks = ranks or LocalRanks(gpu, reduced.processes)
        skips = _skips(reduced, only)
        checks = tuple(name for name in CHECKS if name not in {one.check for one in skips})
        about = _about(config, reduced, step, gpu)
        if dry_run:
            _show_plan(about, checks, skips)
            return 0
        probes, places = chosen(step.rows, step.vocabulary)
        write_rows_file(folder / "rows.npz", {"step": step.rows})
        write_rows_file(folder / "probes.npz", probes)
        wanted = Wanted(reduced, checks, folder, step.source_tokens, bool(places))
        proof = Proof(wanted, step, places, ranks, _teller(wanted))
        proof.make_runs()
        measures = sorted([*proof.measures(), *skips], key=lambda one: list(CHECKS).index(one.check))
    shown = all(one.verdict != "FAILED" for one in measures)
    seconds = time.monotonic() - begun
    if json:
        lines = [one.plain() for one in measures]
        output.say_json({"shown": shown, "seconds": round(seconds, 1), "about": about, "checks": lines})
    else:
        _show(about, measures, shown, seconds)
    return 0 if shown else 1


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    """Under TMPDIR; deleted at the end unless it is to stay."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-prove-"))
    try:
        yield folder
    finally:
        if keep:
            print(f"the runs lie in {folder}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _prepare(config: Config, folder: Path) -> tuple[Reduced, FirstStep, bool]:
    """The reduced config, its first step, and whether its ranks have a GPU each."""
    devices = torch.cuda.device_count()
    reduced = reduce(config, folder / "runs", gpu=devices > 0)
    gpu = devices >= reduced.processes
    if devices and not gpu:
        reduced = reduce(config, folder / "runs", gpu=False)
    return *packing(reduced, config.sequence_length), gpu


def _skips(reduced: Reduced, only: Sequence[str]) -> list[Measured]:
    """What is not asked for, or has nothing to show."""
    found = [skipped(name, "not asked for") for name in CHECKS if only and name not in only]
    asked = [name for name in CHECKS if not only or name in only]
    found += [
        skipped(axis, f"the config has no layout.{axis} above 1")
        for axis in AXES
        if axis in asked and axis not in reduced.degrees
    ]
    if reduced.processes == 1:
        found += [skipped("replicas", "one process has none")] if "replicas" in asked else []
    return found


def _about(config: Config, reduced: Reduced, step: FirstStep, gpu: bool) -> list[str]:
    """What is proved, and in what it is smaller than what the user will train."""
    layout = reduced.config.layout
    ranks = output.counted(reduced.processes, "process", "es")
    axes = " × ".join(
        f"{name} {size}" for name, size in {**reduced.degrees, "data": reduced.data_ranks}.items()
    )
    device = "a GPU each" if gpu else "the CPU, over gloo"
    if not gpu and torch.cuda.is_available():
        device += f": {output.counted(torch.cuda.device_count(), 'GPU')} here"
    lines = [f"on {ranks} ({axes}), {device}; zero {layout.zero}, {layout.precision}", *reduced.said]
    if reduced.config.sequence_length != config.sequence_length:
        lines.append(f"T {reduced.config.sequence_length:,} of {config.sequence_length:,}")
    lines.append(f"{step.packed:.0%} of the first step's rows hold several segments")
    return lines


def _teller(wanted: Wanted) -> Callable[[str], None]:
    """Says on stderr which run is being made, of how many, and since when."""
    jobs, begun, number = len(wanted.jobs()) + 2 * ("resume" in wanted.checks), time.monotonic(), 0

    def tell(label: str) -> None:
        nonlocal number
        number += 1
        seconds = time.monotonic() - begun
        print(f"prove {number}/{max(number, jobs)}, {seconds:.0f} s: {label}", file=sys.stderr, flush=True)

    return tell


def _show_plan(about: Sequence[str], checks: Sequence[str], skips: Sequence[Measured]) -> None:
    for line in about:
        output.say(line)
    output.say("")
    why = {one.check: one.reason for one in skips}
    output.table(["check", "shows", ""], [[name, CHECKS[name], why.get(name, "")] for name in CHECKS])


def _show(about: Sequence[str], measures: Sequence[Measured], shown: bool, seconds: float) -> None:
    """The report for the eye."""
    for line in about:
        output.say(line)
    output.say("")
    rows = [[m.check, m.what, m.figure, m.tolerance, m.verdict, m.reason] for m in measures]
    output.table(["check", "figure of", "figure", "tolerance", "verdict", "why this tolerance"], rows)
    failed = [one for one in measures if one.verdict == "FAILED"]
    if failed:
        output.say("")
    for one in failed:
        output.say(
            f"FAILED {one.check} ({CHECKS[one.check]}): {one.what}{': ' if one.detail else ''}{one.detail}"
        )
    names = dict.fromkeys(one.check for one in measures if one.verdict == "shown")
    words = f"{output.counted(len(names), 'check')} shown" if shown else "NOT shown"
    output.say(f"{words}, in {output.clock(seconds)}")
