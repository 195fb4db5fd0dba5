"""One reader for the ranks that share rows: it encodes them once and sends them to the others.

    lead      batch ← the loader                  ─┐   one broadcast of the rows' bytes within the group,
    others    batch ← blank, of the same shape   ◀─┘   over the host's network; or word that there are none
    between   batch ← blank                            stages that need no rows are not of the group

The stages of a pipeline that need rows must have the very same ones, and the ranks of a sequence and of a
tensor group too. Were each to read its own, a shard that one of them cannot read for a moment would part them
without a word. Sending is also the cheaper way: 22 bytes a position, a few thousandths of a second for what
takes a core seconds to encode; blocks are held and openings logged by the lead alone.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import distributed

from data.errors import BadInput
from data.plan.plan import History
from data.stream.loader import Batch, RowShares, blank_batches
from data.stream.rows import Rows
from launcher.distributed.collectives import ToldByOtherRank
from launcher.distributed.process_group import group_along
from launcher.distributed.world import World


def shared_batches(
    world: World, own: Iterator[Batch] | None, history: History, shares: RowShares, first_row: int
) -> Iterator[Batch]:
    """This rank's batches for ever. own: the loader's, on the lead of each group. Each `next` is a collective
    of the group, and ToldByOtherRank where the lead has met BadInput, which it raises itself."""
    blank = blank_batches(history, shares, first_row)
    group = None
    if world.degrees.ranks > 1:
        group = group_along(world, "pipeline", "sequence", "tensor", ends=True, backend="gloo")
    if own is not None:
        return own if group is None else _sent(own, group)
    return blank if group is None else _received(blank, group, shares)


def _sent(batches: Iterator[Batch], group: distributed.ProcessGroup) -> Iterator[Batch]:
    lead = distributed.get_global_rank(group, 0)
    while True:
        try:
            batch = next(batches)
        except BadInput:
            distributed.broadcast(torch.tensor([False]), lead, group=group)
            raise
        distributed.broadcast(torch.tensor([True]), lead, group=group)
        distributed.broadcast(torch.from_numpy(batch.rows.packed()), lead, group=group)
        yield batch


def _received(blank: Iterator[Batch], group: distributed.ProcessGroup, shares: RowShares) -> Iterator[Batch]:
    lead = distributed.get_global_rank(group, 0)
    for batch in blank:
        there_is_one = torch.tensor([False])
        distributed.broadcast(there_is_one, lead, group=group)
        if not there_is_one:
            raise ToldByOtherRank("the rank that reads the rows has none")
        content = np.empty_like(batch.rows.packed())
        distributed.broadcast(torch.from_numpy(content), lead, group=group)
        rows = Rows.unpacked(content, len(batch.rows))
        yield replace(batch, rows=rows, micro_batches=shares.cut(rows))
