"""One line for a command line that cannot be understood, in place of typer's box of several.

    headrace: train: no such option --process; did you mean --processes? See 'headrace train --help'

What was wrong, what was expected, the nearest right word, and where to read on.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from launcher.cli.typer_errors import BadOptionUsage, BadParameter, MissingParameter, NoSuchOption
from launcher.config.messages import expectation
from objectives.settings import did_you_mean, nearest


def sentence(error: Any, root: Any, words: Sequence[str]) -> str:
    """The line for an error of usage. root: typer's whole command; words: what was typed after it.

    Some errors do not know at which command they arose, so it is looked for in the words.
    """
    command, path = root, []
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
        path.append(word)
    where = f"{' '.join(path)}: " if path else ""
    text = " ".join(_problem(error, command).split())
    return f"{where}{text}{'' if text.endswith('?') else '.'} See '{' '.join(['headrace', *path])} --help'"


def _problem(error: Any, command: Any) -> str:
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    parameter = getattr(error, "param", None)
    if isinstance(error, NoSuchOption):
        return f"no such option {error.option_name}{_instead(error.option_name, command)}"
    if isinstance(error, MissingParameter) and parameter is not None:
        return f"{_name(parameter)} is missing: {parameter.help or 'expected a value'}".rstrip(".")
    if isinstance(error, BadParameter) and parameter is not None:
        return f"{_name(parameter)}: {_value(error)}"
    if isinstance(error, BadOptionUsage):
        option = next((one for one in command.params if error.option_name in one.opts), None)
        return f"{message}: {option.help}".rstrip(".") if option and "requires" in message else message
    if hasattr(command, "commands"):
        return message if message.endswith("?") else f"{message}; there are {', '.join(command.commands)}"
    usage = f"; expected {error.ctx.get_usage().removeprefix('Usage: ')}" if error.ctx else ""
    return f"{message}{usage}"


def _name(parameter: Any) -> str:
    """As people type it, or as the help calls it."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    return str(max(parameter.opts, key=len))


def _value(error: Any) -> str:
    cause = error.__cause__
    if not isinstance(cause, ValidationError):  # as older releases of typer say it
        return str(error.message).rstrip(".")
    problem = cause.errors()[0]
    return expectation(problem) or str(problem["msg"]).removeprefix("Value error, ").rstrip(".")


def _instead(option: str, command: Any) -> str:
    """The nearest option, or all there are; the way to set a value of the config, where that is possible."""
    known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    near = nearest(option, known)
    if near:
        return did_you_mean(near)
    listed = f"; there are {', '.join([*known, '--help'])}"
    if any(parameter.metavar == "KEY=VALUE" for parameter in command.params):
        return f"{listed}; values of the config are given as key=value, such as steps=500"
    return listed
