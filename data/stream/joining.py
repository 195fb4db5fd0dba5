"""Several blocks as one: the documents of consecutive slots of a stream, where rows are longer than planned.

Blocks are made once for a run, for rows of up to the longest T planned: a few hundred a block, of which half
a row of padding is little. Where T grows beyond that, ⌈T / longest⌉ slots are opened together, so that there
are as many rows again:

    slots of a stream      j    j+1   j+2   j+3 │ j+4 …
    T as planned           ███  ███   ███   ███ │ ███
    T × 4                  ████████████████████ │ …          one block, one position, one line in the log

How many is said by the plan of the row at which the block was first built, so it follows from the position
(data/plan/positions.py), and an edit of T leaves an open block as it is. A slot keeps its epoch, its skips
and the random numbers of its documents; neighbouring slots may be of two epochs, or the same block twice.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from data.stream.reading import Documents
from objectives.example import ControlIds
from objectives.segments import Texts


def joined(parts: Sequence[Documents], control: ControlIds) -> Documents:
    """The documents of several blocks, in that order; those of one as they are."""
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0, *(len(part.keys) for part in parts[:-1])])
    tokens = Texts.of(
        list(chain.from_iterable(part.tokens for part in parts)),
        control,
        np.concatenate([part.tokens.closes for part in parts]),
        np.concatenate([part.tokens.origin + first for part, first in zip(parts, before.tolist())]),
    )
    return Documents(
        shard=parts[0].shard,
        keys=[key for part in parts for key in part.keys],
        units=np.concatenate([part.units for part in parts]),
        numbers=np.concatenate([part.numbers for part in parts]),
        tokens=tokens,
        rng_keys=np.concatenate([part.rng_keys for part in parts]),
        bad=tuple(bad for part in parts for bad in part.bad),
        shards=tuple(part.shard for part in parts for _ in part.keys),
    )
