"""The fixed rows of text that is not trained on, by which a run is evaluated.

    held_out_text     what a corpus of the plan sets aside        ┐
    text_outside      shards that are in no corpus of the plan    ┴▶ EvaluationText ──▶ rows by each objective

Units, of held-out text also those in which single documents are held out, are taken in an order drawn by key
until the byte limit is reached, then built by each objective alone. No document gives more than an eighth of
the limit: of a single long one the losses would say little, and parts could not be exchanged between
documents. The rows depend on the seed, the text, T and the objective's settings, not on ranks, steps or
weights, so two evaluations are comparable; ranks share them out (row i to rank i mod D). Where shards were
appended, their held-out units join those of the start, so the limit decides whether the set stays.

Bytes are those of the text as it was read, whatever the tokenizer makes of it: bits a byte are a fair measure
between tokenizers only if one that drops characters does not count them as spelled.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from data.errors import BadInput
from data.plan.block_file import blocks_of
from data.plan.blocks import Blocks
from data.plan.plan import CorpusPlan, Plan
from data.shards.corpus import Corpus
from data.shards.find import is_named
from data.shards.units import UnitTable
from data.stream.block import remainder
from data.stream.packing import best_fit, pack, write_rows
from data.stream.reading import Bad, Encoder, UnitTrouble, read_documents
from data.stream.rows import Rows
from objectives.example_builder import ExampleBuilder
from objectives.rng import Rng, key
from objectives.segments import Texts

_DOCUMENTS = 8
"""At least so many documents, where the text has them."""
_FIRST, _PIECE = 1 << 14, 1 << 17
"""Of held-out units: how many are drawn first, and how many are looked at together."""


@dataclass(frozen=True)
class EvaluationText:
    """What is evaluated on, of the corpus `name`. texts: its documents; used: int64 [n, 3], what is taken of
    each (document, 0, stop); rng_keys: of each; text_bytes: of what is taken; bad: samples that were met and
    cannot be used."""

    name: str
    texts: Texts
    used: np.ndarray
    rng_keys: list[int]
    text_bytes: int
    bad: tuple[Bad, ...] = ()

    def __len__(self) -> int:
        """Documents."""
        return len(self.used)

    def share_of(self, token: int) -> float:
        """Of the tokens taken, the share that are this one."""
        taken = [self.texts[document][:stop] for document, _, stop in self.used.tolist()]
        return float(np.mean(np.concatenate(taken) == token)) if taken else 0.0


@dataclass(frozen=True)
class EvaluationRows:
    """rows: of one objective alone; text_bytes: UTF-8 bytes of the text that its targets stand for (None
    where they are not the whole text): bits_per_byte = Σ loss in nats / ln 2 / text_bytes."""

    objective: str
    rows: Rows
    text_bytes: int | None


def evaluation_rows(
    text: EvaluationText, plan: Plan, encoder: Encoder, corpus_id: int = 0
) -> list[EvaluationRows]:
    """Rows for each objective of the plan's mixture, in its order; empty where there is no text. corpus_id:
    what they carry as their corpus, one of the plan's; by which a text of its own is counted does not
    matter, for each text is evaluated by itself."""
    found = []
    for entry in plan.mixture.entries if len(text) else ():
        name, alone = entry.objective.name, entry.alone()
        build_key = key(plan.seed, "evaluate", text.name, -1, name)
        builder = ExampleBuilder(
            text.texts, text.used, alone, 0, plan.length, encoder, build_key, text.rng_keys
        )
        segments = builder.segments()
        packed = pack(segments, best_fit(segments.lengths, plan.length), plan.length, corpus_id)
        chosen = [(packed, row) for row in range(len(packed))]
        rows = write_rows(chosen, len(chosen), plan.length, encoder.control.pad)
        predicted = text.text_bytes if entry.objective.predicts_text else None
        found.append(EvaluationRows(name, rows, predicted))
    return found


def held_out_text(
    corpus: Corpus, corpus_plan: CorpusPlan, plan: Plan, encoder: Encoder, limit_bytes: int
) -> EvaluationText:
    """About `limit_bytes` of what a corpus of the plan holds out, at least one document; nothing where it
    holds nothing out. Bad and quarantined samples are skipped. BadInput for a unit that cannot be read."""
    quarantined = {sample for name, sample in plan.quarantine if name == corpus_plan.name}
    some = corpus_plan.set_aside
    rng = Rng(key(plan.seed, "evaluate", corpus_plan.name))
    blocks = _blocks(corpus, corpus_plan, plan)
    held = _drawn(rng, corpus.table, blocks, np.array(sorted(some), np.int64))
    try:
        return _read(corpus, held, plan, encoder, limit_bytes, _DOCUMENTS, quarantined, some)
    except UnitTrouble as trouble:
        raise BadInput(f"{trouble}; it is held out: there is no evaluation without it") from trouble


def text_outside(
    corpus: Corpus, quarantined: Set[str], plan: Plan, encoder: Encoder, limit_bytes: int
) -> EvaluationText:
    """The same of a corpus that is in no plan: of all its units."""
    units = np.arange(len(corpus))
    units = units[corpus.table.first_parts(units) == units]
    documents = int(corpus.index.units["samples"][units].sum())
    units = units[Rng(key(plan.seed, "evaluate", corpus.name)).at(units).argsort()]
    try:
        return _read(
            corpus,
            units.tolist(),
            plan,
            encoder,
            limit_bytes,
            max(1, min(_DOCUMENTS, documents)),
            quarantined,
        )
    except UnitTrouble as trouble:
        raise BadInput(f"{trouble}; there is no evaluation without it") from trouble


def _read(
    corpus: Corpus,
    units: Iterable[int],
    plan: Plan,
    encoder: Encoder,
    limit_bytes: int,
    documents: int,
    quarantined: Set[str],
    some: Mapping[int, Collection[int]] = MappingProxyType({}),
) -> EvaluationText:
    """Of the units in this order. documents: no one gives more than its share of so many; some: of a unit,
    the numbers of the only documents that are meant. Raises UnitTrouble."""
    most = -(-limit_bytes // documents)
    kept: list[np.ndarray] = []
    stops: list[int] = []
    rng_keys: list[int] = []
    bad: list[Bad] = []
    total = 0
    for unit in units:
        read = read_documents(corpus, encoder, plan.seed, corpus.name, -1, [unit], keep_texts=True)
        if unit not in some:
            bad += [one for one in read.bad if not is_named(one.shard, one.key, quarantined)]
        for number in remainder(read, np.empty((0, 3), dtype=np.int64), quarantined)[:, 0].tolist():
            if unit in some and read.numbers[number] not in some[unit]:
                continue
            if total < limit_bytes:
                kept.append(read.tokens[number])
                ends = np.cumsum(encoder.byte_lengths(read.texts[number], kept[-1]))
                stops.append(_beginning(ends, most))
                rng_keys.append(int(read.rng_keys[number]))
                total += int(ends[stops[-1] - 1])
        if total >= limit_bytes:
            break
    texts = Texts.of(kept, encoder.control)
    used = texts.whole()
    used[:, 2] = stops
    return EvaluationText(corpus.name, texts, used, rng_keys, total, tuple(bad))


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
