"""What `headrace check` says of the token cache: how much it would hold, and whether its disk has room."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from launcher import output
from launcher.config.run_config import Config
from launcher.preflight.writable import nearest_folder

_A_DOCUMENT = 40
"""Bytes that are kept of a document beside its tokens: its key, its numbers."""


def estimate(config: Config, corpora: list[dict[str, Any]], vocabulary: int) -> dict[str, Any] | None:
    """Bytes: its bound, about what the corpora need, what lies there already, what is free on its disk; and
    why it cannot be written, if so. None where there is none. corpora: figures of estimates.corpus."""
    options = config.data.token_cache
    if not options.folder:
        return None
    width = 2 if vocabulary <= 1 << 16 else 4
    needed = sum(width * part["tokens"] + _A_DOCUMENT * part["documents"] for part in corpora if part["rows"])
    folder = nearest_folder(Path(options.folder))
    problem, free, kept = None, 0, 0
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
        with suppress(FileNotFoundError):  # it is made by the run
            kept = sum(entry.stat().st_size for entry in os.scandir(options.folder))
    except OSError as error:
        problem = f"{options.folder}: {error.strerror or error}"
    return {
        "folder": options.folder,
        "limit": int(options.gib * 2**30),
        "needed": needed,
        "kept": kept,
        "free": free,
        "problem": problem,
    }


def line(facts: dict[str, Any]) -> str:
    """For the eye."""
    if facts["problem"]:
        return "none: it cannot be written"
    need, limit, free = (output.size(facts[key]) for key in ("needed", "limit", "free"))
    return f"≈ {need} of encoded text, at most {limit} are kept in {facts['folder']} ({free} free)"


def warnings(facts: dict[str, Any] | None) -> list[str]:
    """What would make it useless, or fill its disk."""
    if facts is None:
        return []
    if facts["problem"]:
        return [
            f"data.token_cache.folder: cannot be written: {facts['problem']}; the run would encode text as "
            "without it: name another folder"
        ]
    lines = []
    limit, needed, free = facts["limit"], facts["needed"], facts["free"]
    if needed > limit:
        lines.append(
            f"data.token_cache.gib: {output.size(limit)} are kept of the ≈ {output.size(needed)} that the "
            "corpora take: the processes of a node share their work, but a later epoch finds little; for "
            f"that set it to {1.2 * needed / 2**30:.3g}"
        )
    if min(needed, limit) - facts["kept"] > free:
        lines.append(
            f"data.token_cache: would keep ≈ {output.size(min(needed, limit))}, and {output.size(free)} are "
            f"free in {facts['folder']}: lower gib, or name a larger disk"
        )
    return lines
