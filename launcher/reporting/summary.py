"""What a finished run says last: held-out losses at its start and end, samples, and what to type next.

Of what corpora hold out there is a row an objective; of eval.corpora, each of which is a measure of its own,
a row a corpus and objective, from the first evaluation of the very rows that the last one is of.
"""

import shlex
from collections.abc import Container
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
        own = run.current_config().eval.corpora
        held_out, outside = _divided(evaluations, own, False), _divided(evaluations, own, True)
        if held_out[-1]["eval"]:
            _show_losses(run, _of_same_rows(held_out[0], held_out[-1]), held_out[-1], tokens)
        if outside[-1]["eval"]:
            _show_outside(outside)
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


def _divided(
    evaluations: list[dict[str, Any]], corpora: Container[str], inside: bool
) -> list[dict[str, Any]]:
    """The evaluations, of those corpora alone that are among these, or are not."""

    def of(cells: dict[str, Any] | None) -> dict[str, Any]:
        return {name: part for name, part in (cells or {}).items() if (name in corpora) == inside}

    return [line | {"eval": of(line["eval"]), "ema": of(line.get("ema"))} for line in evaluations]


def _of_same_rows(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """The first evaluation, without cells that are of other rows than those of the last: an edit of T makes
    others. Lines of before do not say."""

    def same(corpus: str, objective: str, cell: dict[str, Any]) -> bool:
        other = last["eval"].get(corpus, {}).get(objective, cell)
        return bool(other.get("rows") == cell.get("rows") or not cell.get("rows"))

    kept = {
        corpus: {name: cell for name, cell in cells.items() if same(corpus, name, cell)}
        for corpus, cells in first["eval"].items()
    }
    return first | {"eval": kept}


def _show_outside(evaluations: list[dict[str, Any]]) -> None:
    """One row for each corpus and objective of the last evaluation."""
    last, rows = evaluations[-1], []
    for corpus, cells in last["eval"].items():
        for name, cell in cells.items():
            step, before = _first_of_same_rows(evaluations, corpus, name, cell)
            averaged = last["ema"].get(corpus, {}).get(name, {}).get("loss")
            more = [averaged] if last["ema"] else []
            figures = [cell[key] for key in ("loss", "accuracy", "bits_per_byte", "tokens")]
            rows.append([corpus, name, step, before["loss"], figures[0], *more, *figures[1:]])
    titles = ["corpus", "objective", "from step", "loss then", f"at {last['step']}"]
    titles += [*(["loss of the average"] if last["ema"] else []), "accuracy", "bits a byte", "on targets"]
    output.say("")
    output.say("on eval.corpora, nats a target, from the first evaluation of the same rows on")
    output.table(titles, rows)


def _first_of_same_rows(
    evaluations: list[dict[str, Any]], corpus: str, objective: str, cell: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """(step, cell) of the first evaluation of the rows that a cell is of."""
    for line in evaluations:
        found = line["eval"].get(corpus, {}).get(objective)
        if found is not None and found.get("rows") == cell.get("rows"):
            return line["step"], found
    raise AssertionError("the cell itself is among them")


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
