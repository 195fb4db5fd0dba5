"""Golden cases: every objective and every setting on segments short enough to work out by hand.

The text is x = a b c d e f g h i j, ids 401 … 410. Keys were picked so that the draws show the cases wanted;
what follows from the draws is written out.
"""

from dataclasses import replace

import numpy as np
import pytest

from objectives.example import Example, Source
from objectives.fim import Fim
from objectives.mlm import Mlm
from objectives.nsp import Nsp
from objectives.objective import Objective
from objectives.prefix import Prefix
from objectives.registry import HEADS, NAMES, OBJECTIVES, objective_class, objective_id
from objectives.reverse import Reverse
from objectives.rng import Rng
from objectives.span import UL2, Denoiser, Span
from tests.support.fake_tokenizer import BYTE, FakeTokenizer

TOKENIZER = FakeTokenizer()
X = list(range(401, 411))
WORDS = [428, 401, 402, 429, 403, 430, 404, 405, 406, 407]
"""' a' 'a' 'b' | ' b' 'c' | ' the' 'd' 'e' 'f' 'g': three words of 3, 2 and 5 tokens."""
BEGIN, END, MASK, CLS, SEP, PRE, MID, SUF = 1, 2, 3, 4, 5, 6, 7, 8
R, S, X_MODE, S0, S1 = 9, 10, 11, 12, 13
_ = -1


def source(tokens=X, first=True, last=True, **more) -> Source:
    """A segment; the tokens around it are 420 and 421 where it does not open or close its document."""
    array = np.array(tokens, dtype=np.int32)
    return Source(array, BEGIN if first else 420, END if last else 421, first, last, TOKENIZER, **more)


def check(example: Example, tokens, targets, bound, weights=None, objective=None) -> None:
    assert example.tokens.tolist() == tokens
    assert example.targets.tolist() == targets
    assert example.bound.tolist() == bound
    if weights is None:
        weights = [float(target != _) for target in targets]
    assert example.weights.tolist() == weights
    if isinstance(objective, int):
        objective = [objective] * len(tokens)
    assert example.objective.tolist() == objective
    kinds = [array.dtype.name for array in (example.tokens, example.targets, example.weights)]
    assert kinds == ["int32", "int32", "float32"]
    assert (example.bound.dtype.name, example.objective.dtype.name) == ("int32", "int8")


def made(objective: Objective, segment: Source, key: int = 1) -> Example:
    return objective.make(segment, Rng(key))


@pytest.mark.parametrize(
    "first, last, tokens, targets",
    [
        (True, True, [BEGIN, 401, 402, 403], [401, 402, 403, END]),
        (True, False, [BEGIN, 401, 402], [401, 402, 403]),
        (False, False, [420, 401, 402], [401, 402, 403]),
        (False, True, [420, 401, 402, 403], [401, 402, 403, END]),
    ],
)
def test_causal(first, last, tokens, targets):
    example = made(objective_class("causal")(), source(X[:3], first, last))
    check(example, tokens, targets, list(range(len(tokens))), objective=0)


@pytest.mark.parametrize(
    "first, last, tokens, targets",
    [
        (True, True, [END, 403, 402, 401], [403, 402, 401, BEGIN]),
        (True, False, [421, 403, 402, 401], [403, 402, 401, BEGIN]),
        (False, False, [421, 403, 402], [403, 402, 401]),
        (False, True, [END, 403, 402], [403, 402, 401]),
    ],
)
def test_reverse_by_tokens(first, last, tokens, targets):
    check(made(Reverse(), source(X[:3], first, last)), tokens, targets, list(range(len(tokens))), objective=1)


def test_reverse_by_characters():
    # " the" "th" "c" is the text " thethc"; backwards "chteht ", in which no longer piece occurs but none.
    example = made(Reverse(unit="character"), source([430, 427, 403], last=False))
    backwards = [403, 408, 420, 405, 408, 420, 400]
    check(example, [421, *backwards], [*backwards, BEGIN], list(range(8)), objective=1)
    # And backwards "ht" makes a piece: "h" "t" turn into "th".
    example = made(Reverse(unit="character"), source([408, 420], first=False))
    check(example, [END], [427], [0], objective=1)


def test_reverse_by_characters_takes_the_blank_before_a_document_for_no_text():
    """And takes a blank inside one for text. Turned round, neither has one put before it."""
    blank = FakeTokenizer(blank=True)
    opening = replace(source([400, 401, 402], last=False), tokenizer=blank)
    check(
        made(Reverse(unit="character"), opening), [421, 402, 401], [402, 401, BEGIN], [0, 1, 2], objective=1
    )
    inner = replace(source([400, 401, 402], first=False, last=False), tokenizer=blank)
    example = made(Reverse(unit="character"), inner)
    check(example, [421, 402, 401], [402, 401, 400], [0, 1, 2], objective=1)


