"""A line on this machine, as JSON: {"gpu": true, "line": "2026-11-28, one NVIDIA H100 …"}.

    python -m tests.gpu.machine

Fails where what the parts need cannot be imported, before any of them begins.
"""

import datetime
import importlib
import json
import os
import platform

import torch

from tests.gpu.workloads import SIZE

NEEDED = ("numpy", "pytest", "tests.support.training", "launcher.cli.app")
"""What imports all that the parts use, DeepSpeed aside, which is asked for by its version."""


def main() -> None:
    """Prints the line."""
    from launcher.engine.deepspeed import start as engine_deepspeed

    for name in NEEDED:
        importlib.import_module(name)
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"no GPU, so very small ({platform.machine()})"
    words = [
        datetime.date.today().isoformat(),
        device,
        f"{os.cpu_count()} cores",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"DeepSpeed {engine_deepspeed.load().__version__}",
    ]
    print(json.dumps({"gpu": gpu, "line": f"{', '.join(words)}. The model: {SIZE}"}))


if __name__ == "__main__":
    main()
