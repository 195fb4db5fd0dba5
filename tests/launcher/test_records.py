"""What a record says of its step, and what ranks tell each other however long one of them takes."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.errors import PassingTrouble
from data.stream.skipping import LeftOut
from launcher.checkpoint import save as checkpoint_save
from launcher.checkpoint.format import step_name
from launcher.checkpoint.save_job import SaveJob
from launcher.distributed import collectives
from launcher.distributed.collectives import from_first
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.process_group import connect, disconnect
from launcher.distributed.stop_signals import StopRequest
from launcher.distributed.world import World
from launcher.runs.run_folder import open_run
from launcher.tracking.records import DrawnRecord
from launcher.training import upcoming
from launcher.training.agreement import StepOutcome
from launcher.training.batch_sums import BatchSums
from launcher.training.global_batch import GlobalBatch, global_batches, scales
from launcher.training.step_record import Step, step_record
from objectives.mixture import Mixture
from objectives.registry import NAMES
from tests.support.helpers import TrainingText
from tests.support.ranks import run, start
from tests.support.training import TIMEOUT, config, train, trainer

PLAN: Any = SimpleNamespace(
    corpora=(SimpleNamespace(streams=1, coefficient=1.0),),
    normalise="global",
    mixture=Mixture.parse({"causal": {}}),
)
"""As much of a plan of one corpus as is looked at."""


def sums_of(weight: np.ndarray) -> BatchSums:
    return BatchSums(
        weight, weight, weight, np.array([4.0]), np.array([0.0]), tokens=weight.sum(), drawn=np.zeros(4)
    )


def test_a_coefficient_of_0_leaves_the_losses_of_others_as_they_are() -> None:
    """Both objectives have a cross-entropy of 5; only the one that is optimised can say so."""
    mixture = Mixture.parse({"causal": {}, "prefix": {"coefficient": 0}})
    weight = np.zeros((len(NAMES), 1))
    weight[[NAMES.index("causal"), NAMES.index("prefix")]] = 100
    corpora = (SimpleNamespace(coefficient=1.0),)
    plan: Any = SimpleNamespace(mixture=mixture, normalise="global", corpora=corpora)
    scale = scales(sums_of(weight), plan, 0)
    batch: Any = None
    progress: Any = SimpleNamespace(step=1, row=4, tokens=200, target_tokens=200)
    step = Step(
        progress,
        GlobalBatch(batch, sums_of(weight), scale, waited=0.0),
        StepOutcome(weight * scale * 5, np.array([0.5]), 0, 0, 0, 0),
        grad_norm=1.0,
        lr=1.0,
        seconds=1.0,
    )
    record = step_record(step, 1, ["c"], [10], (np.ones(1), np.ones(1)), DrawnRecord(3, 2, 1), None, None)
    assert record.corpora["c"].loss == pytest.approx(5)
    assert record.objectives["causal"].loss == pytest.approx(5)
    assert record.objectives["prefix"].loss is None
    assert record.objectives["prefix"].weight == 100


def test_a_late_batch_is_waited_for_in_the_step_that_it_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upcoming, "count", lambda *_, **__: sums_of(np.zeros((len(NAMES), 1))))

    def batches() -> Iterator[Any]:
        for number in range(5):
            time.sleep(0.2 if number == 3 else 0)
            yield SimpleNamespace(first_row=10 * number)

    reducer: Any = SimpleNamespace(start=lambda vector: SimpleNamespace(wait=lambda: vector))
    waiting = upcoming.WaitRules(StopRequest(), 60.0, print)
    steps = global_batches(batches(), lambda batch: batch, World(), reducer, PLAN, waiting, LeftOut(), 0)
    for number in range(4):
        begin = time.perf_counter()
        waited = next(steps).waited
        seconds = time.perf_counter() - begin
        assert waited <= seconds
        assert (waited > 0.15) == (number == 2), "batch 3 is fetched within step 2"


def late(world: World, store: str) -> Any:
    """The case: rank 0 takes longer than a collective waits."""
    disconnect()
    apart = replace(world, rendezvous=f"file://{store}")
    connect(apart, timeout=3.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "STILL", 0.3)
        return from_first(apart, lambda: time.sleep(4.5) or {"found": 1})


def test_ranks_wait_for_rank_0_longer_than_a_collective_would(tmp_path: Path) -> None:
    assert run(late, 2, str(tmp_path / "store"), timeout=60) == [{"found": 1}] * 2


def waiting_for_rows(world: World, store: str, how: str) -> Any:
    """The case: rank 1's rows come later than a collective waits; or never, while rank 0 is asked to stop; or
    never at all. What this rank got, and what it was told meanwhile."""
    disconnect()
    apart = replace(world, rendezvous=f"file://{store}")
    connect(apart, timeout=3.0)
    told: list[str] = []
    stop = StopRequest()
    patience = 0.5 if how == "hangs" else 60.0

    def take() -> Iterator[Any]:
        if world.rank == 1:
            time.sleep(4.5 if how == "late" else 40)
        yield "a batch"

    if how == "stop" and world.rank == 0:
        threading.Timer(1.0, stop.heard, ["SIGTERM"]).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upcoming, "ROUND", 0.2)
        patch.setattr(upcoming, "HANGS", 0.5)
        patch.setattr(upcoming, "count", lambda *_, **__: sums_of(np.ones((len(NAMES), 1))))
        waiting = upcoming.WaitRules(stop, patience, told.append)
        one = upcoming.Upcoming(take(), apart, HostSums(apart), PLAN, waiting, 0)
        try:
            batch, sums = one.result()
            return batch, float(sums.weight[0, 0]), told
        except upcoming.StoppedWaiting:
            return "stopped", None, told
        except upcoming.StreamFailed as failed:
            return type(failed.error).__name__, str(failed.error), told


@pytest.mark.parametrize("how", ["late", "stop", "hangs"])
def test_ranks_wait_for_rows_longer_than_a_collective_would(tmp_path: Path, how: str) -> None:
    """All are told who is late, and all end alike."""
    begun = time.monotonic()
    first, second = run(waiting_for_rows, 2, str(tmp_path / "store"), how, timeout=60)
    assert time.monotonic() - begun < 25, "the one that sleeps is left behind"
    assert all("waits for the rows of rank 1, " in line for line in first[2] + second[2])
    if how == "late":
        assert first[:2] == second[:2] == ("a batch", 2.0)
        assert first[2]
    elif how == "stop":
        assert first[0] == second[0] == "stopped"
    else:
        assert (first[0], second[0]) == ("NoneType", PassingTrouble.__name__)
        assert "rank 1 got no rows within" in second[1]


def slow_to_publish(world: World, plain: dict[str, Any]) -> bool:
    """The case: the loss is no number at the second step, while rank 0 has the first one's save to publish.
    Whether that is there when this rank leaves."""
    publish = SaveJob.publish

    def later(*arguments: Any) -> Any:
        time.sleep(1)
        return publish(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SaveJob, "publish", later)
        patch.setattr(checkpoint_save, "STILL", 0.2)
        left = trainer(world, plain)
    assert left.code == 2
    return (Path(plain["run"]["folder"]) / "run" / "checkpoints" / step_name(1)).exists()


def test_no_rank_leaves_before_the_save_under_way_is_published(text: TrainingText, tmp_path: Path) -> None:
    wild = {"lr": 1e30, "warmup": 0, "schedule": "constant"}
    plain = config(text, tmp_path, steps=9, optimizer=wild, checkpoint={"every": 1, "keep": 3})
    assert start(slow_to_publish, 2, plain, timeout=TIMEOUT).wait() == [True, True]
    assert "checkpoint" in [line["event"] for line in open_run(tmp_path / "run").ledger()]


def test_a_run_to_which_a_corpus_was_added_ends_with_its_summary(text: TrainingText, tmp_path: Path) -> None:
    plain = config(text, tmp_path, steps=2, eval={"every": 2, "bytes": 2_000})
    corpora = plain["data"]["corpora"]
    train(1, plain | {"data": plain["data"] | {"corpora": {"code": corpora["code"]}}})
    said = train(1, plain | {"steps": 4})[0].said
    assert "prose: – →" in said
    assert "code: –" not in said


@pytest.mark.parametrize("normalise", ["global", "objective"])
def test_the_coefficient_of_a_corpus_multiplies_its_losses_and_is_in_no_divisor(normalise: str) -> None:
    weight = np.zeros((len(NAMES), 2))
    weight[[NAMES.index("causal"), NAMES.index("mlm")]] = [[300, 100], [50, 50]]
    mixture = Mixture.parse({"causal": {}, "mlm": {"coefficient": 2}})

    def scale(*coefficients: float) -> np.ndarray:
        corpora = tuple(SimpleNamespace(coefficient=coefficient) for coefficient in coefficients)
        plan: Any = SimpleNamespace(mixture=mixture, normalise=normalise, corpora=corpora)
        return scales(sums_of(weight), plan, 0)

    np.testing.assert_allclose(scale(1, 0.5), scale(1, 1) * [1, 0.5])
    if normalise == "global":
        assert scale(1, 0.5)[NAMES.index("mlm")].tolist() == [2 / 500, 1 / 500]
