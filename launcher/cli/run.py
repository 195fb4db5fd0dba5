"""Commands about a run that exists, and about this machine: status, metrics, evaluate, checkpoint …"""

from typing import Annotated, Literal

import typer

from launcher import output
from launcher.cli.options import AsJson, Overrides, RunPath
from launcher.cli.system_errors import require_working_folder

checkpoint = typer.Typer(help="List, verify and average the checkpoints of a run.", no_args_is_help=True)

AtStep = Annotated[
    int | None, typer.Option("--step", help="The checkpoint of this step; by default the newest.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (status, metrics, evaluate, generate, wandb, doctor):
        app.command()(command)
    app.add_typer(checkpoint, name="checkpoint")


def status(run: RunPath, json: AsJson = False) -> None:
    """Where a run stands, and what to type next.

    \b
    Example:
      headrace status runs/first
    """
    from launcher.reporting.status import show, state
    from launcher.runs.run_folder import open_run

    facts = state(open_run(run))
    if json:
        output.say_json(facts)
    else:
        show(facts)


def metrics(
    run: RunPath,
    json: AsJson = False,
    last: Annotated[int | None, typer.Option("--last", "-n", min=1, help="Only the last n steps.")] = None,
    after: Annotated[int, typer.Option("--after", help="Only steps above this.")] = -1,
) -> None:
    """Print what was measured, step by step.

    Along the run's lineage: a step that was trained again appears once. A branch begins with the steps of its
    trunk; in JSON these name their run in `of`.

    \b
    Examples:
      headrace metrics runs/first --last 20
      headrace metrics runs/first --json | jq -c '[.step, .loss]'
    """
    from launcher.reporting.metrics_table import evaluations_table, metrics_table
    from launcher.runs.lineage import merged, newest
    from launcher.runs.run_folder import open_run
    from launcher.runs.trunk import marked, trunk_of

    folder = open_run(run)
    trunk = trunk_of(folder)
    lines = marked(merged(folder, after), trunk)
    if last is not None:
        lines = newest(lines, last)
    if json:
        for line in lines:
            output.say_json(line)
        return
    shown = list(lines)
    if trunk and any("of" in line for line in shown):
        output.say(f"steps up to {trunk.step:,} are of {trunk}")
    output.table(*metrics_table(shown))
    titles, rows = evaluations_table(shown)
    if rows:
        output.say("")
        output.say("on held-out text:")
        output.table(titles, rows)


def evaluate(run: RunPath, overrides: Overrides = None, step: AtStep = None, json: AsJson = False) -> None:
    """Measure the losses on held-out text.

    The rows are fixed: the same numbers, to rounding, on any machine. Further text is named as in a config:
    shards that were never trained on.

    \b
    Examples:
      headrace evaluate runs/first --json
      headrace evaluate runs/first eval.corpora.wiki.shards=wiki-*.tar
    """
    require_working_folder()
    from launcher.inference.evaluate import evaluate as run_evaluation
    from launcher.runs.run_folder import open_run

    run_evaluation(open_run(run), overrides or [], step=step, json=json)


def generate(
    run: RunPath,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to go on from.")],
    step: AtStep = None,
    tokens: Annotated[int, typer.Option("--tokens", "-n", min=1, help="At most so many new tokens.")] = 100,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0.0, help="0: the likeliest.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Of the k likeliest tokens.")] = None,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.0, max=1.0, help="Of the likeliest with this much together.")
    ] = 1.0,
    order: Annotated[
        Literal["forwards", "infill", "backwards"],
        typer.Option(
            "--order", help="forwards; infill: between PROMPT and --suffix; backwards: before PROMPT."
        ),
    ] = "forwards",
    suffix: Annotated[str, typer.Option("--suffix", help="For infill: the text after the gap.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same text.")] = 1,
    json: AsJson = False,
) -> None:
    """Generate text with a run's weights, in this process.

    Prints it where it belongs: after, before or within what was given. --json has the new text alone.

    \b
    Examples:
      headrace generate runs/first "def fibonacci(n):" --temperature 0
      headrace generate runs/first "def add(a, b):" --order infill --suffix "    return total"
      headrace generate runs/first "the end." --order backwards
    """
    require_working_folder()
    from launcher.inference.generate import generate as run_generation
    from launcher.inference.generate import whole
    from launcher.runs.run_folder import open_run

    text = run_generation(
        open_run(run),
        prompt,
        step=step,
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        order=order,
        suffix=suffix,
        seed=seed,
    )
    if json:
        output.say_json({"prompt": prompt, "order": order, "suffix": suffix, "text": text})
    else:
        output.say(whole(prompt, text, order, suffix))


