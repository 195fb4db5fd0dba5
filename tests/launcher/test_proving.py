"""The parts of `headrace prove` that need no ranks: the reduced config, probes, tolerances, comparisons."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.stream.rows import Rows
from launcher.config import run_config
from launcher.proving.first_rows import first_step, packing
from launcher.proving.measure import measured, relative, worst
from launcher.proving.probes import chosen, evaluated, read_rows_file, write_rows_file
from launcher.proving.reduced import reduce
from launcher.proving.witness import unequal
from tests.support.helpers import TrainingText
from tests.support.stream_runs import small_units
from tests.support.training import config

LARGE = {
    "steps": 50_000,
    "sequence_length": 1024,
    "model": {"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "mlp_width": 14_336, "qk_norm": True},
    "optimizer": {"lr": 3e-4, "warmup": 2000, "schedule": "wsd", "decay": 10_000},
    "layout": {"zero": 1, "micro_batch": 8, "pipeline": 4, "stages": [8, 8, 8, 8], "precision": "bf16"},
    "eval": {"every": 100},
}


def build(text: TrainingText, folder: Path, **changes: Any) -> run_config.Config:
    return run_config.build(config(text, folder, **changes), {}, "test")


def test_a_large_config_becomes_small_and_keeps_its_choices(text: TrainingText, tmp_path: Path) -> None:
    asked = build(text, tmp_path, **LARGE)
    reduced = reduce(asked, tmp_path / "runs", gpu=False)
    small = reduced.config
    assert (small.layout.pipeline, small.layout.stages, reduced.processes, reduced.data_ranks) == (
        2,
        (),
        4,
        2,
    )
    assert (small.model.layers, small.model.heads, small.model.kv_heads, small.model.width) == (4, 16, 4, 256)
    assert (small.model.mlp_width, small.model.qk_norm) == (896, True)
    assert (small.steps, small.optimizer.warmup, small.optimizer.decay, small.optimizer.lr) == (8, 2, 2, 3e-4)
    assert small.objectives == asked.objectives
    assert small.data.corpora == asked.data.corpora
    assert small.eval.every is None
    assert len(reduced.said) == 3, reduced.said
    assert small.batch_rows % reduced.data_ranks, "ranks hold unequal numbers of rows"
    single = run_config.build(reduced.single(), {}, "test")
    assert (single.layout.degrees.ranks, single.layout.zero) == (1, 1)
    assert reduced.degrees == {"pipeline": 2}


def test_a_small_config_stays_as_it_is(text: TrainingText, tmp_path: Path) -> None:
    asked = build(text, tmp_path)
    reduced = reduce(asked, tmp_path / "runs", gpu=False)
    assert reduced.config.model == asked.model
    assert reduced.config.sequence_length == 64
    assert reduced.dropout
    alone = run_config.build(reduced.single(3), {}, "test")
    assert (alone.model.dropout, alone.layout.zero, alone.layout.micro_batch) == (0, 0, 3)
    assert alone.optimizer.lr == asked.optimizer.lr


def test_rows_become_longer_until_some_hold_several_segments(
    text: TrainingText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents of 510 byte pieces, whatever text the tokenizer was trained on: below T 1024 no two meet."""
    small_units(monkeypatch, tmp_path, "alike", ["\ue000" * 170] * 200, unit=2_000)
    data = {
        "corpora": {"alike": {"shards": str(tmp_path / "alike-*.tar"), "weight": 1}},
        "block_bytes": 4_000,
    }
    asked = build(text, tmp_path, sequence_length=2048, objectives={"causal": {"weight": 1}}, data=data)
    reduced, step = packing(reduce(asked, tmp_path / "runs", gpu=False), 2048)
    length = reduced.config.sequence_length
    assert 128 < length <= 2048
    assert length == 1024
    assert step.packed
    assert step.rows.length == length
    assert not first_step(reduced.of_length(length // 2).config).packed


def seen(rows: Rows, row: int, position: int) -> set[int]:
    """What a position sees through any number of layers, by the rule itself."""
    found, edge = set(), {position}
    while edge:
        found |= edge
        edge = {j for i in edge for j in range(rows.start[row, i], rows.bound[row, i] + 1)} - found
    return found


def test_probes_change_what_a_position_must_not_see_and_nothing_else(
    text: TrainingText, tmp_path: Path
) -> None:
    step = first_step(build(text, tmp_path))
    probes, places = chosen(step.rows, step.vocabulary)
    assert len(places) == 8
    assert len({place["objective"] for place in places}) >= 4
    for number, place in enumerate(places):
        inside = seen(step.rows, place["row"], place["position"])
        assert inside == set(range(place["first"], place["last"] + 1))
        as_is, outside, other = (probes[kind].tokens[number] for kind in ("as_is", "outside", "inside"))
        assert {*np.flatnonzero(outside != as_is)} == {*range(step.rows.length)} - inside
        assert {*np.flatnonzero(other != as_is)} == inside
        assert [*np.flatnonzero(probes["as_is"].targets[number] >= 0)] == [place["position"]]
    write_rows_file(tmp_path / "probes.safetensors", probes)
    again = read_rows_file(tmp_path / "probes.safetensors")
    assert {kind: rows.fingerprints() for kind, rows in again.items()} == {
        kind: rows.fingerprints() for kind, rows in probes.items()
    }
    losses = evaluated(lambda rows: float(rows.tokens.sum()), probes)
    assert losses["as_is"] == losses["again"] != losses["outside"]


@pytest.mark.parametrize(
    ("figure", "tolerance", "verdict"),
    [
        (0, 0, "shown"),
        (1e-9, 0, "FAILED"),
        (1e-5, 1e-5, "shown"),
        (math.nan, 1, "FAILED"),
        (math.inf, 1, "FAILED"),
    ],
)
def test_a_figure_beyond_its_tolerance_or_none_at_all_is_a_failure(
    figure: float, tolerance: float, verdict: str
) -> None:
    line = measured("loss", "x", figure, tolerance, "why")
    assert line.verdict == verdict
    assert line.plain()["verdict"] == verdict


def test_the_worst_is_what_is_no_number() -> None:
    assert worst({"a": 1.0, "b": math.nan, "c": 2.0})[1] == "b"
    assert worst({"a": 1.0, "c": 2.0}) == (2.0, "c")
    assert relative(0.0, 0.0) == 0
    assert relative(1.0, 0.0) == 1


def test_tensors_that_differ_are_named_with_their_elements() -> None:
    one = np.arange(6, dtype=np.float32)
    other = one.copy()
    other[2:4] = [-1, np.nan]
    assert unequal({("a", "w"): one}, {("a", "w"): one}) == []
    (line,) = unequal({("a", "w"): other}, {("a", "w"): one})
    assert line == "a (w): 2 differ, elements 2 to 3 of 6"
    assert unequal({}, {("a", "w"): one}) == ["a (w) is not there"]
    zero, minus = np.zeros(1, np.float32), -np.zeros(1, np.float32)
    assert unequal({("a", "w"): minus}, {("a", "w"): zero}), "a bit is a bit"
