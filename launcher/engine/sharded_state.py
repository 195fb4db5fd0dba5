"""Where each piece of each parameter lies on this rank: the map between DeepSpeed's flat masters and names.

Every ZeRO stage keeps the fp32 master weights and their two Adam moments in flat tensors whose division over
ranks it alone knows. A Fragment says: these elements of the flattened parameter `name` (cut.py: a stretch, or
runs with a stride) are elements [position, …) of this rank's n-th flat. With that map a checkpoint is written
and read without a gather and without a conversion between layouts.

The map is read off private names of DeepSpeed (launcher/engine/deepspeed/zero_state.py), so `check_guard`
stands beside it: the rounded master must equal the weight that the model computes with, piece by piece. It
runs after the masters are filled, drawn or loaded, and after the first step, when a wrong map can no longer
hide behind equal values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from launcher.engine.cut import Cut


class LayoutMismatch(Exception):
    """The map does not describe what DeepSpeed holds: a bug, or a release whose private names changed."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Elements of parameter `name` at [position, position + length) of flat number `flat`. Without run and
    stride they are [offset, offset + length) of the parameter; with them see `cut`."""

    name: str
    offset: int
    length: int
    flat: int
    position: int
    run: int | None = None
    stride: int | None = None

    @property
    def cut(self) -> Cut:
        """Which elements of the whole flattened parameter."""
        return Cut.of(self.offset, self.length, self.run, self.stride)


class StateMap:
    """This rank's masters, moments and the fragments in them.

    held: what this rank computes with, and loads. owned: what it saves; over all ranks each element once.
    """

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        flats: Sequence[Tensor],
        held: Sequence[Fragment],
        owned: Sequence[Fragment],
        shapes: dict[str, tuple[int, ...]],
        refresh: Callable[[], None],
        local_weight: Callable[[nn.Parameter, Fragment], Tensor],
    ) -> None:
        self.flats, self.held, self.owned, self.shapes = list(flats), list(held), list(owned), shapes
        self.refresh = refresh
        """Bring the model's weights up to date with the masters. A collective."""
        self._parameters = named
        self._local_weight = local_weight
        self._state = optimizer.state
        self._added: dict[str, list[Tensor]] = {}
        for flat in self.flats:
            # What AdamW would make at its first step, made now: a load then finds it in place.
            if not self._state[flat]:
                self._state[flat].update(
                    step=torch.zeros((), dtype=torch.float32, device=flat.device),
                    exp_avg=torch.zeros_like(flat, requires_grad=False),
                    exp_avg_sq=torch.zeros_like(flat, requires_grad=False),
                )

    @property
    def kinds(self) -> tuple[str, ...]:
        """What there is of each element, and is saved: the master, its moments, and what was added."""
        return ("w", "exp_avg", "exp_avg_sq", *self._added)

    def add(self, kind: str, flats: Sequence[Tensor]) -> None:
        """A further kind: float32 [n] beside each flat."""
        self._added[kind] = list(flats)

    def tensor(self, flat: int, kind: str) -> Tensor:
        """The flat master ('w'), moment or what was added, float32 [n], detached but not copied."""
        if kind == "w":
            return self.flats[flat].detach().view(-1)
        if kind in self._added:
            return self._added[kind][flat]
        return self._state[self.flats[flat]][kind].view(-1)

    def piece(self, fragment: Fragment, kind: str) -> Tensor:
        """A fragment's elements, float32 [length], not copied."""
        return self.tensor(fragment.flat, kind).narrow(0, fragment.position, fragment.length)

    @torch.no_grad()
    def fill(self, draw: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        """The masters from draw(name, shape), a whole float32 parameter, and the weights from them; check the
        map. A collective. One parameter is drawn at a time, and only where this rank holds some of it: what
        the host has beside the masters is the largest of them."""
        fragments: dict[str, list[Fragment]] = {}
        for fragment in self.held:
            fragments.setdefault(fragment.name, []).append(fragment)
        for name, parts in fragments.items():
            self._copy(draw(name, self.shapes[name]), parts)
        self.refresh()
        self.check_guard()

    def _copy(self, whole: Tensor, parts: Sequence[Fragment]) -> None:
        for part in parts:
            position = part.position
            for view in _views(whole.view(-1), part.cut):
                own = self.tensor(part.flat, "w").narrow(0, position, view.numel())
                own.view(view.shape).copy_(view)
                position += view.numel()

    @property
    def adam_step(self) -> int:
        """Updates that Adam has made, for its bias correction; the same on every rank and for every flat."""
        steps = {int(self._state[flat]["step"]) for flat in self.flats}
        if len(steps) > 1:
            raise LayoutMismatch(f"Adam counts {sorted(steps)} steps for different parameters")
        return steps.pop() if steps else 0

    @adam_step.setter
    def adam_step(self, step: int) -> None:
        for flat in self.flats:
            self._state[flat]["step"].fill_(step)

    def check_guard(self) -> None:
        """LayoutMismatch unless each held master piece, rounded, is the model's own weight."""
        for fragment in self.held:
            weight = self._local_weight(self._parameters[fragment.name], fragment)
            # Rounded where it lies: with an offloaded optimizer that is not where the weight lies.
            master = self.piece(fragment, "w").to(weight.dtype).to(weight.device)
            if not ((weight == master) | (weight.isnan() & master.isnan())).all():
                raise LayoutMismatch(
                    f"{fragment.name}, {fragment.length} elements from {fragment.offset} on: the model's "
                    "weight is not its rounded master; this DeepSpeed release lays them out in another way"
                )


def _views(flat: Tensor, cut: Cut) -> Iterator[Tensor]:
    """A cut as views of a parameter's flat vector: the whole runs [runs, run], then what there is of the last
    one [rest]."""
    runs, rest = divmod(cut.length, cut.run)
    yield flat.as_strided((runs, cut.run), (cut.stride, 1), flat.storage_offset() + cut.offset)
    if rest:
        yield flat.narrow(0, cut.offset + runs * cut.stride, rest)
