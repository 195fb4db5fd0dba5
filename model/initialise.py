"""Initial weights: a function of the parameter's name, its shape and the seed, and of nothing else.

Each parameter has a generator of its own, so the same model comes out whatever the order of construction, the
layout, or which process fills which part of it. Values are drawn in float32 on the CPU and cast afterwards.

    matrices and tables   normal(0, init_std), .02 as in GPT-2
    out, down             with 'scaled' divided by √(2·layers): these are added to the residual stream, two a
                          layer (GPT-2, Radford et al. 2019, §2.3)
    gains 1, biases 0
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.config import ModelConfig

_RESIDUAL = ("attention.out.weight", "mlp.down.weight")


def init_parameter(name: str, shape: Sequence[int], config: ModelConfig, seed: int) -> Tensor:
    """float32 values of the parameter that state_dict calls `name`, in its full `shape`."""
    if len(shape) == 1:
        return torch.zeros(*shape) if name.endswith("bias") else torch.ones(*shape)
    std = config.init_std
    if config.initialisation == "scaled" and name.endswith(_RESIDUAL):
        std /= (2 * config.layers) ** 0.5
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.empty(*shape).normal_(0.0, std, generator=generator)


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every parameter of a model whose parameters are whole and on a real device."""
    for name, parameter in model.named_parameters():
        parameter.copy_(init_parameter(name, parameter.shape, config, seed))
