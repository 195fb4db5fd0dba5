"""Imports modules in a process of its own, for the doctor: a broken library may end whoever tries."""

import importlib
import importlib.util
import sys


def main() -> None:
    """Import the modules that the arguments name. The last line of stderr says why one fails."""
    for name in sys.argv[1:]:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            sys.exit(" ".join(f"{type(error).__name__}: {error} ({_origin(name)})".split()))
        if getattr(module, "__file__", None) is None:
            sys.exit(f"a folder without code lies there ({', '.join(module.__path__)})")


def _origin(name: str) -> str:
    """Where Python finds the outermost package of a module, or the module's name where it finds none."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    return spec.origin if spec and spec.origin else name
