"""The command that goes on with a run: told by `status` and at the end of training."""

import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from launcher.checkpoint.retention import steps_in
from launcher.config.timetable import Timetable
from launcher.runs.lr_change import lr_change
from launcher.runs.plan_history import timetable_of
from launcher.runs.run_folder import RunFolder
from objectives.quantity import Tokens, written


def resume_command(folder: RunFolder, *edits: str) -> str:
    """On as many processes as `--processes` gave the newest attempt."""
    words = ["headrace", "resume", str(folder.path), *edits]
    begun = [line for line in folder.ledger() if line["event"] in ("start", "resume")]
    if begun and (processes := begun[-1].get("processes")):
        words += ["--processes", str(processes)]
    return shlex.join(words)


def further_command(folder: RunFolder) -> str:
    """For a finished run, which has nothing to do unless `steps` is raised: to twice what it is now."""
    return resume_command(folder, _further(_raised(folder, timetable_of(folder))))


def further_commands(folder: RunFolder) -> list[str]:
    """The same with what it does to the learning rate behind a `#`, and those that let it go on from where it
    is."""
    now = timetable_of(folder)
    more, stands = _raised(folder, now), max(now.steps, _saved(folder))
    change = lr_change(stands, timetable_of(folder, stands), more)
    if change is None:
        return [further_command(folder)]
    smooth = [(resume_command(folder, _further(more), *one.edits), one.effect) for one in change.smooth]
    told = [(further_command(folder), f"the learning rate {change.moved}"), *smooth]
    return [f"{command}  # {effect}" for command, effect in told]


def _raised(folder: RunFolder, timetable: Timetable) -> Timetable:
    """Of a run that goes on to twice what is asked now, or four times and so on, where that is less than it
    has made."""
    asked = timetable.asked
    more = replace(timetable, asked=Tokens(2 * asked.count) if isinstance(asked, Tokens) else 2 * asked)
    return more if more.steps > _saved(folder) else _raised(folder, more)


def _saved(folder: RunFolder) -> int:
    """The step of the newest checkpoint."""
    return max(steps_in(folder.checkpoints), default=0)


def _further(more: Timetable) -> str:
    return f"steps={written(more.asked)}"


def activation() -> str | None:
    """The command after which the shell knows `headrace`; None where it does already, or where this is no
    virtual environment."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("headrace") or not script.is_file():
        return None
    here = Path.cwd()
    return f". {shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))}"
