"""A run that goes on in another layout than its checkpoint was saved in: what changed, told and recorded.

                checkpoint   config   used
    processes   2            –        4
    zero        1            3        3
    pipeline    1            1        1

Tensors and batches are the same under each; a resume that was meant to keep the layout and did not, for want
of a node or by a forgotten key, shows itself here before its first step.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from launcher import output
from launcher.distributed.world import World
from launcher.engine.layout import LayoutConfig


class LayoutChange(NamedTuple):
    """A fact of a layout: as the checkpoint was saved, as the config says it (None: it does not), and as it
    is."""

    key: str
    checkpoint: Any
    config: Any
    used: Any


def layout_changes(saved: Mapping[str, Any], layout: LayoutConfig, world: World) -> list[LayoutChange]:
    """Every fact of the layout, or nothing where all are as they were. saved: the facts of a manifest; one
    of an older headrace knows fewer, and calls processes ranks."""
    used = layout.facts(world.size)
    known = {"processes": saved.get("ranks"), **saved}
    changes = [
        LayoutChange(key, known.get(key), None if key in ("processes", "data_ranks") else value, value)
        for key, value in used.items()
    ]
    differ = any(change.checkpoint not in (None, change.used) for change in changes)
    return changes if differ else []


def shown(changes: list[LayoutChange]) -> list[str]:
    """The lines of the table above."""
    return output.aligned(["", "checkpoint", "config", "used"], changes)
