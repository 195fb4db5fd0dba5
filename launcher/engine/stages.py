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
    though not in the last where `head_alone`; the dearest stage costs least, of equals the earliest cuts."""
    total = [0.0, *accumulate(costs)]
    layers = len(costs)

    @cache
    def best(first: int, left: int) -> tuple[float, tuple[int, ...]]:
        """(dearest, borders behind `first`) of the layers from `first` on in `left` stages."""
        if left == 1:
            return total[layers] - total[first], (layers,)
        begin = first + (2 if first == 0 else 1)  # the Embedding does not count
        found = []
        for border in range(begin, layers - left + 1 + head_alone):
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
