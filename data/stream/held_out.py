"""The fixed rows of held-out text on which a run is evaluated.

Held-out units, and those in which single documents are held out, are taken in an order drawn by key until the
byte limit is reached, then built by each objective alone. No document gives more than an eighth of the limit:
of a single long one the losses would say little, and parts could not be exchanged between documents. The rows
depend on the seed, the corpus, T and the objective's settings, not on ranks, steps or weights, so two
evaluations are comparable; ranks share them out (row i to rank i mod D). Where shards were appended, their
held-out units join those of the start, so the limit decides whether the set stays.

Bytes are those of the text as it was read, whatever the tokenizer makes of it: bits a byte are a fair measure
between tokenizers only if one that drops characters does not count them as spelled.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.errors import BadInput
from data.plan.block_file import blocks_of
from data.plan.blocks import Blocks
from data.plan.plan import CorpusPlan, Plan
from data.shards.corpus import Corpus
from data.shards.units import UnitTable
from data.stream.block import remainder
from data.stream.packing import best_fit, pack, write_rows
from data.stream.reading import Encoder, UnitTrouble, read_documents
from data.stream.rows import Rows
from objectives.example_builder import ExampleBuilder
from objectives.rng import Rng, key
from objectives.segments import Texts

_DOCUMENTS = 8
"""At least so many documents, where the held-out text has them."""
_FIRST, _PIECE = 1 << 14, 1 << 17
"""Of held-out units: how many are drawn first, and how many are looked at together."""


@dataclass(frozen=True)
class HeldOutRows:
    """rows: of one objective alone; text_bytes: UTF-8 bytes of the text that its targets stand for (None
    where they are not the whole text): bits_per_byte = Σ loss in nats / ln 2 / text_bytes."""

    objective: str
    rows: Rows
    text_bytes: int | None
    documents: int


def held_out_rows(
    corpus: Corpus, corpus_plan: CorpusPlan, plan: Plan, encoder: Encoder, *, limit_bytes: int
) -> list[HeldOutRows]:
    """Rows for each objective of the plan's mixture, in its order, from about `limit_bytes` of held-out text,
    at least one document. Empty where the corpus holds nothing out. Bad and quarantined samples are
    skipped."""
    texts, rests, rng_keys, text_bytes = held_out_text(corpus, corpus_plan, plan, encoder, limit_bytes)
    found = []
    for entry in plan.mixture.entries:
        name, alone = entry.objective.name, entry.alone()
        build_key = key(plan.seed, "evaluate", corpus_plan.name, -1, name)
        builder = ExampleBuilder(texts, rests, alone, 0, plan.length, encoder, build_key, rng_keys)
        segments = builder.segments()
        packed = pack(segments, best_fit(segments.lengths, plan.length), plan.length, corpus_plan.id)
        chosen = [(packed, row) for row in range(len(packed))]
        rows = write_rows(chosen, len(chosen), plan.length, encoder.control.pad)
        predicted = text_bytes if entry.objective.predicts_text else None
        found.append(HeldOutRows(name, rows, predicted, len(rests)))
    return found if len(rests) else []


def held_out_text(
    corpus: Corpus, corpus_plan: CorpusPlan, plan: Plan, encoder: Encoder, limit_bytes: int
) -> tuple[Texts, np.ndarray, list[int], int]:
    """What is evaluated on: documents, int64 [n, 3] what is used of each (document, 0, stop), their keys of
    rng_keys, and the bytes of text used."""
    most = -(-limit_bytes // _DOCUMENTS)
    quarantined = {sample for name, sample in plan.quarantine if name == corpus_plan.name}
    some = corpus_plan.set_aside
    rng = Rng(key(plan.seed, "evaluate", corpus_plan.name))
    blocks = _blocks(corpus, corpus_plan, plan)
    kept: list[np.ndarray] = []
    stops: list[int] = []
    rng_keys: list[int] = []
    total = 0
    for unit in _drawn(rng, corpus.table, blocks, np.array(sorted(some), np.int64)):
        try:
            documents = read_documents(
                corpus, encoder, plan.seed, corpus_plan.name, -1, [unit], keep_texts=True
            )
        except UnitTrouble as trouble:
            raise BadInput(f"{trouble}; it is held out: there is no evaluation without it") from trouble
        for number in remainder(documents, np.empty((0, 3), dtype=np.int64), quarantined)[:, 0].tolist():
            if unit in some and documents.numbers[number] not in some[unit]:
                continue
            if total < limit_bytes:
                kept.append(documents.tokens[number])
                ends = np.cumsum(encoder.byte_lengths(documents.texts[number], kept[-1]))
                stops.append(_beginning(ends, most))
                rng_keys.append(int(documents.rng_keys[number]))
                total += int(ends[stops[-1] - 1])
        if total >= limit_bytes:
            break
    texts = Texts.of(kept, encoder.control)
    rests = texts.whole()
    rests[:, 2] = stops
    return texts, rests, rng_keys, total


def _blocks(corpus: Corpus, corpus_plan: CorpusPlan, plan: Plan) -> Blocks:
    counts = [era.units for era in corpus_plan.eras]
    whose = (plan.seed, corpus_plan.name, counts, corpus_plan.held_out, plan.block_bytes)
    return blocks_of(corpus, *whose)


def _drawn(rng: Rng, table: UnitTable, blocks: Blocks, some: np.ndarray) -> Iterator[int]:
    """Held-out units, and those in which single documents are, in the order of their draws: of a long
    document the first part alone, for no document gives much. The first ones are what is wanted, so of a
    large set each turn takes the next few of all."""
    held_out = blocks.held_out
    low, share = 0, min(1.0, _FIRST / max(len(held_out), 1))
    while low < 1 << 64:
        high = min(int(share * 2.0**64), 1 << 64)
        found, draws = [some], [rng.at(some)]
        for first in range(0, len(held_out), _PIECE):
            units = held_out[first : first + _PIECE]
            bits = rng.at(units)
            near = (bits >= low) & (bits <= high - 1)
            begins = table.first_parts(units[near]) == units[near]
            found.append(units[near][begins])
            draws.append(bits[near][begins])
            blocks.release()
        near = (draws[0] >= low) & (draws[0] <= high - 1)
        found[0], draws[0] = some[near], draws[0][near]
        units, at = np.unique(np.concatenate(found), return_index=True)
        yield from units[np.concatenate(draws)[at].argsort()].tolist()
        low, share = high, share * 16


def _beginning(ends: np.ndarray, most: int) -> int:
    """How many tokens stand for the first `most` bytes of a document, or a little more: the last is whole.
    ends: int64 [n], the byte behind which each ends."""
    return min(int(np.searchsorted(ends, most)) + 1, len(ends))
