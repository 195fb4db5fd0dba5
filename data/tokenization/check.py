"""Check a tokenizer against shards: encode every text, decode it, and count what did not come back as it was.

What is counted per corpus: bytes a token, tokens that are single bytes, unknown ids, and the documents that
differ after the round trip, the first of them by name and with what each lost. `headrace tokenizer check`
prints it; `headrace check` and each start refuse a tokenizer by the same count, of a sample of a few units
(launcher/preflight/lossy.py).
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from data.access.transports import is_local
from data.prepare.parallel import Progress
from data.shards.corpus import Corpus, ReadTrouble
from data.tokenization.sample import draw_units
from data.tokenization.tokenizer import Tokenizer
from objectives.rng import Rng, key

_NAMED = 20
_TROUBLES = 3
"""Units that cannot be read, after which no more are tried: each may have been waited for."""


@dataclass
class CheckReport:
    """What `check` counted. `broken` names the first documents that did not come back as they were, `lost`
    what each of them lost first."""

    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0
    byte_tokens: int = 0
    unknown: int = 0
    mismatches: int = 0
    bad_samples: int = 0
    broken: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes of text that a token stands for."""
        return self.text_bytes / max(self.tokens, 1)

    @property
    def byte_fallback(self) -> float:
        """Share of the tokens that are single bytes."""
        return self.byte_tokens / max(self.tokens, 1)

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that stand for text which the model cannot spell."""
        return self.unknown / max(self.tokens, 1)

    @property
    def broken_share(self) -> float:
        """Share of the documents that do not come back as they were."""
        return self.mismatches / max(self.documents, 1)


def check(
    tokenizer: Tokenizer,
    corpora: Sequence[Corpus],
    *,
    budget: int | None = None,
    seed: int = 1,
    progress: Progress | None = None,
    on_trouble: Callable[[ReadTrouble], None] | None = None,
) -> dict[str, CheckReport]:
    """Encode and decode the corpora (all, or `budget` bytes of each drawn at random); a report for each.
    on_trouble: is told of a unit that cannot be read, and it is left out; ReadTrouble where there is none."""
    return {corpus.name: _check(tokenizer, corpus, budget, seed, progress, on_trouble) for corpus in corpora}


def _check(
    tokenizer: Tokenizer,
    corpus: Corpus,
    budget: int | None,
    seed: int,
    progress: Progress | None,
    on_trouble: Callable[[ReadTrouble], None] | None,
) -> CheckReport:
    report, troubles = CheckReport(), 0
    total = corpus.index.text_bytes
    limit = total if budget is None else min(budget, total)
    for unit in range(len(corpus)) if budget is None else _drawn(corpus, budget, seed):
        try:
            samples = corpus.read_unit(unit)
        except ReadTrouble as trouble:
            if on_trouble is None:
                raise
            on_trouble(trouble)
            troubles += 1
            if troubles == _TROUBLES:
                break
            continue
        good = [sample for sample in samples if sample.text is not None]
        report.bad_samples += len(samples) - len(good)
        texts = [str(sample.text) for sample in good]
        for sample, text, tokens in zip(good, texts, tokenizer.encode_documents(texts), strict=True):
            report.documents += 1
            report.text_bytes += len(text.encode())
            report.tokens += len(tokens)
            report.byte_tokens += int(tokenizer.is_byte[tokens].sum())
            report.unknown += int((tokens == tokenizer.unknown).sum())
            if (back := tokenizer.decode(tokens)) != text:
                report.mismatches += 1
                if len(report.broken) < _NAMED:
                    report.broken.append(sample.key)
                    report.lost.append(first_loss(text, back))
        if progress is not None:
            progress(min(report.text_bytes, limit), limit)
        if report.text_bytes >= limit and budget is not None:
            break
    return report


def _drawn(corpus: Corpus, budget: int, seed: int) -> Iterator[int]:
    """Units in keyed order; where some shard can only be had as a whole, shard by shard, so that no more of
    them are fetched or unpacked than the budget needs."""
    whole = not corpus.index.units["stored_length"].all()
    if not whole and all(is_local(url) or "://" in url for url in corpus.shards):
        yield from draw_units(corpus, budget, seed)
        return
    rng = Rng(key(seed, "tokenizer", corpus.name))
    for shard in rng.permutation(len(corpus.shards)).tolist():
        first, stop = corpus.index.range_of(shard)
        yield from (first + rng.permutation(stop - first)).tolist()


def first_loss(text: str, back: str) -> str:
    """What stands in a text where the one that came back first differs, in words: 'a line end', 'a run of 3
    blanks', "'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE) comes back as 'e'"."""
    at = next(
        (i for i, (one, other) in enumerate(zip(text, back)) if one != other), min(len(text), len(back))
    )
    if at == len(text):
        return f"{back[at : at + 20]!r} is added at the end"
    if not text[at].isspace():
        return f"{_named(text[at])} comes back as {_answer(text, back, at)!r}"
    start, stop = at, at
    while start and text[start - 1].isspace():
        start -= 1
    while stop < len(text) and text[stop].isspace():
        stop += 1
    return _white_space(text[start:stop], start == 0, stop == len(text))


def _white_space(run: str, opens: bool, closes: bool) -> str:
    """A run of white space, by what in it is least likely to be missed."""
    where = " at the beginning" if opens else " at the end" if closes else ""
    for character, name in (("\r\n", "a line end (CR LF)"), ("\n", "a line end"), ("\t", "a tab")):
        if character in run:
            return name + where
    if run.strip(" "):
        return _named(run.strip(" ")[0]) + where
    return (f"a run of {len(run)} blanks" if len(run) > 1 else "a blank") + where


def _named(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"{character!r} (U+{ord(character):04X}{' ' if name else ''}{name})"


def _answer(text: str, back: str, at: int) -> str:
    """What came back in place of the character at `at`: up to where the text goes on, if that is near."""
    following = text[at + 1 : at + 4]
    found = back.find(following, at) if following else len(back)
    return back[at:found] if at <= found <= at + 20 else back[at : at + 3]
