"""What to type to go on with a run: told by `status` and at the end of training."""

import shlex

from launcher.run_folder import RunFolder


def resume_command(folder: RunFolder, *edits: str) -> str:
    """What to type to go on with a run, on as many processes as `--processes` gave its newest attempt."""
    words = ["headrace", "resume", str(folder.path), *edits]
    begun = [line for line in folder.ledger() if line["event"] in ("start", "resume")]
    if begun and (processes := begun[-1].get("processes")):
        words += ["--processes", str(processes)]
    return shlex.join(words)


def further_command(folder: RunFolder) -> str:
    """What to type to train a finished run as long again."""
    return resume_command(folder, f"steps={2 * folder.current_config().steps}")
