"""Commands that run a part of headrace in a new interpreter which finds the very same modules.

`python -m launcher.cli` would search the current folder first, and a folder named `data` with an __init__.py
is a common thing to have there.
"""

import sys


def command(module: str, *arguments: str) -> list[str]:
    """The command that calls `main()` of a module, with this interpreter's import path."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main()"
    return [sys.executable, "-P", "-c", code, *arguments]
