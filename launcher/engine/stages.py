"""Where a model is cut into stages: the dearest stage, which the others wait for, shall be the cheapest.

    layers     0 Embedding   1 Block   2 Block   3 Block   4 Block   5 Head
    borders   (0,                                3,                          6)      two stages
    blocks    [2,                                2]                                  as layout.stages says it

A layer's cost is its FLOPs (model/accounting.py); the Embedding costs next to nothing and stays with a block.
"""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise

from launcher.engine.layout import LayoutConfig
from model.accounting import layer_flops
from model.config import ModelConfig


def stage_borders(
    layout: LayoutConfig, model: ModelConfig, vocabulary: int, length: int, targets: float = 1.0
) -> tuple[int, ...]:
    """The numbers of the layers at which the stages of a layout begin, and that of all layers. length: T.
    targets: the share of positions that have one. ValueError where the model has too few blocks."""
    if layout.stages:
        if sum(layout.stages) != model.layers:
            raise ValueError(
                f"layout.stages: expected {model.layers} blocks in all, as model.layers says, got "
                f"{sum(layout.stages)}"
            )
        return borders_of(layout.stages)
    if layout.pipeline > model.layers + 1:
        raise ValueError(
            f"layout.pipeline: expected at most {model.layers + 1} stages for model.layers {model.layers}, "
            f"got {layout.pipeline}"
        )
    return cheapest_borders(layer_flops(model, vocabulary, length, targets), layout.pipeline)


def cheapest_borders(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """stages + 1 borders of layers of these costs, Embedding first and Head last, with a block in each stage
    but the last, so that the dearest stage costs least; of equals the earliest cuts."""
    total = [0.0, *accumulate(costs)]
    layers = len(costs)

    @cache
    def best(first: int, left: int) -> tuple[float, tuple[int, ...]]:
        """(dearest, borders behind `first`) of the layers from `first` on in `left` stages."""
        if left == 1:
            return total[layers] - total[first], (layers,)
        # A block in each stage: the first has the Embedding beside it, the last may be the Head alone.
        begin = first + (2 if first == 0 else 1)
        found = []
        for border in range(begin, layers - left + 2):
            dearest, behind = best(border, left - 1)
            found.append((max(total[border] - total[first], dearest), (border, *behind)))
        return min(found)

    return 0, *best(0, stages)[1]


def borders_of(blocks: Sequence[int]) -> tuple[int, ...]:
    """The borders of stages with so many blocks each: the Embedding goes with the first, the Head with the
    last."""
    inner = [1 + border for border in accumulate(blocks)]
    return 0, *inner[:-1], inner[-1] + 1


def stage_costs(costs: Sequence[float], borders: Sequence[int]) -> list[float]:
    """The cost of each stage."""
    return [sum(costs[begin:end]) for begin, end in pairwise(borders)]
