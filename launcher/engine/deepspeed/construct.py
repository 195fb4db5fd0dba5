"""A model made where its layout keeps it: on the device, in the precision of its weights, divided in ZeRO 3.

No rank ever holds a whole model that its device does not keep. In ZeRO 3 each parameter is divided over the
ranks as soon as the module that holds it is made (zero.Init), so a rank has its parts and one parameter more
for a moment. Nothing is drawn: the weights are no numbers until StateMap.fill or a checkpoint fills them.
What a rank has a tensor-parallel part of, DeepSpeed is told: in the norm each such part counts, and what is
whole on every rank counts once.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from launcher.engine.deepspeed.ranks import ModelRanks
from launcher.engine.deepspeed.start import config, load
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig
from model.transformer import Transformer


def construct(
    build: Callable[[], Transformer],
    optimizer: OptimizerConfig,
    layout: LayoutConfig,
    device: torch.device,
    local_rank: int,
    ranks: ModelRanks | None = None,
) -> Transformer:
    """What `build` makes, with weights that wait to be filled. A collective in ZeRO 3; torch.distributed is
    connected."""
    os.environ["LOCAL_RANK"] = str(local_rank)  # the only way to tell DeepSpeed; srun does not set it
    dtype = torch.float32 if layout.precision == "fp32" else torch.bfloat16
    with _default_dtype(dtype), device if layout.zero < 3 else _divided(optimizer, layout, ranks):
        model = build()
    named = dict(model.named_parameters())
    for name in model.shared_weights():
        named[name].tensor_model_parallel = True  # type: ignore[attr-defined]
    return model


def _divided(optimizer: OptimizerConfig, layout: LayoutConfig, ranks: ModelRanks | None) -> Any:
    """Within it a parameter is divided over the data ranks as soon as its module is made."""
    deepspeed = load()
    deepspeed.comm.init_distributed(dist_init_required=False)  # else zero.Init looks for MPI
    # With dtype= as well it would take bf16 on a device that has no fp16. Buffers are not made here.
    return deepspeed.zero.Init(
        data_parallel_group=ranks.get_data_parallel_group() if ranks else None,
        config_dict_or_path=config(layout, optimizer, parameters=0),
        mpu=ranks,
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
