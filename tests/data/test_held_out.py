"""The fixed rows of held-out text."""

from dataclasses import replace

import numpy as np
import pytest

from data.errors import BadInput
from data.plan.blocks import Blocks
from data.plan.make import CorpusSettings
from data.plan.plan import Plan
from data.shards.trouble import ShardTrouble
from data.stream.held_out import held_out_rows, held_out_text
from objectives.registry import NAMES, objective_id
from tests.support.helpers import Corpora
from tests.support.stream_runs import settings, start


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
    return start(replace(asked, corpora={"code": CorpusSettings(opened["code"].index, 1.0, share)})).at(0)


def test_held_out_rows_are_fixed_and_of_one_objective_each(corpora: Corpora, plan: Plan) -> None:
    code, tokenizer = corpora.open("code"), corpora.tokenizer()
    sets = held_out_rows(code, plan.corpora[0], plan, tokenizer, limit_bytes=20_000)
    assert [held.objective for held in sets] == list(NAMES)
    again = held_out_rows(code, plan.corpora[0], plan, tokenizer, limit_bytes=20_000)
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
    for held in held_out_rows(code, plan.corpora[0], plan, tokenizer, limit_bytes=20_000):
        if held.objective in ("causal", "reverse"):
            targets = held.rows.targets[held.rows.targets >= 0]
            assert held.text_bytes == tokenizer.byte_length(targets)
            assert held.text_bytes >= 20_000
        else:
            assert held.text_bytes is None


def test_no_document_gives_more_than_an_eighth_so_false_pairs_are_there(corpora: Corpora, plan: Plan) -> None:
    code, tokenizer = corpora.open("code"), corpora.tokenizer()
    sets = held_out_rows(code, plan.corpora[0], plan, tokenizer, limit_bytes=20_000)
    assert min(held.documents for held in sets) >= 8
    texts, rests, _, text_bytes = held_out_text(code, plan.corpora[0], plan, tokenizer, 20_000)
    sizes = [tokenizer.byte_length(texts[document][:stop]) for document, _, stop in rests.tolist()]
    longest = max(tokenizer.byte_length(np.array([token])) for token in range(tokenizer.size))
    assert max(sizes) < 20_000 / 8 + longest
    assert sum(sizes) == text_bytes
    (nsp,) = (held.rows for held in sets if held.objective == "nsp")
    pairs = nsp.targets[nsp.objective == objective_id("nsp")]
    assert {0, 1} <= set(pairs.tolist())


def test_held_out_text_never_enters_the_stream(corpora: Corpora, plan: Plan) -> None:
    code = corpora.open("code")
    blocks = Blocks(
        plan.seed, "code", code.index.units, [len(code)], plan.corpora[0].held_out, plan.block_bytes
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
        held_out_rows(code, plan.corpora[0], plan, tokenizer, limit_bytes=20_000)
    assert "\n" not in str(caught.value)


def test_a_corpus_that_holds_nothing_out_has_no_rows(corpora: Corpora, plan: Plan) -> None:
    code, tokenizer = corpora.open("code"), corpora.tokenizer()
    none = replace(plan.corpora[0], held_out=0.0)
    assert held_out_rows(code, none, plan, tokenizer, limit_bytes=20_000) == []
