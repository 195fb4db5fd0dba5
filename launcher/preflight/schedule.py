"""What the steps, tokens and minutes of a config come to in this run: a table of `headrace check`.

The figures are those that training goes by (launcher/config/timetable.py), along the plan's history where the
run exists: for an interval how often it comes by the end, and when first; for a place on the run its step.
"""

from typing import Any

from data.plan.batch_rows import BatchRows
from data.plan.plan import Plan
from launcher import output
from launcher.config.run_config import Config
from launcher.config.timetable import Interval, Timetable
from objectives.quantity import Minutes, Quantity, Tokens, written
from objectives.schedule import Schedule


def schedule(config: Config, timetable: Timetable, plan: Plan) -> list[dict[str, Any]]:
    """A line a key: {key, written, step, positions, times, rows}; what does not apply is None."""
    optimizer = config.optimizer
    lines = [_at("steps", config.steps, timetable.steps, timetable)]
    lines.append(_at("optimizer.warmup", optimizer.warmup, timetable.warmup, timetable))
    if optimizer.schedule == "wsd":
        begin = timetable.steps - timetable.decay
        asked = "fifth" if optimizer.decay is None else written(optimizer.decay)
        lines.append(_at("optimizer.decay", f"the last {asked}, from", begin, timetable))
    if config.eval.every is not None:
        lines.append(_every("eval.every", config.eval.every, timetable))
    lines += [_every("checkpoint.every", one, timetable) for one in config.checkpoint.every]
    if config.checkpoint.keep_every is not None:
        lines.append(_every("checkpoint.keep_every", config.checkpoint.keep_every, timetable))
    if not isinstance(config.batch_rows, int):
        lines.append(_rows("batch_rows", config.batch_rows, plan.batch_rows))
    for name, corpus in config.data.corpora.items():
        part = plan.corpus(name)
        if part and len(part.weight.points) > 1:
            lines.append(_places(f"data.corpora.{name}.weight", corpus.weight, part.weight))
    for entry, placed in zip(config.objectives.entries, plan.mixture.entries):
        if len(placed.weight.points) > 1:
            name = f"objectives.{entry.objective.name}.weight"
            lines.append(_places(name, entry.weight, placed.weight))
    return lines


def decay_cut(timetable: Timetable) -> str | None:
    """A line where `wsd` has no room for the decay that is asked for."""
    optimizer = timetable.optimizer
    if optimizer.schedule != "wsd" or optimizer.decay is None:
        return None
    asked, positions = optimizer.decay, timetable.positions
    steps = timetable.steps - timetable.warmup
    if isinstance(asked, int):
        fits = asked <= steps
    else:
        fits = asked.count <= positions - timetable.timeline.positions_after(timetable.warmup)
    if fits:
        return None
    return (
        f"optimizer.decay: {written(asked)}, the run has {max(steps, 0)} steps behind the warm-up: it decays "
        f"over {timetable.decay}"
    )


def show_schedule(lines: list[dict[str, Any]]) -> None:
    """The lines as a table."""
    titles = ["schedule", "as written", "step", "tokens", "times"]
    rows = [
        [line["key"], str(line["written"]), *(line[key] for key in ("step", "positions", "times"))]
        for line in lines
        if line["rows"] is None
    ]
    output.table(titles, rows)
    for line in lines:
        if line["rows"] is not None:
            output.say(f"{line['key']}: {line['written']}, which changes at rows {_numbers(line['rows'])}")


def _line(key: str, asked: int | str, **facts: Any) -> dict[str, Any]:
    return {
        "key": key,
        "written": asked,
        "step": None,
        "positions": None,
        "times": None,
        "rows": None,
    } | facts


def _at(key: str, asked: int | str | Tokens, step: int, timetable: Timetable) -> dict[str, Any]:
    """A place on the run."""
    said = asked if isinstance(asked, str) else written(asked)
    return _line(key, said, step=step, positions=timetable.timeline.positions_after(step))


def _every(key: str, asked: Quantity, timetable: Timetable) -> dict[str, Any]:
    """An interval: when it comes first, and how often."""
    if isinstance(asked, Minutes):
        return _line(key, f"{asked} by the clock")
    first, times = _first(asked, timetable), len(timetable.steps_of(asked))
    if not times:
        return _line(key, f"every {written(asked)}", times=0)
    positions = timetable.timeline.positions_after(first)
    return _line(key, f"every {written(asked)}", step=first, positions=positions, times=times)


def _first(asked: Interval, timetable: Timetable) -> int:
    return timetable.timeline.steps_for(asked.count) if isinstance(asked, Tokens) else asked


def _rows(key: str, asked: Any, placed: BatchRows) -> dict[str, Any]:
    assert not isinstance(placed, int)
    said = ", ".join(f"{rows} from {written(place)}" for place, rows in asked)
    return _line(key, said, rows=[place for place, _ in placed])


def _places(key: str, asked: Schedule, placed: Schedule) -> dict[str, Any]:
    said = ", ".join(f"{value:g} at {place}" for place, value in asked.describe())  # type: ignore[union-attr]
    return _line(key, said, rows=[place for place, _ in placed.points])


def _numbers(rows: list[int]) -> str:
    return ", ".join(f"{row:,}" for row in rows)
