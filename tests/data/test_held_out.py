"""The fixed rows of held-out text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.access.trouble import ShardTrouble
from data.errors import BadInput
from data.plan.blocks import make_blocks
from data.plan.make import CorpusSettings
from data.plan.plan import History, Plan
from data.plan.positions import StreamPositions
from data.shards.corpus import Corpus
from data.stream.held_out import EvaluationRows, evaluation_rows, held_out_text, text_outside
from data.tokenization.tokenizer import Tokenizer
from objectives.registry import NAMES, objective_id
from objectives.schedule import Schedule
from tests.support.helpers import Corpora
from tests.support.stream_runs import Ledger, settings, small_units, start, texts


@pytest.fixture(scope="module")
def plan(corpora: Corpora) -> Plan:
    opened = {"code": corpora.open("code")}
    asked = settings(
        corpora.tokenizer(),
        opened,
        {"code": 1.0},
        block_bytes=65_536,
        objectives={name: {} for name in NAMES},
    )
    share = 0.3  # documents and bytes enough for every test, whatever Python's own sources they come from
    return start(
        replace(asked, corpora={"code": CorpusSettings(opened["code"], Schedule.parse(1), share)})
    ).at(0)


def held_out_rows(
    corpus: Corpus, plan: Plan, tokenizer: Tokenizer, limit: int = 20_000
) -> list[EvaluationRows]:
    text = held_out_text(corpus, plan.corpora[0], plan, tokenizer, limit)
    return evaluation_rows(text, plan, tokenizer, plan.corpora[0].id)


def spelled(tokenizer: Tokenizer, tokens: np.ndarray) -> int:
    """UTF-8 bytes of the pieces of a lossless model."""
    sizes = {int(number): len(tokenizer.piece(number).encode()) for number in tokenizer.ordinary}
    return sum(1 if tokenizer.is_byte[token] else sizes.get(token, 0) for token in tokens.tolist())


def test_held_out_rows_are_fixed_and_of_one_objective_each(corpora: Corpora, plan: Plan) -> None:
    code, tokenizer = corpora.open("code"), corpora.tokenizer()
    sets = held_out_rows(code, plan, tokenizer)
    assert [held.objective for held in sets] == list(NAMES)
    again = held_out_rows(code, plan, tokenizer)
    for held, same in zip(sets, again):
        assert held.rows.fingerprints() == same.rows.fingerprints()
        ids = set(np.unique(held.rows.objective).tolist()) - {-1}
        allowed = {objective_id(held.objective)} | (
            {objective_id("mlm")} if held.objective == "nsp" else set()
        )
        assert ids <= allowed
        assert (held.rows.weights > 0).any()


def test_bits_per_byte_are_of_the_text_that_is_predicted(corpora: Corpora, plan: Plan) -> None:
    code, tokenizer = corpora.open("code"), corpora.tokenizer()
    for held in held_out_rows(code, plan, tokenizer):
        if held.objective in ("causal", "reverse"):
            targets = held.rows.targets[held.rows.targets >= 0]
            assert held.text_bytes == spelled(tokenizer, targets)
            assert held.text_bytes >= 20_000
        else:
            assert held.text_bytes is None


def test_no_document_gives_more_than_an_eighth_so_false_pairs_are_there(corpora: Corpora, plan: Plan) -> None:
    code, tokenizer = corpora.open("code"), corpora.tokenizer()
    sets = held_out_rows(code, plan, tokenizer)
    text = held_out_text(code, plan.corpora[0], plan, tokenizer, 20_000)
    assert len(text) >= 8
    sizes = [spelled(tokenizer, text.texts[document][:stop]) for document, _, stop in text.used.tolist()]
    longest = max(len(tokenizer.piece(token).encode()) for token in range(tokenizer.size))
    assert max(sizes) < 20_000 / 8 + longest
    assert sum(sizes) == text.text_bytes
    (nsp,) = (held.rows for held in sets if held.objective == "nsp")
    pairs = nsp.targets[nsp.objective == objective_id("nsp")]
    assert {0, 1} <= set(pairs.tolist())


def test_held_out_text_never_enters_the_stream(corpora: Corpora, plan: Plan) -> None:
    code = corpora.open("code")
    blocks = make_blocks(
        plan.seed, "code", code.table, [len(code)], plan.corpora[0].held_out, plan.block_bytes
    )
    streamed = {unit for block in range(len(blocks)) for unit in blocks.units_of(block)}
    assert len(blocks.held_out)
    assert not streamed & set(blocks.held_out.tolist())
    assert streamed | set(blocks.held_out.tolist()) == set(range(len(code)))


def test_a_held_out_unit_that_cannot_be_read_is_one_line(
    corpora: Corpora, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, tokenizer = corpora.open("code"), corpora.tokenizer()

    def cut_off(*_: object, **__: object) -> bytes:
        raise ShardTrouble("cut off")

    monkeypatch.setattr(code.store, "read", cut_off)
    with pytest.raises(BadInput, match=r"corpus code: .*tar, unit \d+ .*: cut off; it is held out") as caught:
        held_out_rows(code, plan, tokenizer)
    assert "\n" not in str(caught.value)


def test_a_corpus_that_holds_nothing_out_has_no_rows(corpora: Corpora, plan: Plan) -> None:
    code, tokenizer = corpora.open("code"), corpora.tokenizer()
    none = replace(plan, corpora=(replace(plan.corpora[0], held_out=0.0),))
    assert held_out_rows(code, none, tokenizer) == []


SHAPES = {
    "one book and short ones": [300_000] + [90] * 400,
    "books": [40_000 + 9_000 * (n % 7) for n in range(30)],
    "short": [100 + 13 * (n % 31) for n in range(900)],
    "middling": [3_000 * (1 + n % 20) for n in range(60)],
    "two": [500, 90_000],
}


@pytest.mark.parametrize("asked", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_share_is_held_out_to_a_tenth_or_a_document(
    shape: str, asked: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpora: Corpora
) -> None:
    sizes = SHAPES[shape]
    corpus = small_units(monkeypatch, tmp_path, "a", ["x" * size for size in sizes], unit=4_000)
    given = settings(corpora.tokenizer(), {"a": corpus}, {"a": 1.0})
    for seed in range(8):
        asked_for = replace(given, seed=seed, corpora={"a": CorpusSettings(corpus, Schedule.parse(1), asked)})
        plan = start(asked_for).at(0)
        part = plan.corpora[0]
        blocks = make_blocks(seed, "a", corpus.table, [len(corpus)], asked, 1_000)
        held = [size for unit in blocks.held_out.tolist() for size in corpus.text_bytes_of(unit)]
        held += [
            corpus.text_bytes_of(unit)[number] for unit, some in part.held_out_documents for number in some
        ]
        assert 0 < sum(held) < sum(sizes)
        off = abs(sum(held) - asked * sum(sizes))
        assert off <= max(0.1 * asked * sum(sizes), max(sizes))
        if shape in ("one book and short ones", "short") and asked < 0.1:
            assert off <= max(0.1 * asked * sum(sizes), sorted(sizes)[-2])
        assert History.from_json(History(((0, plan),)).to_json()).newest == plan


def test_a_document_that_is_held_out_alone_never_enters_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpora: Corpora
) -> None:
    corpus, tokenizer = (
        small_units(monkeypatch, tmp_path, "a", texts(200, 1), unit=2_000),
        corpora.tokenizer(),
    )
    given = settings(tokenizer, {"a": corpus}, {"a": 1.0})
    history = start(replace(given, corpora={"a": CorpusSettings(corpus, Schedule.parse(1), 0.05)}))
    set_aside = history.newest.corpora[0].set_aside
    assert set_aside
    ledger = Ledger()
    state = ledger.walk(history, {"a": corpus}, tokenizer, 0, 800, StreamPositions())
    assert ledger.check(history, {"a": corpus}, tokenizer, state)["a"] >= 1
    streamed = {(unit, number) for _, _, unit, number in ledger.used}
    assert not {(unit, number) for unit, some in set_aside.items() for number in some} & streamed
    text = held_out_text(corpus, history.newest.corpora[0], history.newest, tokenizer, 100_000)
    assert len(text) >= sum(map(len, set_aside.values()))


def test_rows_of_text_outside_the_plan_depend_on_nothing_else_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpora: Corpora, plan: Plan
) -> None:
    """Not on corpora, weights, B, lanes or blocks; on the seed and T they do. Of one document all that the
    limit allows is taken, of a long one in parts the first part."""
    tokenizer = corpora.tokenizer()
    outside = small_units(monkeypatch, tmp_path, "val", texts(300, 3))

    def rows(of: Plan) -> list[list[int]]:
        text = text_outside(outside, frozenset(), of, tokenizer, 4_000)
        assert 4_000 <= text.text_bytes < 5_000
        return [built.rows.fingerprints() for built in evaluation_rows(text, of, tokenizer)]

    first = rows(plan)
    assert len(first) == len(NAMES)
    part = replace(plan.corpora[0], weight=0.3, name="another", held_out=0.0)
    assert rows(replace(plan, corpora=(part,), batch_rows=3, block_bytes=9, lanes=4)) == first
    assert rows(replace(plan, seed=2)) != first
    assert rows(replace(plan, length=32)) != first

    book = small_units(monkeypatch, tmp_path, "book", [" ".join(texts(40_000, 4))])
    assert len(book.index.table.placed) == 1
    for limit in (1, 3_000, 1 << 30):
        text = text_outside(book, frozenset(), plan, tokenizer, limit)
        assert len(text) == 1
        assert min(limit, 1 << 19) <= text.text_bytes <= min(limit + 20, 1 << 20)
