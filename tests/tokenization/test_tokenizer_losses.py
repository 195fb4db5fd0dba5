"""What tokenizers lose: measured, named, and counted as text where bits a byte are; and models that are none.

Text is made here, of kinds in which models of all families meet what they cannot spell.
"""

import io
import itertools
import random
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from data.errors import BadInput
from data.tokenization.model_proto import ModelProto
from data.tokenization.tokenizer import Tokenizer
from data.tokenization.train import train
from tests.support.helpers import make_corpus
from tests.support.sources import ROOT

WORDS = ["the", "river", "mill", "stone", "wheel", "race", "head", "water", "grain", "flour", "and"]
MISTRAL = ROOT / "tests" / "fixtures" / "mistral-v3.model"
KINDS = [
    "  plain  words \n\n",
    "tabs\tand\r\nline\rends\u2028\x85",
    "def f(x):\n    return x  # Ünïcode ﬁ ½ ﷺ e\u0301 \u00a0",
    "中文字 ไทยนี้ 🙂🏽‍🚀 \U0010ffff",
    "nul \0 \x01\x7f ▁ ▁▁ ⁇ ▅",
    "UPPER Case ＦＵＬＬ",
    "x",
    " ",
    "🙂",
]
"""Alone and joined: what folding, dropping and unknown pieces do to text."""


def prose(documents: int, words: int = 60) -> list[str]:
    draw = random.Random(5)
    return [" ".join(draw.choices(WORDS, k=words)) + ".\n" for _ in range(documents)]


def family(name: str) -> dict[str, object]:
    """How other people's models were trained."""
    control = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    as_it_is = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    bytes_ = {"model_type": "bpe", "byte_fallback": True}
    return {
        "t5": {"model_type": "unigram", **control, "user_defined_symbols": ["<extra_id_0>"]},
        "albert": {"model_type": "unigram", "normalization_rule_name": "nfkc_cf", "unk_surface": "[UNK]"},
        "xlnet": {"model_type": "unigram", "user_defined_symbols": [".", "<eop>"], "split_digits": True},
        "llama": {**bytes_, **as_it_is},
        "nfkc with bytes": {"model_type": "unigram", "byte_fallback": True},
        "suffix": {"model_type": "unigram", "treat_whitespace_as_suffix": True},
        "suffix, bytes": {**bytes_, **as_it_is, "treat_whitespace_as_suffix": True},
        "symbols": {"model_type": "bpe", "user_defined_symbols": ["▁▁", "\n", "\t"], **as_it_is},
        "bare": {"model_type": "unigram", "bos_id": -1, "eos_id": -1, "pad_id": -1},
        "char": {"model_type": "char"},
        "word": {"model_type": "word"},
    }[name]


FAMILIES = ["t5", "albert", "xlnet", "llama", "suffix", "symbols", "bare", "char", "word"]
FAMILIES += ["nfkc with bytes", "suffix, bytes"]


@cache
def model(name: str) -> Tokenizer:
    made = io.BytesIO()
    texts = [*prose(60), "def f(x): return x", "the ﬁ ½ of 中 and e\u0301"] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=made,
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        **family(name),
    )
    return Tokenizer(made.getvalue(), name)


def mixed(number: int) -> list[str]:
    draw = random.Random(3)
    return [*KINDS, *("".join(draw.choices(KINDS, k=draw.randrange(2, 7))) for _ in range(number))]


@pytest.mark.parametrize("name", [*FAMILIES, "mistral"])
def test_the_bytes_of_tokens_are_those_of_the_original_text(name: str) -> None:
    tokenizer = Tokenizer.load(MISTRAL) if name == "mistral" else model(name)
    for text, inside in itertools.product(mixed(60), (False, True)):
        tokens = tokenizer.encode(text, inside=inside)
        lengths = tokenizer.byte_lengths(text, tokens, inside=inside)
        assert len(lengths) == len(tokens)
        assert (lengths >= 0).all()
        if len(tokens):  # a text that is dropped as a whole has no token to count it
            assert lengths.sum() == len(text.encode()), (text, inside)
    assert tokenizer.lossless == (name in ("mistral", "llama"))


def test_what_a_token_stands_for_is_the_text_behind_which_it_was_found() -> None:
    """T5's: line ends and runs of blanks belong to the token behind them, "ﬁ" to what it became."""
    t5 = model("t5")
    text = "the\n\n  river ﬁ🙂🙂"
    tokens = t5.encode(text)
    spelled = [t5.piece(int(token)).strip() for token in tokens]
    lengths = t5.byte_lengths(text, tokens)
    assert tokens[-1] == t5.unknown
    assert lengths[-1] == len("🙂🙂".encode())
    ends = dict(zip(np.cumsum(lengths).tolist(), spelled))
    assert {len("the"), len("the\n\n  river"), len("the\n\n  river ﬁ".encode())} <= ends.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_spread_bounds_reversed_text_also_where_it_has_unknown_pieces(name: str) -> None:
    tokenizer, draw = model(name), random.Random(2)
    texts = [*mixed(40), *("".join(draw.choices("🙂 ﷺx½⁇中 the", k=24)) for _ in range(40))]
    for text in texts:
        tokens = tokenizer.encode(text)
        for start in range(0, len(tokens), 7):
            part = tokens[start : start + 20]
            turned = tokenizer.decode(part, inside=start > 0)[::-1]
            if "\ufffd" not in turned:
                again = tokenizer.encode(turned, inside=True)
                assert len(again) <= tokenizer.spread[part].sum(), (text, start)


