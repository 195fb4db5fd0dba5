"""Copies that must be equal: any flipped bit is found and named, nothing else is, and it stops the run."""

from typing import Any

import pytest
import torch

from launcher.distributed.collectives import gather
from launcher.distributed.world import World
from launcher.engine import replicas
from launcher.engine.engine import Engine
from launcher.engine.layout import LayoutCell
from launcher.engine.replicas import Mismatch, compare, digest, mismatches, shared_labels
from launcher.runs.run_folder import open_run
from launcher.training.replica_check import told
from model.transformer import TABLE
from tests.support.engine_cases import Setting, make_engine, train, varied
from tests.support.helpers import TrainingText
from tests.support.layouts import CELLS, WHOLE, cover, keys, ranks_of
from tests.support.ranks import run, start
from tests.support.training import TIMEOUT, Left, config, last_step, trainer
from tests.support.training import train as train_run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hash_sees_each_bit_and_each_exchange(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(13, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    once = int(digest(values))
    monkeypatch.setattr(replicas, "CACHED", 7)
    assert int(digest(values)) == once, "whatever the chunks"
    seen = {once}
    for element in range(values.numel()):
        for byte in range(values.element_size()):
            for bit in range(8):
                flipped = values.clone()
                flipped.view(torch.uint8).view(-1)[element * values.element_size() + byte] ^= 1 << bit
                seen.add(int(digest(flipped)))
        for other in range(element):
            exchanged = values.clone().view(-1)
            exchanged[[element, other]] = exchanged[[other, element]]
            assert torch.equal(exchanged, values.view(-1)) == (int(digest(exchanged)) == once)
    assert len(seen) == 1 + values.numel() * 8 * values.element_size()


def test_an_exchange_far_apart_of_values_that_differ_in_the_sign_alone_is_seen() -> None:
    values = torch.ones(1 << 20)
    values[0] = -1
    moved = torch.ones(1 << 20)
    moved[1 << 19] = -1
    assert int(digest(values)) != int(digest(moved))


def test_who_differs_is_told_from_the_majority() -> None:
    same = {"weight a": 1, "step": 5}
    assert mismatches([same, same, same]) == []
    assert mismatches([same, {"weight b": 2}, {"step": 5}]) == [], "who does not have it has no say"
    (found,) = mismatches([same, same | {"weight a": 9}, same])
    assert (found, found.odd) == (Mismatch("weight a", ((0, 2), (1,))), (1,))
    assert str(found) == "weight a: rank 1 is not as ranks 0, 2"
    both = mismatches([same, {"weight a": 9, "step": 6}])
    assert [str(one) for one in both] == [
        "weight a: differs between rank 0 and rank 1",
        "step: differs between rank 0 and rank 1",
    ]
    assert [one.odd for one in both] == [(), ()]
    assert str(mismatches([{"x": 1}] * 3 + [{"x": 2}] * 2)[0]) == "x: ranks 3, 4 are not as ranks 0, 1, 2"


def test_the_line_says_since_when_from_where_and_whom_to_suspect() -> None:
    found = [Mismatch("weight a", ((0, 2), (1,))), Mismatch("exp_avg a", ((0, 2), (1,)))]
    hosts = ["n1", "n2", "n3"]
    assert told(found, 1_500, 1_000, 1_200, hosts) == (
        "replicas differ after step 1,500: weight a: "
        "rank 1 is not as ranks 0, 2 (and 1 more, in the ledger); "
        "they were equal after step 1,000. The checkpoints are from before (the newest of step 1,200): "
        "resume the run, and suspect the memory and the links of rank 1 on n2"
    )
    line = told([Mismatch("weight a", ((0,), (1,)))], 3, None, 0, hosts)
    assert "; as they were loaded. There is no checkpoint: begin the run again" in line
    assert line.endswith("rank 0 on n1, rank 1 on n2")


def flip(tensor: torch.Tensor, byte: int = 0) -> None:
    """The lowest bit of that byte of one element in the midst. Byte 2 of a float32 changes it by about 1 %,
    which no later rounding heals."""
    flat = tensor.detach().view(-1)
    flat.view(torch.uint8)[len(flat) // 2 * tensor.element_size() + byte] ^= 1


def differ(engine: Engine, shared: frozenset[str]) -> list[str]:
    """What differs, in words."""
    return list(map(str, compare(engine.world, engine.replicas(), shared)))


def planted(world: World, cells: list[LayoutCell], rank: int) -> list[dict[str, list[str]]]:
    """The case: of each cell what differs after two steps, and what after a flip on one rank: of the last
    weight that it shares, which is then flipped back, of the last moment, and of Adam's count."""
    return [_planted(world, cell, rank) for cell in cells]


def _planted(world: World, cell: LayoutCell, rank: int) -> dict[str, list[str]]:
    setting = varied(**keys(cell), rows=world.size * 2, steps=2)
    engine = make_engine(world, setting)
    shared = shared_labels(world, engine.replicas())
    train(engine, setting)
    found = {"nothing": differ(engine, shared)}
    held = {label: what for label, what in engine.replicas() if label in shared}
    for word in ("weight", "exp_avg_sq"):
        own = [what for label, what in held.items() if label.startswith(f"{word} ")]
        for name in (word, f"{word} again") if any(gather(world, bool(own))) else ():
            if world.rank == rank:
                assert isinstance(own[-1], torch.Tensor)
                flip(own[-1])
            found[name] = differ(engine, shared)
    if world.rank == rank:
        engine.state.adam_step = 7
    found["Adam's step"] = differ(engine, shared)
    engine.close()
    return found


PLAIN = [cell for cell in WHOLE if cell.offload == "none"]
SOME = [cell for cell in PLAIN if (cell.precision == "bf16") == (cell.zero in (1, 3))]


@pytest.mark.parametrize(
    ("ranks", "rank", "cells"),
    [(2, 1, PLAIN), (4, 2, SOME), *(pytest.param(n, n - 1, WHOLE, marks=pytest.mark.full) for n in (2, 4))],
)
def test_one_bit_of_one_tensor_is_found_and_nothing_else(
    ranks: int, rank: int, cells: list[LayoutCell]
) -> None:
    """Of the weights of every stage, in ZeRO 3 those that stay whole; in ZeRO 0 of moments too."""
    outcomes = run(planted, ranks, cells, rank, timeout=240)
    assert all(one == outcomes[0] for one in outcomes), "the same on every rank"
    others = ", ".join(str(other) for other in range(ranks) if other != rank)
    end = f"rank {rank} is not as ranks {others}" if ranks > 2 else "differs between rank 0 and rank 1"
    for cell, found in zip(cells, outcomes[0], strict=True):
        assert found.pop("nothing") == [], f"{cell}: a false alarm"
        assert set(found) == {
            *("weight", "weight again", "Adam's step"),
            *(("exp_avg_sq", "exp_avg_sq again") if cell.zero == 0 else ()),
        }
        for word, lines in found.items():
            if word.endswith("again"):
                assert lines == []
            else:
                (line,) = lines
                assert line.startswith(word), cell
                assert line.endswith(f": {end}"), cell


SPREAD = [cell for cell in CELLS if any(cell[3:]) and cell.offload == "none"]
USUAL = cover(SPREAD, together=1)


@pytest.mark.parametrize(
    ("cell", "more"),
    [
        *((cell, 1) for cell in USUAL),
        *(
            pytest.param(c, n, marks=pytest.mark.full)
            for n in (1, 2)
            for c in SPREAD
            if n > 1 or c not in USUAL
        ),
    ],
    ids=str,
)
def test_copies_are_compared_wherever_they_are(cell: LayoutCell, more: int) -> None:
    """A tied table between the stages, what tensor ranks have whole, what several data ranks have."""
    ranks = more * ranks_of(cell, 2)
    (first, *_, last) = run(planted, ranks, [cell], ranks - 1, timeout=240)
    assert first == last
    (found,) = first
    assert found["nothing"] == found["weight again"] == []
    (line,) = found["weight"]
    others = ", ".join(str(rank) for rank in range(ranks - 1))
    odd = f"rank {ranks - 1} is not as ranks {others}" if ranks > 2 else "differs between rank 0 and rank 1"
    assert line.endswith(f": {odd}"), line
    if cell.pipeline:
        assert line.startswith(f"weight {TABLE}: ")


def sampled(world: World, setting: Setting) -> tuple[list[str], list[str]]:
    """The case: what differs after a flip on the last rank, and what after whole weights were looked at."""
    engine = make_engine(world, setting)
    shared = shared_labels(world, engine.replicas())
    if world.rank == world.size - 1:
        flip(next(iter(engine.model.parameters())))
    before = differ(engine, shared)
    for _ in engine.each_weight():
        pass
    return before, differ(engine, shared)


@pytest.mark.parametrize("layout", [{"pipeline": 2}, {"zero": 0}, {"tensor": 2}])
def test_a_sample_mends_no_copy(layout: dict[str, Any]) -> None:
    """Samples read whole weights of all ranks: what differs is still there to be named."""
    for before, after in run(sampled, 4, varied(**layout)):
        assert before == after != []


def flipped_run(world: World, plain: dict[str, Any], at: int, rank: int) -> Left:
    """The case: a bit of a weight of one rank flips right after the update of step `at`."""
    step = Engine.step

    def made(self: Engine, *arguments: Any) -> Any:
        result = step(self, *arguments)
        if arguments[2] == at and self.world.rank == rank:
            weights = [what for label, what in self.replicas() if label.startswith("weight ")]
            flip(weights[-1], byte=2)  # type: ignore[arg-type]
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", made)
        return trainer(world, plain)


@pytest.mark.parametrize(
    ("zero", "every", "at", "found"),
    [
        pytest.param(0, 4, 6, 8, id="due"),
        pytest.param(0, 1_000, 9, 10, id="before a save"),
        pytest.param(1, 3, 6, 6, id="the copies of ZeRO 1", marks=pytest.mark.full),
    ],
)
def test_a_flipped_bit_stops_the_run_before_it_is_saved(
    text: TrainingText, tmp_path: Any, zero: int, every: int, at: int, found: int
) -> None:
    plain = config(
        text, tmp_path, steps=12, layout={"zero": zero, "micro_batch": 2}, replicas={"every": every}
    )
    outcome = start(flipped_run, 2, plain, at, 1, timeout=TIMEOUT).wait()
    assert [one.code for one in outcome] == [2, 2]
    first, other = outcome
    assert other.line is None
    assert first.line is not None
    assert f"run: replicas differ after step {found}: weight " in first.line
    assert "The checkpoints are from before (the newest of step 5): resume the run" in first.line
    assert last_step(tmp_path) == found
    ledger = list(open_run(tmp_path / "run").ledger())
    (record,) = [line for line in ledger if line["event"] == "replicas"]
    agreed = {4: 5, 1_000: 5, 3: 5}[every]
    assert (record["step"], record["agreed"], record["saved"]) == (found, agreed, 5)
    assert record["differ"][0]["groups"] == [[0], [1]]
    assert len(record["hosts"]) == 2
    assert (ledger[-1]["event"], ledger[-1]["reason"], ledger[-1]["error"]) == ("stop", "failed", first.line)
    assert [line["step"] for line in ledger if line["event"] == "checkpoint"] == [5]
    train_run(2, plain)
    assert last_step(tmp_path) == 12


def spoilt_load(world: World, plain: dict[str, Any]) -> Left:
    """The case: what one rank loads is not what was stored."""
    from launcher.training import restore

    really = restore.load

    def load(world: World, stored: Any, state: Any) -> None:
        really(world, stored, state)
        if world.rank == 1:
            flip(state.tensor(0, "exp_avg"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restore, "load", load)
        return trainer(world, plain)


@pytest.mark.parametrize("every", [1_000, pytest.param(0, marks=pytest.mark.full)])
def test_what_was_loaded_is_compared(text: TrainingText, tmp_path: Any, every: int) -> None:
    plain = config(text, tmp_path, steps=2, layout={"zero": 0, "micro_batch": 2}, replicas={"every": every})
    train_run(2, plain)
    first, _ = start(spoilt_load, 2, plain | {"steps": 3}, timeout=TIMEOUT).wait()
    if every == 0:  # never at all
        assert (first.code, first.line) == (0, None)
        return
    assert first.code == 2
    assert first.line is not None
    assert "replicas differ after step 2: exp_avg " in first.line
    assert "; as they were loaded. The checkpoints are from before (the newest of step 2)" in first.line
