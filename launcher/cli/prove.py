"""`headrace prove`: what headrace promises, shown on the user's own config and machine."""

from typing import Annotated

import typer

from launcher.cli.options import AsJson, ConfigFile, DryRun, Overrides


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(prove)


def prove(
    config: ConfigFile,
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CHECK", help="Show this; may be given several times."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the runs of the proof on the disk.")] = False,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Show on this machine that the config trains right.

    At reduced size, on the config's own text and layout, in real processes and a few minutes: a killed and
    resumed run is the uninterrupted one; this layout, its stages and its micro-batches change nothing; a
    segment never sees its neighbour; the loss reported is the one optimised; replicas agree; no update is
    left out. Each with figure, tolerance and the reason of that. Exit code 1 where anything is not so.

    \b
    Examples:
      headrace prove configs/first.yaml
      headrace prove configs/first.yaml layout.pipeline=2 --only pipeline --only replicas
      headrace prove configs/gpt-124m.yaml --json
    """
    from launcher.config import run_config
    from launcher.proving.prove import prove as run_proof

    loaded = run_config.load(config, overrides or [])
    raise typer.Exit(run_proof(loaded, only or [], json=json, keep=keep, dry_run=dry_run))
