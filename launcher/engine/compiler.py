"""The compiler that torch.compile calls: C++ for the CPU, C for what starts Triton's kernels on a GPU.

Without one it fails at the first step with pages of traceback, so it is asked for before.
"""

import os
from shutil import which

import torch

from data.errors import BadInput
from launcher.engine.layout import LayoutConfig
from model.attention_context import back_end
from model.config import ModelConfig


def found(gpu: bool) -> str | None:
    """The compiler that torch would call, as the environment names it or by its usual name; None: none."""
    variable, usual = ("CC", ("gcc", "clang")) if gpu else ("CXX", ("g++",))
    named = os.environ.get(variable)
    return next(filter(which, (named,) if named else usual), None)


def require_compiler(layout: LayoutConfig, model: ModelConfig, length: int) -> None:
    """BadInput where something will be compiled in rows of `length` positions, and nothing can compile it."""
    gpu = torch.cuda.is_available()
    reasons = {
        "layout.compile": layout.compile,
        "model.attention: flex, which auto is on a GPU for long rows,": gpu
        and back_end(model, length, gpu=True) == "flex",
    }
    for reason, holds in reasons.items():
        if holds and found(gpu) is None:
            names = (
                "a C compiler (gcc or clang, or named in CC)" if gpu else "g++, or a compiler named in CXX"
            )
            instead = "set it to false" if reason == "layout.compile" else "choose dense"
            raise BadInput(f"{reason} needs {names}, and none is found: install one, or {instead}")
