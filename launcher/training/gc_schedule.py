"""Python's garbage collector, run when we say: on all ranks at the same step, and never inside one.

Left alone it pauses one rank for a tenth of a second now and that rank only, and all others wait for it in
the next reduction. What lives since the start is set aside for good, so that a collection looks at little.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 50
"""Steps between two collections."""


@contextmanager
def collected_by_step() -> Iterator[None]:
    """Within it nothing is collected but by `after_step`."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def after_step(step: int) -> None:
    """Collect what is young, if it is time."""
    if step % EVERY == 0:
        gc.collect(1)
