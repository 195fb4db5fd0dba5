"""The releases of what a run stands on, for ledger and checkpoints. No import of the packages themselves."""

import platform
from importlib import metadata

STAND_ON = ("headrace", "torch", "deepspeed", "sentencepiece", "webdataset", "numpy")


def versions() -> dict[str, str]:
    """Name → release; a package that is not installed is skipped."""
    found = {"python": platform.python_version()}
    for name in STAND_ON:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
