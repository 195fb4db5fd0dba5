"""The metrics of a run as a table for the eye."""

from collections.abc import Iterator
from typing import Any

from launcher.runs.lineage import steps


def metrics_table(lines: Iterator[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Titles and rows for the eye: the steps among the lines, a loss column for each objective."""
    shown = list(steps(lines))
    names = list(dict.fromkeys(name for line in shown for name in line["objectives"]))
    plain = ["step", "loss", "lr", "grad_norm", "tokens_per_second", "data_wait"]
    rows = [
        [line[key] for key in plain] + [line["objectives"].get(name, {}).get("loss") for name in names]
        for line in shown
    ]
    return [*plain, *names], rows
