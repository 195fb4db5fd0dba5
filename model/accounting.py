"""What a model costs: parameters, FLOPs, memory, and the share of a device's peak that a run reaches.

Every figure is a formula over the config, so it can be had on a login node before anything is built. The
tests hold the formulas against the module itself, torch's FLOP counter and the tensors that autograd keeps.
"""

from model.config import ModelConfig


def _norm(config: ModelConfig, width: int) -> int:
    return width if config.norm == "rms" else 2 * width


def block_matrices(config: ModelConfig) -> int:
    """Parameters in the matrices of one block: q, k, v and out of attention; up (and gate), down."""
    d, kv = config.width, config.key_heads * config.head_width
    feed = (3 if config.activation == "swiglu" else 2) * d * config.feed_width
    return d * (d + 2 * kv) + d * d + feed


def parameters(config: ModelConfig, vocabulary: int) -> int:
    """Parameters of the whole model, a tied table once."""
    d = config.width
    block = block_matrices(config) + 2 * _norm(config, d)
    if config.qk_norm:
        block += 2 * _norm(config, config.head_width)
    tables = vocabulary * d * (1 if config.tied else 2)
    places = config.longest * d if config.positions == "learned" else 0
    last = _norm(config, d) if config.placement == "pre" else 0
    return config.layers * block + tables + places + last + 2 * d


def flops_per_token(config: ModelConfig, vocabulary: int, length: int, targets: float = 1.0) -> float:
    """FLOPs of forward and backward for one position of a row of T = `length`: 6N + 12·L·d·T.

    N counts the parameters that multiply a position: the blocks' matrices, and the projection on the
    vocabulary for the share `targets` of positions that have one. Attention counts every pair of the row,
    masked or not, as PaLM (Chowdhery et al. 2022, appendix B) does. Recomputation is not counted.
    """
    n = config.layers * block_matrices(config) + targets * vocabulary * config.width
    return 6.0 * n + 12.0 * config.layers * config.width * length
