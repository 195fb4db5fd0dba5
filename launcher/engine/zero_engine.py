"""One whole optimizer step, with one face over every layout.

    step(micro_batches, scale, step, lr, judge)
        lr            → the optimizer                          a pure function of the step, from outside
        for each micro-batch
            weights   ← weight · scale[objective] · ranks      DeepSpeed's mean over ranks then gives the sum
            loss      ← model(batch)
            backward
        reduce; norm of the whole gradient                     once, after the last micro-batch
        judge(sums, norm)     → clip and update, or neither    all ranks alike: nothing has changed so far

The number of micro-batches may differ from step to step, so DeepSpeed is told which one is the last and never
divides by their count. Dropout is seeded from (seed, step, micro-batch, rank) before each forward pass:
a resumed run needs no random state. A model is built where its layout keeps it (deepspeed/construct.py), and
its fp32 masters are drawn one parameter at a time (sharded_state.py) or come from a checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from data.stream.rows import Rows
from launcher.distributed.collectives import found_by_all
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.process_group import device_of
from launcher.distributed.world import World
from launcher.engine.deepspeed import start as engine_deepspeed
from launcher.engine.deepspeed.construct import construct
from launcher.engine.deepspeed.update import UpdateLost, update_of
from launcher.engine.deepspeed.zero_state import state_map
from launcher.engine.forward import evaluate, to_device
from launcher.engine.interface import Evaluation, Judge, StepResult, V
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig
from launcher.engine.sharded_state import StateMap
from model.initialise import init_parameter
from model.transformer import Transformer
from objectives.rng import key


class Engine:
    """A model under DeepSpeed. Making one is a collective."""

    def __init__(
        self,
        build: Callable[[], Transformer],
        optimizer: OptimizerConfig,
        layout: LayoutConfig,
        world: World,
        seed: int,
    ) -> None:
        """`build` makes a model, of which every parameter comes from model.layers.weight. Its weights are no
        numbers until `initialise` or a checkpoint (launcher.checkpoint.load) fills them. seed: of dropout.
        torch.distributed is connected (launcher.distributed.process_group.connect)."""
        self.world, self.layout, self.seed = world, layout, seed
        self.device = device_of(world)
        self.reducer = HostSums(world)
        model = construct(build, optimizer, layout, self.device, world.local_rank)
        if layout.compile:
            for block in model.blocks:  # in place: names and hooks stay as they are
                block.compile()
        self._deepspeed = engine_deepspeed.start(model, optimizer, layout)
        if layout.zero == 0 and world.size == 1:
            self._deepspeed.enable_backward_allreduce = False
        self.state: StateMap = state_map(self._deepspeed, layout.zero, world.rank, world.size)
        self._update = update_of(self._deepspeed, layout.zero, optimizer.grad_clip)
        self._updates = 0

    def initialise(self, seed: int) -> None:
        """The initial weights of the seed (model/initialise.py), bit-equal in every layout. A collective."""
        model = self._deepspeed.module.config
        self.state.fill(lambda name, shape: init_parameter(name, shape, model, seed))

    @property
    def model(self) -> nn.Module:
        """The module; its weights are whole on every rank except in ZeRO 3 (see `each_weight`)."""
        return self._deepspeed.module

    def count_corpora(self, number: int) -> None:
        """Add losses up for so many corpora from now on. No weight depends on their number."""
        self._deepspeed.module.head.corpora = number

    @property
    def device_name(self) -> str:
        """What the device is called, for its peak: 'NVIDIA H100 80GB HBM3'; 'cpu' without a GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def step(
        self, micro_batches: Sequence[Rows], scale: np.ndarray, step: int, lr: float, judge: Judge[V]
    ) -> StepResult[V]:
        """One optimizer step over this rank's micro-batches, as many on every rank.

        scale: float64 [objectives], by which loss weights are multiplied so that the sum over the global
        batch is the loss. step: the first is 1. lr: of this step. judge: says whether the update is made.
        BadInput on all ranks where DeepSpeed makes none though it was to.
        """
        engine = self._deepspeed
        engine.train()
        for group in self._base_optimizer.param_groups:
            group["lr"] = lr
        total: Tensor | None = None
        last = len(micro_batches) - 1
        for number, rows in enumerate(micro_batches):
            engine.set_gradient_accumulation_boundary(number == last)
            torch.manual_seed(key(self.seed, "dropout", step, number, self.world.rank) >> 1)
            loss, sums = engine(to_device(rows, scale * self.world.size, self.device))
            engine.backward(loss, scale_wrt_gas=False)
            total = sums if total is None else total + sums
            if number < last:
                engine.step()  # counts the micro-batch and changes nothing
        if total is None:
            raise ValueError("a step needs at least one micro-batch")
        norm = self._update.norm()
        own = total.detach().cpu().numpy().astype(np.float64) / self.world.size
        verdict = judge(own, norm)
        if verdict.apply:
            self._apply(step, norm)
        else:
            self._update.discard()
        return StepResult(own, norm, verdict)

    def _apply(self, step: int, norm: float) -> None:
        try:
            self._update.apply()
        except UpdateLost:
            raise found_by_all(
                self.world,
                f"step {step}: DeepSpeed {engine_deepspeed.load().__version__} made no update, though the "
                f"gradient was in order (norm {norm:g}): headrace needs deepspeed 0.19.8 or newer",
            ) from None
        self._updates += 1
        if self._updates == 1:
            self.state.check_guard()

    def evaluate(self, micro_batches: Sequence[Rows]) -> Evaluation:
        """The sums over this rank's rows, weights as in the rows. Ranks may bring unequal numbers."""
        engine = self._deepspeed
        engine.eval()
        batches = list(micro_batches)
        if self.layout.zero == 3:  # every forward pass gathers weights: ranks must make the same number
            most = self.reducer.start(np.array([len(batches)]), largest=True).wait()
            length = batches[0].length if batches else 8
            batches += [Rows.blank(1, length, 0)] * (int(most[0]) - len(batches))
        head = engine.module.head
        return evaluate(engine, batches, self.device, (head.objectives, head.corpora))

    def reduce(self, vector: np.ndarray) -> np.ndarray:
        """float64: the sum of a small vector over all ranks. `reducer.start` does it in the background."""
        return self.reducer.start(vector).wait()

    def each_weight(self) -> Iterator[tuple[str, Tensor]]:
        """(name, whole weight), one parameter after the other, a tied one once; the weight is valid until the
        next is asked for. A collective, on all ranks to its end: ZeRO 3 makes each whole on every rank."""
        for name, parameter in self.model.named_parameters():
            with engine_deepspeed.gathered([parameter]) if self.layout.zero == 3 else nullcontext():
                yield name, parameter.detach()

    def close(self) -> None:
        """Free DeepSpeed's hooks and buffers."""
        self._deepspeed.destroy()

    @property
    def _base_optimizer(self) -> torch.optim.Optimizer:
        return self._deepspeed.basic_optimizer
