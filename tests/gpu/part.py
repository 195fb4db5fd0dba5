"""The process of one part: calls its function, and hands on what it tells.

    python -m tests.gpu.part MODULE:FUNCTION PIPE      PIPE: an open pipe to budget.py, by number

The function gets tell(cell, …), which sends a row. An error goes through the pipe in one line, and to the
terminal with its traceback.
"""

import importlib
import sys
from multiprocessing.connection import Connection


def main() -> None:
    """Run the part that the arguments name."""
    module, function = sys.argv[1].split(":")
    pipe = Connection(int(sys.argv[2]), readable=False)

    def tell(*cells: object) -> None:
        pipe.send({"row": [str(cell) for cell in cells]})

    try:
        getattr(importlib.import_module(module), function)(tell)
    except BaseException as error:
        first = (str(error).strip() or "without a word").splitlines()[0]
        pipe.send({"error": f"{type(error).__name__}: {first[:200]}"})
        raise


if __name__ == "__main__":
    main()
