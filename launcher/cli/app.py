"""The commands of `headrace`: what each does lives elsewhere; here their names, words and options are joined.

    main.py ── app.py ─┬─ train.py       train, resume, check
                       ├─ branch.py      branch
                       ├─ prove.py       prove
                       ├─ run.py         status, metrics, evaluate, generate, wandb, checkpoint …
                       ├─ data.py        data …
                       └─ tokenizer.py   tokenizer …

Importing these files must stay cheap: `headrace --help` and `--version` answer without torch. So a command
imports what it calls inside its body. Elsewhere an import is put off only so that `headrace doctor` comes up
where the library is missing.
"""

import sys
from importlib import metadata
from typing import Annotated

import typer

from data.errors import BadInput
from launcher.cli import branch as commands_branch
from launcher.cli import data as commands_data
from launcher.cli import prove as commands_prove
from launcher.cli import run as commands_run
from launcher.cli import tokenizer as commands_tokenizer
from launcher.cli import train as commands_train
from launcher.cli import typer_errors
from launcher.cli.system_errors import line_of

app = typer.Typer(
    name="headrace",
    help="Pretrain language models from plain tar shards: exact, resumable, objectives mixed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def version() -> str:
    """The installed distribution's version."""
    try:
        return metadata.version("headrace")
    except metadata.PackageNotFoundError:
        return "(not installed: run from its sources)"


def _print_version(asked: bool) -> None:
    if asked:
        print(f"headrace {version()}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


commands_train.register(app)
commands_branch.register(app)
commands_prove.register(app)
commands_run.register(app)
commands_data.register(app)
commands_tokenizer.register(app)


def run() -> None:
    """Do what the command line says; exits with the code of main.py's list."""
    try:
        sys.exit(_do(sys.argv[1:]))
    except BadInput as error:
        print(f"headrace: {error}", file=sys.stderr)
        sys.exit(error.code)
    except (OSError, UnicodeEncodeError) as error:
        line = line_of(error)
        if line is None:
            raise
        print(f"headrace: {line}", file=sys.stderr)
        sys.exit(BadInput.code)


def _do(words: list[str]) -> int:
    """The exit code of a command line. BadInput also where it cannot be understood."""
    root = typer.main.get_command(app)
    try:
        # Not standalone: typer then raises its errors, and hands back the code of typer.Exit.
        return root.main(words, prog_name="headrace", standalone_mode=False) or 0
    except typer_errors.NoArgsIsHelpError as error:
        print(error, file=sys.stderr)
        return 2
    except typer_errors.UsageError as error:
        from launcher.cli.usage import sentence

        raise BadInput(sentence(error, root, words)) from None
