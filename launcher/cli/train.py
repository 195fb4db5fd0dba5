"""`headrace train`, `resume` and `check`: what starts a run, or says what starting it would mean."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from launcher import output
from launcher.cli.options import AsJson, ConfigFile, DryRun, Overrides, Processes, RunPath
from launcher.cli.system_errors import require_working_folder

if TYPE_CHECKING:
    from launcher.config.run_config import Config
    from launcher.runs.run_folder import RunFolder


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
    that exists is never overwritten: with the same config it goes on, with another it is refused, unless the
    two differ only in what watches the run or makes it faster (log, wandb, data.threads and the like).

    \b
    Examples:
      headrace train configs/first.yaml --processes 2
      headrace train configs/first.yaml steps=500 optimizer.lr=1e-3 run.name=hot
      torchrun --no-python --nproc-per-node 8 headrace train configs/gpt-124m.yaml
    """
    from launcher.config import run_config
    from launcher.config.require import require_files
    from launcher.distributed.world import discover
    from launcher.runs.run_folder import going_on

    loaded = run_config.load(config, overrides or [])
    require_files(loaded)
    run = None
    if dry_run or discover().size == 1:  # ranks that were started together ask when they have met
        run, loaded = going_on(loaded) or (None, loaded)
    arguments = ["train", config, *(overrides or [])]
    if dry_run:
        _show_start(loaded, processes, arguments, run)
        return
    require_working_folder()
    _start_ranks(loaded, processes, arguments)
    from launcher.training.train import train as run_training

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
      headrace resume runs/first steps=5000 sequence_length=4096 model.rope_base=500000
    """
    from launcher.config import run_config
    from launcher.config.require import require_same_run
    from launcher.runs.run_folder import open_run

    folder = open_run(run)
    current = folder.current_config()
    edited = run_config.edit(current, overrides or [])
    require_same_run(current, edited)
    arguments = ["resume", run, *(overrides or [])] + ([] if step is None else ["--step", str(step)])
    if dry_run:
        _show_start(edited, processes, arguments, folder, step)
        return
    require_working_folder()
    _start_ranks(edited, processes, arguments)
    from launcher.training.train import resume as resume_training

    raise typer.Exit(resume_training(run=folder, config=edited, step=step))


def check(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option("--processes", "-p", help="Reckon with so many processes.")] = 1,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the whole config instead, and whence each value comes.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Print all that can be known before starting.

    Needs no GPU and starts nothing: for the login node. A run that `headrace train` would not go on with
    (another config, other shards, a process that writes it, no checkpoint that is whole) is refused here too.
    Of checkpoints only the small files are read: `headrace checkpoint verify RUN` reads every byte.
    --resolved reads the config alone, of a run that exists the one in force: every key with the file and line
    that it comes from, `command line`, `default`, or `derived` with what it comes to. It is YAML, which
    `headrace train` takes.

    \b
    Examples:
      headrace check configs/first.yaml
      headrace check configs/gpt-124m.yaml layout.zero=2 --processes 64 --json
      headrace check configs/ul2-124m.yaml optimizer.lr=1e-3 --resolved
    """
    from launcher.config import run_config
    from launcher.preflight.check import report
    from launcher.preflight.check_view import show
    from launcher.runs.run_folder import going_on

    loaded = run_config.load(config, overrides or [])
    run, loaded = going_on(loaded) or (None, loaded)
    if resolved:
        _show_resolved(config, overrides or [], loaded, run, json)
        return
    facts = report(loaded, processes, run)
    if json:
        output.say_json(facts)
    else:
        show(facts)


def _show_resolved(
    file: str, overrides: list[str], config: "Config", run: "RunFolder | None", json: bool
) -> None:
    """What `check --resolved` prints. config: the one in force; run: whose it is, if that exists."""
    from launcher.config.resolved import as_json, as_yaml, resolve

    settings = resolve(file, overrides, config, run.current_config_file if run else None)
    if json:
        output.say_json(as_json(settings))
        return
    about = ""
    if run:
        about = f"the run {run.path} exists and goes on with this; its own: {run.current_config_file}"
    output.say(as_yaml(settings, about).rstrip("\n"))


def _count(config: "Config", processes: int | None) -> int:
    """How many processes train together: those that `--processes` asks for, or that are there already."""
    from launcher.config import run_config
    from launcher.config.require import require_processes
    from launcher.distributed.world import discover

    world = discover()
    if processes is not None and world.size > 1:
        raise run_config.BadInput(
            f"--processes: {world.started_by} has already started {world.size} processes"
        )
    count = world.size if processes is None else processes
    require_processes(config, count)
    return count


def _show_start(
    config: "Config",
    processes: int | None,
    arguments: list[str],
    run: "RunFolder | None",
    step: int | None = None,
) -> None:
    """What `--dry-run` prints. run, step: what would be gone on with."""
    from launcher.preflight.check import report
    from launcher.preflight.check_view import show

    count = _count(config, processes)
    facts = report(config, count, run, step)
    show(facts)
    if not facts["run"]["complete"]:
        output.say(f"would start: {count} × headrace {' '.join(arguments)}")


def _start_ranks(config: "Config", processes: int | None, arguments: list[str]) -> None:
    """Start the ranks that `--processes` asks for and exit with their code; return where this process is the
    only one, or a rank itself."""
    from launcher.distributed.local_launch import launch
    from launcher.distributed.respawn import command

    if _count(config, processes) > 1 and processes is not None:
        sys.exit(launch(processes, command("launcher.cli.main", *arguments)))
