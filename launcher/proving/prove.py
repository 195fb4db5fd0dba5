"""`headrace prove CONFIG`: what is promised, shown on this config, this text, this machine. In minutes.

    the config at reduced size                          reduced.py
    the first step's rows, drawn here; probes           first_rows.py, probes.py
    the runs that the checks need, in real processes    plan_of_jobs.py, proof.py, jobs.py
      each rank: the real loop, looked at               rank.py, watched.py; plain.py
    what they left, held against each other             resumed.py, parity.py, step_checks.py
    a line a figure: tolerance, its reason, verdict     measure.py

The runs lie in a folder of their own, which is deleted at the end. Exit code 0 where everything was shown, 1
where anything was not, 2 for input that cannot be used.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from data.errors import BadInput
from launcher import output
from launcher.config.require import require_files
from launcher.config.run_config import Config
from launcher.distributed.world import discover
from launcher.proving.first_rows import FirstStep, packing
from launcher.proving.jobs import LocalRanks, Ranks
from launcher.proving.measure import AXES, CHECKS, Measured, skipped
from launcher.proving.plan_of_jobs import Wanted
from launcher.proving.probes import chosen, write_rows_file
from launcher.proving.proof import Proof
from launcher.proving.reduced import Reduced, reduce
from launcher.runs.versions import versions


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
        if only and len(skips) == len(CHECKS):
            why = "; ".join(f"{one.check}: {one.reason}" for one in skips if one.check in only)
            raise BadInput(f"--only: nothing is left to show ({why})")
        checks = tuple(name for name in CHECKS if name not in {one.check for one in skips})
        about = _about(config, reduced, step, gpu)
        if dry_run:
            _show_plan(about, checks, skips)
            return 0
        probes, places = chosen(step.rows, step.vocabulary)
        write_rows_file(folder / "rows.safetensors", {"step": step.rows})
        write_rows_file(folder / "probes.safetensors", probes)
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
    stands_on = versions()
    releases = ", ".join(f"{name} {stands_on[name]}" for name in ("torch", "deepspeed") if name in stands_on)
    lines = [f"on {ranks} ({axes}), {device}; zero {layout.zero}, {layout.precision}; {releases}"]
    lines += reduced.said
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
