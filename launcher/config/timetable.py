"""When a run ends, evaluates and saves, and how fast it learns: what its config says in steps and in tokens,
brought to steps along the run's own timeline.

    steps: 20B tokens       the first step after which so many positions are read, whatever B and T were
    eval.every: 1B tokens   after each step in which a multiple of that is passed
    checkpoint.every: …     the same; minutes are not known here, but agreed on by the ranks (agreement.py)
    optimizer.warmup …      where `steps` is in tokens the learning rate is a function of the positions read,
                            else of the steps; a warm-up or decay in the other unit is brought to that one

All of it follows from config and plan history, so ranks, `check` and `status` agree, and a resume resolves it
again: after an edit of B or T the run still ends after as many tokens. Where B and T stay, a run in tokens is
that in steps to the bit, learning rate included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from data.plan.batch_rows import BatchRows
from data.plan.plan import History
from data.plan.timeline import RowRate, Timeline
from launcher.engine.optimizer import OptimizerConfig, decay_steps, lr_at
from objectives.quantity import Minutes, Quantity, Tokens, written

Interval = int | Tokens
MOST_STEPS = 10**8
PlacedRows = int | tuple[tuple[int | Tokens, int], ...]
"""B, or ((row or tokens, B), …)."""


def row_finder(length: int, past: History | None = None, row: int = 0) -> Callable[[int], int]:
    """Positions → the first row before which so many are read, where rows of `length` go on from `row` of a
    run's past."""
    before = [segment for segment in past.segments if segment[0] < row] if past else []
    return Timeline([*before, (row, RowRate(length, 1))]).row_for


def placed_in_rows(batch_rows: PlacedRows, row_for: Callable[[int], int]) -> BatchRows:
    """B with its changes at rows; of changes within one row the last stands."""
    if isinstance(batch_rows, int):
        return batch_rows
    placed = {row_for(at.count) if isinstance(at, Tokens) else at: rows for at, rows in batch_rows}
    return tuple(placed.items())


@dataclass(frozen=True)
class Timetable:
    """Of a run with these settings along this timeline. asked: `steps` as the config has it."""

    asked: Interval
    optimizer: OptimizerConfig
    eval_every: Interval | None
    save_every: tuple[Quantity, ...]
    keep_every: Interval | None
    timeline: Timeline

    @property
    def in_tokens(self) -> bool:
        """Whether any of it follows from the timeline."""
        intervals = (self.asked, self.eval_every, *self.save_every, self.keep_every)
        return any(
            isinstance(one, Tokens) for one in (*intervals, self.optimizer.warmup, self.optimizer.decay)
        )

    @cached_property
    def steps(self) -> int:
        """The last step."""
        return self.timeline.steps_for(self.asked.count) if isinstance(self.asked, Tokens) else self.asked

    @property
    def positions(self) -> int:
        """Read when the last step is made."""
        return self.timeline.positions_after(self.steps)

    def lr(self, step: int) -> float:
        """The learning rate of a step; the first is 1. Beyond the last it stays as it was last."""
        return lr_at(self._clock(step), self._clock(self.steps), self._curve)

    def evaluates(self, step: int) -> bool:
        """Whether held-out text is evaluated after a step."""
        return self.eval_every is not None and (step == self.steps or self.passes(self.eval_every, step))

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after a step by what is read, not by the clock."""
        return any(self.passes(every, step) for every in self.save_every if not isinstance(every, Minutes))

    @property
    def minutes(self) -> float | None:
        """After which a checkpoint is due by the clock."""
        return next((every.count for every in self.save_every if isinstance(every, Minutes)), None)

    def keeps(self, step: int) -> bool:
        """Whether the checkpoint of a step stays for ever."""
        return self.keep_every is not None and self.passes(self.keep_every, step)

    def passes(self, every: Interval, step: int) -> bool:
        """Whether a multiple of an interval is reached or passed in a step."""
        if isinstance(every, int):
            return step % every == 0
        after, before = self.timeline.positions_after(step), self.timeline.positions_after(step - 1)
        return after // every.count > before // every.count

    def steps_of(self, every: Interval) -> list[int]:
        """All steps that `passes` names, to the last one of the run."""
        if isinstance(every, int):
            return list(range(every, self.steps + 1, every))
        multiples = range(every.count, self.positions + 1, every.count)
        if len(multiples) < self.steps:
            return list(dict.fromkeys(map(self.timeline.steps_for, multiples)))
        return [step for step in range(1, self.steps + 1) if self.passes(every, step)]

    @cached_property
    def warmup(self) -> int:
        """In steps."""
        asked = self.optimizer.warmup
        return self.timeline.steps_for(asked.count) if isinstance(asked, Tokens) else asked

    @cached_property
    def decay(self) -> int:
        """Steps of the decay at the end of `wsd`."""
        asked, last = self.optimizer.decay, self.steps
        if isinstance(asked, int) or (asked is None and isinstance(self.asked, int)):
            return decay_steps(last, self.optimizer.model_copy(update={"warmup": self.warmup}))
        read = self.positions
        length = read // 5 if asked is None else asked.count
        return min(max(1, last - self.timeline.steps_for(read - length)), max(1, last - self.warmup))

    @cached_property
    def _curve(self) -> OptimizerConfig:
        """The optimizer's settings with warm-up and decay by the clock; both begin and end with a step."""
        decay = None
        if self.optimizer.schedule == "wsd":
            decay = self._clock(self.steps) - self._clock(self.steps - self.decay)
        return self.optimizer.model_copy(update={"warmup": self._clock(self.warmup), "decay": decay})

    def _clock(self, step: int) -> int:
        """By which the learning rate goes: steps, or positions where `steps` is in tokens, counted in what
        every step's is a multiple of: where B and T stay that is steps again, and no rounding differs."""
        if isinstance(self.asked, int):
            return step
        return self.timeline.positions_after(step) // self.timeline.unit


def require_possible(timetable: Timetable) -> None:
    """ValueError where tokens come to more steps than can be, or nothing of what is to be kept is saved."""
    if timetable.steps > MOST_STEPS:
        got = f"{timetable.asked}: {timetable.steps} steps"
        raise ValueError(f"steps: expected at most {MOST_STEPS} steps, got {got}")
    kept = timetable.keep_every
    if kept is not None and type(kept) not in {type(every) for every in timetable.save_every}:
        saves = ", ".join(str(written(every)) for every in timetable.save_every)
        raise ValueError(
            f"checkpoint.keep_every: expected the unit of checkpoint.every ({saves}), got {written(kept)}: "
            f"what is not saved cannot be kept; save then too: checkpoint.every=[{saves}, {written(kept)}]"
        )
