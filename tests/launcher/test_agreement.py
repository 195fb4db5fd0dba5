"""What all ranks judge of a step, from the sum of what each of them brought."""

from typing import Any

import numpy as np
import pytest

from launcher.distributed.world import World
from launcher.training.agreement import StepOutcome, own_outcome

RANKS = 3
FINE = {"stop": False, "save_failed": False, "record_failed": False}


def over_all(sums: list[np.ndarray], norms: list[float], on_rank_1: dict[str, Any]) -> StepOutcome:
    """The outcome of three ranks, rank 1 with some flag of its own."""
    own = [
        own_outcome(
            sums[rank],
            norms[rank],
            World(rank, RANKS, rank, "", "tests"),
            memory_gib=rank + 0.5,
            **FINE | (on_rank_1 if rank == 1 else {}),
        )
        for rank in range(RANKS)
    ]
    return StepOutcome.of_vector(np.sum([one.vector for one in own], axis=0), like=own[0])


def judged(outcome: StepOutcome) -> set[str]:
    """The judgements that are true."""
    names = ("stop", "save_failed", "record_failed", "diverged", "apply")
    return {name for name in names if getattr(outcome, name)}


def test_sums_are_added_and_each_ranks_memory_is_kept() -> None:
    sums = [np.arange(14.0).reshape(7, 2) * (rank + 1) for rank in range(RANKS)]
    outcome = over_all(sums, [1.0] * RANKS, {})
    np.testing.assert_array_equal(outcome.sums, np.arange(14.0).reshape(7, 2) * 6)
    assert outcome.memory.tolist() == [0.5, 1.5, 2.5]
    assert outcome.memory_gib == 2.5
    assert judged(outcome) == {"apply"}


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("stop", {"stop", "apply"}),
        ("save_failed", {"save_failed"}),
        ("record_failed", {"record_failed"}),
    ],
)
def test_what_one_rank_says_all_ranks_judge(flag: str, expected: set[str]) -> None:
    outcome = over_all([np.ones((7, 1))] * RANKS, [1.0] * RANKS, {flag: True})
    assert judged(outcome) == expected


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_on_one_rank(loss: float) -> None:
    sums = [np.ones((7, 2)) for _ in range(RANKS)]
    sums[2][3, 1] = loss
    assert judged(over_all(sums, [1.0] * RANKS, {})) == {"diverged"}


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_on_one_rank_with_a_loss_that_is(norm: float) -> None:
    outcome = over_all([np.ones((7, 2))] * RANKS, [1.0, norm, 1.0], {"stop": True})
    assert judged(outcome) == {"diverged", "stop"}
    np.testing.assert_array_equal(outcome.sums, np.full((7, 2), 3.0))