def test_reverse_by_characters_keeps_bytes_that_are_no_character():
    euro = [BYTE + byte for byte in "€".encode()]
    whole = made(Reverse(unit="character"), source([401, *euro], first=False))
    check(whole, [END, *euro], [*euro, 401], [0, 1, 2, 3], objective=1)
    broken = made(Reverse(unit="character"), source([401, *euro[:2]], first=False))
    check(broken, [END, euro[1], euro[0]], [euro[1], euro[0], 401], [0, 1, 2], objective=1)
    # fit moves the border in front of a character that it would cut: " the" and "a" spread to 5 characters.
    remaining = np.array([430, 401, *euro, 402], dtype=np.int32)
    fits = [Reverse(unit="character").fit(remaining, length, TOKENIZER) for length in (6, 7, 8, 9, 10, 11)]
    assert fits == [2, 2, 2, 5, 6, 6]


def test_reverse_of_one_long_token_is_not_spelt_out():
    example = made(Reverse(unit="character"), source([430]))
    check(example, [END, 430], [430, BEGIN], [0, 1], objective=1)


def test_prefix():
    # u = 0.55 of 11 positions: the prompt is 6 of them, and its last predicts what follows.
    example = made(Prefix(), source())
    targets = [_, _, _, _, _, 406, 407, 408, 409, 410, END]
    check(example, [BEGIN, *X], targets, [5, 5, 5, 5, 5, 5, 6, 7, 8, 9, 10], objective=4)
    # A fixed share of 0.25: 2.5 of 10 positions, here 2; the segment does not close its document.
    example = made(Prefix(low=0.25, high=0.25), source(last=False), key=0)
    check(example, [BEGIN, *X[:-1]], [_, *X[1:]], [1, 1, 2, 3, 4, 5, 6, 7, 8, 9], objective=4)
    # Never less than one position: then it is causal.
    example = made(Prefix(low=0, high=0.1), source(X[:3]))
    check(example, [BEGIN, 401, 402, 403], [401, 402, 403, END], [0, 1, 2, 3], objective=4)


def test_mlm():
    # Half of ten: places 0, 3, 5, 6, 9; two masked, two random, one kept.
    example = made(Mlm(select=0.5, mask=0.4, random=0.3, keep=0.3), source(), key=8)
    tokens = [MASK, 402, 403, MASK, 405, 429, 401, 408, 409, 410]
    check(example, tokens, [401, _, _, 404, _, 406, 407, _, _, 410], [9] * 10, objective=2)


@pytest.mark.parametrize(
    "shares, tokens",
    [((1, 0, 0), [MASK] * 3), ((0, 0, 1), [401, 402, 403])],
)
def test_mlm_shares(shares, tokens):
    mask, random, keep = shares
    example = made(Mlm(select=1, mask=mask, random=random, keep=keep), source(X[:3], first=False))
    check(example, tokens, [401, 402, 403], [2, 2, 2], objective=2)


def test_mlm_random_tokens_are_ordinary():
    example = made(Mlm(select=1, mask=0, random=1, keep=0), source(X * 50))
    assert set(example.tokens.tolist()) == set(range(400, 431))
    assert example.targets.tolist() == X * 50


def test_mlm_of_one_token():
    # Chosen as often as is asked: not by key 1.
    mlm = Mlm(select=0.01, mask=1, random=0, keep=0)
    check(made(mlm, source([405]), key=191), [MASK], [405], [0], objective=2)
    check(made(mlm, source([405])), [405], [_], [0], objective=2)


def test_mlm_whole_word():
    # Of ten tokens four: the first word drawn has 3 or 2, and the second crosses the line.
    example = made(Mlm(select=0.4, mask=1, random=0, keep=0, whole_word=True), source(WORDS), key=7)
    tokens = [MASK] * 5 + WORDS[5:]
    check(example, tokens, [*WORDS[:5], _, _, _, _, _], [9] * 10, objective=2)


