"""The arithmetic of the order: shares, lanes, permutations."""

import math
import random
from typing import Any

import numpy as np
import pytest

from data.plan.asked_rows import AskedRows
from data.plan.corpus_mix import CorpusMix, lane_multiplier, streams_for
from data.plan.ownership import Ownership
from data.plan.permutation import perm, perm_inverse
from objectives.rng import key
from objectives.schedule import Schedule


def random_weights(generator: random.Random, corpora: int, kind: str, rows: int) -> list[Any]:
    """Weights that never move, that go straight from one to another, or that jump and turn at six rows."""
    if kind == "constant":
        return [generator.choice([generator.random(), 1 / 3, 1, 20]) for _ in range(corpora)]
    if kind == "ramp":
        ends = [(generator.random(), generator.choice([0.0, 1.0, 10.0])) for _ in range(corpora - 1)]
        return [1, *([[0, first], [rows * 9 // 10, last]] for first, last in ends)]
    knots = sorted(generator.sample(range(rows), 5))
    jump = generator.randrange(rows)
    moving = [
        [[row, generator.choice([0.0, 0.01 * generator.random(), generator.random()])] for row in knots]
        for _ in range(corpora - 2)
    ]
    return [[[0, 1], [jump, 1], [jump + 1, 0.001]], 0.001, *moving][:corpora]


@pytest.mark.parametrize("lanes", [1, 12, 48, 960, 1009])
@pytest.mark.parametrize("kind", ["constant", "ramp", "turns"])
def test_corpora_are_within_10_rows_of_what_is_asked_at_any_row(lanes: int, kind: str) -> None:
    generator = random.Random(lanes)
    for corpora in (2, 3, 20):
        weights = [Schedule.parse(w) for w in random_weights(generator, corpora, kind, 10_000)]
        mix = CorpusMix(lanes, weights)
        rows = np.arange(10_000)
        many = mix.corpora_of(rows)
        for corpus in range(corpora):
            got = np.cumsum(many == corpus)
            asked = mix.asked.upto_all(corpus, rows + 1) / 2**20
            assert np.abs(got - asked).max() < 6.5
            assert np.abs(got[64:] - got[:-64] - asked[64:] + asked[:-64]).max() < 10
            at = generator.randrange(10_000)
            assert mix.rows_before(at)[corpus] == (many[:at] == corpus).sum()


def test_any_row_can_be_asked_at_any_time_also_far_out() -> None:
    far = 10**12
    weights = [Schedule.parse(w) for w in (1, [[0, 0.5], [4 * 10**12, 3]], [[0, 1], [5, 0]], 0.3)]
    mix = CorpusMix(12, weights)
    rows = far + np.arange(5_000)
    many = mix.corpora_of(rows)
    assert many[::50].tolist() == [CorpusMix(12, weights).corpus_of(int(row)) for row in rows[::50]]
    for corpus, count in enumerate(np.bincount(many, minlength=4)):
        asked = (mix.asked.upto(corpus, far + 5_000) - mix.asked.upto(corpus, far)) / 2**20
        assert abs(count - asked) < 6.5
    shuffled = np.random.default_rng(0).permutation(rows)
    assert mix.corpora_of(shuffled).tolist() == many[shuffled - far].tolist()


def test_the_asked_shares_go_straight_between_the_knots_of_all_weights() -> None:
    asked = AskedRows([Schedule.parse([[0, 1], [100, 3]]), Schedule.parse(1), Schedule.parse(1e-9)])
    assert asked.shares(0) == pytest.approx([0.5, 0.5, 0])
    assert asked.shares(50) == pytest.approx([0.625, 0.375, 0])
    assert asked.shares(10**9) == pytest.approx([0.75, 0.25, 0])
    assert asked.rows(100) == pytest.approx([62.5, 37.5, 0])
    assert asked.rows(200) == pytest.approx([137.5, 62.5, 0])
    assert [asked.ever(i) for i in range(3)] == [True, True, False]


def test_no_row_comes_from_a_corpus_of_weight_zero_wherever_it_stands() -> None:
    rows = np.arange(10_000)
    for weights in ([0, 1, 0, 2, 0], [0, 0, 3], [3, 0, 0]):
        used = set(CorpusMix(12, list(map(Schedule.parse, weights))).corpora_of(rows).tolist())
        assert used == {i for i, weight in enumerate(weights) if weight}
    with pytest.raises(ValueError, match="all weights are 0 at row 0"):
        CorpusMix(12, [Schedule.parse(0), Schedule.parse(0)])
    with pytest.raises(ValueError, match="all weights are 0 at row 7"):
        CorpusMix(12, [Schedule.parse(0), Schedule.parse([[0, 1], [7, 0], [9, 1]])])


def test_stretches_without_a_row_of_a_corpus_are_jumped() -> None:
    late = Schedule.parse([[0, 0], [10**9, 0], [10**9 + 1_000, 1]])
    mix = CorpusMix(12, [Schedule.parse(1), late, Schedule.parse([[0, 0.5], [500, 0]])])
    ahead = mix.next_row(1, 0)
    assert ahead is not None
    assert 10**9 < ahead < 10**9 + 100
    assert 1 in mix.corpora_of(np.arange(ahead, ahead + 24))
    assert mix.next_row(2, 600) is None
    for end in range(61, 200):  # whatever rounding left of it when its share became 0
        two = CorpusMix(4, [Schedule.parse([[0, 1], [60, 0.2], [end, 0]]), Schedule.parse(1)])
        assert two.next_row(0, end + 100) is None
        assert not (two.corpora_of(np.arange(end + 24, end + 3_000)) == 0).any()
    assert mix.next_row(0, 10**12) == 10**12


def test_a_lane_keeps_the_shares_too() -> None:
    rows = np.arange(60 * 500)
    corpora = CorpusMix(60, list(map(Schedule.parse, [0.7, 0.2, 0.1]))).corpora_of(rows)
    for lane in range(60):
        counts = np.bincount(corpora[lane::60], minlength=3)
        assert np.abs(counts - [350, 100, 50]).max() <= 20


@pytest.mark.parametrize("lanes", [1, 12, 60])
@pytest.mark.parametrize("world", [1, 5, 12, 16, 24, 64, 960])
def test_a_rank_follows_the_streams_of_its_rows_and_no_other(lanes: int, world: int) -> None:
    """Up to as many ranks as lanes, and beyond."""
    ownership = Ownership(lanes, world)
    rows = np.arange(lanes * world * 4)
    owners = ownership.owners(rows)
    assert set(owners.tolist()) == set(range(world))
    for streams in (s for s in (1, 2, 4, 6, 12) if lanes % s == 0):
        of_rows = {(int(o), int(s)) for o, s in zip(owners, rows % streams)}
        assert of_rows == {(r, s) for r in range(world) for s in ownership.streams_of(r, streams)}
        assert of_rows == {(r, s) for s in range(streams) for r in ownership.followers(s, streams)}


def test_the_multiplier_is_a_unit_of_the_lanes() -> None:
    for lanes in range(1, 300):
        k = lane_multiplier(lanes)
        assert k >= 1
        assert math.gcd(k, lanes) == 1


def test_streams_divide_the_lanes_and_leave_each_64_blocks() -> None:
    assert [streams_for(12, n) for n in (1, 127, 128, 64 * 5, 64 * 12, 10**6)] == [1, 1, 2, 4, 12, 12]
    assert streams_for(960, 64 * 100) == 64
    assert streams_for(960, 64 * 100, 1_000) == 96
    assert streams_for(12, 10**6, 5) == 4


@pytest.mark.parametrize("n", [1, 2, 5, 20, 63, 64, 65, 200, 1000, 4096, 4097])
def test_a_permutation_holds_each_number_once_and_can_be_turned_back(n: int) -> None:
    for epoch in range(2):
        k = key(1, "blocks", "code", epoch)
        values = [perm(i, n, k) for i in range(n)]
        assert sorted(values) == list(range(n))
        assert [perm_inverse(value, n, k) for value in values] == list(range(n))


def test_permutations_look_random() -> None:
    """Over many keys each value is equally likely at each place, and neighbours do not stay neighbours."""
    n, keys = 80, 4_000
    counts = np.zeros((4, n))
    neighbours = 0
    for number in range(keys):
        k = key(number, "blocks", "code", 0)
        values = [perm(i, n, k) for i in (0, 1, 40, 79)]
        counts[range(4), values] += 1
        neighbours += values[1] == values[0] + 1
    chi_square = ((counts - keys / n) ** 2 / (keys / n)).sum(axis=1)
    assert (chi_square < n + 5 * math.sqrt(2 * n)).all()
    assert abs(neighbours - keys / n) < 5 * math.sqrt(keys / n)
