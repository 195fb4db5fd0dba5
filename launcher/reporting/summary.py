"""What a finished run says last: held-out losses at its start and end, samples, and what to type next."""

import shlex
from typing import Any

from launcher import output
from launcher.reporting.next_command import activation, further_commands
from launcher.runs.lineage import merged
from launcher.runs.run_folder import RunFolder
from launcher.runs.trunk import trunk_of


def show_summary(run: RunFolder) -> None:
    """Print the table, the newest samples and the next commands, from the run's own files."""
    evaluations, samples, last = [], None, None
    tokens: dict[str, int] = {}
    unknown = 0.0
    for line in merged(run):
        if "eval" in line:
            evaluations.append(line)
        elif "samples" in line:
            samples = line
        else:
            read = line["tokens"] - (last["tokens"] if last else 0)
            unknown += read * (line.get("unknown") or 0.0)  # lines of before do not have it
            last = line
            for name, part in line["objectives"].items():
                tokens[name] = tokens.get(name, 0) + part["tokens"]
    if evaluations:
        _show_losses(run, evaluations[0], evaluations[-1], tokens)
    for sample in samples["samples"] if samples else ():
        output.say("")
        output.say(f"» {sample['prompt']}{sample['text']}")
    output.say("")
    if trunk := trunk_of(run):
        output.say(f"branched from {trunk}; what follows counts its steps too")
    if last is not None:
        output.say(
            f"{last['step']:,} steps, {last['rows']:,} rows, {last['tokens']:,} tokens, "
            f"of which {last['target_tokens']:,} were predicted"
        )
        output.say(f"rows by corpus: {_rows_by_corpus(last['corpora'])}")
        if unknown:
            share = 100 * unknown / max(last["tokens"], 1)
            output.say(f"{share:.3g} % of these tokens are unknown: the tokenizer cannot spell their text")
    _show_next(run)


def _show_losses(run: RunFolder, first: dict[str, Any], last: dict[str, Any], tokens: dict[str, int]) -> None:
    """One row an objective: its held-out loss on all corpora together, and its share of the text."""
    mixture = run.current_config().mixture
    asked = {e.objective.name: w for e, w in zip(mixture.entries, mixture.weights(0))}
    every = sum(tokens.values())
    rows = []
    for entry in mixture.entries:
        name = entry.objective.name
        got = tokens.get(name, 0) / every if every else None
        rows.append(
            [
                name,
                _over_corpora(first, name, "loss"),
                _over_corpora(last, name, "loss"),
                _over_corpora(last, name, "accuracy"),
                *([_over_corpora(last, name, "loss", "ema")] if last.get("ema") else []),
                sum(cells[name]["tokens"] for cells in last["eval"].values() if name in cells),
                tokens.get(name, 0),
                float(asked[name]),
                got,
            ]
        )
    titles = [
        "objective",
        f"loss at {first['step']}",
        f"at {last['step']}",
        "accuracy",
        *(["loss of the average"] if last.get("ema") else []),
        "on targets",
        "tokens",
        "asked",
        "got",
    ]
    output.say("")
    output.say(
        "held-out loss, nats a target, and accuracy, on so many targets; tokens of text trained on; share "
        "of the text asked for and got"
    )
    output.table(titles, rows)
    for corpus, cells in last["eval"].items():
        after = _bits(cells)
        if after is not None:
            before = _bits(first["eval"].get(corpus, {}))  # None: the corpus or causal came later
            output.say(
                f"{corpus}: {'–' if before is None else f'{before:.3f}'} → {after:.3f} bits a byte (causal)"
            )


def _rows_by_corpus(corpora: dict[str, Any]) -> str:
    """The share of all rows that each gave, and what was asked; lines of before have no such shares."""
    known = {name: part for name, part in corpora.items() if "achieved" in part}
    return ", ".join(
        f"{name} {100 * part['achieved']:.2f} % ({100 * part['asked']:.2f} % asked)"
        for name, part in known.items()
    )


def _bits(cells: dict[str, Any]) -> float | None:
    return cells.get("causal", {}).get("bits_per_byte")


def _over_corpora(line: dict[str, Any], objective: str, figure: str, part: str = "eval") -> float | None:
    """The mean of a figure over the corpora, by targets."""
    cells = [cells[objective] for cells in line[part].values() if objective in cells]
    known = [(cell[figure], cell["tokens"]) for cell in cells if cell[figure] is not None]
    weight = sum(tokens for _, tokens in known)
    return sum(value * tokens for value, tokens in known) / weight if weight else None


def _show_next(run: RunFolder) -> None:
    path = shlex.quote(str(run.path))
    if activate := activation():
        output.say(f"first        {activate}")
    output.say(f"run          {run.path}")
    output.say(f"metrics      headrace metrics {path} --json      headrace status {path}")
    output.say(f"checkpoints  headrace checkpoint ls {path}")
    output.say(f'text         headrace generate {path} "def "')
    output.say(f"rows         headrace data trace {path} --step 1 --row 0")
    for command in further_commands(run):
        output.say(f"go on        {command}")
