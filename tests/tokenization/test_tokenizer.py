"""Tokenizers: trained from the shards, lossless, the same file for the same seed; foreign ones as they are.

No text may produce a control id, whatever it spells: that is the promise on which every objective stands.
"""

import io
import threading
import time
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece

from data.errors import BadInput
from data.tokenization.check import check
from data.tokenization.sample import sample_texts
from data.tokenization.tokenizer import Tokenizer
from data.tokenization.train import control_symbols, train
from data.tokenization.whitespace import BLANK
from launcher.inference import generate
from model.generate import Sampling
from objectives.example import ControlIds, Source, Sources
from objectives.mixture import Mixture
from objectives.mlm import Mlm
from objectives.reverse import Reverse
from objectives.rng import Rng, RngBatch, extend_all
from tests.support.helpers import Corpora, make_corpus
from tests.support.sources import ROOT

AS_IT_IS = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
NASTY = [
    " leading and trailing ",
    "tabs\tand\r\nnewlines\n\n\n   ",
    "a   run    of blanks",
    "ﬁ ½ Å e\u0301 ① \u00a0 \u200b\ufeff",
    "中文字 日本語 🙂🏽‍🚀 \U0010ffff",
    "nul \0 and controls \x01\x7f\x85\u2028",
    f"{BLANK}literal {BLANK}{BLANK} blanks{BLANK}",
    BLANK,
    "⁇  ⁇ ",
    "0123456789 1.5e-10",
]


def all_ids(control: ControlIds) -> set[int]:
    fields = {name: getattr(control, name) for name in control.__dataclass_fields__}
    modes, sentinels = fields.pop("modes"), fields.pop("sentinels")
    return {*fields.values(), *modes.values(), *sentinels}


@pytest.fixture(scope="module")
def ours(corpora: Corpora) -> Tokenizer:
    return corpora.tokenizer()


@pytest.fixture(scope="module")
def texts(corpora: Corpora) -> list[str]:
    corpus = corpora.open("prose")
    return [str(sample.text) for unit in range(4) for sample in corpus.read_unit(unit)]


def foreign(texts: list[str], **options: object) -> Tokenizer:
    return Tokenizer(trained(texts, **options))


