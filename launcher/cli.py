"""`headrace`: makes sure that the rooms are ours, then hands over to the commands.

`data` and `model` are common names for a folder. Where another package of such a name would be imported
instead of ours, nothing works and the traceback points nowhere; so that is looked at first.

Exit codes: 0 finished · 1 a bug · 2 bad input, one line · 75 stopped with everything saved, start me again ·
130 interrupted where there was nothing to save. `headrace doctor` has codes of its own, in its --help.
"""

import sys

from launcher import rooms
from launcher.signals import deliver, early_stop


def main() -> None:
    """The `headrace` command."""
    if sys.argv[1:2] in (["train"], ["resume"]):  # the commands that end with 75 when they are stopped
        early_stop.arm()
    else:
        deliver()
    shadowed = rooms.shadowed()
    if shadowed:
        print(f"headrace: {shadowed[0]}", file=sys.stderr)
        sys.exit(2)
    # Put off: importing the commands imports the rooms.
    from launcher.commands import run

    run()


if __name__ == "__main__":
    main()
