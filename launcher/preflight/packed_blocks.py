"""What packing makes of a corpus: a few of its blocks, opened and packed as the run will.

    padding    of the positions of their rows: as `data.padding` bounds it, and with no document cut for it
    cuts       a thousand documents, made only to fill rows; beside those of concat-and-chop, the other way to
               lose no position: it cuts whatever lies across the end of a row

A document longer than a row is cut by all three; that is not counted. The blocks are those at the first slots
of the corpus, which are dealt by key: any others would do.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data.plan.plan import Plan
from data.stream.block import OpenBlock, Opener
from data.stream.reading import UnitTrouble
from launcher.output import counted
from launcher.runs.longer_rows import longer_rows

BLOCKS = 4
"""Looked at, at most."""
TEXT = 4 << 20
"""Bytes of text of all of them together, at most about."""
LARGEST = 16 << 20
"""Bytes of text of a block that is opened even alone: the largest that is usual. One takes some seconds."""
_WIDE = 0.1
"""Of a bound: what is so much above it is said."""
OPEN_BYTES = 6
"""A byte of text in an open block, at most about (data/stream/block.py): next-sentence; causal takes 1.4.
Where no block is opened to see."""


def look_into(opener: Opener, corpus: dict[str, Any]) -> OpenBlock | None:
    """Adds to the facts of a corpus what its blocks hold and how they are packed under the newest plan:
    `open_bytes`, a byte of text; `packing`, None where no block can be looked at (it is empty, too large, or
    cannot be read, which the start will say). What is known of padding and epochs is mended by it.
    Returns the first of them."""
    opened = list(_opened(opener, corpus["name"]))
    found = [(text, block.nbytes, *_packed(opener, block)) for text, block in opened]
    corpus |= {"open_bytes": OPEN_BYTES, "packing": None}
    if not found:
        return None
    text, held, rows, used, never, used_never, documents, cuts, chopped = np.sum(found, axis=0).tolist()
    padding = 1 - used / max(rows, 1)
    corpus["open_bytes"] = held / text
    corpus["packing"] = {
        "blocks": len(found),
        "rows": rows / opener.plan_segments.last.plan.length / len(found),
        "padding": padding,
        "padding_never": 1 - used_never / max(never, 1),
        "cuts_per_1000": 1000 * cuts / max(documents, 1),
        "chopped_per_1000": 1000 * chopped / max(documents, 1),
        "uncut": _uncut(opener.plan_segments.last.plan),
    }
    if corpus["epochs"] is not None:
        corpus["epochs"] *= (1 - padding) / (1 - corpus["padding"])
    corpus["padding"] = padding
    return opened[0][1]


def _opened(opener: Opener, name: str) -> Iterator[tuple[int, OpenBlock]]:
    """Blocks of a corpus as they would be opened from the first row of the newest plan on, each with its
    bytes of text."""
    segment, order, sizes = opener.plan_segments.last, opener.orders[name], opener.blocks[name].text_bytes
    streams, together = opener.plans[name].streams, segment.plan.slots
    total = 0
    for number in range(min(BLOCKS, -(-len(sizes) // together))):
        turn, stream = divmod(number, streams)
        first = stream + turn * together * streams
        slots = range(first, first + together * streams, streams)
        text = sum(int(sizes[order.resolve(slot)[1]]) for slot in slots)
        total += text
        if not 0 < text <= LARGEST or (number and total > TEXT):
            return
        try:
            yield text, opener.open(name, first, [(segment.row, 0)])
        except UnitTrouble:
            return


def _packed(opener: Opener, block: OpenBlock) -> tuple[int, ...]:
    """(positions of the rows and those used, the same without the bound; documents, cuts to fill rows, those
    of concat-and-chop) of a block."""
    rows, uncut, sizes = block.built.rows, opener.uncut(block), block.documents.tokens.sizes
    sizes = sizes[sizes > 0]
    borders = np.arange(rows.length, int(sizes.sum()), rows.length)
    across = len(np.setdiff1d(borders, np.cumsum(sizes))) - int(((sizes - 1) // rows.length).sum())
    held = [(len(packed) * packed.length, int(packed.table.length.sum())) for packed in (rows, uncut)]
    return *held[0], *held[1], len(sizes), int(rows.table.cuts.sum()), max(0, across)


def packing_lines(corpora: Sequence[dict[str, Any]]) -> Iterator[str]:
    """'code: 1.2 % padding with 354 cuts a thousand documents; …' for the eye, one a corpus."""
    for corpus in corpora:
        if packing := corpus["packing"]:
            cuts, chopped = packing["cuts_per_1000"], packing["chopped_per_1000"]
            packed = f"{counted(packing['blocks'], 'block')} packed{_beside(packing['uncut'])}"
            yield (
                f"{corpus['name']}: {packing['padding']:.2%} padding with {cuts:,.4g} cuts a thousand "
                f"documents; data.padding=never {packing['padding_never']:.2%}; concat-and-chop "
                f"{chopped:,.4g} cuts ({packed})"
            )


def packing_warnings(plan: Plan, corpora: Sequence[dict[str, Any]]) -> list[str]:
    """Where the bound on padding is not kept, and what rows longer than planned bring."""
    looked_into = {corpus["name"]: corpus["packing"] for corpus in corpora if corpus["packing"]}
    lines = []
    if told := longer_rows(plan):
        shares = ", ".join(f"{name} {packing['padding']:.1%}" for name, packing in looked_into.items())
        lines.append(told + (f"; padding ≈ {shares}" if shares else ""))
    for name, packing in looked_into.items():
        if plan.padding is not None:
            bound = plan.padding + 1 / max(packing["rows"], 1)
            if packing["padding"] > (1 + _WIDE) * bound:
                lines.append(
                    f"corpus {name}: {packing['padding']:.1%} of its positions are padding, though "
                    f"data.padding is {plan.padding:g}: {_why(packing['uncut'])}"
                )
    return lines


def _uncut(plan: Plan) -> dict[str, Any]:
    """Which objectives let nothing be cut, and whether none does."""
    objectives = [entry.objective for entry in plan.mixture.entries]
    names = [one.name for one in objectives if one.exchanges or one.least_room is None]
    return {"objectives": names, "all": len(names) == len(objectives)}


def _beside(uncut: dict[str, Any]) -> str:
    if uncut["all"]:
        return f"; nothing can be cut, for a segment of {', '.join(uncut['objectives'])} stays whole"
    return f"; segments of {', '.join(uncut['objectives'])} stay whole" if uncut["objectives"] else ""


def _why(uncut: dict[str, Any]) -> str:
    said = _beside(uncut).removeprefix("; ")
    return said or "the marks around each segment leave rooms in which no part of another fits"
