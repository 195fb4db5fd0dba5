"""A tokenizer that loses text, as a user meets it: refused by `check`, `train` and `resume`, or allowed and
told in the metrics. The text is made here."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece

from data.tokenization.check import check, first_loss
from data.tokenization.tokenizer import Tokenizer
from tests.support.commands import Commands
from tests.support.helpers import make_corpus

CONFIG = """\
run: {name: r, folder: runs}
steps: 4
sequence_length: 64
batch_rows: 4
lanes: 4
tokenizer: {model: t5.model}
data: {corpora: {c: {shards: 'c-*.tar'}, plain: {shards: 'plain-*.tar'}}, block_bytes: 16384}
objectives: {causal: {}}
model: {layers: 1, width: 32, heads: 2}
optimizer: {lr: 1.0e-3, warmup: 2}
layout: {zero: 1, micro_batch: 4}
checkpoint: {every: 2}
wandb: {mode: disabled}
"""
WORDS = ["river", "mill", "stone", "wheel", "race", "head", "water", "grain"]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """`plain`, which a T5-like model spells; and `c`, of whose documents every second has what it cannot."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=30)) for _ in range(200)]
    make_corpus(tmp_path, "plain", texts)
    make_corpus(tmp_path, "c", [f"{text} 🙂\n" if i % 2 == 0 else text for i, text in enumerate(texts)])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(tmp_path / "t5"),
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


def test_a_tokenizer_that_loses_text_is_refused_or_allowed_and_told(work: Path, headrace: Commands) -> None:
    for command in ("check", "train"):
        line = headrace.refused(command, "c.yaml", cwd=work)
        assert "t5.model: cannot give back all text of corpus c: " in line
        assert " % of the tokens of a sample are unknown, 100 of 200 documents do not come back" in line
        assert "'🙂' (U+1F642 SLIGHTLY SMILING FACE) comes back as ' ⁇ '" in line
        assert f"headrace tokenizer train {work}/c.index" in line
        assert "tokenizer.lossy=allow" in line
    assert not (work / "runs").exists()
    assert "tokenizer.lossy: expected" in headrace.refused("check", "c.yaml", "tokenizer.lossy=no", cwd=work)

    evaluated = ["data.corpora.c=null", "eval.corpora.c.shards=c-*.tar"]
    for command in ("check", "train"):
        line = headrace.refused(command, "c.yaml", *evaluated, cwd=work)
        assert "t5.model: cannot give back all text of eval.corpora.c: " in line
        assert f"headrace tokenizer train {work}/plain.index --out" in line

    allow = ["tokenizer.lossy=allow"]
    facts = json.loads(headrace.ok("check", "c.yaml", *allow, "--json", cwd=work))
    shares = {part["name"]: (part["unknown"], part["not_lossless"]) for part in facts["corpora"]}
    assert shares["plain"] == (0, 0)
    assert shares["c"][0] > 1e-3
    assert shares["c"][1] == 0.5
    (warning,) = [line for line in facts["warnings"] if "cannot give back" in line]

    done = headrace.run("train", "c.yaml", *allow, "steps=2", cwd=work)
    assert done.code == 0, done.err
    assert warning in done.err
    assert "of these tokens are unknown: the tokenizer cannot spell" in done.out
    lines = [json.loads(line) for line in headrace.ok("metrics", "runs/r", "--json", cwd=work).splitlines()]
    shown = [line["unknown"] for line in lines if "loss" in line]
    assert len(shown) == 2
    assert 0 < sum(shown) / 2 < 0.05

    # A run of before, whose config did not say it: a start asks again, and before an attempt is claimed.
    line = headrace.refused("resume", "runs/r", "steps=4", "tokenizer.lossy=refuse", cwd=work)
    assert "cannot give back all text of corpus c" in line
    assert [path.name for path in (work / "runs/r/attempts").iterdir()] == ["0001"]
    headrace.ok("check", "c.yaml", "run.name=other", "data.corpora.c.weight=0", cwd=work)


def test_a_model_of_bytes_reads_nothing_at_a_start(work: Path) -> None:
    """Nothing of the shards: a start is not to wait for text that only a `check` has to see."""
    from launcher.config import run_config
    from launcher.preflight.lossy import require_spelling
    from tests.support.sources import ROOT

    config = run_config.load(work / "c.yaml")
    mistral = Tokenizer.load(ROOT / "tests" / "fixtures" / "mistral-v3.model")
    assert require_spelling(config, mistral, lambda: pytest.fail("opened a corpus")) == []


def test_a_sample_of_shards_that_are_packed_as_a_whole_unpacks_few(work: Path) -> None:
    """Each is fetched and unpacked for the first unit that is read of it."""
    import gzip

    from data.prepare.build_index import build_index
    from data.shards.corpus import open_corpus

    names = []
    for number in range(12):
        texts = ["".join(random.Random(i).choices("abcdef \n", k=4000)) for i in range(60)]
        make_corpus(work, f"x{number}", texts)
        packed = work / f"z-{number:06d}.tar.gz"
        packed.write_bytes(gzip.compress((work / f"x{number}-000000.tar").read_bytes()))
        names.append(str(packed))
    build_index(names, work / "z.index")
    corpus = open_corpus("z", names)
    read: set[str] = set()
    inner = corpus.store.read

    def noted(url: str, *arguments: object, **options: object) -> bytes:
        read.add(url)
        return inner(url, *arguments, **options)  # type: ignore[arg-type]

    corpus.store.read = noted  # type: ignore[method-assign]
    tokenizer = Tokenizer.load(work / "t5.model")
    report = check(tokenizer, [corpus], budget=300_000)["z"]
    assert report.text_bytes >= 300_000
    assert len(read) == 2


@pytest.mark.parametrize(
    "text, back, what",
    [
        ("a\nb", "a b", "a line end"),
        ("a\r\nb", "a b", "a line end (CR LF)"),
        ("a\tb", "a b", "a tab"),
        ("a   b", "a b", "a run of 3 blanks"),
        ("  a", "a", "a run of 2 blanks at the beginning"),
        ("a\n", "a", "a line end at the end"),
        ("a\u00a0b", "a b", r"'\xa0' (U+00A0 NO-BREAK SPACE)"),
        ("Äb", "äb", "'Ä' (U+00C4 LATIN CAPITAL LETTER A WITH DIAERESIS) comes back as 'ä'"),
        ("xﬁn", "xfin", "'ﬁ' (U+FB01 LATIN SMALL LIGATURE FI) comes back as 'fi'"),
        ("a中b c", "a ⁇ b c", "'中' (U+4E2D CJK UNIFIED IDEOGRAPH-4E2D) comes back as ' ⁇ '"),
        ("a\0b", "ab", r"'\x00' (U+0000) comes back as ''"),
        ("ab", "abb", "'b' is added at the end"),
        ("ab", "", "'a' (U+0061 LATIN SMALL LETTER A) comes back as ''"),
    ],
)
def test_what_is_lost_first_is_named(text: str, back: str, what: str) -> None:
    assert first_loss(text, back) == what
