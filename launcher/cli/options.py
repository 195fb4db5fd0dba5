"""The arguments and options that several commands share: their types, words and help, once."""

from typing import Annotated

import typer

from data.access.patience import MOST_MINUTES

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/first.yaml.")]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/first.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Replace values of the config.")
]
Processes = Annotated[
    int | None, typer.Option("--processes", "-p", help="Start so many processes on this machine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PatienceMinutes = Annotated[
    float,
    typer.Option(
        "--patience",
        min=0,
        max=MOST_MINUTES,
        metavar="MINUTES",
        help="Wait so long for shards out of reach.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and print what would be started.")]
