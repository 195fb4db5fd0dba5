"""What was drawn over 100 000 segments against the settings, and that a segment stands for itself."""

from dataclasses import dataclass, fields

import numpy as np
import pytest

from objectives.example import Example, Source, Sources
from objectives.fim import Fim
from objectives.mlm import Mlm
from objectives.noise import choose, pair_up, partition, shuffle
from objectives.nsp import Nsp, split_points
from objectives.objective import Objective
from objectives.prefix import Prefix
from objectives.ragged import positions_in
from objectives.registry import OBJECTIVES
from objectives.reverse import Reverse
from objectives.rng import Rng, RngBatch, extend, extend_all, key
from objectives.span import Denoiser, Span
from tests.support.fake_tokenizer import FakeTokenizer

TOKENIZER, LARGE = FakeTokenizer(), FakeTokenizer(sentinels=80)
PIECES = 100_000
BATCH = 10_000


def bundle(segments: int, purpose: str) -> RngBatch:
    keys = np.full(segments, key(1, "test"), dtype=np.uint64)
    return RngBatch(extend_all(keys, np.arange(segments), purpose))


def sources(segments: int, shortest: int = 5, longest: int = 30, seed: int = 0) -> list[Source]:
    """Segments of even lengths; token i of a segment is ordinary, a word begins at about every fourth."""
    random = np.random.default_rng(seed)
    sizes = random.integers(shortest, longest + 1, segments)
    text = np.where(random.random(sizes.sum()) < 0.25, 400, random.integers(401, 427, sizes.sum()))
    return [
        Source(tokens, 1, 2, True, True, TOKENIZER)
        for tokens in np.split(text.astype(np.int32), np.cumsum(sizes)[:-1])
    ]


def all_made(objective: Objective, segments: int = PIECES, **lengths: int) -> list[tuple[Source, Example]]:
    given = sources(segments, **lengths)
    rng = bundle(segments, objective.name)
    made: list[Example] = []
    for first in range(0, segments, BATCH):
        batch = Sources.of(given[first : first + BATCH])
        made += objective.make_all(batch, rng.part(first, first + BATCH))
    return list(zip(given, made))


def column(made: list[tuple[Source, Example]], name: str) -> np.ndarray:
    """The arrays of all examples, one behind the other."""
    return np.concatenate([getattr(example, name) for _, example in made])


def source_tokens(made: list[tuple[Source, Example]]) -> int:
    return sum(len(source.tokens) for source, _ in made)


def test_mlm_rates():
    made = all_made(Mlm())
    targets, tokens = column(made, "targets"), column(made, "tokens")
    text = np.concatenate([source.tokens for source, _ in made])
    chosen = targets >= 0
    np.testing.assert_array_equal(targets[chosen], text[chosen])
    np.testing.assert_array_equal(tokens[~chosen], text[~chosen])
    assert chosen.mean() == pytest.approx(0.15, rel=0.003)
    masked = (tokens[chosen] == TOKENIZER.control.mask).mean()
    changed = ((tokens[chosen] != text[chosen]) & (tokens[chosen] != TOKENIZER.control.mask)).mean()
    assert masked == pytest.approx(0.8, abs=0.003)
    assert changed == pytest.approx(0.1 * 30 / 31, abs=0.003)  # one of 31 ordinary ids is the token itself
    # Of a longer segment the number is exact to one token, and the density is the rate.
    counts = np.array(
        [(example.targets >= 0).sum() for _, example in all_made(Mlm(), 2000, shortest=50, longest=50)]
    )
    assert set(counts.tolist()) == {7, 8}
    assert counts.mean() == pytest.approx(50 * Mlm().density, abs=0.05)


def test_mlm_whole_word_keeps_the_rate_and_the_words():
    made = all_made(Mlm(select=0.3, whole_word=True), 20_000, shortest=60, longest=120)
    chosen = column(made, "targets") >= 0
    assert chosen.mean() == pytest.approx(0.3, abs=0.003)
    for source, example in made[:500]:
        word = np.cumsum(source.tokens == 400)
        hidden = example.targets >= 0
        whole = np.flatnonzero(np.bincount(word) < 18)  # none is longer than what is to be chosen
        for w in whole.tolist():
            assert hidden[word == w].all() or not hidden[word == w].any()


