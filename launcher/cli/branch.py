"""`headrace branch`: a run out of another one."""

import sys
from typing import Annotated

import typer

from launcher import output
from launcher.cli.options import AsJson, Overrides, RunPath
from launcher.cli.system_errors import require_working_folder


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(branch)


def branch(
    run: RunPath,
    name: Annotated[str, typer.Option("--name", help="The name of the new run.")],
    overrides: Overrides = None,
    step: Annotated[
        int | None, typer.Option("--step", help="From the checkpoint of this step; by default the newest.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--folder", help="Where its folder will lie; by default beside RUN.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Make a new run that goes on from a checkpoint of another.

    With weights, moments and position in the text, edited if wanted as a resume may edit; without edits it
    trains what RUN trained after that step, to the bit. The checkpoint is taken by hard link, so it costs no
    room. RUN is only read: it may be trained meanwhile, go back later, or be deleted. Start the new run with
    `headrace resume`.

    \b
    Examples:
      headrace branch runs/first --step 4000 --name decay optimizer.schedule=wsd optimizer.decay=1000
      headrace branch runs/first --name more-code data.corpora.code.weight=3
    """
    from pathlib import Path

    from data.errors import BadInput
    from launcher.preflight.edits import refuse_edits
    from launcher.reporting.next_command import further_commands, resume_command
    from launcher.runs.branch import fork, make
    from launcher.runs.run_folder import open_run

    require_working_folder()
    if folder is not None and ("://" in folder or not folder):
        raise BadInput(f"--folder: expected a local folder, got {folder!r}")
    trunk = open_run(run)
    planned = fork(trunk, step, name, Path(folder).absolute() if folder else None, overrides or [])
    warnings = [f"passed over: {line}" for line in planned.passed_over]
    warnings += refuse_edits(trunk, planned.stored, planned.before, planned.config)
    made, why = make(planned)
    for line in warnings:
        print(f"headrace: warning: {line}", file=sys.stderr, flush=True)
    if json:
        output.say_json(
            {"run": str(made.path), "trunk": str(trunk.path), "step": planned.stored.step, "copied": why}
        )
        return
    taken = f"its checkpoint was copied, not linked: {why}" if why else "its checkpoint is linked"
    output.say(f"{made.path}: branched from {trunk.path} at step {planned.stored.step:,}; {taken}")
    commands = [resume_command(made)]
    if planned.complete:
        output.say(f"it has all its steps already ({planned.config.timetable().asked}): raise them")
        commands = further_commands(made)
    for command in commands:
        output.say(f"go on with: {command}")
