"""What share of the text each objective really gets: a sample of each corpus, shared out as a block is.

It is the weight but where an objective cannot take what it is owed: next-sentence prediction has no use for a
document of one token, nor a partner for the only segment of a block.
"""

from collections.abc import Mapping

import numpy as np

from data.plan.asked_rows import AskedRows
from data.plan.plan import Plan
from data.shards.corpus import Corpus
from data.tokenization.tokenizer import Tokenizer
from launcher.preflight.estimates import sampled_texts
from objectives.example_builder import ExampleBuilder
from objectives.mixture import Mixture
from objectives.rng import key
from objectives.segments import Segments, Texts

_BUILDS = 16
"""Each with other random numbers; together they come to within a sixth of a segment or so."""
_TOLERANCE = 0.005
_ALONE = (
    "a document of one token has no second half, and where a block holds one document nothing is exchanged"
)


def shares(plan: Plan, corpora: Mapping[str, Corpus], tokenizer: Tokenizer, row: int) -> np.ndarray:
    """float64 [entries of the mixture]: measured shares of the source tokens at a global row."""
    got = np.zeros(len(plan.mixture.entries))
    asked = AskedRows([part.weight for part in plan.corpora])
    for part, share in zip(plan.corpora, asked.shares(row)):
        if part.name in corpora and share:
            encoded = tokenizer.encode_documents(sampled_texts(corpora[part.name]))
            texts = Texts.of([tokens for tokens in encoded if len(tokens)], tokenizer.control)
            if len(texts):
                got += share * _shared_out(plan, texts, tokenizer, row)
    return got / max(got.sum(), 1e-9)


def _shared_out(plan: Plan, texts: Texts, tokenizer: Tokenizer, row: int) -> np.ndarray:
    got = np.zeros(len(plan.mixture.entries))
    for number in range(_BUILDS):
        keys = [key(number, "achieved", document) for document in range(len(texts))]
        builder = ExampleBuilder(
            texts, texts.whole(), plan.mixture, row, plan.length, tokenizer, key(number, "achieved"), keys
        )
        got += _tokens(builder.segments(), plan.mixture)
    return got / got.sum()


def _tokens(segments: Segments, mixture: Mixture) -> np.ndarray:
    lengths = segments.spans[:, 2] - segments.spans[:, 1]
    tokens = np.add.reduceat(lengths, segments.span_ends[:-1])
    ids = [entry.objective.id for entry in mixture.entries]
    return np.bincount(segments.objectives, tokens, max(ids) + 1)[ids]


def shortfalls(mixture: Mixture, row: int, achieved: np.ndarray) -> list[str]:
    """A line for each objective that gets clearly less than its weight."""
    return [
        f"objectives.{entry.objective.name}: gets about {got:.1%} of the text, not {asked:.1%}"
        + (f": {_ALONE}" if entry.objective.exchanges else "")
        for entry, asked, got in zip(mixture.entries, mixture.weights(row), achieved)
        if got < asked - _TOLERANCE and got < 0.9 * asked
    ]
