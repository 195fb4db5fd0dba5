"""What a model costs: parameters, FLOPs, memory, and the share of a device's peak that a run reaches.

Every figure is a formula over the config, so it can be had on a login node before anything is built. The
tests hold the formulas against the module itself, torch's FLOP counter and the tensors that autograd keeps.
"""

import re
from dataclasses import dataclass

from model.config import ModelConfig


def _norm(config: ModelConfig, width: int) -> int:
    return width if config.norm == "rms" else 2 * width


def block_matrices(config: ModelConfig) -> int:
    """Parameters in the matrices of one block: q, k, v and out of attention; up (and gate), down."""
    d, kv = config.width, config.num_kv_heads * config.head_width
    mlp = (3 if config.activation == "swiglu" else 2) * d * config.mlp_features
    return d * (d + 2 * kv) + d * d + mlp


def parameters(config: ModelConfig, vocabulary: int, part: range | None = None, shares: int = 1) -> int:
    """Parameters of the model, or of the layers of these numbers; a tied table once. shares: of which one is
    had of each block (share.py)."""
    d, layers = config.width, range(config.layers + 2) if part is None else part
    block = block_matrices(config) // shares + 2 * _norm(config, d)
    if config.qk_norm:
        block += 2 * _norm(config, config.head_width)
    table = vocabulary * d
    positions = config.max_sequence_length * d if config.positions == "learned" else 0
    embedding = table + positions if 0 in layers else 0
    head = 0
    if config.layers + 1 in layers:
        own_table = 0 if config.tie_embeddings and 0 in layers else table
        head = own_table + 2 * d + (_norm(config, d) if config.norm_placement == "pre" else 0)
    return embedding + _blocks(config, layers) * block + head


def _blocks(config: ModelConfig, part: range) -> int:
    """Blocks among layers of these numbers."""
    return sum(0 < number <= config.layers for number in part)


PLAIN_BYTES = 4
"""A parameter of a model that is whole in one process, without optimizer."""


def largest_parameter(config: ModelConfig, vocabulary: int) -> int:
    """Elements of the largest parameter: what a start draws at a time."""
    d, kv = config.width, config.num_kv_heads * config.head_width
    up = (2 if config.activation == "swiglu" else 1) * d * config.mlp_features
    positions = config.max_sequence_length * d if config.positions == "learned" else 0
    return max(vocabulary * d, d * (d + 2 * kv), up, d * config.mlp_features, positions)


def flops_per_token(config: ModelConfig, vocabulary: int, length: float, targets: float = 1.0) -> float:
    """FLOPs of forward and backward for one position of a row of T = `length`: 6N + 12·L·d·T.

    N counts the parameters that multiply a position: the blocks' matrices, and the projection on the
    vocabulary for the share `targets` of positions that have one. Attention counts every pair of the row,
    masked or not, as PaLM (Chowdhery et al. 2022, appendix B) does; with the mean number of keys that a
    position sees as `length` it counts visible pairs alone. Recomputation is not counted.
    """
    return sum(layer_flops(config, vocabulary, length, targets))


def layer_flops(config: ModelConfig, vocabulary: int, length: float, targets: float = 1.0) -> list[float]:
    """The FLOPs of flops_per_token layer by layer: Embedding (a look-up: none), blocks, Head."""
    block = 6.0 * block_matrices(config) + 12.0 * config.width * length
    return [0.0, *[block] * config.layers, 6.0 * targets * vocabulary * config.width]


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that one process needs at the worst moment of a step, by what they hold."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        """Bytes in all; the allocator's own waste and the libraries' buffers come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.head


def block_activations(config: ModelConfig, kept_copy: bool = True, shares: int = 1) -> int:
    """Elements that autograd keeps of one block for one position, or of one of its shares.

    kept_copy: the attention back end keeps its result apart from what the next layer reads (segments).
    """
    d, kv = config.width, config.num_kv_heads * config.head_width
    one_norm = 3 * d if config.norm == "rms" else 2 * d  # input, normalised (rms, where not fused), output
    qkv = d + 2 * kv
    if config.positions == "rope":
        qkv += d + kv
    if config.qk_norm:
        qkv += (2 if config.norm == "rms" else 1) * (d + kv)
    mlp = (4 if config.activation == "swiglu" else 2) * config.mlp_features
    drops = 2 * d if config.dropout else 0
    return 2 * one_norm + drops + (qkv + (2 if kept_copy else 1) * d + mlp) // shares


def memory(
    config: ModelConfig,
    vocabulary: int,
    *,
    rows: int,
    length: int,
    targets: float = 1.0,
    checkpoint_blocks: bool = False,
    weight: float = 4.0,
    gradient: float = 4.0,
    optimizer: float = 8.0,
    element: int = 4,
    part: range | None = None,
    in_flight: int = 1,
    shares: int = 1,
) -> MemoryUse:
    """An estimate for micro-batches [rows, length]; targets: the share of positions that have one.

    weight, gradient, optimizer: bytes a parameter that one process holds; whoever spreads a model over
    several processes divides them before. element: bytes of an activation. part: the layers of these
    numbers; in_flight: micro-batches that have gone forward and not yet backward; shares: of which the
    process has one of each block. The head holds the gradients of the table and of the selected states from
    the forward pass on, and three times a chunk's logits.
    """
    part = range(config.layers + 2) if part is None else part
    n, positions = parameters(config, vocabulary, part, shares), rows * length
    blocks = _blocks(config, part)
    per_block = positions * block_activations(config, config.attention in ("auto", "segments"), shares)
    if checkpoint_blocks:
        kept = in_flight * blocks * positions * config.width + per_block
    else:
        kept = in_flight * blocks * per_block
    head = 0.0
    if config.layers + 1 in part:
        head = _head_bytes(config, vocabulary, targets * positions, element)
    return MemoryUse(n * weight, n * gradient, n * optimizer, float(kept * element), head)


def _head_bytes(config: ModelConfig, vocabulary: int, selected: float, element: int) -> float:
    """What the head holds with so many positions that have a target."""
    head = 4.0 * vocabulary * config.width + selected * 4 * config.width * element
    return head + 3 * 4.0 * min(config.loss_chunk, max(selected, 1)) * vocabulary


_PEAKS = (
    (r"B200", 2250e12),
    (r"GH200|H200|H100 80GB HBM3|H100 SXM|H800", 989e12),
    (r"H100 NVL", 835e12),
    (r"H100 PCIe", 756e12),
    (r"H20", 148e12),
    (r"A100|A800", 312e12),
    (r"L40S", 362e12),
    (r"L40", 181e12),
    (r"L4", 121e12),
    (r"A10", 125e12),
    (r"RTX A6000", 154.8e12),
    (r"RTX 4090", 165.2e12),
    (r"RTX 3090", 71e12),
    (r"MI300X", 1307e12),
    (r"MI250X", 191.5e12),
)
"""Peak FLOP/s in bf16 without sparsity, by device name, from the vendors' data sheets (sheets that print the
sparse figure: half of it; MI250X: one of its two dies, which is what a process sees)."""


def peak_flops(device: str) -> float | None:
    """Dense bf16 peak of the device that torch or the driver calls `device`; None when it is not known."""
    if "MIG" in device:
        return None
    for pattern, peak in _PEAKS:
        if re.search(rf"\b(?:{pattern})\b", device):
            return peak
    return None


def mfu(flops_per_second: float, device: str, devices: int = 1) -> float | None:
    """Model FLOPs utilisation: flops_per_token · tokens/s over the peak of all devices, or None."""
    peak = peak_flops(device)
    return None if peak is None else flops_per_second / (peak * devices)
