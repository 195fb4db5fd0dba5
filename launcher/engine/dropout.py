"""Where dropout's masks come from: seeded before each layer, so that a resumed run needs no random state.

    seed = key(run's seed, "dropout", step, micro-batch, data rank, layer)

One seed a layer, and not one a forward pass, makes the masks the same however the layers are cut into stages:
each stage draws what the whole model would have drawn there.
"""

from functools import partial

import torch

from model.config import ModelConfig
from model.transformer import Reseed
from objectives.rng import extend, key


def reseeding(
    model: ModelConfig, seed: int, device: torch.device, step: int, micro_batch: int, rank: int
) -> Reseed | None:
    """What to call before each layer in training; None for a model without dropout. rank: of the data."""
    if not (model.dropout or model.attention_dropout):
        return None
    return partial(_seed, _generator(device), key(seed, "dropout", step, micro_batch, rank))


def _generator(device: torch.device) -> torch.Generator:
    """The one that dropout draws from: torch.manual_seed would seed all of them, at twenty times the cost."""
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator


def _seed(generator: torch.Generator, pass_key: int, layer: int) -> None:
    generator.manual_seed(extend(pass_key, layer) >> 1)
