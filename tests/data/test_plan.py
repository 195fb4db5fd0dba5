"""The plan's history, the arithmetic of steps and of slots, and what an edit may not change."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import BadInput
from data.plan.blocks import make_blocks
from data.plan.corpus_mix import streams_for
from data.plan.dealing import largest_first
from data.plan.epochs import BlockOrder, Era
from data.plan.history_file import append_skip, read_history
from data.plan.make import CorpusSettings, usual_block_bytes
from data.plan.plan import History, Plan, Skip
from data.plan.positions import StreamPositions
from data.plan.steps import rows_of_step, step_length, step_of_row
from data.shards.corpus import Corpus
from data.shards.units import UNITS, UnitTable
from data.tokenization.tokenizer import Tokenizer
from launcher.preflight.unit_sizes import coarse
from objectives.schedule import Schedule
from tests.support.helpers import Corpora, make_corpus
from tests.support.stream_runs import edit, joined, settings, small_units, start, texts


@pytest.fixture(scope="module")
def tokenizer(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    folder = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as patch:
        return {name: small_units(patch, folder, name, texts(60, ord(name))) for name in "abc"}


def units(shards: list[list[int]]) -> np.ndarray:
    """A table of units with these text bytes, by shard."""
    table = np.zeros(sum(map(len, shards)), UNITS)
    table["shard"] = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
    table["text_bytes"] = [size for shard in shards for size in shard]
    return table


def test_blocks_are_even_runs_of_a_shards_units() -> None:
    table = units([[100] * 10, [50], [], [100] * 7, [1000, 1, 1]])
    blocks = make_blocks(1, "a", UnitTable(table), [len(table)], 0.0, 300)
    found = [blocks.units_of(block) for block in range(len(blocks))]
    assert [unit for block in found for unit in block] == list(range(len(table)))
    for block in found:
        assert len(set(table["shard"][block])) == 1
        assert block == list(range(block[0], block[-1] + 1))
    assert [len(block) for block in found[:3]] == [3, 4, 3]
    assert all(blocks.block_of(unit) == number for number, block in enumerate(found) for unit in block)
    assert blocks.text_bytes[:3].tolist() == [300, 400, 300]


def test_held_out_units_are_set_aside_first_and_appending_changes_none_of_the_old() -> None:
    table = units([[100] * 40, [100] * 60, [100] * 50])
    old = make_blocks(1, "a", UnitTable(table), [100], 0.1, 300)
    new = make_blocks(1, "a", UnitTable(table), [100, 150], 0.1, 300)
    assert len(old.held_out) == 10
    assert len(new.held_out) == 15
    assert new.held_out[:10].tolist() == old.held_out.tolist()
    assert new.count(100) == len(old)
    assert [new.units_of(block) for block in range(len(old))] == [old.units_of(b) for b in range(len(old))]
    assert all(new.block_of(unit) is None for unit in new.held_out.tolist())
    assert len(make_blocks(1, "a", UnitTable(units([[1, 1]])), [2], 0.001, 300).held_out) == 1
    assert len(make_blocks(1, "a", UnitTable(units([[1]])), [1], 0.5, 300).held_out) == 0


@pytest.mark.parametrize("streams", [1, 2, 7, 12])
@pytest.mark.parametrize("appended", [[], [0], [130], [250], [40, 60], [40, 40], [130, 331]])
def test_every_block_stands_once_in_every_epoch_and_is_found_back(appended: list[int], streams: int) -> None:
    """Blocks 0 … 99, and 30 more at each slot of `appended`."""
    eras = [Era(place, 0, 100 + 30 * number, "") for number, place in enumerate([0, *appended])]
    sizes = np.random.default_rng(0).integers(1, 50, eras[-1].blocks)
    ranked = [largest_first(sizes[: era.blocks]) for era in eras]
    order = BlockOrder(1, "a", eras, streams, ranked)
    limit = 1_500
    resolved = [order.resolve(place) for place in range(limit)]
    epochs = [epoch for epoch, _ in resolved]
    assert epochs == sorted(epochs)
    for epoch in range(max(epochs)):
        blocks = [block for e, block in resolved if e == epoch]
        assert len(set(blocks)) == len(blocks)
        assert set(range(100)) <= set(blocks)
    last = [block for e, block in resolved if e == max(epochs) - 1]
    assert sorted(last) == list(range(100 + 30 * len(appended)))
    for block in range(100 + 30 * len(appended)):
        expected = [place for place, (_, b) in enumerate(resolved) if b == block]
        assert sorted(order.slots_of(block, limit)) == expected
    before = BlockOrder(1, "a", eras[:-1] or eras, streams, ranked[:-1] or ranked)
    assert [before.resolve(place) for place in range(eras[-1].slot)] == resolved[: eras[-1].slot]


@pytest.mark.parametrize(("streams", "blocks"), [(2, 159), (3, 201), (12, 768), (12, 800)])
def test_streams_are_dealt_the_same_text(streams: int, blocks: int) -> None:
    """In an epoch streams differ by less than the largest block and one that was left over; after S epochs,
    where S divides the blocks, not at all: nothing adds up."""
    sizes = np.random.default_rng(2).lognormal(4, 0.7, blocks).astype(np.int64)
    order = BlockOrder(1, "a", [Era(0, 0, blocks, "")], streams, [largest_first(sizes)])
    got = np.zeros((2 * streams, streams), dtype=np.int64)
    for place in range(2 * streams * blocks):
        got[place // blocks, place % streams] += sizes[order.resolve(place)[1]]
    assert np.ptp(got, axis=1).max() <= np.ptp(sizes) + np.sort(sizes)[blocks % streams]
    if blocks % streams == 0:
        assert np.ptp(got[:streams].sum(axis=0)) == np.ptp(got.sum(axis=0)) == 0
    assert np.ptp(got.sum(axis=0)) < 0.01 * got.sum(axis=0).mean()


def test_steps_and_rows_by_arithmetic(small: dict[str, Corpus], tokenizer: Tokenizer) -> None:
    asked = settings(tokenizer, small, {"a": 1.0}, batch_rows=((0, 10), (35, 7), (100, 20)))
    history = start(asked)
    history = edit(history, replace(asked, batch_rows=13), 187, StreamPositions())
    history = edit(history, replace(asked, batch_rows=((0, 5), (300, 50))), 213, StreamPositions())
    row, rows = 0, []
    assert rows_of_step(history, 1) == (0, 10)
    for step in range(1, 61):
        count = step_length(history, row)
        assert rows_of_step(history, step) == (row, count)
        rows += [step] * count
        row += count
    assert [step_of_row(history, number) for number in range(row)] == rows
    assert {187, 213} <= {rows_of_step(history, step)[0] for step in range(1, 61)}
    far = rows_of_step(history, 10**9)
    assert step_of_row(history, far[0]) == 10**9


def test_the_history_survives_its_file_and_a_rewind(
    small: dict[str, Corpus], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "plan.jsonl"
    asked = settings(tokenizer, small, {"a": 1.0}, objectives={"causal": {"weight": [[0, 1], [9, 2]]}})
    history = start(asked)
    history.append_to(path)
    for row, rows in ((17, 3), (34, 4)):
        history = edit(history, replace(asked, batch_rows=rows), row, StreamPositions())
        history.append_to(path)
    append_skip(path, Skip("a", 3, 2))
    assert read_history(path) == history.with_skip(Skip("a", 3, 2))
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history

    rewound = edit(history, asked, 20, StreamPositions())
    assert [row for row, _ in rewound.segments] == [0, 17, 20]
    rewound.append_to(path)
    with path.open("ab") as file:
        file.write(b'{"row": 99, "pl')
    assert read_history(path).segments == rewound.segments
    again = edit(rewound, replace(asked, batch_rows=5), 40, StreamPositions())
    again.append_to(path)
    assert read_history(path).segments == again.segments
    assert edit(again, replace(asked, batch_rows=5), 44, StreamPositions()) == again

    path.write_text('["no plan"]\n')
    with pytest.raises(BadInput, match=r"plan.jsonl:1"):
        read_history(path)


def test_an_edit_may_not_change_what_the_rows_stand_on(
    small: dict[str, Corpus], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    asked = settings(tokenizer, small, {"a": 0.5, "b": 0.5})
    history = start(asked)

    def held_out(fraction: float) -> dict[str, CorpusSettings]:
        return {name: CorpusSettings(small[name], Schedule.parse(0.5), fraction) for name in "ab"}

    shuffled = {"a": small["b"], "b": small["b"]}
    refused = {
        "seed": replace(asked, seed=2),
        "tokenizer": replace(asked, tokenizer="another"),
        "lanes": replace(asked, lanes=24),
        "block_bytes": replace(asked, block_bytes=2_000),
        "held_out": replace(asked, corpora=held_out(0.1)),
        "sequence_length": replace(asked, length=256),
        "fingerprint": settings(tokenizer, shuffled, {"a": 0.5, "b": 0.5}),
        "weights are 0": settings(tokenizer, small, {"a": 0.0, "b": 0.0}),
        "quarantine": replace(asked, quarantine=[("x", "1")]),
    }
    for what, settings_ in refused.items():
        with pytest.raises(BadInput, match=what) as caught:
            edit(history, settings_, 17, StreamPositions())
        assert "\n" not in str(caught.value)

    appended = joined(tmp_path, "a", small["a"], small["c"])
    kept = edit(history, settings(tokenizer, {"a": appended}, {"a": 1.0}), 17, StreamPositions())
    plan = kept.at(17)
    assert [(corpus.name, corpus.id, corpus.weight.describe()) for corpus in plan.corpora] == [
        ("a", 0, 1.0),
        ("b", 1, 0.0),
    ]
    assert [era.slot for era in plan.corpora[0].eras] == [0, plan.corpora[0].streams]
    with pytest.raises(BadInput, match="fingerprint"):
        edit(kept, asked, 34, StreamPositions())


def test_the_plan_is_small_and_plain(small: dict[str, Corpus], tokenizer: Tokenizer) -> None:
    plan = start(settings(tokenizer, small, {"a": 0.5, "b": 0.5})).at(0)
    text = json.dumps(plan.to_json())
    assert Plan.from_json(json.loads(text)) == plan
    assert len(text) < 2_000


def test_a_plan_of_another_versions_stream_is_refused(
    small: dict[str, Corpus], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Also one that was written before plans said their version."""
    path = tmp_path / "plan.jsonl"
    value = start(settings(tokenizer, small, {"a": 1.0})).at(0).to_json()
    for older in (value | {"stream": 99}, {name: value[name] for name in value if name != "stream"}):
        path.write_text(json.dumps({"row": 0, "plan": older}) + "\n")
        with pytest.raises(BadInput, match="go on with the headrace that began it"):
            read_history(path)


