"""The mixture: its config, its schedules, and how a block is cut, shared out, paired and built."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from objectives.example_builder import ExampleBuilder
from objectives.mixture import Mixture
from objectives.noise import MOST
from objectives.registry import NAMES
from objectives.rng import Rng, key
from objectives.schedule import Schedule
from objectives.segments import Segment, Texts
from objectives.shares import Shares
from tests.support.fake_tokenizer import BYTE, FakeTokenizer

TOKENIZER = FakeTokenizer()
ALL: dict = {name: {} for name in NAMES}
KEYS = [key(1, "document", i) for i in range(3000)]


def texts(documents: Sequence[Sequence[int] | np.ndarray]) -> Texts:
    return Texts.of([np.asarray(tokens, dtype=np.int32) for tokens in documents], TOKENIZER.control)


def documents(count: int, mean: float, seed: int = 0) -> Texts:
    """Whole documents of ordinary tokens; lengths as uneven as those of real text."""
    random = np.random.default_rng(seed)
    sizes = np.maximum(1, random.lognormal(np.log(mean), 1.2, count).astype(int))
    return texts([random.integers(400, 431, size) for size in sizes])


def built(
    given: Texts,
    config: dict,
    length: int = 128,
    row: int = 0,
    block: int = 1,
    rests: list[tuple[int, int, int]] | None = None,
) -> Sequence[Segment]:
    left = given.whole() if rests is None else np.array(rests)
    mixture = Mixture.parse(config)
    builder = ExampleBuilder(given, left, mixture, row, length, TOKENIZER, key(1, "block", block), KEYS)
    return builder.segments()


def shares(segments: Sequence[Segment]) -> np.ndarray:
    """Source tokens by registry id, sum 1."""
    tokens = np.zeros(len(NAMES))
    for segment in segments:
        tokens[segment.objective] += sum(span.stop - span.start for span in segment.spans)
    return tokens / tokens.sum()


def by_id(numbers: dict[str, float]) -> list[float]:
    """These numbers of objectives by registry id, 0 for the others."""
    return [numbers.get(name, 0.0) for name in NAMES]


def asked(config: dict) -> np.ndarray:
    """The shares that a config asks for at row 0, by registry id."""
    mixture = Mixture.parse(config)
    names = [entry.objective.name for entry in mixture.entries]
    return np.array(by_id(dict(zip(names, mixture.weights(0).tolist()))))


def assert_all_used_once(given: Texts, segments: Sequence[Segment]) -> None:
    used = [np.zeros(len(tokens), dtype=int) for tokens in given]
    for segment in segments:
        for span in segment.spans:
            used[span.document][span.start : span.stop] += 1
    for counts in used:
        assert (counts == 1).all()


READABLE = {"causal", "reverse", "mlm", "nsp", "prefix", "span", "fim"}
"""Objectives whose Examples hold their whole text, and `text_of` knows how."""


def text_of(segment: Segment) -> list[int]:
    """The source tokens, read back from the Example alone. Of a READABLE objective."""
    name, example = NAMES[segment.objective], segment.example
    tokens, targets = example.tokens.tolist(), example.targets.tolist()
    n = sum(span.stop - span.start for span in segment.spans)
    if name == "causal" or (name == "fim" and tokens[0] != 6):
        return targets[:n]
    if name == "reverse":
        return targets[:n][::-1]
    if name == "prefix":
        return (tokens[1:] + targets[-1:])[:n]
    if name in ("mlm", "nsp"):
        whole = np.where(example.targets >= 0, example.targets, example.tokens).tolist()
        return whole if name == "mlm" else [whole[i] for i in range(1, len(whole)) if tokens[i] not in (4, 5)]
    if name == "span":
        prompt = int(example.bound[0]) + 1
        runs: dict[int, list[int]] = {}
        for token in tokens[prompt:]:
            if 12 <= token < 20:
                run = runs.setdefault(token, [])
            else:
                run.append(token)
        text: list[int] = []
        for token in tokens[:prompt]:
            if 12 <= token < 20:
                text += runs.pop(token)
            elif token >= 20:
                text.append(token)
        return text
    suffix, middle = tokens.index(8), tokens.index(7)
    first, second, third = tokens[1:suffix], tokens[suffix + 1 : middle], tokens[middle + 1 :]
    if first:
        return first + third + second
    return third + second  # SPM, or PSM with an empty prefix: both read prefix and middle, then suffix


@pytest.mark.parametrize("length", [8, 9, 13, 32, 100, 256])
def test_nothing_is_lost_repeated_or_too_long(length):
    for seed in range(4):
        given = documents(60, mean=length / 2, seed=seed)
        segments = built(given, ALL, length, block=seed)
        assert_all_used_once(given, segments)
        for segment in segments:
            arrays = segment.example
            assert 1 <= len(arrays.tokens) <= length
            assert {len(arrays.targets), len(arrays.weights), len(arrays.bound), len(arrays.objective)} == {
                len(arrays.tokens)
            }
            assert ((arrays.targets >= 0) == (arrays.weights > 0)).all()
            assert (arrays.bound >= 0).all()
            assert (arrays.bound < len(arrays.tokens)).all()
            used = [token for span in segment.spans for token in given[span.document][span.start : span.stop]]
            name = NAMES[segment.objective]
            if name in READABLE and (len(used) > 1 or name != "nsp"):
                assert text_of(segment) == used, name


@pytest.mark.parametrize(
    "config",
    [
        {"reverse": {"unit": "character"}},
        {"mlm": {"whole_word": True, "select": 0.5}},
        {"nsp": {}},
        {"nsp": {"order": True}},
        {"span": {"denoisers": "ul2"}},
        {"span": {"rate": 0.5, "mean": 1}},
        {"fim": {"rate": 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [8, 21, 64])
def test_each_alone_uses_all_text_once(config, length):
    given = documents(40, mean=length)
    segments = built(given, config, length)
    assert_all_used_once(given, segments)
    assert all(len(segment.example.tokens) <= length for segment in segments)


def test_remainders_keep_the_tokens_around_them():
    given, rests = texts([range(400, 420)]), [(0, 5, 10), (0, 15, 20)]
    first, second = built(given, {"causal": {}}, rests=rests)
    assert first.example.tokens.tolist() == [404, 405, 406, 407, 408]
    assert first.example.targets.tolist() == [405, 406, 407, 408, 409]
    assert second.example.targets.tolist() == [415, 416, 417, 418, 419, 2]
    first, second = built(given, {"reverse": {}}, rests=rests)
    assert first.example.tokens.tolist() == [410, 409, 408, 407, 406]
    assert second.example.tokens.tolist() == [2, 419, 418, 417, 416]


def test_a_document_is_cut_only_where_it_is_longer_than_a_segment():
    given = documents(300, mean=60)
    for config, fit in (({"causal": {}}, 127), ({"mlm": {}}, 128), ({"nsp": {}}, 124), ({"fim": {}}, 125)):
        segments = built(given, config)
        cuts = Counter(span.document for segment in segments for span in segment.spans if span.start > 0)
        if "nsp" in config:  # a false pair has two spans, so that only the number of segments tells
            expected = sum(-(-len(tokens) // fit) for tokens in given)
            assert len(segments) == pytest.approx(expected, abs=2)
        else:
            assert all(len(given[document]) > fit for document in cuts)


def test_the_same_arguments_give_the_same_segments():
    one, two = built(documents(80, 60), ALL), built(documents(80, 60), ALL)
    assert [(segment.objective, segment.spans) for segment in one] == [
        (segment.objective, segment.spans) for segment in two
    ]
    for a, b in zip(one, two):
        assert a.example.tokens.tobytes() == b.example.tokens.tobytes()
        assert a.example.targets.tobytes() == b.example.targets.tobytes()
    other = built(documents(80, 60), ALL, block=2)
    assert [segment.spans for segment in one] != [segment.spans for segment in other]


def test_shares_of_source_tokens():
    config = {name: {"weight": weight} for name, weight in zip(NAMES, (5, 1, 2, 2, 1, 3, 0.5))}
    got = [shares(built(documents(800, 60, seed), config, block=seed)) for seed in range(5)]
    assert np.abs(np.mean(got, axis=0) - asked(config)).max() < 0.005
    assert np.abs(np.array(got) - asked(config)).max() < 0.01


def test_shares_of_long_documents_only():
    config = {name: {"weight": weight} for name, weight in zip(NAMES, (4, 1, 2, 1, 1, 2, 1))}
    got = [shares(built(documents(30, 3000, seed), config, block=seed)) for seed in range(4)]
    assert np.abs(np.mean(got, axis=0) - asked(config)).max() < 0.005


@pytest.mark.parametrize("count", [1, 2, 5])
def test_small_blocks_favour_nobody(count):
    config = {"causal": {"weight": 6}, "mlm": {"weight": 3}, "span": {"weight": 1}}
    given = texts([[401] * 40] * count)
    got = np.mean([shares(built(given, config, block=block)) for block in range(1500)], axis=0)
    np.testing.assert_allclose(got[[0, 2, 5]], [0.6, 0.3, 0.1], atol=0.03)


def test_a_weight_of_zero_gets_nothing():
    config = {"causal": {"weight": [[0, 1], [100, 0]]}, "mlm": {"weight": [[0, 0], [100, 1]]}}
    assert shares(built(documents(50, 60), config, row=0))[0] == 1
    assert shares(built(documents(50, 60), config, row=100))[2] == 1
    half = shares(built(documents(900, 60), config, row=50))
    assert half[0] == pytest.approx(0.5, abs=0.01)


def test_nsp_labels_and_partners():
    labels, false = [], 0
    for block in range(20):
        given = documents(120, 60, seed=block)
        segments = built(given, {"nsp": {}}, block=block)
        assert_all_used_once(given, segments)
        for segment in segments:
            label = segment.example.targets[0]
            if label >= 0:
                labels.append(label)
            if label == 0:
                first, second = segment.spans
                assert first.document != second.document
                false += 1
            else:
                assert len(segment.spans) == 1
    assert np.mean(labels) == pytest.approx(0.5, abs=0.03)
    assert false > 1000


@pytest.mark.parametrize("true_rate", [0.0, 0.25, 1.0])
def test_nsp_true_rate(true_rate):
    segments = built(documents(2500, 40), {"nsp": {"true_rate": true_rate}})
    labels = np.array([segment.example.targets[0] for segment in segments])
    assert labels[labels >= 0].mean() == pytest.approx(true_rate, abs=0.03)


def test_a_false_segment_without_partner_goes_to_another_objective():
    lone = texts([[401] * 2000])
    segments = built(lone, {"nsp": {"weight": 3}, "fim": {"weight": 1}})
    assert_all_used_once(lone, segments)
    assert all(len(segment.spans) == 1 for segment in segments)
    labels = [int(segment.example.targets[0]) for segment in segments if segment.objective == 3]
    assert set(labels) == {1}
    assert shares(segments)[6] > 0.4  # its quarter, and about half of nsp's
    # With nobody else in the mixture they become true pairs.
    alone = built(lone, {"nsp": {}})
    assert_all_used_once(lone, alone)
    assert {int(segment.example.targets[0]) for segment in alone} == {1}


@pytest.mark.parametrize("sizes", [[60], [128] * 7 + [30], [5, 128, 30, 3], [3] * 40 + [128] * 4], ids=len)
@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.5, 0.3, 0.15, 0.05), (0.995, 0.005)])
def test_few_uneven_segments_favour_nobody(sizes, weights):
    """To within what chance leaves over 3000 blocks of less than a segment's error each."""
    got = np.zeros(len(weights))
    for block in range(3000):
        game = Shares(weights, sizes, Rng(block, "shares"))
        for size in sizes:
            chosen = game.most_owed(size, game.active)
            game.book(chosen, size)
            got[chosen] += size
    np.testing.assert_allclose(got / got.sum(), weights, atol=0.02 if len(sizes) == 1 else 0.015)


