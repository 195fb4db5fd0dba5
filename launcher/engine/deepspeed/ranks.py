"""Which ranks DeepSpeed takes for data ranks and which for parts of one model: its `mpu`.

Without one all ranks are data ranks. Under tensor parallelism those are that have the same part of the
model, the ranks of a sequence among them: over these gradients are averaged and ZeRO divides. A pipeline
has a grid of DeepSpeed's own in this place.
"""

from typing import Any

from torch import distributed


class ModelRanks:
    """The names under which DeepSpeed asks."""

    def __init__(self, tensor_group: Any, data_group: Any) -> None:
        self._tensor, self._data = tensor_group, data_group

    def get_model_parallel_group(self) -> Any:
        """The ranks that have a model together; ZeRO adds up the norm over them."""
        return self._tensor

    def get_model_parallel_world_size(self) -> int:
        """How many."""
        return distributed.get_world_size(self._tensor)

    def get_model_parallel_rank(self) -> int:
        """This one among them; what is whole on each the first counts in the norm."""
        return distributed.get_rank(self._tensor)

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_rank = get_model_parallel_rank

    def get_data_parallel_group(self) -> Any:
        """The ranks that have the same part of the model."""
        return self._data

    def get_data_parallel_world_size(self) -> int:
        """How many."""
        return distributed.get_world_size(self._data)

    def get_data_parallel_rank(self) -> int:
        """This one among them."""
        return distributed.get_rank(self._data)
