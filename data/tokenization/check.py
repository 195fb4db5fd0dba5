"""Check a tokenizer against shards: encode every text, decode it, and count what did not come back as it was.

What is counted per corpus: bytes a token, tokens that are single bytes, unknown ids, and the documents that
differ after the round trip, the first of them by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from data.prepare.parallel import Progress
from data.shards.corpus import Corpus
from data.tokenization.tokenizer import Tokenizer
from data.tokenization.train import draw_units


@dataclass
class CheckReport:
    """What `check` counted. `broken` names the first documents that did not come back as they were."""

    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0
    byte_tokens: int = 0
    unknown: int = 0
    mismatches: int = 0
    bad_samples: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes of text that a token stands for."""
        return self.text_bytes / max(self.tokens, 1)

    @property
    def byte_fallback(self) -> float:
        """Share of the tokens that are single bytes."""
        return self.byte_tokens / max(self.tokens, 1)


def check(
    tokenizer: Tokenizer,
    corpora: Sequence[Corpus],
    *,
    budget: int | None = None,
    seed: int = 1,
    progress: Progress | None = None,
) -> dict[str, CheckReport]:
    """Encode and decode the corpora (all, or `budget` bytes of each drawn at random); a report for each."""
    return {corpus.name: _check(tokenizer, corpus, budget, seed, progress) for corpus in corpora}


def _check(
    tokenizer: Tokenizer,
    corpus: Corpus,
    budget: int | None,
    seed: int,
    progress: Progress | None,
) -> CheckReport:
    report = CheckReport()
    total = corpus.index.text_bytes
    limit = total if budget is None else min(budget, total)
    for unit in range(len(corpus)) if budget is None else draw_units(corpus, budget, seed):
        samples = corpus.read_unit(unit)
        good = [sample for sample in samples if sample.text is not None]
        report.bad_samples += len(samples) - len(good)
        texts = [str(sample.text) for sample in good]
        for sample, text, tokens in zip(good, texts, tokenizer.encode_documents(texts), strict=True):
            report.documents += 1
            report.text_bytes += len(text.encode())
            report.tokens += len(tokens)
            report.byte_tokens += int(tokenizer.is_byte[tokens].sum())
            report.unknown += int((tokens == tokenizer.unknown).sum())
            if tokenizer.decode(tokens) != text:
                report.mismatches += 1
                if len(report.broken) < 20:
                    report.broken.append(sample.key)
        if progress is not None:
            progress(min(report.text_bytes, limit), limit)
        if report.text_bytes >= limit and budget is not None:
            break
    return report
