"""The errors with which typer refuses a command line.

typer hands out BadParameter alone. The others are defined beside it: in click, and since 0.26 in typer's
copy of it. So they are taken from where BadParameter comes from, here and nowhere else; a test asks the
installed typer whether all is where it was, attributes that usage.py reads included.
"""

import sys
from typing import Any

import typer

_beside: Any = sys.modules[typer.BadParameter.__module__]

BadParameter: Any = typer.BadParameter
"""A value that does not fit: .param, .message; __cause__ is pydantic's error where that has judged."""
UsageError: Any = _beside.UsageError
"""The parent of all of them: .ctx, .format_message()."""
NoSuchOption: Any = _beside.NoSuchOption
""".option_name"""
MissingParameter: Any = _beside.MissingParameter
"""A kind of BadParameter."""
BadOptionUsage: Any = _beside.BadOptionUsage
"""An option without its value, or with one that it does not take: .option_name."""
NoArgsIsHelpError: Any = getattr(_beside, "NoArgsIsHelpError", ())
"""A group without a command; its message is the group's help. Click before 8.2 has none: it prints that."""
