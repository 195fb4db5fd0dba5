"""The prompts of the config, before anything can continue them. No torch, for `check` asks too."""

from data.errors import BadInput
from data.tokenization.tokenizer import Tokenizer
from launcher.config.run_config import Config


def require_room(config: Config, tokenizer: Tokenizer) -> None:
    """BadInput where a prompt of the config leaves no room for a text behind it."""
    for prompt in config.eval.samples.prompts:
        count = len(tokenizer.encode(prompt)) + 1
        if count >= config.model.max_sequence_length:
            raise BadInput(
                f"eval.samples.prompts: {prompt[:40]!r} has {count} tokens, which leaves no room in "
                f"max_sequence_length ({config.model.max_sequence_length}); give a shorter one"
            )
