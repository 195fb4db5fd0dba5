"""From how many documents, blocks and shards a step will draw, foretold; and what to do where they are few.

    rows of a step ──mix───▶ rows of each stream        exact, over the first steps
    a block's rows and documents                        of the first block of each corpus, as it was packed
    ──▶ blocks      of a stream with r rows a step and R rows a block: 1 + (r − 1) / R
        documents   of r / blocks random rows of each
        shards      of so many blocks, dealt over all shards

Beside them stands what rows drawn at random from all text would come from. The metrics have what a step
really drew from (data/stream/mixing.py).
"""

from collections import Counter
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from data.plan.corpus_mix import streams_for
from data.plan.plan import Plan
from data.plan.segments import PlanSegment
from data.stream.block import OpenBlock
from launcher import output

STEPS = 8
"""Of which the mean is told."""
FEW = 0.5
"""A step is said to come from few documents where random rows would bring more than twice as many."""
FEW_BLOCKS = 4
"""And from few blocks below so many, where it has four times as many rows and other blocks would be more."""
LEAST_ROWS = 16
"""Of a block that is recommended: smaller ones leave much padding."""
MOST_BYTES = 16 << 20
"""Larger ones cost memory: each stream holds one open."""
MORE_STREAMS = 8
"""Times as many are tried."""
NEARLY = 0.75
"""Of the best gain is enough where a block's size has to change less for it."""
BETTER = 1.5
"""Times as many documents, or blocks, are worth another data.block_bytes or other lanes."""


@dataclass(frozen=True)
class BlockShape:
    """rows: of a usual block of a corpus; shares: float64 [documents], in how many of them each document
    has a part."""

    rows: float
    shares: np.ndarray

    def documents(self, share: float) -> float:
        """Expected in a random share of the rows."""
        return float((1 - (1 - min(share, 1.0)) ** self.shares).sum())


def block_shape(block: OpenBlock | None, corpus: dict[str, Any], length: int) -> BlockShape:
    """By a block as it was packed; None: by the means of its corpus, whose facts are those of `check`."""
    if block is not None and len(block.built.rows):
        table, origin = block.built.rows.table, block.documents.tokens.origin
        row_of_span = np.repeat(table.row, np.diff(table.span_ends))
        pairs = np.unique(np.column_stack([origin[table.spans[:, 0]], row_of_span]), axis=0)
        return BlockShape(len(block.built.rows), np.unique(pairs[:, 0], return_counts=True)[1].astype(float))
    blocks, tokens = max(corpus["blocks"], 1), max(corpus["tokens"], 1)
    documents = max(corpus["documents"] / blocks, 1.0)
    rows = max(tokens / blocks / length, 1.0)
    return BlockShape(rows, np.full(round(documents), max(rows / documents, 1.0)))


def foretell(
    segment: PlanSegment, row: int, corpora: list[dict[str, Any]], shapes: dict[str, BlockShape]
) -> dict[str, float]:
    """`documents`, `blocks` and `shards` of a step from `row` on, and the `random_documents` of as many rows
    drawn from all text. corpora: the facts of `check`."""
    plan, facts = segment.plan, {corpus["name"]: corpus for corpus in corpora}
    found = Counter[str]()
    for _ in range(STEPS):
        rows = np.arange(row, row + plan.rows_at(row))
        row += len(rows)
        found.update(_of_step(plan, rows, segment.corpus_mix.corpora_of(rows), facts, shapes))
    return {name: float(value) / STEPS for name, value in found.items()}


def _of_step(
    plan: Plan,
    rows: np.ndarray,
    corpora: np.ndarray,
    facts: dict[str, dict[str, Any]],
    shapes: dict[str, BlockShape],
) -> dict[str, float]:
    found = dict.fromkeys(("documents", "blocks", "shards", "random_documents"), 0.0)
    for part in plan.corpora:
        own = rows[corpora == part.id]
        if not len(own) or part.name not in facts:
            continue
        corpus, shape = facts[part.name], shapes[part.name]
        drawn = np.unique(own % part.streams, return_counts=True)[1]
        blocks = 1 + (drawn - 1) / shape.rows
        documents = sum(n * shape.documents(r / n / shape.rows) for r, n in zip(drawn, blocks, strict=True))
        of_all = len(own) / shape.rows / max(corpus["blocks"], 1)
        found["blocks"] += min(float(blocks.sum()), corpus["blocks"])
        found["documents"] += min(documents, corpus["documents"])
        found["random_documents"] += min(corpus["blocks"] * shape.documents(of_all), corpus["documents"])
        found["shards"] += corpus["shards"] * (1 - (1 - 1 / corpus["shards"]) ** blocks.sum())
    return found