def test_all_text_that_was_drawn_is_learned(tmp_path: Path) -> None:
    """Characters and names that SentencePiece's trainer keeps for itself, and line ends of chunks, in each
    document that has the word: it and they are learned, but for what no piece can hold, which is told."""
    kept = "▅▅ \x1f\x1f <mask> <0x41> </s>"
    draw = random.Random(6)
    made_up = ["".join(draw.choices("abcdefghijk", k=4)) for _ in range(4000)]
    texts = [f"{' '.join(made_up[i::400])}{f' zebra ▁{chr(0)}{kept}' * 3}\n\n" for i in range(400)]
    corpus = make_corpus(tmp_path, "c", texts)
    for algorithm in ("unigram", "bpe"):
        told: list[str] = []
        out = tmp_path / f"{algorithm}.model"
        made = train([corpus], out, vocabulary=740, algorithm=algorithm, note=told.append)
        pieces = {made.piece(int(number)) for number in made.ordinary}
        assert {"▅", "\x1f", "\n", *"<msx>"} <= pieces
        assert {" zebra", "zebra"} & pieces
        assert algorithm == "unigram" or any("\n\n" in piece for piece in pieces)
        assert algorithm == "unigram" or any("▅▅" in piece for piece in pieces)
        assert algorithm == "unigram" or any("mas" in piece for piece in pieces)
        assert not any(re.search("[\ufdd0\ufdd1\0▁]", piece) for piece in pieces)
        assert told == [
            f"learned from 400 documents, {corpus.index.text_bytes:,} bytes of text",
            "not learned: 1,200 times U+0000, which no piece can hold: it is spelled in its bytes",
            "not learned: 1,200 times U+2581, which no piece can hold: it is spelled in its bytes",
        ]
        for text in (texts[0], kept, *mixed(20)):
            assert made.decode(made.encode(text)) == text
        proto = ModelProto.FromString(out.read_bytes())
        scores = np.array([piece.score for piece in proto.pieces]) * 64
        assert np.array_equal(scores, scores.round())


def test_a_word_that_is_always_followed_by_a_blank_is_learned(tmp_path: Path) -> None:
    """A unigram's first candidates are substrings with different characters behind them: so each text is cut
    somewhere, short ones too."""
    draw = random.Random(1)
    often = ["zebra", "quokka", "wombat", "axolotl", "narwhal"]
    rare = ["".join(draw.choices("abcdefghijk", k=5)) for _ in range(3000)]
    lines = [" ".join([*draw.choices(often, k=6), word]) + " |" for word in rare]
    corpus = make_corpus(tmp_path, "c", lines)
    made = train([corpus], tmp_path / "t.model", vocabulary=400, sentinels=2, spares=0)
    assert {f" {word}" for word in often} <= {made.piece(int(number)) for number in made.ordinary}


BEGINNINGS: list[tuple[bytes, str]] = [
    (b"", "it is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    (b"<!DOCTYPE html>\n<html>", "a web page"),
    (b"\n\n  <html lang='en'>", "a web page"),
    (b'{\n  "version": "1.0",\n  "added_tokens": []}', "Hugging Face's tokenizer.json"),
    (b'{"bos_token": "<s>"}', "but JSON"),
    (b"IQ== 0\nIg== 1\n", "tiktoken"),
    (b"#version: 0.2\nt h\n", "BPE merges"),
    (b"<unk>\t0\n<s>\t0\n", "name the .model beside it"),
    (b"[PAD]\n[unused0]\n", "WordPiece"),
    (b"\x80\x04\x95\x10", "a Python pickle"),
    (b"PK\x03\x04\x14", "a zip archive"),
    (b"\x1f\x8b\x08\x00", "packed by gzip"),
    (b"GGUF\x03\0\0\0", "llama.cpp"),
    (b'\x10\0\0\0\0\0\0\0{"a": 1}', "safetensors"),
    (bytes(1000), "headrace tokenizer train"),
    (b"the river mill", "headrace tokenizer train"),
]


@pytest.mark.parametrize("content, what", BEGINNINGS, ids=[what for _, what in BEGINNINGS])
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(
        BadInput, match=rf"t\.model: is not a SentencePiece model.*{re.escape(what)}"
    ) as caught:
        Tokenizer.load(tmp_path / "t.model")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"is a folder; name the \.model file .* such as .*t\.model$"):
        Tokenizer.load(tmp_path)


def test_a_model_that_was_cut_off_or_that_sentencepiece_refuses_is_one_line() -> None:
    whole = MISTRAL.read_bytes()
    proto = ModelProto.FromString(whole)
    pieces = ModelProto(pieces=proto.pieces).SerializeToString()
    cuts = [20, 1000, len(whole) // 3, len(pieces) - 1, len(pieces), len(pieces) + 5, len(whole) - 1]
    for cut in cuts:
        with pytest.raises(BadInput, match=r"m: is .*cut off .*copy it again") as caught:
            Tokenizer(whole[:cut], "m")
        assert "\n" not in str(caught.value)
    twice, nameless, unspelled = (ModelProto.FromString(whole) for _ in range(3))
    twice.pieces.add(piece="the", score=0.0)
    twice.pieces.add(piece="the", score=0.0)
    nameless.pieces.add(piece="", score=0.0)
    del unspelled.pieces[900:905]
    for broken, what in (
        (twice, r"the piece 'the' stands in it twice \(ids \d+ and \d+\); give"),
        (nameless, "piece must not be empty; copy it"),
        (unspelled, "256 byte pieces"),
    ):
        with pytest.raises(BadInput, match=f"m: SentencePiece refuses this model: .*{what}"):
            Tokenizer(broken.SerializeToString(), "m")
