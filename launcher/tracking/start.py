"""Starts all that tells of an attempt, on rank 0: metrics.jsonl, the console on the terminal, wandb."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from launcher.config.run_config import Config
from launcher.runs.run_folder import Attempt, RunFolder
from launcher.tracking.console import watch
from launcher.tracking.tracker import Tracker
from launcher.tracking.wandb_feed import Feed


@contextmanager
def tracking(
    run: RunFolder, config: Config, attempt: Attempt, steps: int, terminal: TextIO
) -> Iterator[Tracker]:
    """The tracker that writes the attempt's metrics.jsonl and shows each record on the terminal; where the
    config asks for wandb, a process beside it feeds the file to wandb. At the end the console gives the
    terminal back, and wandb's process is waited for, but only for so long (wandb_feed.py). steps: where the
    run ends."""
    feed = None
    if config.wandb.mode != "disabled":
        feed = Feed(run, attempt.number, attempt.path / "wandb.log")
    tracker = Tracker(attempt.path, [watch(terminal, config.run.name, steps, config.log.every)])
    try:
        yield tracker
    finally:
        tracker.close()
        if feed is not None:
            feed.close()
