"""Where a model is cut into stages: the dearest stage, which the others wait for, shall be the cheapest.

    layers     0 Embedding   1 Block   2 Block   3 Block   4 Block   5 Head
    borders   (0,                                3,                          6)      two stages
    blocks    [2,                                2]                                  as layout.stages says it

A layer's cost is its FLOPs (model/accounting.py); the Embedding costs next to nothing and stays with a block.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from launcher.engine.layout import LayoutConfig
from model.accounting import layer_flops
from model.config import ModelConfig


def stage_borders(
    layout: LayoutConfig, model: ModelConfig, vocabulary: int, length: int, targets: float = 1.0
) -> tuple[int, ...]:
    """The numbers of the layers at which the stages of a layout begin, and that of all layers. length: T.
    targets: the share of positions that have one. ValueError where the model has too few blocks."""
    head_alone = has_vectors_in_head(model)
    if layout.stages:
        if layout.stages[-1] == 0 and layout.pipeline > 1 and not head_alone:
            raise ValueError(
                "layout.stages: expected a block in the last stage too, for with model.norm_placement post "
                "the head has no vector, and DeepSpeed wants the same kinds of parameters in all; got 0"
            )
        if sum(layout.stages) != model.layers:
            raise ValueError(
                f"layout.stages: expected {model.layers} blocks in all, as model.layers says, got "
                f"{sum(layout.stages)}"
            )
        return borders_of(layout.stages)
    if layout.pipeline > (most := model.layers + head_alone):
        raise ValueError(
            f"layout.pipeline: expected at most {most} stages for model.layers {model.layers}, got "
            f"{layout.pipeline}"
        )
    return cheapest_borders(layer_flops(model, vocabulary, length, targets), layout.pipeline, head_alone)


def has_vectors_in_head(model: ModelConfig) -> bool:
    """The Head has a normalisation, so that it may be a stage alone: under ZeRO DeepSpeed takes the norm of
    matrices and that of vectors over all stages, each in turn, and one without vectors would not join in."""
    return model.norm_placement == "pre"


def cheapest_borders(costs: Sequence[float], stages: int, head_alone: bool) -> tuple[int, ...]:
    """stages + 1 borders of layers of these costs, Embedding first and Head last, with a block in each stage,
    though not in the last where `head_alone`; the dearest stage costs least, of equals the earliest cuts: the
    first stages hold the activations of most micro-batches.

    The least bound under which the layers fit is halved down to, and the stages are filled up to it from the
    last one on.
    """
    units = [costs[0] + costs[1], *costs[2:]]  # what is not cut
    if not head_alone and len(units) > 1:
        units[-2:] = [units[-2] + units[-1]]
    low, high = 0.0, sum(units)
    for _ in range(100):
        middle = (low + high) / 2
        if len(_filled(units, middle)) <= stages:
            high = middle
        else:
            low = middle
    cuts = _filled(units, high, stages)
    return 0, *(1 + cut for cut in reversed(cuts[:-1])), len(costs)


def _filled(units: Sequence[float], bound: float, stages: int = 0) -> list[int]:
    """Where stages that cost at most `bound` begin, filled from the last one on; at least as many as
    `stages`. More than there are units where one of them costs more than that."""
    begins: list[int] = []
    held, count = 0.0, 0
    for number in reversed(range(len(units))):
        if units[number] > bound:
            return [0] * (len(units) + 1)
        to_come = stages - len(begins) - 1  # each of which needs a unit
        if count and (held + units[number] > bound or number < to_come):
            begins.append(number + 1)
            held, count = 0.0, 0
        held += units[number]
        count += 1
    return [*begins, 0]


def borders_of(blocks: Sequence[int]) -> tuple[int, ...]:
    """The borders of stages with so many blocks each: the Embedding goes with the first, the Head with the
    last."""
    inner = [1 + border for border in accumulate(blocks)]
    return 0, *inner[:-1], inner[-1] + 1


def stage_costs(costs: Sequence[float], borders: Sequence[int]) -> list[float]:
    """The cost of each stage."""
    return [sum(costs[begin:end]) for begin, end in pairwise(borders)]