def warnings(plan: Plan, row: int, drawn: dict[str, float], corpora: list[dict[str, Any]]) -> list[str]:
    """A line where a step comes from few documents or blocks, with what would mix more."""
    rows, corpora = plan.rows_at(row), [corpus for corpus in corpora if corpus["share"]]
    documents = drawn["documents"] < FEW * drawn["random_documents"]
    blocks = drawn["blocks"] < FEW_BLOCKS and rows >= 4 * FEW_BLOCKS
    remedy = _remedy(plan, rows, corpora, documents) if documents or blocks else None
    if remedy is None:
        return []
    return [
        f"the {rows:,} rows of a step come from about {drawn['documents']:.0f} documents in "
        f"{drawn['blocks']:.1f} blocks of {drawn['shards']:.1f} shards, where rows drawn from all text would "
        f"come from {drawn['random_documents']:.0f} documents; to mix more, in a new run: {remedy}"
    ]


def _remedy(plan: Plan, rows: int, corpora: list[dict[str, Any]], documents: bool) -> str | None:
    """What would make the documents, or else the blocks of a step more; None where more blocks alone are
    asked for and nothing makes them."""
    wanted = 0 if documents else 1

    def gain(more: int, block_bytes: float) -> float:
        documents, blocks = _if_it_were(plan, rows, corpora, more, block_bytes)
        made = documents, min(blocks, 2 * FEW_BLOCKS)
        return made[wanted] / now[wanted] if documents > 0.9 * now[0] else 0.0

    now = _if_it_were(plan, rows, corpora, 1, plan.block_bytes)
    gains = {size: gain(1, size) for size in _sizes(plan, corpora)}
    near = [size for size in gains if gains[size] >= NEARLY * max(gains.values())]
    size = min(near, key=lambda size: abs(log(size / plan.block_bytes)))
    if gain(MORE_STREAMS, plan.block_bytes) > BETTER:  # which leave no padding, as small blocks do
        bound = "lanes" if plan.lanes <= plan.streams else "data.streams"
        least = min(plan.lanes, plan.streams)
        return f"more {bound} than {least}, for a corpus has no more streams than that"
    if gains[size] > BETTER:
        kind = "smaller" if size < plan.block_bytes else "larger"
        return f"{kind} blocks, such as data.block_bytes={int(size)}"
    names = ", ".join(corpus["name"] for corpus in corpora)
    more = f"more text of {names}, shuffled before it is packed into shards: shards of neighbours mix least"
    return more if documents else None


def _sizes(plan: Plan, corpora: list[dict[str, Any]]) -> list[float]:
    """Bytes of text a block that may be recommended."""
    token = max(corpus["text_bytes"] / max(corpus["tokens"], 1) for corpus in corpora)
    least = LEAST_ROWS * plan.max_length * token
    most = max(corpus["text_bytes"] for corpus in corpora)
    sizes = [least * 2**power for power in range(32)]
    return [size for size in sizes if size < min(most, MOST_BYTES)] or [least]


def _if_it_were(
    plan: Plan, rows: int, corpora: list[dict[str, Any]], more: int, block_bytes: float
) -> tuple[float, float]:
    """(documents, blocks) of a step, by the means of each corpus, with so many times as many lanes and
    data.streams, and blocks so large."""
    documents = blocks = 0.0
    for corpus in corpora:
        number = min(max(round(corpus["text_bytes"] / block_bytes), 1), corpus["units"])  # none is cut
        shape = block_shape(None, corpus | {"blocks": number}, plan.length)
        own = corpus["share"] * rows
        streams = min(streams_for(more * plan.lanes, number, more * plan.streams), own)
        drawn = streams * (1 + max(own / streams - 1, 0.0) / shape.rows)
        blocks += drawn
        documents += drawn * shape.documents(own / drawn / shape.rows)
    return documents, blocks


def show(drawn: dict[str, float]) -> None:
    """A line."""
    output.say(
        f"mixing       a step draws from ≈ {drawn['documents']:.0f} documents, {drawn['blocks']:.1f} blocks, "
        f"{drawn['shards']:.1f} shards; rows drawn at random from all text: ≈ "
        f"{drawn['random_documents']:.0f} documents"
    )