def test_segments_of_one_token_are_no_pairs():
    given = texts([[401 + i % 20] for i in range(50)])
    assert shares(built(given, {"nsp": {"weight": 9}, "causal": {"weight": 1}}))[0] == 1
    assert_all_used_once(given, built(given, {"nsp": {}}))


def test_text_that_spells_control_tokens_yields_none():
    text = [BYTE + byte for byte in b"<s0><mask>[CLS][SEP]<pad></s><fim_prefix>" * 3]
    for segment in built(texts([text] * 30), {**ALL, "reverse": {"unit": "character"}}, 150):
        tokens = segment.example.tokens
        n = sum(span.stop - span.start for span in segment.spans)
        name = NAMES[segment.objective]
        controls = int((tokens < 100).sum())
        masked = int((segment.example.targets >= 0).sum())
        most = {"causal": 1, "reverse": 1, "prefix": 1, "mlm": masked, "nsp": 3 + masked, "fim": 3}
        assert controls <= most.get(name, len(tokens) - n), name


def test_documents_with_whole_characters_are_reversed_as_text():
    text = "abc€ thé " * 30
    tokens = TOKENIZER.encode(text)
    segments = built(texts([tokens]), {"reverse": {"unit": "character"}}, 32)
    assert len(segments) > 5
    backwards = ""
    for segment in reversed(segments):
        first = segment.spans[0].start == 0
        targets = segment.example.targets
        backwards += TOKENIZER.decode(targets[:-1] if first else targets)
    assert backwards == text[::-1]


