"""What a process holds of its device's memory, and one clear line when that was not enough.

A layout that does not fit shows itself at the first step or at the longest micro-batch, hours after sbatch.
What the line proposes of the layout changes speed and memory and never the batches
(launcher/engine/layout.py), so the user can go on from the newest checkpoint. Only the rank that ran out
knows: the others wait for it until whoever started them ends them.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data.errors import BadInput
from launcher.engine.layout import LayoutConfig, Offload


def memory_in_use() -> float:
    """GiB: the most that this process has held so far, of its GPU, or resident where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return _resident()


def _resident() -> float:
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte / 2**30


@contextmanager
def enough_memory(layout: LayoutConfig) -> Iterator[None]:
    """BadInput, with what to change, where the memory of a GPU or of the machine runs out within it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, whole = torch.cuda.mem_get_info()
        raise BadInput(
            f"layout: the GPU's memory is not enough ({(whole - free) / 2**30:.1f} of "
            f"{whole / 2**30:.1f} GiB are taken, {memory_in_use():.1f} at most by tensors of this process): "
            f"{_remedies(layout, 'optimizer', 'take more GPUs')}"
        ) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # torch has no class for it
            raise
        raise BadInput(
            f"layout: the machine's memory is not enough (this process holds {_resident():.1f} GiB): "
            f"{_remedies(layout, 'none', 'take a larger machine')}"
        ) from error


def _remedies(layout: LayoutConfig, offload: Offload, larger: str) -> str:
    """offload: the one under which less lies where the memory ran out."""
    remedies = [
        f"lower layout.micro_batch (it is {layout.micro_batch})" if layout.micro_batch > 1 else "",
        "set layout.activation_checkpointing" if not layout.activation_checkpointing else "",
        "raise layout.zero" if layout.zero < 3 and torch.distributed.get_world_size() > 1 else "",
        f"set layout.offload: {offload}" if layout.zero and layout.offload != offload else "",
        larger,
    ]
    return f"{', '.join(filter(None, remedies))} and go on, with the same batches; or begin a smaller model"
