"""A sample of corpora for a tokenizer: units drawn by keyed draws until a budget of bytes is reached.

Memory is bounded by a unit, whatever the corpora hold, and the same seed draws the same text. For training it
is cut into chunks (`chunks`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.prepare.parallel import Progress
from data.shards.corpus import Corpus
from objectives.rng import Rng, key

_CHUNK, LONGEST = 256, 4096
"""Characters of a chunk as a rule, and at most: it is cut before a blank."""
_STRIDE = 97
"""Coprime to _CHUNK: the first chunks of the texts get all lengths in turn."""


@dataclass
class Drawn:
    """What the sample was. bad: samples of the units drawn that hold no usable text."""

    documents: int = 0
    text_bytes: int = 0
    bad: int = 0


def sample_texts(
    corpora: Sequence[Corpus], budget: int, seed: int, drawn: Drawn | None = None
) -> Iterator[str]:
    """Texts of units drawn at random, `budget` bytes in all, shared out by what each corpus holds. `drawn`
    counts them."""
    total = sum(corpus.index.text_bytes for corpus in corpora)
    for corpus in corpora:
        share = budget * corpus.index.text_bytes // max(total, 1)
        yield from _sample(corpus, share, seed, drawn or Drawn())


def _sample(corpus: Corpus, budget: int, seed: int, drawn: Drawn) -> Iterator[str]:
    for unit in draw_units(corpus, budget, seed):
        for sample in corpus.read_unit(unit):
            if budget <= 0:
                return
            if sample.text is None:
                drawn.bad += 1
                continue
            text = sample.text[:budget]
            size = len(text.encode())
            budget -= size
            drawn.documents += 1
            drawn.text_bytes += size
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


def chunks(texts: Iterator[str], budget: int, progress: Progress | None) -> Iterator[str]:
    """Texts in pieces, cut before blanks, the first of each text at a length that differs from text to text.

    No piece of the model reaches over a blank, so these cuts cost nothing. They are needed: a unigram's first
    candidates are the substrings with two different characters behind them (the inner nodes of the suffix
    tree), and a word that is always followed by a blank is none of these unless some chunk ends behind it.
    """
    done = 0
    for number, text in enumerate(texts):
        start, wanted = 0, 1 + number * _STRIDE % _CHUNK
        while start < len(text):
            stop = _border(text, start, start + wanted)
            yield text[start:stop]
            start, wanted = stop, _CHUNK
        done += len(text)
        if progress is not None:
            progress(min(done, budget), budget)


def _border(text: str, start: int, wanted: int) -> int:
    """Where a chunk that begins at `start` ends: before the last run of blanks up to `wanted`, or the next
    one; where there is none for long, without one."""
    if wanted >= len(text):
        return len(text)
    blank = text.rfind(" ", start + 1, wanted)
    if blank < 0:
        blank = text.find(" ", wanted, start + LONGEST)
    if blank < 0:
        return start + LONGEST
    while blank > start + 1 and text[blank - 1] == " ":
        blank -= 1
    return blank
