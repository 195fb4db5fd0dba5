"""The text of one of `eval.corpora` that is evaluated on, by the rules for what cannot be used.

What stays bad stops a start, unless `data.on_bad` lets samples be skipped; then it is counted and named. A
unit that cannot be read is never skipped: there would be another evaluation each time.
"""

from data.errors import BadInput
from data.plan.plan import Plan
from data.shards.corpus import Corpus
from data.stream.held_out import EvaluationText, text_outside
from data.tokenization.tokenizer import Tokenizer
from launcher.config.run_config import Config
from launcher.runs.eval_corpora import located


def read_outside(
    config: Config, name: str, corpus: Corpus, plan: Plan, tokenizer: Tokenizer
) -> EvaluationText:
    """What is evaluated on of one of eval.corpora. BadInput where a unit or a sample of it cannot be used,
    unless data.on_bad lets samples be skipped; and where there is nothing to use."""
    key, policy = config.location(name), config.data.on_bad
    with located(config):
        text = text_outside(
            corpus, frozenset(config.texts[name].quarantine), plan, tokenizer, config.eval.bytes
        )
    if text.bad and policy.action != "skip":
        bad = text.bad[0]
        raise BadInput(
            f"{key}: {bad.shard}, sample {bad.key}: {bad.problem}; quarantine it "
            f"({key}.quarantine=[{bad.name}]), or set data.on_bad.action to skip"
        )
    if len(text.bad) > policy.budget:
        raise BadInput(
            f"{key}: {len(text.bad)} samples of it cannot be used, more than data.on_bad.budget "
            f"({policy.budget}), such as {text.bad[0].name}: {text.bad[0].problem}; mend the shards, or "
            "raise the budget"
        )
    if not len(text):
        raise BadInput(f"{key}: no document of it can be used; why: headrace data verify {corpus.index.path}")
    return text


def lines_of(config: Config, text: EvaluationText, tokenizer: Tokenizer) -> list[str]:
    """What is to be told of a text that is evaluated on."""
    key, lines = config.location(text.name), []
    if text.bad:
        named = ", ".join(f"{bad.name} ({bad.problem})" for bad in text.bad[:3])
        more = f" and {len(text.bad) - 3} more" if len(text.bad) > 3 else ""
        lines.append(f"{key}: evaluated without {named}{more}")
    if unknown := text.share_of(tokenizer.unknown):
        lines.append(
            f"{key}: {100 * unknown:.3g} % of the tokens evaluated on are unknown: the tokenizer cannot "
            "spell their text"
        )
    return lines
