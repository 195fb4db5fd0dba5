"""What a person sees while a run trains: a live view on a terminal, plain lines anywhere else.

Both are observers of the records in tracker.py and know nothing that is not in them. The live view is drawn
by rich in its own thread at most twice a second; plain lines come every `log.every` steps, one line each,
so that a job's output can be searched and does not grow without bound.
"""

import time
from collections import deque
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher.output import clock, number
from launcher.tracking.records import EvalCell, EvalRecord, Record, SampleRecord, StepRecord
from launcher.tracking.tracker import Observer


def watch(stream: TextIO, name: str, steps: int, every: int) -> Observer:
    """The console that suits the stream: `steps` is where the run ends, `every` the steps between lines."""
    if Console(file=stream).is_terminal and Console(file=stream).is_interactive:
        return LiveConsole(stream, name, steps)
    return PlainConsole(stream, steps, every)


class Pace:
    """Steps a second over the last records, by the clock on the wall: evaluations and saves count."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._seen: deque[tuple[int, float]] = deque(maxlen=50)

    def see(self, step: int, now: float) -> None:
        """A step was finished at `now`, in seconds."""
        self._seen.append((step, now))

    def left(self) -> float | None:
        """Seconds to the last step, or None before two steps were seen."""
        if len(self._seen) < 2:
            return None
        (first, begin), (last, end) = self._seen[0], self._seen[-1]
        return (self._steps - last) * (end - begin) / (last - first)


class PlainConsole:
    """One line every few steps."""

    def __init__(self, stream: TextIO, steps: int, every: int) -> None:
        self._stream, self._steps, self._every = stream, steps, every
        self._pace = Pace(steps)

    def see(self, record: Record) -> None:
        """Print the record, if its turn has come."""
        if isinstance(record, StepRecord):
            self._pace.see(record.step, time.monotonic())
            if record.step % self._every == 0 or record.step == self._steps:
                self.note(step_line(record, self._steps, self._pace.left()))
        elif isinstance(record, EvalRecord):
            for line in evaluation_lines(record):
                self.note(line)
        else:
            for line in sample_lines(record):
                self.note(line)

    def note(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to put back."""


class LiveConsole:
    """A view that is redrawn in place; notes, evaluations and samples scroll away above it."""

    def __init__(self, stream: TextIO, name: str, steps: int) -> None:
        self._name, self._steps = name, steps
        self._pace = Pace(steps)
        self._last: StepRecord | None = None
        self._console = Console(file=stream)
        self._live = Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=2,
            # What libraries print goes to the log (training/redirect_output.py) and not above the view.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def see(self, record: Record) -> None:
        """Take the record into the view."""
        if isinstance(record, StepRecord):
            self._pace.see(record.step, time.monotonic())
            self._last = record
        elif isinstance(record, EvalRecord):
            for weights, corpora in _weights(record).items():
                self._console.print(_evaluation_table(weights, record.step, corpora))
        else:
            for line in sample_lines(record):
                self.note(line)

    def note(self, text: str) -> None:
        """A line above the view."""
        self._console.print(Text(text))

    def close(self) -> None:
        """Leave the last view standing and give the terminal back."""
        self._live.stop()

    def _draw(self) -> RenderableType:
        record = self._last
        if record is None:
            return Text(f"{self._name}: waiting for the first step")
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self._name, style="bold"),
            f"step {record.step}/{self._steps}",
            ProgressBar(total=self._steps, completed=record.step, width=30),
            f"{clock(self._pace.left())} left",
        )
        figures = Text("  ".join(_figures(record)))
        table = Table(box=None, padding=(0, 2))
        for title in ("objective", "loss", "tokens", "share"):
            table.add_column(title, justify="left" if title == "objective" else "right")
        for name, part in record.objectives.items():
            table.add_row(name, number(part.loss), f"{part.tokens}", f"{part.share:.1%}")
        for name, corpus in record.corpora.items():
            table.add_row(
                Text(name, style="dim"),
                number(corpus.loss),
                f"epoch {corpus.epoch:.2f}",
                f"{corpus.share:.1%}",
            )
        return Group(head, figures, table)


def _figures(record: StepRecord) -> list[str]:
    figures = [f"loss {number(record.loss)}", f"lr {record.lr:.2e}"]
    optional: list[tuple[str, float | None, str]] = [
        ("norm", record.grad_norm, "{:.3f}"),
        ("tokens/s", record.tokens_per_second, "{:,.0f}"),
        ("mfu", record.mfu, "{:.1%}"),
        ("waiting for data", record.data_wait, "{:.1%}"),
        ("memory GiB", record.memory_gib, "{:.2f}"),
        ("unknown tokens", record.unknown or None, "{:.2%}"),
    ]
    return figures + [f"{name} {form.format(value)}" for name, value, form in optional if value is not None]


def step_line(record: StepRecord, steps: int, left: float | None) -> str:
    """One line on a step."""
    parts = "  ".join(f"{name} {number(part.loss, 3)}" for name, part in record.objectives.items())
    return f"step {record.step}/{steps}  {'  '.join(_figures(record))}  |  {parts}  |  {clock(left)} left"


def evaluation_lines(record: EvalRecord) -> list[str]:
    """One line a corpus on a held-out evaluation, and one on that of the average of the weights."""
    lines = []
    for weights, corpora in _weights(record).items():
        for corpus, cells in corpora.items():
            parts = []
            for name, cell in cells.items():
                extra = f", {cell.bits_per_byte:.3f} bits/byte" if cell.bits_per_byte is not None else ""
                parts.append(f"{name} {number(cell.loss, 3)} ({_percent(cell.accuracy)} right{extra})")
            lines.append(f"{weights}, step {record.step}, {corpus}: {'  '.join(parts)}")
    return lines


def _weights(record: EvalRecord) -> dict[str, dict[str, dict[str, EvalCell]]]:
    """What was evaluated, in words → its cells."""
    return {"held out": record.eval} | ({"held out, ema": record.ema} if record.ema is not None else {})


def sample_lines(record: SampleRecord) -> list[str]:
    """Each generated text on one line, its prompt before the arrow."""
    return [f"sample, step {record.step}: {s['prompt']!r} → {s['text']!r}" for s in record.samples]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _evaluation_table(weights: str, step: int, corpora: dict[str, dict[str, EvalCell]]) -> Table:
    table: Any = Table(title=f"{weights}, step {step}", title_justify="left", box=None, padding=(0, 2))
    for title in ("corpus", "objective", "loss", "right", "bits/byte", "targets"):
        table.add_column(title, justify="left" if title in ("corpus", "objective") else "right")
    for corpus, cells in corpora.items():
        for name, cell in cells.items():
            table.add_row(
                corpus,
                name,
                number(cell.loss),
                _percent(cell.accuracy),
                number(cell.bits_per_byte, 3),
                str(cell.tokens),
            )
    return table
