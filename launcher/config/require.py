"""What a start or an edit refuses of configs that are right by themselves: files that are not there, another
run, processes that cannot share the rows."""

import os

from data.errors import BadInput
from launcher.config.run_config import Config
from launcher.output import counted
from model.config import ModelConfig


def require_files(config: Config) -> None:
    """BadInput unless the tokenizer that the config names is there."""
    path = config.tokenizer.model
    # pathlib's is_file() raises for a name that is too long. A folder is refused where it is read, with more.
    if not os.path.isfile(path) and not os.path.isdir(path):
        raise BadInput(f"tokenizer.model: no file {path}; make one with 'headrace tokenizer train'")


def require_same_run(old: Config, new: Config) -> None:
    """BadInput where an edit names another run than the one that it edits."""
    if new.run != old.run:
        raise BadInput(
            "run: names the folder of a run and cannot be edited; begin another run with "
            f"'headrace train CONFIG run.name={new.run.name}'"
        )
    if line := other_model(old.model, new.model):
        raise BadInput(f"{line}; it cannot be edited: begin another run")
    if new.model.positions == "learned" and old.model.rope_base != new.model.rope_base:
        raise BadInput("model.rope_base: learned positions have none, it would change nothing; leave it out")


def other_model(old: ModelConfig, new: ModelConfig) -> str | None:
    """Which key makes the weights of one config mean nothing under the other, though all shapes may agree;
    None where none does. What is not listed may change in a run: dropout, losses, the way attention is
    computed, and where positions are rotary max_sequence_length and rope_base."""
    for key in (
        *("layers", "width", "heads", "num_kv_heads", "mlp_features", "stack", "norm", "norm_placement"),
        *("positions", "activation", "qk_norm", "tie_embeddings"),
    ):
        was, now = getattr(old, key), getattr(new, key)
        if was != now:
            name = {"num_kv_heads": "kv_heads", "mlp_features": "mlp_width"}.get(key, key)
            return f"model.{name}: expected {was}, which the weights were trained with, got {now}"
    was, now = old.max_sequence_length, new.max_sequence_length
    if old.positions == "learned" and was != now:
        return f"max_sequence_length: expected {was}, the learned positions that the weights have, got {now}"
    return None


def require_processes(config: Config, processes: int) -> None:
    """BadInput where this many processes cannot share the run's rows."""
    if processes < 1:
        raise BadInput(f"--processes: expected 1 or more, got {processes}")
    together = config.layout.degrees.ranks
    if processes % together:
        raise BadInput(
            f"layout: {config.layout.degrees} cannot be made of {counted(processes, 'process', 'es')}; "
            f"start a multiple of {together} (--processes {together})"
        )
