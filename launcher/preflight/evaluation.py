"""What `headrace check` says of `eval.corpora`: what of each is evaluated on, read as a start reads it."""

from collections.abc import Mapping
from typing import Any

from data.plan.plan import Plan
from data.shards.corpus import Corpus
from data.tokenization.check import CheckReport
from data.tokenization.tokenizer import Tokenizer
from launcher import output
from launcher.config.run_config import Config
from launcher.runs.eval_corpora import refuse_trained_on, trained_on_before
from launcher.runs.eval_text import lines_of, read_outside
from launcher.runs.stream_settings import open_texts


def opened(config: Config, trained: Mapping[str, Corpus]) -> dict[str, Corpus]:
    """Those of the config. BadInput where one is trained on too."""
    evaluated = open_texts(config, config.eval.corpora)
    refuse_trained_on(config, trained, evaluated)
    return evaluated


def report(
    config: Config,
    plan: Plan,
    corpora: Mapping[str, Corpus],
    spelled: Mapping[str, CheckReport],
    tokenizer: Tokenizer,
) -> tuple[list[dict[str, Any]], list[str]]:
    """JSON-able facts of each of the corpora, and what there is to be warned of. BadInput for what would stop
    the start."""
    facts, warnings = [], trained_on_before(plan, corpora)
    for name, corpus in corpora.items():
        text = read_outside(config, name, corpus, plan, tokenizer)
        warnings += lines_of(config, text, tokenizer)
        facts.append(
            {
                "name": name,
                "documents": corpus.index.samples,
                "text_bytes": corpus.index.text_bytes,
                "evaluated_documents": len(text),
                "evaluated_bytes": text.text_bytes,
                "unknown": spelled[name].unknown_share,
                "not_lossless": spelled[name].broken_share,
            }
        )
    if corpora and not config.eval.every:
        warnings.append(
            "eval.corpora: training does not evaluate on them, for eval.every is not set; "
            "'headrace evaluate RUN' does"
        )
    return facts, warnings


def show(facts: list[dict[str, Any]]) -> None:
    """A line each."""
    for one in facts:
        output.say(
            f"evaluated on {one['name']}: {output.size(one['evaluated_bytes'])} of "
            f"{output.size(one['text_bytes'])}, {one['evaluated_documents']:,} of "
            f"{output.counted(one['documents'], 'document')}"
        )
