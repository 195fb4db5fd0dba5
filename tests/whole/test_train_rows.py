"""The rows that a run trains on, through the whole trainer: the same for any ranks, threads and resume."""

from pathlib import Path

import pytest

from tests.support.helpers import TrainingText
from tests.support.training import config, rows_of, told, train

ROWS = 7 * 30 + 5 * 20
"""Of 50 steps: 30 of 7 rows, then 20 of 5. Neither divides anything."""

Straight = tuple[dict[int, int], list[str]]


@pytest.fixture(scope="module")
def alone(text: TrainingText, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """One rank, no threads, 7 rows a step throughout: rows by number, and the fingerprints of the steps."""
    folder = tmp_path_factory.mktemp("alone")
    plain = config(text, folder, batch_rows=7, steps=50)
    plain["data"]["threads"] = 0
    rows = rows_of(train(1, plain))
    assert sorted(rows) == list(range(len(rows)))
    assert len(set(rows.values())) == len(rows)
    return rows, [line["fingerprint"] for line in told(folder)]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((2, 3), (5, 1)),
        ((3, 1), (1, 3)),
        ((5, 0), (4, 0)),
        pytest.param((4, 3), (2, 0), marks=pytest.mark.full),
        pytest.param((1, 1), (3, 3), marks=pytest.mark.full),
        pytest.param((2, 0), (1, 1), marks=pytest.mark.full),
        pytest.param((4, 1), (5, 3), marks=pytest.mark.full),
        pytest.param((1, 3), (3, 0), marks=pytest.mark.full),
    ],
)
def test_rows_of_50_steps_whoever_trains_on_them(
    text: TrainingText, tmp_path: Path, alone: Straight, first: tuple[int, int], then: tuple[int, int]
) -> None:
    """`first`, `then`: ranks and threads of the first 30 steps and, resumed with another batch_rows, the
    last 20. All of them by way of a token cache, but for those without threads."""
    expected, fingerprints = alone
    rows: dict[int, int] = {}
    for (ranks, threads), batch_rows, steps in ((first, 7, 30), (then, 5, 50)):
        plain = config(text, tmp_path, batch_rows=batch_rows, steps=steps)
        plain["data"]["threads"] = threads
        if threads:
            plain["data"]["token_cache"] = {"folder": str(tmp_path / "tokens")}
        rows |= rows_of(train(ranks, plain))
    assert rows == {row: digest for row, digest in expected.items() if row < ROWS}
    assert first[1] + then[1] == 0 or list((tmp_path / "tokens").iterdir())
    lines = told(tmp_path)
    assert [line["fingerprint"] for line in lines[:30]] == fingerprints[:30]
    assert [line["rows"] for line in lines] == [*range(7, 211, 7), *range(215, 311, 5)]
    assert all(line["fingerprint"] not in fingerprints for line in lines[30:]), "other rows make a step"


@pytest.mark.full
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_fingerprints_of_50_steps_are_equal_in_every_cell(
    text: TrainingText, tmp_path: Path, alone: Straight, ranks: int, threads: int, resumed: bool
) -> None:
    """Where it is resumed, the first 20 steps were those of other ranks and other threads."""
    starts = [((6 - ranks) % 5 + 1, (threads + 1) % 3, 20)] if resumed else []
    for its_ranks, its_threads, steps in [*starts, (ranks, threads, 50)]:
        plain = config(text, tmp_path, batch_rows=7, steps=steps)
        plain["data"]["threads"] = its_threads
        train(its_ranks, plain)
    assert [line["fingerprint"] for line in told(tmp_path)] == alone[1]


def test_rows_do_not_depend_on_the_layout(text: TrainingText, tmp_path: Path, alone: Straight) -> None:
    """Micro-batches of 3 rows and ZeRO 3, without a resume: every step's fingerprint."""
    plain = config(text, tmp_path, batch_rows=7, steps=12, layout={"zero": 3, "micro_batch": 3})
    plain["data"]["threads"] = 2
    rows = rows_of(train(4, plain))
    assert rows == {row: digest for row, digest in alone[0].items() if row < 7 * 12}
    assert [line["fingerprint"] for line in told(tmp_path)] == alone[1][:12]
