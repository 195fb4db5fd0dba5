"""Quantities in steps, tokens and minutes: what a config may say, and what it comes to."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import BadInput
from data.plan.timeline import RowRate, Timeline
from launcher.config import run_config
from launcher.config.run_config import Config
from launcher.config.timetable import Timetable
from launcher.preflight.schedule import decay_cut
from objectives.quantity import Minutes, Tokens, quantity, written
from objectives.schedule import Schedule
from tests.launcher.test_lr_change import made

STEP = 8 * 64
"""Positions of a step of `made`: 1000 steps."""


def edited(*edits: str, **optimizer: Any) -> Config:
    return run_config.edit(made(**optimizer), edits)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize(("steps", "warmup", "decay"), [(1000, 100, None), (997, 13, 251), (7, 0, None)])
def test_a_run_in_tokens_is_that_in_steps_to_the_bit(
    schedule: str, steps: int, warmup: int, decay: int | None
) -> None:
    """Whichever of the three are in tokens."""
    said = {"schedule": schedule, "warmup": warmup, "decay": decay}
    plain = edited(f"steps={steps}", **said).timetable()
    for in_tokens in range(1, 8):
        edits = [f"steps={steps * STEP - 3} tokens"] if in_tokens & 1 else [f"steps={steps}"]
        if in_tokens & 2 and warmup:
            edits.append(f"optimizer.warmup={warmup * STEP} tokens")
        if in_tokens & 4 and decay:
            edits.append(f"optimizer.decay={decay * STEP} tokens")
        table = edited(*edits, **said).timetable()
        assert (table.steps, table.warmup, table.decay) == (plain.steps, plain.warmup, plain.decay)
        assert [table.lr(step) for step in range(1, steps + 3)] == [
            plain.lr(step) for step in range(1, steps + 3)
        ], edits


def test_a_decay_that_has_no_room_is_told() -> None:
    for decay, room in [(100, True), (101, False)]:
        for asked in (f"{decay}", f"{decay * STEP} tokens"):
            edits = ("steps=110", "optimizer.warmup=10", f"optimizer.decay={asked}")
            line = decay_cut(edited(*edits, schedule="wsd").timetable())
            assert (line is None) == room
            assert room or str(line).endswith("100 steps behind the warm-up: it decays over 100")


def test_after_an_edit_of_b_or_t_the_run_ends_after_as_many_tokens_and_the_rate_does_not_jump() -> None:
    asked = edited(
        f"steps={1000 * STEP} tokens", f"eval.every={100 * STEP} tokens", "data.corpora.code.held_out=.1"
    )
    for length, rows in ((64, 24), (256, 8), (32, 5), (128, ((0, 8), (6000, 16)))):
        line = Timeline([(0, RowRate(64, 8)), (8 * 400, RowRate(length, rows))])
        old, new = asked.timetable(), _along(asked, line)
        assert (
            0
            <= new.positions - 1000 * STEP
            < line.positions_after(new.steps) - line.positions_after(new.steps - 1)
        )
        assert new.lr(400) == pytest.approx(old.lr(400), rel=1e-2), "the rate goes by what was read"
        assert new.lr(new.steps) == pytest.approx(old.lr(1000))
        evaluated = [step for step in range(1, new.steps + 1) if new.evaluates(step)]
        assert len(evaluated) == 10
        assert evaluated == sorted({*new.steps_of(asked.eval.every), new.steps})
    stepwise = made().timetable()
    assert _along(made(), line).steps == stepwise.steps == 1000


def _along(config: Config, line: Timeline) -> Timetable:
    table = config.timetable()
    return Timetable(table.asked, table.optimizer, table.eval_every, table.save_every, table.keep_every, line)


def test_intervals_in_tokens_are_those_in_steps_where_b_and_t_stay() -> None:
    table = edited(
        f"checkpoint.every=[{30 * STEP} tokens, 7, 0.5 minutes]", f"checkpoint.keep_every={90 * STEP} tokens"
    ).timetable()
    for step in range(1, 1001):
        assert table.saves(step) == (step % 30 == 0 or step % 7 == 0)
        assert table.keeps(step) == (step % 90 == 0)
    assert table.minutes == 0.5
    few = edited("checkpoint.every=700 tokens").timetable()  # more often than one multiple a step: each step
    saved = [step for step in range(1, 1001) if few.saves(step)]
    assert saved == few.steps_of(Tokens(700))
    assert len(edited("checkpoint.every=100 tokens").timetable().steps_of(Tokens(100))) == 1000


def test_schedules_in_tokens_come_to_rows_by_t_and_by_what_was_read_before() -> None:
    points = Schedule.parse([[0, 1], ["64K tokens", 3], ["128K tokens", 0]])
    assert points.describe() == [[0, 1], ["64K tokens", 3], ["128K tokens", 0]]
    assert Schedule.parse(points.describe()) == points
    assert points.in_rows(lambda positions: -(-positions // 64)).points == ((0, 1), (1000, 3), (2000, 0))
    assert points.in_rows(lambda positions: -(-positions // 10**9)).points == ((0, 1), (1, 0))
    config = edited(
        "objectives.causal.weight=[[0, 1], [64K tokens, 3]]", "objectives.mlm.weight=[[0, 1], [1, 2]]",
        "batch_rows=[[0, 4], [64K tokens, 8]]",
    )  # fmt: skip
    assert config.mixture.weights(500).tolist() == [2 / 4, 2 / 4]
    assert config.timetable().timeline.positions_after(250) == 64_000
    assert config.timetable().timeline.positions_after(251) == 64_000 + STEP
    assert run_config.build(run_config.plain(config), {}, "again") == config
    with pytest.raises(AssertionError):
        config.objectives.weights(0)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ("steps=20 B", "steps: expected a whole number, got '20 B'; did you mean 20B tokens?"),
        ("steps=20Btokens", "did you mean 20B tokens?"),
        ("steps=20b tokens", "did you mean 20B tokens?"),
        ("steps=20G tokens", "did you mean 20B tokens?"),
        ("steps=1e9 tokens", "did you mean 1B tokens?"),
        ("steps=1,000,000 tokens", "did you mean 1M tokens?"),
        ("steps=2 billion tokens", "did you mean 2B tokens?"),
        ("steps=2000 steps", "did you mean 2000?"),
        ("steps=0 tokens", "steps: expected from 1 to 1000000T tokens, got '0 tokens'"),
        ("steps=-1", "steps: expected at least 1, got -1"),
        ("steps=-1 tokens", "steps: expected a whole number, got '-1 tokens'; or tokens, as in 20B tokens"),
        ("steps=0.5 tokens", "steps: expected a whole number of tokens, got '0.5 tokens'"),
        ("steps=30 minutes", "steps: expected a whole number, got '30 minutes'; minutes are for checkpoint"),
        ("steps=1T tokens", "steps: expected at most 100000000 steps, got 1T tokens: 1953125000 steps"),
        ("steps=200000000", "steps: expected at most 100000000, got 200000000"),
        (f"steps={'9' * 300}B tokens", "steps: expected from 1 to 1000000T tokens, got '999"),
        ("optimizer.warmup=20B", "optimizer.warmup: expected a whole number, got '20B'; did you mean 20B"),
        ("optimizer.warmup=-3", "optimizer.warmup: expected at least 0, got -3"),
        ("optimizer.decay=0", "optimizer.decay: expected at least 1, got 0"),
        ("eval.every=5 minutes", "eval.every: expected a whole number, got '5 minutes'; minutes are for"),
        ("checkpoint.every=2 hours", "got '2 hours'; did you mean 120 minutes?"),
        ("checkpoint.every=30min", "did you mean 30 minutes?"),
        ("checkpoint.every=0 minutes", "expected from 0.01 to 525600 minutes, got '0 minutes'"),
        ("checkpoint.every=[]", "checkpoint.every: expected an interval, or a list of one in steps, one in"),
        ("checkpoint.every=[10, 20]", "checkpoint.every: expected an interval, or a list of one in steps"),
        ("checkpoint.every=[1000, 30 mins]", "did you mean 30 minutes?"),
        ("checkpoint.every=null", "checkpoint.every: expected a whole number, got nothing"),
        ("checkpoint={every: 5 minutes, keep_every: 10}", "checkpoint.every=[5 minutes, 10]"),
        ("checkpoint.keep_every=1B tokens", "checkpoint.every=[1000, 1B tokens]"),
        ("objectives.causal.weight=[[0,1],[1B,2]]", "causal.weight: expected a whole number, got '1B'; did"),
        ("objectives.causal.weight=[[5,1],[1B tokens,2]]", "expected all places in rows or all in tokens"),
        ("objectives.causal.weight=[[1B tokens,1],[1M tokens,2]]", "in ascending order, got ['1B tokens"),
        ("objectives.causal.weight=[[0,1],[64 tokens,0]]", "objectives: all weights are 0 at row 1"),
        ("data.corpora.code.weight=[[0,1],[10 rows,2]]", "got '10 rows'; did you mean 10?"),
        ("data.corpora.code.weight=[[0,1],[10 steps,2]]", "got '10 steps'; or tokens, as in 20B tokens"),
        ("batch_rows=[[0, 4], [1b tokens, 8]]", "batch_rows: expected a whole number, got '1b tokens'"),
        ("batch_rows=[[1B tokens, 4]]", "expected the first pair to begin at row 0, got 1B tokens"),
    ],
)  # fmt: skip
def test_what_comes_near_is_refused_with_what_was_meant(edit: str, line: str) -> None:
    with pytest.raises(BadInput) as refused:
        edited(edit)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_each_quantity_has_one_spelling_which_is_read_back() -> None:
    luck = random.Random(1)
    for _ in range(3000):
        tokens = Tokens(luck.randint(1, 10 ** luck.randint(1, 18)))
        assert quantity(str(tokens)) == tokens
    assert [
        str(quantity(text)) for text in ("0.5B tokens", "1500M tokens", "1_000 tokens", "6553 tokens")
    ] == [*("500M tokens", "1.5B tokens", "1K tokens", "6553 tokens")]
    for count in (30.0, 0.05, 1 / 3, 90.5):
        assert quantity(str(Minutes(count)), minutes=True) == Minutes(count)
    assert written(5) == 5


def test_a_config_in_quantities_is_dumped_and_read_back(tmp_path: Path) -> None:
    config = edited(
        *("steps=20M tokens", "optimizer.warmup=1M tokens", "checkpoint.every=[1000, 30 minutes, 2M tokens]"),
        *(
            "checkpoint.keep_every=4M tokens",
            "batch_rows=[[0, 4], [64K tokens, 8]]",
            "optimizer.decay=3M tokens",
        ),
        "objectives.causal.weight=[[0, 1], [64K tokens, 3]]",
        "data.corpora.code.weight=[[0, 1], [64K tokens, 3]]",
    )
    (tmp_path / "c.yaml").write_text(run_config.dump(config))
    assert run_config.load(tmp_path / "c.yaml") == config
    assert "steps: 20M tokens\n" in (tmp_path / "c.yaml").read_text()
    assert np.isfinite([config.timetable().lr(step) for step in range(1, 50)]).all()
