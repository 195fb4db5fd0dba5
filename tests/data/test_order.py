"""The arithmetic of the order: shares, lanes, permutations."""

import math
import random

import numpy as np
import pytest

from data.plan.corpus_mix import CorpusMix, lane_multiplier, streams_for
from data.plan.permutation import perm, perm_inverse
from objectives.rng import key


@pytest.mark.parametrize("lanes", [1, 2, 7, 12, 60, 960, 1024])
def test_the_two_forms_of_x_agree_and_hold_their_shares(lanes: int) -> None:
    generator = random.Random(lanes)
    for corpora in (1, 2, 3, 20):
        weights = [generator.random() for _ in range(corpora)]
        shares = CorpusMix(lanes, weights)
        rows = np.arange(5_000) + generator.randrange(10**12)
        many = shares.corpora_of(rows)
        assert many.tolist() == [shares.corpus_of(int(row)) for row in rows]
        for size in (37, 64, 5_000):
            counts = np.bincount(many[:size], minlength=corpora)
            asked = np.array(weights) / sum(weights) * size
            assert np.abs(counts - asked).max() < 6


def test_no_row_comes_from_a_corpus_of_weight_zero_wherever_it_stands() -> None:
    rows = np.arange(10_000)
    for weights in ([0, 1, 0, 2, 0], [0, 0, 3], [3, 0, 0]):
        used = set(CorpusMix(12, weights).corpora_of(rows).tolist())
        assert used == {i for i, weight in enumerate(weights) if weight}
    with pytest.raises(ValueError, match="weights"):
        CorpusMix(12, [0, 0])


def test_a_lane_keeps_the_shares_too() -> None:
    rows = np.arange(60 * 500)
    corpora = CorpusMix(60, [0.7, 0.2, 0.1]).corpora_of(rows)
    for lane in range(60):
        counts = np.bincount(corpora[lane::60], minlength=3)
        assert np.abs(counts - [350, 100, 50]).max() <= 20


def test_the_multiplier_is_a_unit_of_the_lanes() -> None:
    for lanes in range(1, 300):
        k = lane_multiplier(lanes)
        assert k >= 1
        assert math.gcd(k, lanes) == 1


def test_streams_divide_the_lanes_and_leave_each_64_blocks() -> None:
    assert [streams_for(12, n) for n in (1, 127, 128, 64 * 5, 64 * 12, 10**6)] == [1, 1, 2, 4, 12, 12]
    assert streams_for(960, 64 * 100) == 96


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
