"""`headrace`: makes sure that the rooms are ours, then hands over to the commands.

`data` and `model` are common names for a folder. Where another package of such a name would be imported
instead of ours, nothing works and the traceback points nowhere; so that is looked at first.

What stdout refuses ends a command that prints its answer there: silently with 141 where a pipe's reader has
ended (`headrace … | head`), else in one line with 2. A run does not depend on it (training/train.py).

Exit codes: 0 finished · 1 a bug · 2 bad input, one line · 75 stopped with everything saved, or what passes
by itself (ranks that did not come, shards out of reach): start me again · 130, 140, 143 ended by SIGINT,
SIGUSR2, SIGTERM where there was nothing to save. `headrace doctor` has codes of its own, in its --help.
"""

import sys

from launcher import standard_streams
from launcher.distributed.stop_signals import deliver, end_at_once
from launcher.doctor import package_names


def main() -> None:
    """The `headrace` command."""
    standard_streams.install()
    try:
        _main()
        sys.stdout.flush()
    except standard_streams.StdoutLost as lost:
        if lost.line:
            print(f"headrace: {lost.line}", file=sys.stderr)
        sys.exit(lost.code)


def _main() -> None:
    if sys.argv[1:2] in (["train"], ["resume"]):  # the others clean up when they are interrupted
        end_at_once()
    deliver()
    shadowed = package_names.shadowed()
    if shadowed:
        print(f"headrace: {shadowed[0]}", file=sys.stderr)
        sys.exit(2)
    # Put off: importing the commands imports the rooms.
    try:
        from launcher.cli.app import run
    except (Exception, SystemExit) as error:  # a library may end the process as it is imported
        if sys.argv[1:2] != ["doctor"]:
            raise
        from launcher.cli import bare_doctor  # it is to say what is missing, typer included

        bare_doctor.run(error)
    else:
        run()
