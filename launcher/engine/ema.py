"""An exponential moving average of the weights, kept on the way: its settings, its update, its use.

    after step s, where s % every == 0     average ← average + (1 − decay^every) · (master − average)

`decay` is that of one step, whatever `every` is: that says how often the work is done, and the average looks
back over about 1 / (1 − decay) steps either way. It begins as the weights of the step at which it is switched
on. The average lies in flats beside the fp32 masters, cut as they are, so it is saved, loaded and moved to
other layouts with them, as one more kind of tensor (sharded_state.py).

    in_place     masters ⇄ average, stretch by stretch; the model's weights from the masters; what is within;
                 and back, bit for bit

So the model computes with the average where its layout keeps it, and no rank ever holds a second model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from launcher.engine.sharded_state import StateMap

STRETCH = 1 << 22
"""Elements that are exchanged at a time, through a buffer of as many."""


class EmaConfig(BaseModel):
    """The average of the weights. It changes no weight: it is evaluated beside them, and saved."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of one step; the average looks back over about 1 / (1 − decay) steps. None: none is kept."""
    every: Annotated[int, Field(ge=1)] = 1
    """Steps between updates; the decay of one is then decay^every."""


class WeightAverage:
    """The average of an engine's weights, this rank's part of it."""

    def __init__(self, state: "StateMap", decay: float, every: int) -> None:
        """Takes the room, as kind `ema` of the state; filled by `restart` or by a checkpoint."""
        self._state, self._every = state, every
        self._weight = 1 - decay**every
        masters = [state.tensor(number, "w") for number in range(len(state.flats))]
        self._flats = [master.clone() for master in masters]
        state.add("ema", self._flats)

    def restart(self) -> None:
        """Begin from the weights as they are."""
        for number, average in enumerate(self._flats):
            average.copy_(self._state.tensor(number, "w"))

    def update(self, step: int) -> None:
        """After the update of the weights in a step, where it is due."""
        if step % self._every == 0:
            for number, average in enumerate(self._flats):
                average.lerp_(self._state.tensor(number, "w"), self._weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model computes with the average, and nothing may be trained or saved. A collective.
        After an error everything stays exchanged: the run is over, and one rank alone cannot go back."""
        self._exchange()
        yield
        self._exchange()

    def _exchange(self) -> None:
        for number, average in enumerate(self._flats):
            master = self._state.tensor(number, "w")
            for own, other in zip(master.split(STRETCH), average.split(STRETCH)):
                held = own.clone()
                own.copy_(other)
                other.copy_(held)
        self._state.refresh()


def weight_average(state: "StateMap", config: EmaConfig) -> WeightAverage | None:
    """What a config asks for; None: no average."""
    return WeightAverage(state, config.decay, config.every) if config.decay is not None else None