def test_a_plan_with_an_objective_that_is_not_known_is_one_line(
    small: dict[str, Corpus], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The mixture is parsed where the plan is read."""
    path = tmp_path / "plan.jsonl"
    value = start(settings(tokenizer, small, {"a": 1.0})).at(0).to_json()
    wrong: list[tuple[dict, str]] = [
        ({"cusal": {}}, "cusal: no such objective; did you mean causal"),
        ({"mlm": {"selekt": 1}}, r"mlm\.selekt: unknown key; did you mean select"),
    ]
    for objectives, said in wrong:
        path.write_text(json.dumps({"row": 0, "plan": {**value, "objectives": objectives}}) + "\n")
        message = f"not a plan history that this version can read .{said}"
        with pytest.raises(BadInput, match=message) as caught:
            read_history(path)
        assert "\n" not in str(caught.value)


def test_equal_mixtures_give_equal_plans(small: dict[str, Corpus], tokenizer: Tokenizer) -> None:
    """However they were written: in another order, with defaults spelt out, read back from JSON."""
    short = start(settings(tokenizer, small, {"a": 1.0}, objectives={"mlm": None, "causal": {}})).newest
    full = {"causal": {"coefficient": 1, "weight": [[7, 1]]}, "mlm": {"select": 0.15, "weight": 1.0}}
    spelt = start(settings(tokenizer, small, {"a": 1.0}, objectives=full)).newest
    assert short == spelt == Plan.from_json(json.loads(json.dumps(spelt.to_json())))
    assert json.dumps(short.to_json()) == json.dumps(spelt.to_json())
    full["mlm"]["select"] = 0.16
    assert start(settings(tokenizer, small, {"a": 1.0}, objectives=full)).newest != short


def test_a_run_keeps_its_blocks_where_none_are_asked_for(
    small: dict[str, Corpus], tokenizer: Tokenizer
) -> None:
    """The usual size may be another one day."""
    asked = settings(tokenizer, small, {"a": 1.0})
    history = start(replace(asked, block_bytes=512 * 128))
    edited = edit(history, replace(asked, block_bytes=None, batch_rows=9), 17, StreamPositions())
    assert edited.newest.block_bytes == 512 * 128
    assert start(replace(asked, block_bytes=None)).newest.block_bytes == 1024 * 128


def test_long_rows_leave_a_corpus_its_streams() -> None:
    """Blocks of 1024 · T bytes up to T 16 384, and of at least 16 rows of 4 bytes a token whatever T is."""
    usual = {length: usual_block_bytes(length) for length in (1024, 16_384, 16_385, 131_072, 1 << 20)}
    assert usual == {
        1024: 1 << 20,
        16_384: 16 << 20,
        16_385: 16 << 20,
        131_072: 16 << 20,
        1 << 20: 64 << 20,
    }
    # 12 GiB of text: as many streams as at T 16 384, and not one.
    assert streams_for(12, (12 << 30) // usual[131_072]) == streams_for(12, (12 << 30) // usual[16_384]) == 12
    assert streams_for(12, (12 << 30) // (1024 * 131_072)) == 1


def test_units_above_a_quarter_of_a_block_are_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    grown = make_corpus(tmp_path, "grown", texts(40, 1), unit_text=256 << 10)
    usual = make_corpus(tmp_path, "usual", texts(40, 2))
    both = {"grown": grown, "usual": usual}
    for block_bytes, told in ((1 << 20, 0), (512 << 10, 1), (1 << 10, 1)):
        asked = settings(tokenizer, both, {"grown": 1.0, "usual": 1.0}, block_bytes=block_bytes)
        lines = coarse(start(asked).at(0), both)
        assert len(lines) == told
        assert all("corpus grown" in line for line in lines)
        fitting = {1 << 20: "", 512 << 10: "--unit-kib 128", 1 << 10: "raise data.block_bytes to 1048576"}[
            block_bytes
        ]
        assert all(fitting in line for line in lines)
