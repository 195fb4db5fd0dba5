"""Whether the tokenizer can spell the text that a run is to learn from.

A model without byte pieces turns what it does not know into one unknown token, and one that folds and trims
text drops line ends and blanks: what a model has learned of such text it can never write. Nothing in a loss
shows it. So a sample of each corpus, drawn by the config's seed, is sent through the tokenizer and back: a
few units, in one or two seconds. A start asks it too, of rank 0, but only of a model whose settings leave it
open (Tokenizer.lossless): others lose nothing, and read nothing here.
"""

from collections.abc import Callable, Mapping

from data.errors import BadInput
from data.shards.corpus import Corpus, ReadTrouble
from data.tokenization.check import CheckReport, check
from data.tokenization.tokenizer import Tokenizer
from launcher.config.run_config import Config
from launcher.runs.eval_corpora import at_key, located

UNKNOWN, BROKEN = 1e-3, 1e-2
"""The most of the tokens that may be unknown, and of the documents that may not come back."""
SAMPLE, LEAST_SAMPLE = 4 << 20, 128 << 10
"""Bytes of text that are measured of all corpora together, and of each at least."""


def measure(
    config: Config, tokenizer: Tokenizer, corpora: Mapping[str, Corpus]
) -> tuple[dict[str, CheckReport], list[str]]:
    """What a sample of each corpus becomes, the same for `check` and a start; and a line for each unit of it
    that cannot be read, which the stream may never come to. ReadTrouble where nothing of a corpus can."""
    troubles: list[ReadTrouble] = []
    with located(config):
        reports = check(
            tokenizer,
            list(corpora.values()),
            budget=max(SAMPLE // len(corpora), LEAST_SAMPLE),
            seed=config.seed,
            on_trouble=troubles.append,
        )
        for trouble in troubles:
            if not reports[trouble.corpus].documents:
                raise trouble
    lines = [at_key(config, str(trouble)) for trouble in troubles]
    return reports, [f"{line}; the sample for the tokenizer goes without it" for line in lines]


def refuse_lossy(
    config: Config, tokenizer: Tokenizer, corpora: Mapping[str, Corpus], reports: Mapping[str, CheckReport]
) -> list[str]:
    """BadInput where a corpus that is trained or evaluated on loses more than may be and the config does not
    allow it. A line for each other corpus that loses anything."""
    warnings = []
    for name, report in reports.items():
        if not report.unknown and not report.mismatches:
            continue
        whose = config.location(name) if name in config.eval.corpora else f"corpus {name}"
        line = f"{tokenizer.name}: cannot give back all text of {whose}: {_figures(report)}"
        much = report.unknown_share > UNKNOWN or report.broken_share > BROKEN
        used = name in config.eval.corpora or config.data.corpora[name].weight.most
        if much and config.tokenizer.lossy == "refuse" and used:
            indexes = " ".join(str(corpora[name].index.path) for name in config.data.corpora)
            raise BadInput(
                f"{line}; train one that spells everything: headrace tokenizer train {indexes} --out "
                "NEW.model, or accept the loss: tokenizer.lossy=allow"
            )
        warnings.append(line)
    return warnings


def require_spelling(
    config: Config, tokenizer: Tokenizer, corpora: Callable[[], Mapping[str, Corpus]]
) -> list[str]:
    """The whole question at a start; a model that loses nothing by its settings opens no corpus here."""
    if tokenizer.lossless:
        return []
    opened = corpora()
    reports, troubles = measure(config, tokenizer, opened)
    return [*troubles, *refuse_lossy(config, tokenizer, opened, reports)]


def _figures(report: CheckReport) -> str:
    """'14.2 % of the tokens of a sample are unknown, 87 of 90 documents do not come back (000000001: a line
    end)'."""
    parts = []
    if report.unknown:
        parts.append(f"{100 * report.unknown_share:.3g} % of the tokens of a sample are unknown")
    if report.mismatches:
        parts.append(
            f"{report.mismatches:,} of {report.documents:,} documents do not come back as they were (such as "
            f"{report.broken[0]}: {report.lost[0]})"
        )
    return ", ".join(parts)
