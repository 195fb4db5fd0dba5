"""The choices that make a model, and the combinations that are refused.

One frozen value, read by every file of this room and written into the run's config complete. A choice that
cannot work with another is refused here, in words that begin with the key, before anything is built; what
follows from other choices (the width of a head, the feed-forward width) is a property and cannot be set
beside them.
"""

from dataclasses import dataclass

CHOICES: dict[str, tuple[str, ...]] = {
    "stack": ("single",),
    "norm": ("rms", "layer"),
    "norm_placement": ("pre", "post"),
    "positions": ("rope", "learned"),
    "activation": ("swiglu", "gelu"),
    "initialisation": ("scaled", "plain"),
    "attention": ("auto", "dense", "segments", "causal", "flex"),
}
"""The values of each key that is a word."""

MOST = {
    "layers": 2**12,
    "width": 2**17,
    "heads": 2**17,
    "kv_heads": 2**17,
    "mlp_width": 2**20,
    "loss_chunk": 2**20,
    "max_sequence_length": 2**20,
}
"""Far above any model: what is larger is a slip of the hand, and no memory would hold it."""

COLDEST, HOTTEST = 1e-6, 1e6
"""Temperatures between which logits can be divided in float32 and the likeliest is still drawn."""

NARROWEST_FLEX = 16
"""The least width of a head that FlexAttention takes."""


def require_temperature(temperature: float) -> None:
    """ValueError unless tokens can be drawn at it. Here, so that a config asks without importing torch."""
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise ValueError(
            f"temperature: expected 0, or a number from {COLDEST:g} to {HOTTEST:g}, got {temperature:g}"
        )


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and choices of one Transformer. A bad value is a ValueError "key: what was expected".

    mlp_width None means four times the width for gelu, and 8/3 of it, rounded up to a multiple of 64, for
    swiglu (Shazeer 2020: the same number of parameters). kv_heads None means as many as heads.
    `max_sequence_length` is the largest T that the run may ever use; the launcher sets it from the plan.
    `loss_chunk` is the number of positions whose logits exist at one time.
    """

    layers: int = 6
    width: int = 384
    heads: int = 6
    kv_heads: int | None = None
    mlp_width: int | None = None
    stack: str = "single"
    norm: str = "rms"
    norm_placement: str = "pre"
    positions: str = "rope"
    rope_base: float = 10000.0
    activation: str = "swiglu"
    qk_norm: bool = False
    tie_embeddings: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    z_loss: float = 0.0
    initialisation: str = "scaled"
    init_std: float = 0.02
    attention: str = "auto"
    loss_chunk: int = 512
    max_sequence_length: int = 2048

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key}: expected one of {', '.join(known)}, got {getattr(self, key)!r}")
        for key, most in MOST.items():
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}: expected a whole number of at least 1, got {value}")
            if value is not None and value > most:
                raise ValueError(f"{key}: expected a whole number of at most {most}, got {value}")
        for key in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key}: expected a number from 0 to below 1, got {getattr(self, key)}")
        for key in ("z_loss", "init_std"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: expected a number of at least 0, got {getattr(self, key)}")
        if self.width % self.heads:
            raise ValueError(f"heads: width {self.width} is not a multiple of {self.heads} heads")
        if self.heads % self.num_kv_heads:
            raise ValueError(
                f"kv_heads: {self.heads} heads are not a multiple of {self.num_kv_heads} kv_heads"
            )
        if self.positions == "rope" and self.head_width % 2:
            raise ValueError(f"heads: rope needs an even head width, got {self.width}/{self.heads}")
        if self.positions == "rope" and self.rope_base <= 1:
            raise ValueError(f"rope_base: expected a number above 1, got {self.rope_base}")
        if self.attention == "flex" and not self.flex_fits:
            raise ValueError(
                "attention: flex has no dropout and wants heads of at least "
                f"{NARROWEST_FLEX} features; choose dense"
            )

    @property
    def head_width(self) -> int:
        """Features of one attention head."""
        return self.width // self.heads

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values; fewer than `heads` is grouped-query attention (Ainslie et al. 2023)."""
        return self.kv_heads or self.heads

    @property
    def flex_fits(self) -> bool:
        """FlexAttention can do what the config asks of attention."""
        return not self.attention_dropout and self.head_width >= NARROWEST_FLEX

    @property
    def mlp_features(self) -> int:
        """Features inside the feed-forward layer."""
        if self.mlp_width is not None:
            return self.mlp_width
        if self.activation == "gelu":
            return 4 * self.width
        return -(-8 * self.width // 3 // 64) * 64