def test_prefix_split_is_even():
    made = all_made(Prefix(), PIECES, shortest=99, longest=99)
    prompts = np.array([example.bound[0] + 1 for _, example in made])
    assert prompts.min() == 10
    assert prompts.max() == 90
    histogram = np.bincount((prompts[prompts < 90] - 10) // 20) / PIECES
    np.testing.assert_allclose(histogram, 0.25, atol=0.008)
    share = sum(example.weights.sum() for _, example in made) / source_tokens(made)
    assert share == pytest.approx(Prefix().density, abs=0.02)


def test_span_rates():
    made = all_made(Span(), PIECES // 5, shortest=100, longest=140)
    tokens = column(made, "tokens")
    sentinels = (tokens >= 12) & (tokens < 20)
    runs = sentinels.sum() / 2
    noise = (
        column(made, "weights").sum() - runs - len(made)
    )  # a target for each run's sentinel, one for the end
    assert noise / source_tokens(made) == pytest.approx(0.15, abs=0.001)
    assert noise / runs == pytest.approx(3, abs=0.1)
    assert column(made, "weights").sum() / source_tokens(made) == pytest.approx(Span().density, abs=0.01)


def test_span_denoisers_are_drawn_by_weight():
    denoisers = (Denoiser(mode="R", weight=1), Denoiser(mode="S", mean=None, rate=0.25, weight=3))
    made = all_made(Span(denoisers=denoisers), PIECES)
    modes = np.array([example.tokens[0] for _, example in made])
    assert (modes == 9).mean() == pytest.approx(0.25, abs=0.006)
    assert (modes == 10).mean() == pytest.approx(0.75, abs=0.006)


def test_fim_rates():
    made = all_made(Fim(rate=0.7, spm=0.4), PIECES, shortest=99, longest=99)
    rearranged = np.array([example.tokens[0] == 6 for _, example in made])
    assert rearranged.mean() == pytest.approx(0.7, abs=0.006)
    # <prefix> <suffix> opens SPM, and PSM whose prefix is empty: the least of two cuts in 0 … 99 is 0.
    suffix_next = np.array([example.tokens[1] == 8 for _, example in made])
    assert suffix_next.sum() / rearranged.sum() == pytest.approx(0.4 + 0.6 * (1 - 0.99**2), abs=0.006)
    # The cuts are even: each of prefix, middle and suffix is a third of a long segment in the mean.
    parts = []
    for _, example in all_made(Fim(rate=1, spm=0), 20_000, shortest=90, longest=90):
        suffix, middle = np.flatnonzero(example.tokens == 8)[0], np.flatnonzero(example.tokens == 7)[0]
        parts.append([suffix - 1, middle - suffix - 1, 92 - middle])
    np.testing.assert_allclose(np.mean(parts, axis=0), 30, atol=0.6)


def test_nsp_order_rate_and_weights():
    made = all_made(Nsp(order=True, true_rate=0.3), PIECES)
    labels = np.array([example.targets[0] for _, example in made])
    assert labels.mean() == pytest.approx(0.3, abs=0.006)
    weights, objective = column(made, "weights"), column(made, "objective")
    none = sum(not (example.targets[1:] >= 0).any() for _, example in made)
    assert weights[objective == 3].sum() == weights[objective == 2].sum() + none


def many(sizes: np.ndarray) -> Sources:
    """Segments of these sizes, as all are that open and close their document; words as in `sources`."""
    random = np.random.default_rng(1)
    around = np.where(random.random(sizes.sum() + 2 * len(sizes)) < 0.25, 400, 405).astype(np.int32)
    yes, no = np.ones(len(sizes), dtype=bool), np.zeros(len(sizes), dtype=np.int64)
    starts = np.cumsum(sizes + 2) - sizes - 1
    return Sources(around, starts, sizes, yes, yes, no, ~yes, LARGE)


def made_targets(objective: Objective, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All targets one behind the other, and the objective that each is of."""
    examples = objective.make_all(many(sizes), bundle(len(sizes), "share"))
    at = np.repeat(examples.starts, examples.sizes) + positions_in(examples.sizes)
    own = np.full(len(examples.targets), examples.maker)
    return examples.targets[at], (own if examples.objective is None else examples.objective)[at]


@pytest.mark.parametrize("lengths", [(1, 1), (1, 3), (4, 7), (10, 10), (1, 40), (300, 300)])
@pytest.mark.parametrize("share", [0.05, 0.15, 0.9])
def test_a_share_is_a_share_whatever_the_lengths(lengths, share):
    """Of mlm, of whole words, of nsp's masking, of span: in the mean of few or many tokens."""
    segments = min(60_000, 900_000 // lengths[1])
    sizes = np.random.default_rng(2).integers(lengths[0], lengths[1] + 1, segments)
    mlm, whole = Mlm(select=share), Mlm(select=share, whole_word=True)
    for objective in (mlm, whole, Nsp(mlm=mlm, order=True), Nsp(mlm=whole, order=True)):
        targets, made_by = made_targets(objective, sizes)
        chosen = ((targets >= 0) & (made_by == Mlm.id)).sum()
        assert chosen / sizes.sum() == pytest.approx(share, rel=0.05), objective
    for mean in (3, None, 1):
        targets, _ = made_targets(Span(denoisers=(Denoiser(rate=share, mean=mean),)), sizes)
        assert (targets >= 400).sum() / sizes.sum() == pytest.approx(share, rel=0.05), mean


def test_density_of_the_whole_text():
    for objective in (objective() for objective in OBJECTIVES):
        made = all_made(objective, 2000, shortest=120, longest=125)
        own = column(made, "weights")[column(made, "objective") == objective.id].sum()
        assert own / source_tokens(made) == pytest.approx(objective.density, rel=0.1), objective.name


@pytest.mark.parametrize("count", [3, 5, 7])
def test_choose_takes_every_place_alike(count):
    sizes, counts = np.full(50_000, 10), np.full(50_000, count)
    chosen = choose(sizes, counts, bundle(50_000, "choose")).reshape(-1, 10)
    assert (chosen.sum(axis=1) == count).all()
    np.testing.assert_allclose(chosen.mean(axis=0), count / 10, atol=0.008)
    together = (chosen[:, 0] & chosen[:, 1]).mean()
    assert together == pytest.approx(count * (count - 1) / (10 * 9), abs=0.006)


def test_choose_takes_every_set_alike():
    chosen = choose(np.full(30_000, 5), np.full(30_000, 2), bundle(30_000, "sets")).reshape(-1, 5)
    ways, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(ways) == 10
    np.testing.assert_allclose(counts / 30_000, 1 / 10, atol=0.008)


def test_choose_all_and_none():
    sizes = np.array([3, 0, 4, 2])
    assert (
        choose(sizes, np.array([3, 0, 0, 2]), bundle(4, "edges")).tolist()
        == [True] * 3 + [False] * 4 + [True] * 2
    )


def test_partition_takes_every_way_alike():
    lengths = partition(np.full(30_000, 5), np.full(30_000, 3), bundle(30_000, "partition")).reshape(-1, 3)
    assert (lengths.sum(axis=1) == 5).all()
    ways, counts = np.unique(lengths, axis=0, return_counts=True)
    assert len(ways) == 6
    np.testing.assert_allclose(counts / 30_000, 1 / 6, atol=0.01)


def test_partition_of_nothing_and_of_mixed_totals():
    totals, parts = np.array([0, 4, 1, 7, 0]), np.array([1, 4, 1, 2, 1])
    lengths = partition(totals, parts, bundle(5, "mixed"))
    assert lengths[:6].tolist() == [0, 1, 1, 1, 1, 1]
    assert lengths[6:8].sum() == 7
    assert lengths[8] == 0


def test_shuffle_is_an_even_permutation():
    order = (
        shuffle(np.full(30_000, 3), bundle(30_000, "shuffle")).reshape(-1, 3) - 3 * np.arange(30_000)[:, None]
    )
    ways, counts = np.unique(order, axis=0, return_counts=True)
    assert len(ways) == 6
    np.testing.assert_allclose(counts / 30_000, 1 / 6, atol=0.01)


def test_split_points_stand_at_word_starts_in_the_middle_half():
    given = [source.tokens for source in sources(5000, 1, 60)]
    sizes = np.array([len(tokens) for tokens in given])
    splits = split_points(np.concatenate(given), sizes, TOKENIZER, 40, bundle(5000, "split").numbers())
    assert (splits[sizes > 1] >= 1).all()
    assert (splits[sizes > 1] < sizes[sizes > 1]).all()
    assert (sizes - splits)[sizes <= 80].max() <= 40
    assert splits.max() <= 40
    at_start = 0
    for tokens, split, size in zip(given, splits.tolist(), sizes.tolist()):
        low, high = max(1, size - 40, size // 4), min(size - 1, 40, size - size // 4)
        if size > 3:
            assert low <= split <= high
            if (tokens[low : high + 1] == 400).any():
                assert tokens[split] == 400
                at_start += 1
    assert at_start > 4000


def test_pairing_never_pairs_a_document_with_itself():
    random = np.random.default_rng(3)
    for case in range(500):
        documents = random.integers(0, random.integers(1, 8), random.integers(0, 20)).tolist()
        firsts, seconds = random.integers(1, 5, (2, len(documents))).tolist()
        pairs, alone = pair_up(documents, firsts, seconds, Rng(case))
        givers, takers = sorted(j for _, j in pairs), sorted(i for i, _ in pairs)
        assert givers == takers
        assert sorted(takers + alone) == list(range(len(documents)))
        assert all(documents[i] != documents[j] for i, j in pairs)
        largest = max(map(documents.count, documents), default=0)
        assert len(alone) == max(0, 2 * largest - len(documents))


def test_pairing_matches_parts_by_length_and_equals_by_luck():
    random = np.random.default_rng(4)
    documents = list(range(2000))
    firsts, seconds = random.integers(1, 500, (2, 2000)).tolist()
    pairs, _ = pair_up(documents, firsts, seconds, Rng(1))
    assert sum(abs(firsts[i] - seconds[j]) for i, j in pairs) / 2000 < 10  # at random: 166
    taken = [0] * 9
    for case in range(1000):
        pairs, _ = pair_up(list(range(10)), [7] * 10, [9] * 10, Rng(case))
        taken[dict(pairs)[0] - 1] += 1
    assert min(taken) > 70  # of 111


def test_bundled_numbers_are_those_of_each_segment():
    keys = [key(7, "a", i) for i in range(5)]
    many = RngBatch(extend_all(np.array(keys, dtype=np.uint64), np.array([3, 0, 9, 1, 2]), "mlm"))
    each = [Rng(k, start, "mlm") for k, start in zip(keys, [3, 0, 9, 1, 2])]
    assert extend_all(np.array([5], dtype=np.uint64), np.array([8]), "x").tolist() == [extend(5, 8, "x")]
    sizes = np.array([2, 0, 5, 1, 3])
    for _round in range(2):
        assert many.numbers().tolist() == [rng.number() for rng in each]
        bits = np.split(many.bits(sizes), np.cumsum(sizes)[:-1])
        for segment, rng, size in zip(bits, each, sizes.tolist()):
            assert segment.tolist() == rng.bits(size).tolist()
    assert many.of(2).number() == Rng(keys[2], 9, "mlm").number()


SETTINGS: list[Objective] = [
    *(objective() for objective in OBJECTIVES),
    Reverse(unit="character"),
    Mlm(whole_word=True),
    Nsp(order=True),
    Span(denoisers="ul2"),
]


@pytest.mark.parametrize("objective", SETTINGS, ids=lambda objective: str(objective)[:30])
def test_a_segment_is_a_function_of_itself(objective):
    """The same alone, in company, twice, and with another segment in front."""
    given = sources(40, 1, 30, seed=5)
    together = objective.make_all(Sources.of(given), bundle(40, "pure"))
    later = objective.make_all(Sources.of(given[7:]), bundle(40, "pure").part(7, 40))
    alone = [objective.make(source, bundle(40, "pure").of(i)) for i, source in enumerate(given)]
    for i, example in enumerate(together):
        for field in fields(Example):
            array = getattr(example, field.name)
            np.testing.assert_array_equal(array, getattr(alone[i], field.name))
            if i >= 7:
                np.testing.assert_array_equal(array, getattr(later[i - 7], field.name))


@dataclass(frozen=True)
class Copy(Objective):
    """What a newcomer writes: one function of one segment."""

    name = "copy"
    head = "vocabulary"
    id = len(OBJECTIVES)
    density = 1.0

    def fit(self, remaining, length, tokenizer, first=True, last=True) -> int:
        return min(len(remaining), length)

    def make(self, source: Source, rng: Rng) -> Example:
        n = len(source.tokens)
        one = np.ones(n, dtype=np.float32)
        bound = np.full(n, rng.integer(0, n), dtype=np.int32)
        return Example(source.tokens, source.tokens, one, bound, np.full(n, self.id, dtype=np.int8))


def test_an_objective_written_for_one_segment_serves_many():
    given = sources(50, 1, 20)
    examples = Copy().make_all(Sources.of(given), bundle(50, "copy"))
    assert len(examples) == 50
    for i, (source, example) in enumerate(zip(given, examples)):
        assert example.tokens.tolist() == source.tokens.tolist()
        assert example.bound[0] == bundle(50, "copy").of(i).integer(0, len(source.tokens))
