"""The metrics of a run as tables for the eye: its steps, and its evaluations on held-out text."""

from collections.abc import Iterable
from typing import Any

from launcher.runs.lineage import steps


def metrics_table(lines: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Titles and rows for the eye: the steps among the lines, a loss column for each objective."""
    shown = list(steps(iter(lines)))
    names = list(dict.fromkeys(name for line in shown for name in line["objectives"]))
    plain = ["step", "loss", "lr", "grad_norm", "tokens_per_second", "data_wait"]
    rows = [
        [line[key] for key in plain] + [line["objectives"].get(name, {}).get("loss") for name in names]
        for line in shown
    ]
    return [*plain, *names], rows


def evaluations_table(lines: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Titles and rows: the evaluations among the lines, a row for each corpus and objective; those of the
    average of the weights are marked ema."""
    titles = ["step", "weights", "corpus", "objective", "loss", "accuracy", "bits_per_byte"]
    rows = [
        [line["step"], weights, corpus, objective, *(cell[figure] for figure in titles[4:])]
        for line in lines
        if "eval" in line
        for weights, cells in (("trained", line["eval"]), ("ema", line.get("ema") or {}))
        for corpus, objectives in cells.items()
        for objective, cell in objectives.items()
    ]
    return titles, rows
