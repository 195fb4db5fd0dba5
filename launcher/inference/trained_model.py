"""A trained model in this process alone, from a run's checkpoint: for evaluation and generation."""

import sys
from dataclasses import dataclass

from data.errors import BadInput
from data.tokenization.tokenizer import Tokenizer
from launcher.checkpoint.catalog import newest
from launcher.checkpoint.format import Damaged
from launcher.checkpoint.load import read_weights
from launcher.checkpoint.read import StoredCheckpoint
from launcher.config.run_config import Config
from launcher.runs.plan_history import run_tokenizer
from launcher.runs.progress import Progress
from launcher.runs.run_folder import RunFolder
from model.share import WHOLE, Share
from model.transformer import Transformer
from objectives.registry import HEADS


@dataclass(frozen=True)
class Trained:
    """A checkpoint's model, and what belongs to it."""

    model: Transformer
    tokenizer: Tokenizer
    config: Config
    progress: Progress
    stored: StoredCheckpoint

    def take_average(self) -> bool:
        """Fill the model with the average of the weights instead; False where none was kept. BadInput where
        it is damaged."""
        if "ema" not in self.stored.kinds:
            return False
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        try:
            read_weights(self.stored, weights, "ema")
        except Damaged as damage:
            raise BadInput(f"{self.stored.path}/{damage}: its average of the weights is damaged") from None
        return True


def load_model(run: RunFolder, step: int | None) -> Trained:
    """What a run had trained at a step (None: the newest checkpoint, be it of weights alone), each weight
    read into its place. Says what it passed over. BadInput where there is no whole checkpoint."""
    damaged: dict[int, list[str]] = {}
    while True:
        stored, passed_over = newest(run.checkpoints, step, damaged=damaged, weights=True)
        if stored is None:
            raise BadInput(f"{run.path}: has no checkpoint yet")
        try:
            trained = _read(run, stored)
        except Damaged as damage:
            damaged[stored.step] = damage.lines
            continue
        for line in passed_over:
            print(f"passed over: {line}", file=sys.stderr)
        return trained


def _read(run: RunFolder, stored: StoredCheckpoint) -> Trained:
    """A checkpoint's model. Damaged; BadInput where the config asks for another."""
    config = run.current_config()
    progress = Progress.from_json(stored.progress)
    plan = progress.history.newest
    tokenizer = run_tokenizer(run, plan.tokenizer)
    model = plain_model(config, tokenizer, len(plan.corpora))
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, weight in weights.items():
        if stored.shapes.get(name) != tuple(weight.shape):
            raise BadInput(
                f"{stored.path}: holds a model of other shapes than the run's config and tokenizer ask "
                f"for ({name}); were they changed since?"
            )
    read_weights(stored, weights)
    return Trained(model.eval(), tokenizer, config, progress, stored)


def plain_model(
    config: Config, tokenizer: Tokenizer, corpora: int, part: range | None = None, share: Share = WHOLE
) -> Transformer:
    """A model of the run's shape whose weights are not filled; part: the numbers of the layers to make;
    share: of each block, what to make."""
    return Transformer(
        config.model,
        tokenizer.size,
        HEADS,
        corpora,
        checkpoint_blocks=config.layout.activation_checkpointing,
        part=part,
        share=share,
    )