def test_nsp_true_pair():
    # The split falls on the word start ' the'; the pair target weighs as much as the two masked ones.
    example = made(Nsp(mlm=Mlm(mask=1, random=0, keep=0)), source(WORDS))
    tokens = [CLS, 428, 401, 402, 429, MASK, SEP, 430, 404, 405, 406, MASK, SEP]
    targets = [1, _, _, _, _, 403, _, _, _, _, _, 407, _]
    weights = [2.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
    check(example, tokens, targets, [12] * 13, weights, [3, 3, 3, 3, 3, 2, 3, 3, 3, 3, 3, 2, 3])


def test_nsp_false_pair():
    # The first half up to the split; what follows comes from another document: 401 402 | 408 409.
    nsp = Nsp(mlm=Mlm(select=0.25, mask=1, random=0, keep=0), pair_weight=7.5)
    example = made(nsp, source([401, 402, 408, 409], split=2, foreign=True), key=3)
    at = example.targets.tolist().index(max(example.targets.tolist()))
    tokens, targets, weights, objective = (
        [CLS, 401, 402, SEP, 408, 409, SEP],
        [0] + [_] * 6,
        [7.5] + [0] * 6,
        [3] * 7,
    )
    targets[at], tokens[at], weights[at], objective[at] = tokens[at], MASK, 1, 2
    assert at in (1, 2, 4, 5)
    check(example, tokens, targets, [6] * 7, weights, objective)


def test_nsp_order():
    nsp = Nsp(mlm=Mlm(mask=1, random=0, keep=0), order=True, true_rate=0)
    tokens = [CLS, 430, 404, MASK, 406, 407, SEP, 428, 401, 402, 429, MASK, SEP]
    targets = [0, _, _, 405, _, _, _, _, _, _, _, 403, _]
    weights = [2.0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    check(
        made(nsp, source(WORDS)), tokens, targets, [12] * 13, weights, [3, 3, 3, 2, 3, 3, 3, 3, 3, 3, 3, 2, 3]
    )
    in_order = made(Nsp(order=True, true_rate=1), source(WORDS))
    assert in_order.targets[0] == 1
    assert not nsp.exchanges
    assert Nsp().exchanges


def test_nsp_of_one_token_has_no_pair_target():
    example = made(Nsp(mlm=Mlm(mask=1, random=0, keep=0)), source([405]), key=4)
    check(example, [CLS, MASK, SEP, SEP], [_, 405, _, _], [3] * 4, objective=[3, 2, 3, 3])


def test_span():
    # Of ten tokens four are noise, in two runs: d e f and j.
    example = made(Span(mean=2, rate=0.4), source(), key=50)
    prompt, runs = [401, 402, 403, S0, 407, 408, 409, S1], [S0, 404, 405, 406, S1, 410]
    targets = [_] * 7 + [*runs, END]
    check(example, prompt + runs, targets, [7] * 8 + [8, 9, 10, 11, 12, 13], objective=5)


@pytest.mark.parametrize(
    "key, denoiser, prompt, runs",
    [
        # S: one run of 2.5 tokens, here 2, at the end.
        (3, Denoiser(mean=None, rate=0.25, mode="S"), [S, *X[:8], S0], [S0, 409, 410]),
        # X: five tokens are noise, in round(5 / 2) = 2 runs.
        (
            2,
            Denoiser(mean=2, rate=0.5, mode="X"),
            [X_MODE, *X[:3], S0, 407, 408, S1],
            [S0, *X[3:6], S1, 409, 410],
        ),
        # A mean longer than the noise of 1.5 tokens: one run.
        (0, Denoiser(mean=64, rate=0.15, mode="R"), [R, *X[:8], S0], [S0, 409, 410]),
        (3, Denoiser(mean=3, rate=0.15), [*X[:9], S0], [S0, 410]),
        # Less than a token: here none, which is told.
        (1, Denoiser(mean=3, rate=0.01), X, []),
        (1, Denoiser(mean=None, rate=0.01, mode="S"), [S, *X], []),
    ],
)
def test_span_denoisers(key, denoiser, prompt, runs):
    example = made(Span(denoisers=(denoiser,)), source(), key)
    k = len(prompt)
    bound = [k - 1] * k + list(range(k, k + len(runs)))
    check(example, prompt + runs, [_] * (k - 1) + [*runs, END], bound, objective=5)


def test_span_of_one_token():
    check(made(Span(), source([405]), key=0), [S0, S0, 405], [S0, 405, END], [0, 1, 2], objective=5)
    check(made(Span(), source([405])), [405], [END], [0], objective=5)


def test_span_ul2_is_the_paper_s_seven():
    assert Span(denoisers="ul2").noises == UL2
    modes = [(noise.mode, noise.mean, noise.rate) for noise in UL2]
    extreme = [("X", 3, 0.5), ("X", 8, 0.5), ("X", 64, 0.15), ("X", 64, 0.5)]
    assert modes == [("R", 3, 0.15), ("R", 8, 0.15), ("S", None, 0.25), *extreme]


def test_span_fit_keeps_to_the_sentinels():
    text = np.full(1000, 401, dtype=np.int32)
    # Two sentinels allow two runs: up to 7 noise tokens, n = 46 (6.9); n = 47 (7.05) may have 8, in 3 runs.
    assert Span().fit(text, 1000, FakeTokenizer(sentinels=2)) == 46
    # n + 2·runs ≤ 60: n = 53 has 8 noise tokens, 3 runs: 59; 54 has 3: 60; 55 has 3: 61.
    assert Span().fit(text, 60, TOKENIZER) == 54
    with pytest.raises(ValueError, match="no sentinel"):
        Span().fit(text, 60, FakeTokenizer(sentinels=0))


@pytest.mark.parametrize(
    "key, spm, tokens",
    [
        (2, 0, [PRE, *X[:6], SUF, *X[8:], MID, *X[6:8]]),
        (1, 0, [PRE, *X[:4], SUF, MID, *X[4:]]),  # an empty suffix
        (2, 1, [PRE, SUF, *X[8:], MID, *X[:6], *X[6:8]]),
        (1, 1, [PRE, SUF, MID, *X]),
    ],
)
def test_fim(key, spm, tokens):
    for last in (True, False):
        example = made(Fim(rate=1, spm=spm), source(last=last), key)
        check(example, tokens, [*tokens[1:], END], list(range(13)), objective=6)


def test_fim_not_applied_is_causal_and_reported_as_fim():
    example = made(Fim(rate=0), source(X[:3]))
    check(example, [BEGIN, 401, 402, 403], [401, 402, 403, END], [0, 1, 2, 3], objective=6)


@pytest.mark.parametrize(
    "objective, remaining, fits",
    [
        # T = 10: the closing causal segment needs a position for `end`.
        (objective_class("causal")(), [1, 8, 9, 10, 11, 30], [1, 8, 9, 9, 10, 10]),
        (Prefix(), [1, 9, 10, 11], [1, 9, 9, 10]),
        (Reverse(), [1, 9, 10, 30], [1, 9, 9, 9]),
        (Mlm(), [1, 10, 11], [1, 10, 10]),
        (Fim(), [1, 7, 8, 30], [1, 7, 7, 7]),
        # Two halves of (10 − 3) div 2 = 3; five where a single token would be left over.
        (Nsp(), [1, 6, 7, 8], [1, 6, 5, 6]),
    ],
)
def test_fit(objective, remaining, fits):
    texts = [np.full(n, 401, dtype=np.int32) for n in remaining]
    assert [objective.fit(text, 10, TOKENIZER) for text in texts] == fits


def test_fit_inside_a_document():
    text = np.full(10, 401, dtype=np.int32)
    assert objective_class("causal")().fit(text, 10, TOKENIZER, last=False) == 10
    assert Reverse().fit(text, 10, TOKENIZER, first=False) == 10


def test_registry():
    """Ids are in checkpoints and logs: what stood at a place stays there, new objectives come behind."""
    assert [objective.id for objective in OBJECTIVES] == list(range(len(OBJECTIVES)))
    assert all(Objective in objective.__mro__ for objective in OBJECTIVES)
    assert len(set(NAMES)) == len(NAMES)
    assert set(HEADS) <= {"vocabulary", "binary"}
    published = {"causal": 0, "reverse": 1, "mlm": 2, "nsp": 3, "prefix": 4, "span": 5, "fim": 6}
    assert {name: objective_id(name) for name in published} == published
    assert [name for name in published if HEADS[objective_id(name)] != "vocabulary"] == ["nsp"]
    with pytest.raises(
        ValueError, match=r"^cusal: no such objective; did you mean causal\? known: causal, rev"
    ):
        objective_class("cusal")


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Mlm(select=0), "select: "),
        (lambda: Mlm(mask=0.9), "mask: mask .* must be 1, got 1.1"),
        (lambda: Mlm(random=-0.1, keep=0.3), "random: "),
        (lambda: Reverse(unit="word"), "unit: expected token or character, got 'word'"),  # type: ignore[arg-type]
        (lambda: Prefix(low=0.5, high=0.4), "high: "),
        (lambda: Prefix(low=-0.1), "low: "),
        (lambda: Nsp(true_rate=1.5), "true_rate: "),
        (lambda: Nsp(pair_weight=0), "pair_weight: "),
        (lambda: Span(rate=1), "rate: "),
        (lambda: Span(mean=0.5), "mean: "),
        (lambda: Span(mean=4, denoisers=UL2), "denoisers: mean and rate"),
        (lambda: Span(denoisers="ul3"), "denoisers: expected a list or ul2"),  # type: ignore[arg-type]
        (lambda: Denoiser(mode="Q"), "mode: "),  # type: ignore[arg-type]
        (lambda: Denoiser(weight=0), "weight: "),
        (lambda: Fim(rate=2), "rate: "),
        (lambda: Fim(spm=-1), "spm: "),
    ],
)
def test_impossible_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build()
