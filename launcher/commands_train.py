"""`headrace train`, `resume` and `check`: what starts a run, or says what starting it would mean."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from launcher import output

if TYPE_CHECKING:
    from launcher.config import Config

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/first.yaml.")]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/first.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Replace values of the config.")
]
Processes = Annotated[
    int | None, typer.Option("--processes", "-p", help="Start so many processes on this machine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and print what would be started.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(train)
    app.command()(resume)
    app.command()(check)


def train(
    config: ConfigFile, overrides: Overrides = None, processes: Processes = None, dry_run: DryRun = False
) -> None:
    """Train a run, or go on with it where it stopped.

    The same command works on a laptop and, without --processes, under torchrun, deepspeed and srun. A run
    that exists is never overwritten: with the same config it goes on, with another it is refused.

    \b
    Examples:
      headrace train configs/first.yaml --processes 2
      headrace train configs/first.yaml steps=500 optimizer.lr=1e-3 run.name=hot
      torchrun --no-python --nproc-per-node 8 headrace train configs/gpt-124m.yaml
    """
    from launcher import config as configs
    from launcher.run_folder import going_on
    from launcher.world import discover

    loaded = configs.load(config, overrides or [])
    configs.require_files(loaded)
    if dry_run or discover().size == 1:  # ranks that were started together ask when they have met
        loaded = going_on(loaded) or loaded
    arguments = ["train", config, *(overrides or [])]
    if _elsewhere(loaded, processes, arguments, dry_run):
        return
    from launcher.train import train as run_training

    raise typer.Exit(run_training(config=loaded))


def resume(
    run: RunPath,
    overrides: Overrides = None,
    processes: Processes = None,
    step: Annotated[
        int | None,
        typer.Option("--step", help="Go back to the checkpoint of this step instead of the newest."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Go on from the newest checkpoint, edited if wanted.

    Corpora, weights, objectives, batch_rows, sequence_length, steps, the learning rate and the layout may be
    edited; what was edited is on the record and stays in force for later resumes.

    \b
    Examples:
      headrace resume runs/first --processes 2
      headrace resume runs/first steps=4000 data.corpora.prose.weight=2
      headrace resume runs/first --step 1000
    """
    from launcher import config as configs
    from launcher.run_folder import open_run

    folder = open_run(run)
    current = folder.current_config()
    edited = configs.edit(current, overrides or [])
    configs.require_same_run(current, edited)
    arguments = ["resume", run, *(overrides or [])] + ([] if step is None else ["--step", str(step)])
    if _elsewhere(edited, processes, arguments, dry_run):
        return
    from launcher.train import resume as resume_training

    raise typer.Exit(resume_training(run=folder, config=edited, step=step))


def check(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option("--processes", "-p", help="Reckon with so many processes.")] = 1,
    json: AsJson = False,
) -> None:
    """Print all that can be known before starting.

    Needs no GPU and starts nothing: for the login node. A run that exists with another config is refused
    here as `headrace train` would.

    \b
    Examples:
      headrace check configs/first.yaml
      headrace check configs/gpt-124m.yaml layout.zero=2 --processes 64 --json
    """
    from launcher import config as configs
    from launcher.check import report, show
    from launcher.run_folder import going_on

    loaded = configs.load(config, overrides or [])
    facts = report(going_on(loaded) or loaded, processes)
    if json:
        output.say_json(facts)
    else:
        show(facts)


def _elsewhere(config: "Config", processes: int | None, arguments: list[str], dry_run: bool) -> bool:
    """Whether nothing is left for this process: the ranks ran and ended, or nothing was to be started."""
    from launcher import config as configs
    from launcher.launch import launch
    from launcher.respawn import command
    from launcher.world import discover

    world = discover()
    if processes is not None and world.size > 1:
        raise configs.BadInput(f"--processes: {world.started_by} has already started {world.size} processes")
    count = world.size if processes is None else processes
    configs.require_processes(config, count)
    if dry_run:
        from launcher.check import report, show

        show(report(config, count))
        output.say(f"would start: {count} × headrace {' '.join(arguments)}")
        return True
    if processes is None or processes == 1 or "HEADRACE_RENDEZVOUS" in os.environ:
        return False
    sys.exit(launch(processes, command("launcher.cli", *arguments)))
