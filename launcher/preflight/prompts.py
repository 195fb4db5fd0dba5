"""The prompts of the config, before anything can continue them. No torch, for `check` asks too."""

from data.errors import BadInput
from data.tokenization.tokenizer import Tokenizer
from launcher.config.run_config import Config


def require_room(config: Config, tokenizer: Tokenizer) -> None:
    """BadInput where a prompt of the config leaves no room for a text behind it."""
    for prompt in config.eval.samples.prompts:
        count = len(tokenizer.encode(prompt)) + 1
        if count >= config.model.longest:
            raise BadInput(
                f"eval.samples.prompts: {prompt[:40]!r} has {count} tokens, which leaves no room in "
                f"longest_sequence ({config.model.longest}); give a shorter one"
            )
