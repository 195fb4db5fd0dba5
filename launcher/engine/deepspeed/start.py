"""DeepSpeed's import, its config, its start. Nothing outside this folder knows of it.

Its import is made inside a function, the one lazy import of this room: it takes seconds, reads the
environment (which accelerator) and starts compilers unless three things are arranged first:

- the shared-memory op of `init_distributed` is a C++ build of minutes, for nothing that training uses;
- ZeRO's muon optimizer compiles a function at import and drags in torch._inductor: 4 s of CPU a rank;
- the optimizer named in the config would be built from source: torch's own fused AdamW is passed instead.

Our config leaves no choice to DeepSpeed's defaults that changes a number: gradients are accumulated and
reduced in fp32 and never rescaled by an accumulation count (the loss weights carry the whole normalisation).
"""

import functools
import importlib
import logging
import math
import os
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import nn

from launcher.engine.deepspeed.ranks import ModelRanks
from launcher.engine.footprint import usual_bucket
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig, parameter_groups


@functools.cache
def load() -> ModuleType:
    """The deepspeed module, imported without compilers and without output."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deepspeed = importlib.import_module("deepspeed")
        compatible = importlib.import_module("deepspeed.ops").__compatible_ops__
        compatible["deepspeed_shm_comm"] = False
        compiler = torch.compile
        setattr(torch, "compile", _same)  # noqa: B010
        try:
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
        finally:
            setattr(torch, "compile", compiler)  # noqa: B010
    logger = logging.getLogger("DeepSpeed")
    logger.handlers.clear()  # its own writes to stdout
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    return deepspeed


def _same(function: Any = None, *_: Any, **__: Any) -> Any:
    return function if callable(function) else _same


def config(layout: LayoutConfig, optimizer: OptimizerConfig, parameters: int) -> dict[str, Any]:
    """DeepSpeed's config; `parameters` is the size of the model, which bounds its buffers.

    The number of micro-batches is not in it: each step says itself which one is its last.
    """
    bucket = usual_bucket(parameters)
    zero: dict[str, Any] = {
        "stage": layout.zero,
        "contiguous_gradients": True,
        "overlap_comm": False,
        "round_robin_gradients": False,  # it would make the layout map point at other parameters
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if layout.offload == "optimizer":
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": layout.micro_batch,
        "gradient_accumulation_steps": 1,
        "steps_per_print": None,
        # ZeRO 0 in fp32 reports no norm, so headrace clips there itself.
        "gradient_clipping": optimizer.grad_clip if layout.zero else 0.0,
        "bf16": {"enabled": layout.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW on the host too: no compiler, the same numbers
        "zero_optimization": zero | layout.deepspeed,
        "pipeline": {
            "pipe_partitioned": False,
            "grad_partitioned": False,
        },  # tensor ranks send what they have
    }


def start(
    model: nn.Module, optimizer: OptimizerConfig, layout: LayoutConfig, ranks: ModelRanks | None = None
) -> Any:
    """The DeepSpeed engine around a model from construct.py, which has told DeepSpeed the local rank. ranks:
    where not all are data ranks. torch.distributed is connected."""
    deepspeed = load()
    parameters = sum(math.prod(undivided_shape(parameter)) for parameter in model.parameters())
    groups = parameter_groups(model.named_parameters(), optimizer, undivided_shape)
    adam = torch.optim.AdamW(
        groups, lr=optimizer.lr, betas=optimizer.betas, eps=optimizer.eps, fused=True, weight_decay=0.0
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=adam,
        config=config(layout, optimizer, parameters),
        dist_init_required=False,
        mpu=ranks,
    )
    return engine


def take_step(engine: Any) -> None:
    """The end of a step: the update, where the last micro-batch was told to be the last."""
    engine.step()


def undivided_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """A parameter's shape over all ranks: one that ZeRO 3 has divided is itself an empty vector."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def undivided(parameters: list[nn.Parameter]) -> Any:
    """A context in which ZeRO 3's parameters are whole on every rank. A collective."""
    return load().zero.GatheredParameters(parameters)
