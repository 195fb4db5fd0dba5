"""A trained model in this process alone, from a run's checkpoint: for evaluation and generation."""

import sys
from pathlib import Path

import torch

from data.errors import BadInput
from data.tokenizer import Tokenizer
from launcher.checkpoint import newest, read_progress, read_weights
from launcher.config import Config
from launcher.plan_history import run_tokenizer
from launcher.progress import Progress
from launcher.run_folder import RunFolder
from model.transformer import Transformer
from objectives.registry import HEADS


def load_model(run: RunFolder, step: int | None) -> tuple[Transformer, Tokenizer, Config]:
    """The weights of a run at a step (None: the newest checkpoint), its tokenizer and config. BadInput where
    there is no whole checkpoint."""
    path = checkpoint_of(run, step)
    config = run.current_config()
    plan = Progress.from_json(read_progress(path)).history.segments[-1][1]
    tokenizer = run_tokenizer(run, plan.tokenizer)
    model = plain_model(config, tokenizer, len(plan.corpora))
    weights = read_weights(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in weights or weights[name].shape != parameter.shape:
                raise BadInput(
                    f"{path}: holds a model of other shapes than the run's config and tokenizer ask for "
                    f"({name}); were they changed since?"
                )
            parameter.copy_(weights[name])
    return model.eval(), tokenizer, config


def checkpoint_of(run: RunFolder, step: int | None) -> Path:
    """The folder of a run's checkpoint; says what it passed over. BadInput where there is none."""
    found, passed_over = newest(run.checkpoints, step)
    for line in passed_over:
        print(f"passed over: {line}", file=sys.stderr)
    if found is None:
        raise BadInput(f"{run.path}: has no checkpoint yet")
    return Path(found.path)


def plain_model(config: Config, tokenizer: Tokenizer, corpora: int) -> Transformer:
    """A model of the run's shape whose weights are not filled."""
    with torch.device("cpu"):
        return Transformer(config.model, tokenizer.size, HEADS, corpora)