def trained(texts: list[str], **options: object) -> bytes:
    model = io.BytesIO()
    cut = [text[start : start + 2000] for text in texts for start in range(0, len(text), 2000)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(cut), model_writer=model, minloglevel=2, num_threads=2, **options
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def llama(texts: list[str]) -> Tokenizer:
    """As Llama 2's: BPE, byte fallback, dummy prefix, no pad."""
    options = {
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    symbols = ["▁<PRE>", "▁<MID>", "▁<SUF>"]
    return foreign(texts, model_type="bpe", vocab_size=800, user_defined_symbols=symbols, **options)


@pytest.fixture(scope="module")
def mistral() -> Tokenizer:
    """Mistral's own: BPE, byte fallback, dummy prefix, no pad, 750 control pieces, 20 user-defined ones."""
    return Tokenizer.load(ROOT / "tests" / "fixtures" / "mistral-v3.model")


@pytest.fixture(scope="module")
def t5(texts: list[str]) -> Tokenizer:
    """As T5's: unigram, NFKC, pad 0, end 1, no begin, <extra_id_N> as user-defined pieces, no byte pieces."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    extra = [f"<extra_id_{number}>" for number in range(20)]
    return foreign(texts, model_type="unigram", vocab_size=600, user_defined_symbols=extra, **ids)


@pytest.fixture(scope="module")
def gemma(texts: list[str]) -> Tokenizer:
    """As Gemma's, but unigram: byte fallback, runs of blanks as user-defined pieces, which keep U+2581."""
    symbols = ["▁▁▁▁", "\n\n"]
    return foreign(
        texts,
        model_type="unigram",
        vocab_size=800,
        byte_fallback=True,
        add_dummy_prefix=False,
        user_defined_symbols=symbols,
        **AS_IT_IS,
    )


@pytest.mark.parametrize("name", ["ours", "llama", "mistral", "gemma"])
def test_any_text_comes_back_as_it_was(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    for text, tokens in zip(NASTY, tokenizer.encode_documents(NASTY), strict=True):
        assert tokenizer.decode(tokens) == text
        assert tokens.dtype == np.int32
        assert np.array_equal(tokenizer.encode(text), tokens)
        inside = tokenizer.encode(text, inside=True)
        assert tokenizer.decode(inside, inside=True) == text
        assert tokenizer.byte_lengths(text, inside, inside=True).sum() == len(text.encode())
    assert len(tokenizer.encode("")) == 0


MODELS: list[dict[str, object]] = [
    {"model_type": "unigram"},
    {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity"},
    {"model_type": "unigram", "treat_whitespace_as_suffix": True, "allow_whitespace_only_pieces": True},
    {"model_type": "bpe", "byte_fallback": True, "split_by_whitespace": False},
    {"model_type": "bpe", "add_dummy_prefix": False, "remove_extra_whitespaces": False},
    {"model_type": "char"},
    {"model_type": "word"},
    {"model_type": "bpe", "user_defined_symbols": ["▁▁▁▁", "<a b>", "\n\n"]},
    {"model_type": "bpe", "user_defined_symbols": ["▁▁▁▁", "\n\n"], **AS_IT_IS},
    {"model_type": "unigram", "user_defined_symbols": ["▁▁▁▁", "\n\n"], **AS_IT_IS},
]


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_ids_are_those_of_the_model_itself(options: dict[str, object], texts: list[str]) -> None:
    """Blanks are encoded as blanks, not as U+2581: faster, and nothing but that
    (data/tokenization/whitespace.py)."""
    model = trained(texts, vocab_size=700, hard_vocab_limit=False, **options)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = Tokenizer(model)
    draw = np.random.default_rng(0)
    alphabet = [*" \t\n\r\u00a0\u3000ab", "  ", "    ", "\n\n", "é", "ﬁ", "中", "<a b>", "the "]
    mixed = ["".join(draw.choice(alphabet, draw.integers(1, 40))) for _ in range(500)]
    for text in [*texts, *(text for text in NASTY if BLANK not in text), *mixed]:
        if BLANK not in text:
            expected = processor.encode(text, return_type="numpy")
            assert np.array_equal(tokenizer.encode(text), expected), text


@pytest.mark.parametrize("name", ["ours", "llama", "mistral"])
def test_text_inside_a_text_keeps_its_blanks(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    text = " The quick  brown fox"
    tokens = tokenizer.encode(text)
    for cut in range(1, len(tokens)):
        assert tokenizer.decode(tokens[:cut]) + tokenizer.decode(tokens[cut:], inside=True) == text
    joined = [*tokenizer.encode("The qui"), *tokenizer.encode("ck brown", inside=True)]
    assert tokenizer.decode(joined) == "The quick brown"


@pytest.mark.parametrize("order, given", [("forwards", "The"), ("infill", "The"), ("backwards", "own fox")])
@pytest.mark.parametrize("name", ["ours", "mistral"])
def test_what_is_generated_goes_on_from_the_prompt(
    name: str,
    order: generate.Order,
    given: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = request.getfixturevalue(name)
    read: list[int] = []

    def answer(_: object, ids: list[int], **__: object) -> list[list[int]]:
        read.extend(ids)
        new = tokenizer.encode(" quick br", inside=True).tolist()
        return [new[::-1] if order == "backwards" else new]

    monkeypatch.setattr(generate, "generate_ids", answer)
    model = SimpleNamespace(config=SimpleNamespace(max_sequence_length=100))
    mixture = Mixture.parse({"causal": {}})
    text = generate.text_of(model, tokenizer, mixture, given, 50, Sampling(), order, suffix="own fox")
    assert text == " quick br"
    if order != "forwards":
        after = tokenizer.encode("own fox", inside=True).tolist()
        assert set(after) < set(read)
        assert tokenizer.decode([*tokenizer.encode("The quick br"), *after]) == "The quick brown fox"


@pytest.mark.parametrize("name", ["ours", "llama", "mistral", "t5"])
def test_text_that_spells_a_control_token_never_yields_one(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    control = all_ids(tokenizer.control)
    of_bytes = np.flatnonzero(tokenizer.is_byte).tolist()
    of_text = {*tokenizer.ordinary.tolist(), *of_bytes, tokenizer.unknown}
    spelled = {tokenizer.piece(number) for number in control} | {
        *control_symbols(256, 32),
        *("<s>", "</s>", "<pad>", "<unk>", "<0x41>", "<0x0A>", "<|endoftext|>", "[MASK]", "<extra_id_7>"),
        *("[INST]", "[/INST]", "[TOOL_CALLS]", "[control_8]", "[REFERENCE_DOC_3]", "[REF]", "[/REF]"),
    }
    assert len(spelled) > 290
    for text in [*spelled, "".join(spelled), " ".join(spelled), " <PRE> <MID> <SUF>▁<PRE>"]:
        tokens = set(tokenizer.encode(text).tolist())
        assert not tokens & control, (text, tokens & control)
        assert tokens <= of_text
    if name == "ours":
        text = "".join(sorted(spelled))
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert not tokenizer.is_byte[tokenizer.encode("<0x41>")].any()


@pytest.mark.parametrize("name", ["ours", "llama", "mistral", "t5"])
def test_control_ids_are_distinct_and_in_range(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    ids = all_ids(tokenizer.control)
    assert len(ids) == 9 + 3 + 256
    assert min(ids) >= 0
    assert max(ids) < tokenizer.size == len(tokenizer.word_start) == len(tokenizer.spread)
    assert not ids & set(tokenizer.ordinary.tolist())
    assert tokenizer.decode(np.array(sorted(ids))) == ""
    assert [tokenizer.piece(number) for number in ids]


def test_a_trained_model_holds_its_control_ids(ours: Tokenizer) -> None:
    assert ours.size == 2000 == ours.vocabulary_size
    control = ours.control
    assert (control.begin, control.end, control.pad, control.mask) == (1, 2, 3, 4)
    assert ours.piece(control.sentinels[255]) == "<s255>"
    assert ours.piece(control.modes["R"]) == "<R>"


def test_foreign_models_are_taken_as_they_are(llama: Tokenizer, mistral: Tokenizer, t5: Tokenizer) -> None:
    control = mistral.control
    assert (control.begin, control.end, control.fim_prefix, control.fim_middle) == (1, 2, 11, 12)
    assert min(control.pad, control.mask, control.sentinels[0]) >= 32_768 == mistral.vocabulary_size
    assert mistral.size == 32_768 + 268 - 5

    control = llama.control
    assert (control.begin, control.end) == (1, 2)
    assert control.fim_prefix < 800
    assert min(control.pad, control.mask, control.sentinels[0]) >= 800
    assert llama.size == 800 + 268 - 5
    assert "".join(llama.decode(llama.encode(text)) for text in ("a  b\n", "def f():")) == "a  b\ndef f():"

    control = t5.control
    assert (control.pad, control.end) == (0, 1)
    assert [t5.piece(number) for number in control.sentinels[:20]] == [f"<extra_id_{n}>" for n in range(20)]
    assert control.sentinels[19] < 600 <= control.sentinels[20]
    assert control.begin >= 600
    assert t5.decode(t5.encode("plain words")) == "plain words"
    assert t5.hash != llama.hash


def test_user_defined_pieces_that_are_text_stay_text(texts: list[str]) -> None:
    symbols = ["<table>", "\n\n", "▁▁▁▁", "<|im_start|>", "<unused7>"]
    tokenizer = foreign(
        texts, model_type="bpe", vocab_size=700, byte_fallback=True, user_defined_symbols=symbols
    )
    ids = tokenizer.encode("<table><|im_start|><unused7>").tolist()
    pieces = [tokenizer.piece(number) for number in ids]
    assert "<table>" in pieces
    assert not {"<|im_start|>", "<unused7>"} & set(pieces)


def test_tables(ours: Tokenizer) -> None:
    pieces = [ours.piece(number) for number in range(ours.size)]
    by_piece = {piece: number for number, piece in enumerate(pieces)}
    assert ours.word_start[by_piece[" the"]]
    assert ours.word_start[by_piece["\n"]]
    assert not ours.word_start[by_piece["ing"]]
    assert ours.spread[by_piece["ing"]] == 3
    assert ours.spread[by_piece[" the"]] == 4
    assert ours.spread[by_piece["<0x41>"]] == 1
    assert ours.is_byte.sum() == 256
    assert len(ours.ordinary) == 2000 - 256 - 1 - len(control_symbols(256, 32)) - 3


@pytest.mark.parametrize("name", ["ours", "llama", "mistral", "t5"])
def test_spread_bounds_what_reversed_text_becomes(
    name: str, request: pytest.FixtureRequest, texts: list[str]
) -> None:
    tokenizer = request.getfixturevalue(name)
    generator = np.random.default_rng(0)
    for text in [*texts[:40], *NASTY]:
        tokens = tokenizer.encode(text)
        for start in generator.integers(0, max(len(tokens) - 20, 1), 10):
            part = tokens[start : start + 20]
            turned = tokenizer.decode(part)[::-1]
            if "\ufffd" not in turned:
                prefix = name != "ours"  # one token more for the blank that these put before any text
                assert len(tokenizer.encode(turned)) <= tokenizer.spread[part].sum() + prefix, (text, start)


def test_the_same_seed_gives_the_same_file(corpora: Corpora, tmp_path: Path) -> None:
    opened = [corpora.open("prose")]
    options = {"vocabulary": 800, "budget": 150_000}
    models = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tokenizer = train(opened, tmp_path / name / "t.model", seed=seed, **options)
        models.append(((tmp_path / name / "t.model").read_bytes(), tokenizer.hash))
    assert models[0] == models[1]
    assert models[0] != models[2]
    assert train(opened, tmp_path / "bpe.model", algorithm="bpe", **options).decode([70]) is not None
    report = check(Tokenizer.load(tmp_path / "bpe.model"), opened)["prose"]
    assert report.mismatches == 0


def test_the_sample_is_bounded_shared_out_and_spread(corpora: Corpora) -> None:
    opened = [corpora.open("code"), corpora.open("prose")]
    texts = list(sample_texts(opened, 300_000, 1))
    assert 280_000 < sum(len(text.encode()) for text in texts) <= 310_000
    prose = {str(sample.text) for unit in range(8) for sample in opened[1].read_unit(unit)}
    of_prose = sum(len(text.encode()) for text in texts if text in prose)
    assert 0.1 < of_prose / 300_000 < 0.3  # prose holds a quarter; the last text of each is cut
    everything = list(sample_texts(opened, 10**9, 1))
    assert len(everything) == opened[0].index.samples + opened[1].index.samples


def test_training_refuses_in_one_line(corpora: Corpora, tmp_path: Path) -> None:
    opened = [corpora.open("prose")]
    (tmp_path / "there.model").touch()
    for out, options, what in (
        ("there.model", {}, "exists already"),
        ("a.model", {"vocabulary": 500}, "need 657 or more"),
        ("a.model", {"algorithm": "wordpiece"}, "expected unigram or bpe"),
        (
            "a.model",
            {"vocabulary": 100_000, "budget": 20_000},
            r"--vocabulary 100000: this text has pieces for \d+ ids at most; .* \(--sample-mib\)$",
        ),
        ("a.model", {"vocabulary": 100_000}, r"for \d+ ids at most; .* all that there is was read$"),
        ("a.model", {"budget": 500}, r"for \d+ ids at most; even 657, the fewest, are too many; read more"),
    ):
        with pytest.raises(BadInput, match=what) as caught:
            train(opened, tmp_path / out, **options)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["there.model"]


def test_check_counts_what_does_not_come_back(t5: Tokenizer, ours: Tokenizer, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, "c", ["plain words", "two  blanks\nand a newline", "🙂"])
    lossy = check(t5, [corpus])["c"]
    assert (lossy.documents, lossy.mismatches, lossy.broken) == (3, 2, ["000000001", "000000002"])
    assert lossy.unknown > 0
    exact = check(ours, [corpus])["c"]
    assert (exact.mismatches, exact.unknown, exact.text_bytes) == (0, 0, corpus.index.text_bytes)
    assert 0 < exact.byte_fallback < 0.5
    assert exact.bytes_per_token > 1


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x0a\x05hello", bytes(1000)])
def test_what_is_no_model_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(BadInput, match=r"t\.model: is not a SentencePiece model"):
        Tokenizer.load(tmp_path / "t.model")
    with pytest.raises(BadInput, match="No such file"):
        Tokenizer.load(tmp_path / "none.model")


def test_encoding_lets_other_threads_run(ours: Tokenizer, texts: list[str]) -> None:
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begun = time.perf_counter()
    ours.encode_documents(["".join(texts) * 8])
    ended = time.perf_counter()
    done.set()
    thread.join()
    assert sum(begun < moment < ended for moment in ticks) > 20


@pytest.mark.parametrize("text", ["The quick  brown fox", " jumps over", "x", "  "])
def test_a_dummy_prefix_adds_and_takes_no_blank_where_segments_are_turned_round(
    mistral: Tokenizer, text: str
) -> None:
    """By characters, whatever the cut: the pieces' texts side by side are the document."""
    tokens = mistral.encode(text)
    begin, end = mistral.control.begin, mistral.control.end
    for cut in range(1, len(tokens) + 1):
        read = ""
        for start, stop in ((0, cut), (cut, len(tokens))):
            if start == stop:
                continue
            piece = tokens[start:stop]
            first, last = start == 0, stop == len(tokens)
            before = begin if first else int(tokens[start - 1])
            after = end if last else int(tokens[stop])
            source = Source(piece, before, after, first, last, mistral)
            targets = Reverse(unit="character").make(source, Rng(1)).targets
            if first:
                assert targets[-1] == begin
                targets = targets[:-1]
            if len(piece) == 1:  # a single token is never spelt out
                read += mistral.decode(piece, inside=not first)
                assert np.array_equal(targets, piece)
            else:
                read += mistral.decode(targets, inside=True)[::-1]
        assert read == text, cut


WITHOUT_BLANKS = {
    "Chinese": "水车推动磨坊的石磨渠道把河水引到轮子上",
    "Japanese": "水車が石臼を回すコンピュータで食べましたっきょ",
    "Thai": "เครื่องจักรในโรงสีกำลังหมุนด้วยน้ำ",
    "Burmese": "မြန်မာဘာသာစကားနှင့်ရေ",
    "mixed": "我用iPhone手机เปิดFacebookを見るthemill",
    "base64": "TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcms",
    "marks": "e\u0301a\u0308o\u0302u\u0303" * 5,
}


def test_whole_words_of_scripts_without_blanks(mistral: Tokenizer, llama: Tokenizer) -> None:
    """In bytes, in characters, in longer pieces: the share is `select` over a few hundred documents, and no
    character is cut, nor a mark off its letter where that is a piece."""
    own = foreign(
        [text * 9 for text in WITHOUT_BLANKS.values()], model_type="bpe", vocab_size=500, **AS_IT_IS
    )
    mlm = Mlm(select=0.15, whole_word=True)
    rng = RngBatch(extend_all(np.full(300, 1, dtype=np.uint64), np.arange(300), "test"))
    for tokenizer in (mistral, llama, own):
        for name, text in WITHOUT_BLANKS.items():
            tokens = tokenizer.encode(text * 12)
            sources = Sources.of([Source(tokens, 1, 2, True, True, tokenizer)] * 300)
            chosen = mlm.make_all(sources, rng).targets >= 0
            assert chosen.mean() == pytest.approx(0.15, rel=0.05), name
            for at in np.flatnonzero(chosen[1:] != chosen[:-1])[:300] + 1:
                if at := at % len(tokens):
                    assert tokenizer.decode(tokens[at : at + 9], inside=True)[0] != "\ufffd", name
                    piece = tokenizer.piece(tokens[at])
                    assert not unicodedata.combining(piece[0]), name
