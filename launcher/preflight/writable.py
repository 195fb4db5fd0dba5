"""Whether a start could write its run: asked before a job waits a day in a queue for it.

A right to write can come from a group, a mask, a mount or a quota; so it is tried, with a file that is gone
again at once, where the run's folders are or would be made.
"""

import os
import tempfile
from pathlib import Path

from data.errors import BadInput
from launcher.runs.run_folder import RunFolder


def nearest_folder(path: Path) -> Path:
    """The path, or of the folders above it the first that is there."""
    while not os.path.lexists(path):
        path = path.parent
    return path


def require_writable(run: RunFolder) -> None:
    """BadInput where a start of a run, new or not, could not write in its folder."""
    folders = [folder for folder in (run.path / "attempts", run.checkpoints) if folder.is_dir()]
    for folder in folders or [nearest_folder(run.path)]:
        try:
            with tempfile.TemporaryFile(prefix=".headrace-check-", dir=folder) as file:
                file.write(b"x")
                file.flush()
        except OSError as error:
            raise _refused(folder, error.strerror) from None
    if run.plan.exists() and not os.access(run.plan, os.W_OK):
        raise _refused(run.plan, os.strerror(13))


def _refused(path: Path, why: str | None) -> BadInput:
    return BadInput(
        f"run.folder: {path}: cannot be written: {why}; name a folder that this user may write, or have its "
        "rights changed (a run of another user in your group: umask 002 when it starts)"
    )
