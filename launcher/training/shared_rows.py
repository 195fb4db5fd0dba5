"""One reader for the ranks that share rows: it encodes them once and sends them to the others.

    lead      batch ← the loader                  ─┐   one broadcast of the rows' bytes within the group,
    others    batch ← blank, of the same shape   ◀─┘   over the host's network
    between   batch ← blank                            stages that need no rows are not of the group

The stages of a pipeline that need rows must have the very same ones, and the ranks of a sequence and of a
tensor group too. Were each to read its own, a shard that one of them cannot read for a moment would part them
without a word. Sending is also the cheaper way: 22 bytes a position, a few thousandths of a second for what
takes a core seconds to encode; blocks are held and openings logged by the lead alone.

Rows are sent once all leads have theirs (upcoming.py), so nobody waits inside a broadcast.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import distributed

from data.stream.loader import Batch, RowShares
from data.stream.rows import Rows
from launcher.distributed.process_group import group_along
from launcher.distributed.world import World


def row_sharing(world: World, shares: RowShares) -> Callable[[Batch], Batch]:
    """What turns a rank's batch (the loader's on the lead of each group, a blank one elsewhere) into the one
    to train on. Making it is a collective of all ranks, each call one of the group."""
    group = None
    if world.degrees.ranks > 1:
        group = group_along(world, "pipeline", "sequence", "tensor", ends=True, backend="gloo")
    if group is None:
        return lambda batch: batch
    lead = distributed.get_global_rank(group, 0)

    def send(batch: Batch) -> Batch:
        distributed.broadcast(torch.from_numpy(batch.rows.packed()), lead, group=group)
        return batch

    def receive(batch: Batch) -> Batch:
        content = np.empty_like(batch.rows.packed())
        distributed.broadcast(torch.from_numpy(content), lead, group=group)
        rows = Rows.unpacked(content, len(batch.rows))
        return replace(batch, rows=rows, micro_batches=shares.cut(rows))

    return send if world.mesh.leads else receive
