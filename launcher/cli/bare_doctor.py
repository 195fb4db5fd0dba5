"""`headrace doctor` where the commands cannot be imported: it is to say why, so it comes up without them."""

import argparse
import sys

from launcher.doctor.doctor import examine, tell
from launcher.doctor.finding import Finding


def run(error: BaseException) -> None:
    """The options and exit codes of the command in run.py. error: what the import of the commands raised."""
    parser = argparse.ArgumentParser(prog="headrace doctor", allow_abbrev=False)
    parser.add_argument("--folder", default=".")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(sys.argv[2:])
    said = " ".join(f"{type(error).__name__}: {error}".split())
    commands = Finding("commands", 2, f"none but this one works: {said}")
    sys.exit(tell([commands, *examine(options.folder)], options.json))
