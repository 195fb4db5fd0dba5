"""Rank 0's tracker with its audience: the console on the terminal, and wandb fed beside the run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from launcher.config.run_config import Config
from launcher.runs.run_folder import Attempt, RunFolder
from launcher.tracking.console import watch
from launcher.tracking.tracker import Tracker
from launcher.tracking.wandb_feed import Feed


@contextmanager
def tracking(run: RunFolder, config: Config, attempt: Attempt, terminal: TextIO) -> Iterator[Tracker]:
    """Within it, records are written and shown; leaving it lets the audience finish, for a bounded time."""
    feed = None
    if config.wandb.mode != "disabled":
        feed = Feed(run, attempt.number, attempt.path / "wandb.log")
    tracker = Tracker(attempt.path, [watch(terminal, config.run.name, config.steps, config.log.every)])
    try:
        yield tracker
    finally:
        tracker.close()
        if feed is not None:
            feed.close()
