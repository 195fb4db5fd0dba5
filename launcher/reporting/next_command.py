"""The command that goes on with a run: told by `status` and at the end of training."""

import shlex
import shutil
import sys
from pathlib import Path

from launcher.runs.run_folder import RunFolder


def resume_command(folder: RunFolder, *edits: str) -> str:
    """On as many processes as `--processes` gave the newest attempt."""
    words = ["headrace", "resume", str(folder.path), *edits]
    begun = [line for line in folder.ledger() if line["event"] in ("start", "resume")]
    if begun and (processes := begun[-1].get("processes")):
        words += ["--processes", str(processes)]
    return shlex.join(words)


def further_command(folder: RunFolder) -> str:
    """For a finished run, which has nothing to do unless `steps` is raised: to twice what it is now."""
    return resume_command(folder, f"steps={2 * folder.current_config().steps}")


def activation() -> str | None:
    """The command after which the shell knows `headrace`; None where it does already, or where this is no
    virtual environment."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("headrace") or not script.is_file():
        return None
    here = Path.cwd()
    return f". {shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))}"
