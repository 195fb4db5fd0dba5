"""What a process holds for the weights of a model at the worst moment of a step, by its layout: a formula.

    weights     what the model computes with: divided in ZeRO 3
    optimizer   Adam's two moments, 8 bytes a parameter, and from ZeRO 1 on the fp32 master apart from the
                weight, 4 more, in fp32 too; divided over the processes
    gradients   their sums in fp32, and what carries them to the other processes: buckets, copies of these,
                in ZeRO 3 also the weights that are whole for a while
    host        with an offloaded optimizer: all of the above but weights and buckets

Which of the gradients stand at once is DeepSpeed's own way in each stage. It was read off its allocations,
and tests/launcher/test_footprint.py holds every supported cell against them. Activations and the loss are
model/accounting.py's. Needs no torch: `headrace check` prints it on a login node.
"""

from dataclasses import dataclass

from launcher.engine.layout import LayoutCell, LayoutConfig

LARGEST_BUCKET = 200_000_000
"""Elements that ZeRO reduces together at most, where the config does not say."""
LARGEST_REDUCTION = 500_000_000
"""The same where DeepSpeed lets nobody say: ZeRO 0, and 1 in bf16."""
LIVE = 1_000_000_000
"""Elements that ZeRO 3 has whole at most, where the config does not say."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process."""

    weights: float
    gradients: float
    optimizer: float
    host: float
    """On the host instead of the device; 0 where nothing is offloaded."""


def footprint(layout: LayoutConfig, parameters: int, largest: int, processes: int) -> Footprint:
    """Of a model of so many parameters, the largest of so many elements, where a step has more than one
    micro-batch: with one alone ZeRO 2 holds no sum beside the bucket."""
    cell, part = layout.cell, 1 / processes
    weight = 2.0 if cell.precision == "bf16" else 4.0
    offloads = cell.offload == "optimizer"
    # Offloaded gradients of ZeRO 1 and 2 pass through a buffer on either side.
    passing = weight * largest if offloads and cell.zero < 3 else 0.0
    optimizer = 0.0 if offloads else 12.0 * part if cell.zero else 8.0
    return Footprint(
        weights=weight * parameters * (part if cell.zero == 3 else 1),
        gradients=_gradients(layout, parameters, processes) * parameters + passing,
        optimizer=optimizer * parameters,
        host=host_bytes(cell) * parameters * part + passing,
    )


def usual_bucket(parameters: int) -> int:
    """Elements that ZeRO reduces together at most, where the config does not say; even."""
    return max(2, min(parameters, LARGEST_BUCKET) // 2 * 2)


def _gradients(layout: LayoutConfig, parameters: int, processes: int) -> float:
    """Bytes a parameter on the device; `part` of them is this process's share."""
    cell, part = layout.cell, 1 / processes
    size = layout.deepspeed.get("reduce_bucket_size", usual_bucket(parameters))
    bucket = min(1.0, size / parameters)
    if cell.zero == 0:  # sums; a copy that is reduced
        return 4.0 + (4.0 * min(1.0, LARGEST_REDUCTION / parameters) if processes > 1 else 0.0)
    if cell.zero == 3:
        return _gradients_3(layout, bucket, parameters, processes)
    offloads = cell.offload == "optimizer"
    if cell.zero == 2:  # this process's sums; a bucket and its copy; or the flat copy that Adam is given
        if cell.precision == "bf16":
            return 4.0 * part + 8.0 * bucket
        if offloads:
            return (8.0 if processes > 1 else 4.0) * bucket
        return 4.0 * part + max(8.0 * bucket, 4.0 * part)
    if cell.precision == "fp32":  # all sums; a bucket; or this process's and their flat copy
        return max(4.0 + 4.0 * bucket, 0.0 if offloads else 8.0 * part)
    if offloads:
        return max(4.0 + 4.0 * bucket, 4.0 * part + max(4.0, 8.0 * bucket))
    # bf16, by an optimizer of DeepSpeed's own: gradients in bf16, their sums, a copy that is reduced.
    return 6.0 + 4.0 * min(1.0, LARGEST_REDUCTION / parameters)


def _gradients_3(layout: LayoutConfig, bucket: float, parameters: int, processes: int) -> float:
    """ZeRO 3: a bucket that stays, and this process's sums. Beside them whole weights while gradients fill
    the bucket; then the copies in which it is reduced; then the flat gradient that Adam is given."""
    weight = 2.0 if layout.precision == "bf16" else 4.0
    live = min(1.0, layout.deepspeed.get("stage3_max_live_parameters", LIVE) / parameters)
    whole = weight * live if processes > 1 else 0.0
    passing = max(whole + 4.0 * bucket, 8.0 * bucket)
    if layout.offload == "optimizer":
        return 4.0 * bucket + passing
    return 4.0 * bucket + 4.0 / processes + max(passing, 4.0 / processes)


def host_bytes(cell: LayoutCell) -> float:
    """What all hosts together hold of a parameter: with an offloaded optimizer the master, two moments and
    the gradient of the update, 4 bytes each, and DeepSpeed's copies: the new weight in ZeRO 1 and 2, the sum
    over micro-batches in fp32 ZeRO 2 and in ZeRO 3. Else nothing."""
    if cell.offload == "none":
        return 0.0
    weight, summed = (2.0, 0.0) if cell.precision == "bf16" else (4.0, 4.0)
    copies = {1: weight, 2: weight + summed, 3: 4.0}[cell.zero]
    return 16.0 + copies
