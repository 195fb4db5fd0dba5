"""Whether the units of a corpus are small enough for its blocks.

Units grow with the corpus, or are as large as somebody asked; blocks follow from max_sequence_length, or are
as small as somebody asked. A block is made of whole units: with fewer than four they come out uneven, and
what is held out or skipped is coarse.
"""

from collections.abc import Mapping

from data.plan.plan import Plan
from data.shards.corpus import Corpus
from data.shards.units import UNIT_TEXT
from launcher import output

UNITS_A_BLOCK = 4
_LEAST = 16 << 10
"""The smallest units that `data index` makes."""


def coarse(plan: Plan, corpora: Mapping[str, Corpus]) -> list[str]:
    """A line for each corpus whose units are grown and above a quarter of a block."""
    lines = []
    for name, corpus in corpora.items():
        unit, most = corpus.index.unit_text, plan.block_bytes // UNITS_A_BLOCK
        if unit > max(most, UNIT_TEXT):
            smaller = f"index it anew with headrace data index … --unit-kib {most >> 10}, or "
            lines.append(
                f"corpus {name}: its units of {output.size(unit)} are more than a quarter of a block "
                f"({output.size(plan.block_bytes)}), so blocks and held-out text come out uneven: "
                f"{smaller if most >= _LEAST else ''}raise data.block_bytes to {UNITS_A_BLOCK * unit}"
            )
    return lines
