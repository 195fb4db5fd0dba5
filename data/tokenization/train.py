"""Train a SentencePiece model straight from the shards.

The budget of the sample (data/tokenization/sample.py) bounds the memory, whatever the corpora hold, and the
same seed gives the same file (SentencePiece's thread count is fixed, since sums over threads reach the
result).

The recipe is lossless: identity normalisation, byte fallback, no dummy prefix, white space kept, so decoding
gives back every text. Control ids are control symbols of the model: no text can produce them.

Two things are put right in what SentencePiece made: characters that its trainer keeps for itself get their
own name (data/tokenization/reserved.py), and a unigram's scores are rounded to 1/64. SentencePiece adds
scores up in float32 and other libraries in float64, so ties and near ties fall either way; on that grid both
sums are exact, up to some 40 000 tokens, and both give the same ids. It costs one token in three million, as
measured, but it changes ids: so it belongs here, and never to a model that a run was trained with.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from data.durable import writing, written_aside
from data.errors import BadInput
from data.prepare.parallel import Progress
from data.shards.corpus import Corpus
from data.tokenization.model_proto import ModelProto
from data.tokenization.reserved import Learnable, restore
from data.tokenization.sample import LONGEST, Drawn, chunks, sample_texts
from data.tokenization.tokenizer import ROLES, SENTINELS, Tokenizer, sentinel_names

SPARES = 32
_THREADS = 4
_TEXT_OVERHEAD = 4 + 256
_GRID = 64
"""A unigram's scores are multiples of 1/64."""


def control_symbols(sentinels: int, spares: int) -> list[str]:
    """The control pieces of a trained model behind <unk> 0, <s> 1, </s> 2 and <pad> 3, in order."""
    roles = [names[0] for role, names in ROLES.items() if role not in ("begin", "end", "pad")]
    numbered = [sentinel_names(number)[0] for number in range(sentinels)]
    return roles + numbered + [f"<spare{number}>" for number in range(spares)]


def train(
    corpora: Sequence[Corpus],
    out: str | Path,
    *,
    vocabulary: int = 32_000,
    algorithm: str = "unigram",
    budget: int = 100_000_000,
    seed: int = 1,
    sentinels: int = SENTINELS,
    spares: int = SPARES,
    split_digits: bool = True,
    character_coverage: float = 0.9995,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Tokenizer:
    """Train a model of `vocabulary` ids (control and byte ids included) and write it to `out`.

    algorithm: "unigram" or "bpe". budget: bytes of text to train on. progress: (bytes, budget) while reading.
    note: is told in a line what was learned from, and in one each what was not.
    Raises BadInput where `out` exists, a setting is out of range or the text is too small for the vocabulary.
    """
    out = Path(out)
    symbols = control_symbols(sentinels, spares)
    least = _TEXT_OVERHEAD + len(symbols) + 100
    _require_possible(out, algorithm, vocabulary, len(symbols), least)
    drawn = Drawn()
    learnable = Learnable([*symbols, "<unk>", "<s>", "</s>", "<pad>"])
    texts = sample_texts(corpora, budget, seed, drawn)
    with writing(out):
        _make_folder_of(out)
    # The file is made before the training, which takes a while: where it cannot be, that is known now.
    with writing(out), written_aside(out, sync=False) as file:
        read = map(learnable, chunks(texts, budget, progress))
        try:
            model = _trained(
                read,
                model_type=algorithm,
                vocab_size=vocabulary,
                character_coverage=character_coverage,
                split_digits=split_digits,
                control_symbols=symbols,
            )
        except (RuntimeError, OSError) as error:
            cut_short = budget < sum(corpus.index.text_bytes for corpus in corpora)
            raise BadInput(_refusal(out, vocabulary, least, cut_short, str(error))) from error
        restore(model)
        if algorithm == "unigram":
            _round_scores(model)
        file.write(model.SerializeToString())
    if note is not None:
        for line in _account(drawn, learnable):
            note(line)
    return Tokenizer.load(out)


def _trained(chunks: Iterable[str], **options: Any) -> ModelProto:
    """The lossless recipe, and these options of SentencePiece's trainer. Raises what SentencePiece does."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(chunks),
        model_writer=model,
        normalization_rule_name="identity",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        num_threads=_THREADS,
        max_sentence_length=8 * LONGEST,
        minloglevel=2,
        **options,
    )
    return ModelProto.FromString(model.getvalue())


def _round_scores(proto: ModelProto) -> None:
    """Put the scores of the pieces of text on the grid."""
    for piece in proto.pieces:
        if piece.type == piece.NORMAL:
            piece.score = round(piece.score * _GRID) / _GRID


def _account(drawn: Drawn, learnable: Learnable) -> Iterator[str]:
    """Lines on what was learned from, and what was not."""
    yield f"learned from {drawn.documents:,} documents, {drawn.text_bytes:,} bytes of text"
    if drawn.bad:
        yield f"not learned from: {drawn.bad:,} samples without usable text; why: headrace data verify INDEX"
    for name, count in sorted(learnable.never.items()):
        yield f"not learned: {count:,} times {name}, which no piece can hold: it is spelled in its bytes"


def _require_possible(out: Path, algorithm: str, vocabulary: int, controls: int, least: int) -> None:
    """BadInput for what can be refused before any text is read."""
    if out.exists():
        raise BadInput(f"{out}: exists already; choose another --out or remove it first")
    if algorithm not in ("unigram", "bpe"):
        raise BadInput(f"algorithm {algorithm!r}: expected unigram or bpe")
    if vocabulary < least:
        raise BadInput(f"vocabulary {vocabulary}: {controls} control and 256 byte ids need {least} or more")


def _make_folder_of(out: Path) -> None:
    """OSError, or BadInput where a file has the name of the folder."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise BadInput(f"{out}: cannot be written: {out.parent} is a file") from error


def _refusal(out: Path, vocabulary: int, fewest: int, cut_short: bool, error: str) -> str:
    """What SentencePiece found wrong, in its own words where they are not known. fewest: the smallest
    vocabulary; cut_short: there is more text than was read."""
    if most := re.search(r"Vocabulary size too high .*<= (\d+)", error):
        more = "read more of it (--sample-mib)" if cut_short else "add text: all that there is was read"
        enough = int(most[1]) >= fewest
        fewer = "ask for so many, or " if enough else f"even {fewest}, the fewest, are too many; "
        return f"--vocabulary {vocabulary}: this text has pieces for {most[1]} ids at most; {fewer}{more}"
    if least := re.search(r"Vocabulary size is smaller than required_chars. \d+ vs (\d+)", error):
        return f"--vocabulary {vocabulary}: the characters of this text alone need {least[1]} ids or more"
    return f"{out}: SentencePiece cannot train this: {' '.join(error.split())[-300:]}"
