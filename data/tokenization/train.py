"""Train a SentencePiece model straight from the shards.

The sample is drawn unit by unit through the index, by keyed draws, until a budget of bytes is reached: memory
is bounded by the budget, whatever the corpora hold, and the same seed gives the same file (SentencePiece's
thread count is fixed, since sums over threads reach the result).

The recipe is lossless: identity normalisation, byte fallback, no dummy prefix, white space kept, so decoding
gives back every text. Control ids are control symbols of the model: no text can produce them.
"""

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from data.durable import writing, written_aside
from data.errors import BadInput
from data.prepare.parallel import Progress
from data.shards.corpus import Corpus
from data.tokenization.tokenizer import ROLES, SENTINELS, Tokenizer, sentinel_names
from objectives.rng import Rng, key

SPARES = 32
_THREADS = 4
_CHUNK = 4096
_TEXT_OVERHEAD = 4 + 256


def control_symbols(sentinels: int, spares: int) -> list[str]:
    """The control pieces of a trained model behind <unk> 0, <s> 1, </s> 2 and <pad> 3, in order."""
    roles = [names[0] for role, names in ROLES.items() if role not in ("begin", "end", "pad")]
    numbered = [sentinel_names(number)[0] for number in range(sentinels)]
    return roles + numbered + [f"<spare{number}>" for number in range(spares)]


def sample_texts(corpora: Sequence[Corpus], budget: int, seed: int) -> Iterator[str]:
    """Texts of units drawn at random, `budget` bytes in all, shared out by what each corpus holds."""
    total = sum(corpus.index.text_bytes for corpus in corpora)
    for corpus in corpora:
        yield from _sample(corpus, budget * corpus.index.text_bytes // max(total, 1), seed)


def _sample(corpus: Corpus, budget: int, seed: int) -> Iterator[str]:
    for unit in draw_units(corpus, budget, seed):
        for sample in corpus.read_unit(unit):
            if sample.text is None:
                continue
            if budget <= 0:
                return
            text = sample.text[:budget]
            budget -= len(text.encode())
            yield text


def draw_units(corpus: Corpus, budget: int, seed: int) -> Iterator[int]:
    """Unit numbers in keyed order, each once. A permutation only where the budget needs most of them."""
    rng = Rng(key(seed, "tokenizer", corpus.name))
    count = len(corpus)
    if budget * 2 >= corpus.index.text_bytes:
        yield from rng.permutation(count).tolist()
        return
    seen: set[int] = set()
    while len(seen) < count:
        unit = rng.integer(0, count)
        if unit not in seen:
            seen.add(unit)
            yield unit


def _chunks(texts: Iterator[str], budget: int, progress: Progress | None) -> Iterator[str]:
    """Texts in pieces that SentencePiece does not drop for their length, cut before a blank where one is."""
    done = 0
    for text in texts:
        start = 0
        while start < len(text):
            stop = start + _CHUNK
            if stop < len(text):
                blank = text.rfind(" ", start + 1, stop)
                stop = blank if blank > 0 else stop
            yield text[start:stop]
            start = stop
        done += len(text)
        if progress is not None:
            progress(min(done, budget), budget)


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
) -> Tokenizer:
    """Train a model of `vocabulary` ids (control and byte ids included) and write it to `out`.

    algorithm: "unigram" or "bpe". budget: bytes of text to train on. progress: (bytes, budget) while reading.
    Raises BadInput where `out` exists, a setting is out of range or the text is too small for the vocabulary.
    """
    out = Path(out)
    symbols = control_symbols(sentinels, spares)
    least = _TEXT_OVERHEAD + len(symbols) + 100
    _require_possible(out, algorithm, vocabulary, len(symbols), least)
    with writing(out):
        _make_folder_of(out)
    # The file is made before the training, which takes a while: where it cannot be, that is known now.
    with writing(out), written_aside(out, sync=False) as file:
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_chunks(sample_texts(corpora, budget, seed), budget, progress),
                model_writer=model,
                model_type=algorithm,
                vocab_size=vocabulary,
                character_coverage=character_coverage,
                normalization_rule_name="identity",
                byte_fallback=True,
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_digits=split_digits,
                control_symbols=symbols,
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=3,
                num_threads=_THREADS,
                max_sentence_length=8 * _CHUNK,
                train_extremely_large_corpus=budget > 1_000_000_000,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            cut_short = budget < sum(corpus.index.text_bytes for corpus in corpora)
            raise BadInput(_refusal(out, vocabulary, least, cut_short, str(error))) from error
        file.write(model.getvalue())
    return Tokenizer.load(out)


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
