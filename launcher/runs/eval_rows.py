"""Which rows a run's evaluations were of, and what a start changes of them.

An evaluation is comparable only with one of the same rows. They stay as long as seed, text, T, eval.bytes and
the objective's settings do; each start puts their fingerprints into its ledger (event `evaluation`), and
where they are others than those of the starts that led to it, that is told and on the record.
"""

import socket
from collections.abc import Mapping

from data.errors import BadInput
from launcher.runs.lineage import lineage
from launcher.runs.run_folder import RunFolder

Fingerprints = Mapping[str, Mapping[str, str]]
"""[corpus][objective]."""


def rows_before(run: RunFolder, attempt: int) -> Fingerprints | None:
    """Those of the newest start that led to an attempt and evaluated; None where none did, or none says."""
    led = {number for number, _, _ in lineage(run)} - {attempt}
    found = None
    for line in run.ledger():
        if line["event"] == "evaluation" and line["attempt"] in led:
            found = line["rows"]
    return found


def require_same_rows(own: Fingerprints, first: Fingerprints) -> None:
    """BadInput where the rows that this process made are not those of rank 0: ranks share out the rows that
    each has, and their sums would be of neither."""
    for name, rows in own.items():
        if rows != first.get(name):
            raise BadInput(
                f"evaluation: the rows of {name} on {socket.gethostname()} are not those of rank 0; all "
                "machines need the same index and shards of it"
            )


def rows_changed(before: Fingerprints | None, now: Fingerprints) -> list[str]:
    """A line for each corpus that is evaluated on anew, no more, or on other rows."""
    if before is None:
        return []
    lines = [f"evaluation: {name} is evaluated on from here on" for name in now if name not in before]
    lines += [f"evaluation: {name} is evaluated on no more" for name in before if name not in now]
    for name, rows in now.items():
        was = before.get(name, {})
        others = [objective for objective, rest in rows.items() if was.get(objective, rest) != rest]
        if others:
            lines.append(
                f"evaluation: the rows of {name} are others than before this start ({', '.join(others)}): "
                "from here on losses on them compare with each other alone"
            )
    return lines