def wandb(run: RunPath) -> None:
    """Send what Weights & Biases does not have yet.

    May be repeated: nothing is sent twice.

    \b
    Example:
      headrace wandb runs/first
    """
    from launcher.runs.run_folder import open_run
    from launcher.tracking.wandb_feed import sync

    folder = open_run(run)
    sent = sync(folder)
    output.say(f"wandb: {sent:,} steps sent, up to date" if sent else "wandb: nothing new to send")


def doctor(
    folder: Annotated[str, typer.Option("--folder", help="Where runs will lie: its disk is measured.")] = ".",
    json: AsJson = False,
) -> None:
    """Look at this machine for what is missing.

    Versions, devices, network between processes, disk, packages that shadow ours.

    Exit code 0: all is well, 1: something is missing that matters to some, 2: training cannot work here.

    \b
    Example:
      headrace doctor --folder runs
    """
    from launcher.doctor.doctor import examine, tell

    raise typer.Exit(tell(examine(folder), json))


@checkpoint.command("ls")
def list_checkpoints(run: RunPath, json: AsJson = False) -> None:
    """List checkpoints, and which one a resume takes.

    Reads the small files and the sizes of the others: a resume passes over one whose bytes are damaged, which
    `headrace checkpoint verify RUN` finds.

    \b
    Example:
      headrace checkpoint ls runs/first
    """
    from launcher.checkpoint.catalog import listing
    from launcher.runs.run_folder import open_run

    rows = listing(open_run(run).checkpoints)
    if json:
        output.say_json(rows)
    else:
        output.table(list(rows[0]) if rows else ["step"], [list(row.values()) for row in rows])


@checkpoint.command("verify")
def verify_checkpoints(run: RunPath, step: AtStep = None, json: AsJson = False) -> None:
    """Read every byte and say what is damaged.

    Exit code 2 if anything is.

    \b
    Example:
      headrace checkpoint verify runs/first --step 1000
    """
    from launcher.checkpoint.catalog import verify
    from launcher.runs.run_folder import open_run

    folder = open_run(run).checkpoints
    found = verify(folder, step)
    problems = [line for lines in found.values() for line in lines]
    if json:
        output.say_json(problems)
    elif not found:
        output.say(f"{folder}: no checkpoint is there yet")
    else:
        for path, lines in found.items():
            for line in lines or [f"{path}: every byte is as it was saved"]:
                output.say(line)
    if problems:
        raise typer.Exit(2)


@checkpoint.command("average")
def average_checkpoints(
    run: RunPath,
    steps: Annotated[list[int], typer.Argument(metavar="STEP…", help="The steps, two or more.")],
    out: Annotated[str, typer.Option("--out", help="The new folder that it is written to.")],
    json: AsJson = False,
) -> None:
    """Average the weights of several steps.

    All count the same. The new folder is taken where a run is read: by evaluate, generate and init_from. It
    has no optimizer, so it cannot be resumed.

    \b
    Example:
      headrace checkpoint average runs/first 800 900 1000 --out runs/first-mean
    """
    from pathlib import Path

    from data.errors import BadInput

    require_working_folder()
    from launcher.runs.averaged import average
    from launcher.runs.run_folder import open_run

    if "://" in out or not out:
        raise BadInput(f"--out: expected a local folder, got {out!r}")
    path = average(open_run(run), steps, Path(out).absolute())
    if json:
        output.say_json({"path": str(path)})
    else:
        output.say(f"{path}: the mean of the weights of steps {', '.join(map(str, steps))}")
