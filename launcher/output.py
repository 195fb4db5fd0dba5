"""How commands print: tables, JSON, progress. A bar with the time left on a terminal, plain lines elsewhere.

What was asked for goes to stdout, progress to stderr, so that `headrace … --json | jq` always works.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Report = Callable[[int, int | None], None]
"""Called with (done, in all or None)."""

PLAIN_SECONDS = 10.0
"""Time between two lines of progress where there is no terminal."""


def say(text: str) -> None:
    """One line on stdout."""
    print(text, flush=True)


def say_json(value: Any) -> None:
    """One JSON value on one line of stdout; escaped where the terminal's encoding cannot say it as it is."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text, flush=True)


def counted(count: int, thing: str, plural: str = "s") -> str:
    """'1 shard', '2,000 shards'."""
    return f"{count:,} {thing}{plural if count != 1 else ''}"


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Aligned columns on stdout."""
    for line in aligned(titles, rows):
        say(line)


def aligned(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of aligned columns: numbers to the right, text to the left, None as –."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(title), *(len(row[i]) for row in cells), 0) for i, title in enumerate(titles)]
    right = [
        bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(titles))
    ]
    return [
        "  ".join(
            cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(titles), *cells]
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def size(count: float) -> str:
    """Bytes for the eye: '3.2 MiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit returns")


@contextmanager
def progress(label: str) -> Iterator[Report]:
    """Within it, calls of the yielded function are shown on stderr."""
    if not sys.stderr.isatty():
        yield _plain_report(label)
        return
    # Put off: nothing but a bar needs rich, and `headrace doctor` has to print where it is missing.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %")]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _plain_report(label: str) -> Report:
    begin = last = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_SECONDS:
            return
        last = now
        part = (
            f"{done / total:.0%}, {(now - begin) * (total / done - 1):.0f} s left" if total and done else done
        )
        print(f"{label}: {part}", file=sys.stderr, flush=True)

    return report


def number(value: float | None, digits: int = 4) -> str:
    """A number for the eye, or –."""
    return "–" if value is None else f"{value:.{digits}f}"


def clock(seconds: float | None) -> str:
    """h:mm:ss, or –."""
    if seconds is None:
        return "–"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