def test_row_lengths_out_of_range_are_refused():
    for length in (7, 2**20 + 1):
        with pytest.raises(ValueError, match=r"^length: expected 8 to 1048576"):
            built(documents(1, 5), ALL, length)
    assert len(built(texts([]), ALL)) == 0


def test_schedule():
    schedule = Schedule.parse([[100, 1.0], [200, 3], [400, 0]])
    assert [schedule.at(row) for row in (0, 100, 150, 200, 300, 400, 9999)] == [1, 1, 2, 3, 1.5, 0, 0]
    assert Schedule.parse(2).at(10**9) == 2
    assert Schedule.parse([[50, 2]]) == Schedule.parse(2)
    for case in (schedule, Schedule.parse(0.5)):
        assert Schedule.parse(case.describe()) == case


@pytest.mark.parametrize(
    "value, message",
    [
        (True, "expected a number or a list"),
        ("1", "expected a number or a list"),
        ([], "expected a number or a list"),
        (-1, r"expected a number from 0 to 1e\+09, got -1"),
        (1.1e9, r"expected a number from 0 to 1e\+09, got 1100000000.0"),
        ([[0, 1], [9, 1e308]], r"expected a number from 0 to 1e\+09, got 1e\+308"),
        (float("nan"), "expected a number from 0"),
        ([[0, 1, 2]], r"expected \[row, value\], got \[0, 1, 2\]"),
        ([[1.5, 1]], "expected a global row"),
        ([[5, 1], [5, 2]], r"expected rows in ascending order, got \[5, 5\]"),
    ],
)
def test_schedules_that_are_none(value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Schedule.parse(value)


FULL = {
    "nsp": {
        "weight": [[0, 1], [10, 2]],
        "coefficient": 2,
        "mlm": {"select": 0.2},
        "pair_weight": 3,
        "order": True,
    },
    "span": {"denoisers": [{"mode": "S", "mean": None, "rate": 0.25}, {"mode": "R", "weight": 2}]},
    "causal": None,
    "fim": {"rate": 1},
}


def test_parse_and_describe():
    mixture = Mixture.parse(FULL)
    assert [entry.objective.name for entry in mixture.entries] == ["causal", "nsp", "span", "fim"]
    described = mixture.describe()
    assert Mixture.parse(described) == mixture
    assert described["causal"] == {"weight": 1.0, "coefficient": 1.0}
    assert described["nsp"]["mlm"] == {
        "select": 0.2, "mask": 0.8, "random": 0.1, "keep": 0.1, "whole_word": False
    }  # fmt: skip
    assert described["span"]["denoisers"][0] == {"mean": None, "rate": 0.25, "mode": "S", "weight": 1.0}
    assert Mixture.parse(dict(reversed(FULL.items()))) == mixture
    ul2 = Mixture.parse({"span": {"denoisers": "ul2"}})
    assert Mixture.parse(ul2.describe()) == ul2


def test_weights_coefficients_and_plan():
    mixture = Mixture.parse(
        {"causal": {"weight": 3, "coefficient": 0.5}, "nsp": {"weight": 1}, "mlm": {"weight": 4}}
    )
    np.testing.assert_allclose(mixture.weights(0), [0.375, 0.5, 0.125])
    np.testing.assert_allclose(mixture.coefficients(), by_id({"causal": 0.5, "mlm": 1, "nsp": 1}))
    planned = mixture.planned(0)
    expected = {"causal": 0.375, "mlm": (0.5 + 0.125) * 0.15, "nsp": 0.125 * 0.15}
    np.testing.assert_allclose(planned, by_id(expected))
    # The plan is what comes out.
    sums = np.zeros(len(NAMES))
    given = documents(1500, 100)
    for segment in built(given, mixture.describe(), 256):
        np.add.at(sums, segment.example.objective, segment.example.weights)
    np.testing.assert_allclose(sums / given.sizes.sum(), planned, rtol=0.03, atol=0.001)
    # Without an mlm of its own, what nsp masks counts with nsp's coefficient.
    alone = Mixture.parse({"nsp": {"coefficient": 2}})
    np.testing.assert_allclose(alone.coefficients(), by_id({"mlm": 2, "nsp": 2}))


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, "no objective given; known: causal, reverse"),
        (["causal"], "expected objectives"),
        ({"cusal": {}}, r"cusal: no such objective; did you mean causal\? known: causal"),
        (
            {"mlm": {"slect": 0.2}},
            r"mlm\.slect: unknown key; did you mean select\? known: weight, coefficient, select",
        ),
        ({"mlm": {"select": True}}, r"mlm\.select: expected a number, got True"),
        ({"mlm": {"select": "0.2"}}, r"mlm\.select: expected a number, got '0\.2'"),
        ({"mlm": {"select": float("inf")}}, r"mlm\.select: expected a finite number"),
        ({"mlm": {"select": 2}}, r"mlm\.select: expected a share above 0"),
        ({"mlm": {"whole_word": 1}}, r"mlm\.whole_word: expected true or false, got 1"),
        ({"mlm": {"mask": 0.5}}, r"mlm\.mask: mask \+ random \+ keep must be 1, got 0\.7"),
        ({"mlm": 1}, r"mlm: expected settings"),
        ({"mlm": {"weight": -1}}, r"mlm\.weight: expected a number from 0 to 1e"),
        ({"mlm": {"coefficient": [[0, 1], [5, 2]]}}, r"mlm\.coefficient: expected a number, got"),
        ({"mlm": {"weight": 0}}, "all weights are 0 at row 0"),
        ({"mlm": {"coefficient": 1e38}}, r"mlm\.coefficient: expected a number from 0 to 1e\+09, got 1e\+38"),
        ({"mlm": {"weight": [[0, 1], [9, 0]]}}, "all weights are 0 at row 9"),
        ({"reverse": {"unit": "word"}}, r"reverse\.unit: expected token or character, got 'word'"),
        ({"nsp": {"mlm": {"selct": 1}}}, r"nsp\.mlm\.selct: unknown key; did you mean select\?"),
        ({"nsp": {"mlm": 3}}, r"nsp\.mlm: expected settings"),
        ({"nsp": {"pair_weight": "x"}}, r"nsp\.pair_weight: expected a number or null, got 'x'"),
        ({"span": {"denoisers": [{"mode": "Z"}]}}, r"span\.denoisers\.0\.mode: expected R or S or X or null"),
        ({"span": {"denoisers": [3]}}, r"span\.denoisers\.0: expected settings"),
        ({"span": {"denoisers": "ul3"}}, r"span\.denoisers: expected a list or ul2, got 'ul3'"),
    ],
    ids=str,
)
def test_wrong_configs_are_one_clear_line(config, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        Mixture.parse(config)
    assert "\n" not in str(error.value)


def test_more_segments_than_noise_can_number_at_once():
    """A word list: every segment still gets its own share of the noise."""
    given = texts([[401, 402, 403]] * (MOST + 500))
    keys = [key(1, "document", i) for i in range(len(given))]
    mixture = Mixture.parse({"mlm": {"select": 0.34}})
    segments = ExampleBuilder(given, given.whole(), mixture, 0, 8, TOKENIZER, 1, keys).segments()
    chosen = [*range(0, len(segments), 1_000), MOST - 1, MOST, len(segments) - 1]
    assert {int((segments[i].example.targets >= 0).sum()) for i in chosen} <= {1, 2}


def test_what_reads_straight_on_is_a_view_of_the_documents_and_cannot_be_written():
    given = documents(20, mean=100)
    for name in ("causal", "reverse"):
        for segment in built(given, {name: {}}):
            for array in (segment.example.tokens, segment.example.targets):
                assert np.shares_memory(array, given.around)
                assert not array.flags.writeable
