"""One whole optimizer step, with one face over every layout.

    step(micro_batches, scale, step, lr, judge)
        lr            → the optimizer                          a pure function of the step, from outside
        sums          ← forward and backward passes, reduced   what the layout is about: passes.py, parallel/
        norm          ← of the whole gradient
        judge(sums, norm)     → clip and update, or neither    all ranks alike: nothing has changed so far

A model, or the part of it that this rank has (the layers of a stage, a tensor rank's share of each block), is
built where its layout keeps it (deepspeed/construct.py), and its fp32 masters are drawn one parameter at a
time (sharded_state.py) or come from a checkpoint. Tensor ranks find the same sums; the first reports them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from data.stream.rows import Rows
from launcher.distributed.collectives import found_by_all, gather
from launcher.distributed.host_reduce import HostSums
from launcher.distributed.process_group import device_of, group_along
from launcher.distributed.world import World
from launcher.engine.deepspeed import pipeline as deepspeed_pipeline
from launcher.engine.deepspeed import start as engine_deepspeed
from launcher.engine.deepspeed.construct import construct
from launcher.engine.deepspeed.ranks import ModelRanks
from launcher.engine.deepspeed.update import UpdateLost, update_of
from launcher.engine.deepspeed.zero_state import state_map
from launcher.engine.interface import Evaluation, Judge, StepResult, V
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig
from launcher.engine.parallel.pipeline import Stage, StagePasses
from launcher.engine.parallel.sequence import sequence_columns
from launcher.engine.parallel.tensor import Uncounted, gathered, share_of
from launcher.engine.passes import Passes, WholePasses
from launcher.engine.replicas import held_copies
from launcher.engine.sharded_state import StateMap
from model.initialise import init_parameter
from model.share import WHOLE, Share
from model.transformer import Transformer


class Engine:
    """A model under DeepSpeed. Making one is a collective."""

    def __init__(
        self,
        build: Callable[[range, Share], Transformer],
        borders: Sequence[int],
        optimizer: OptimizerConfig,
        layout: LayoutConfig,
        world: World,
        seed: int,
    ) -> None:
        """`build` makes a part of the model: the layers of these numbers, of their blocks this share. Every
        parameter comes from model.layers.weight; its weights are no numbers until `initialise` or a
        checkpoint (launcher.checkpoint.load) fills them. borders: of the stages, from 0 to the number of
        layers. seed: of dropout. torch.distributed is connected
        (launcher.distributed.process_group.connect)."""
        self.world, self.layout = world, layout
        self.device = device_of(world)
        self.reducer = HostSums(world)
        own, share, ranks = range(*borders[world.mesh.pipeline.rank :][:2]), WHOLE, None
        self._tensor_group: Any = None
        if world.mesh.tensor.size > 1:
            self._tensor_group = group_along(world, "tensor")
            share = share_of(world.mesh.tensor, self._tensor_group)
            ranks = ModelRanks(self._tensor_group, group_along(world, "data", "sequence"))
        self.model = construct(
            partial(build, own, share), optimizer, layout, self.device, world.local_rank, ranks
        )
        """The module, or this rank's stage; its weights are whole except in ZeRO 3 (see `each_weight`)."""
        counted = self.model.counted_weights()
        uncounted = [w for name, w in self.model.named_weights().items() if name not in counted]
        self._uncounted = Uncounted([] if world.mesh.tensor.is_first else uncounted)
        if layout.compile:
            for block in self.model.blocks:  # in place: names and hooks stay as they are
                block.compile()
        self._deepspeed, self._passes = self._start(optimizer, seed, ranks)
        pipelined = world.mesh.pipeline.size > 1
        self.state: StateMap = state_map(self._deepspeed, layout.zero, self.model, world)
        self._holders = self._whole_shapes() if pipelined else {}
        self._update = update_of(
            self._deepspeed,
            layout.zero,
            optimizer.grad_clip,
            self.model,
            world,
            deepspeed_pipeline.take_step if pipelined else engine_deepspeed.take_step,
        )
        self._updates = 0

    def _start(self, optimizer: OptimizerConfig, seed: int, ranks: ModelRanks | None) -> tuple[Any, Passes]:
        """DeepSpeed's engine, and the passes that it makes."""
        model, mesh = self.model, self.world.mesh
        shape, columns = (model.objectives, model.corpora), sequence_columns(self.world)
        if mesh.pipeline.size > 1:
            stage = Stage(model, mesh, columns, self.device, seed)
            engine = deepspeed_pipeline.start_stage(stage, optimizer, self.layout, self.world)
            return engine, StagePasses(engine, stage, mesh, shape)
        engine = engine_deepspeed.start(model, optimizer, self.layout, ranks)
        if self.layout.zero == 0 and self.world.size == 1:
            engine.enable_backward_allreduce = False
        return engine, WholePasses(
            engine, model, self.layout, mesh, columns, self.device, self.reducer, seed, shape
        )

    def _whole_shapes(self) -> dict[str, int]:
        """Tell the state map of the parameters of all stages, in the order of stages. The first rank that has
        each. A collective."""
        holders: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for rank, found in enumerate(gather(self.world, list(self.state.shapes.items()))):
            for name, shape in found:
                holders.setdefault(name, rank)
                shapes.setdefault(name, tuple(shape))
        self.state.shapes = shapes
        return holders

    def initialise(self, seed: int) -> None:
        """The initial weights of the seed (model/initialise.py), bit-equal in every layout. A collective."""
        model = self.model.config
        self.state.fill(lambda name, shape: init_parameter(name, shape, model, seed))

    def count_corpora(self, number: int) -> None:
        """Add losses up for so many corpora from now on. No weight depends on their number."""
        self._passes.shape = (self.model.objectives, number)
        if self.model.has_head:
            self.model.head.corpora = number

    @property
    def device_name(self) -> str:
        """What the device is called, for its peak: 'NVIDIA H100 80GB HBM3'; 'cpu' without a GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def step(
        self, micro_batches: Sequence[Rows], scale: np.ndarray, step: int, lr: float, judge: Judge[V]
    ) -> StepResult[V]:
        """One optimizer step over this rank's micro-batches, as many on every rank.

        scale: float64 [objectives, corpora], by which loss weights are multiplied so that the sum over the
        global batch is the loss. step: the first is 1. lr: of this step. judge: says whether the update is
        made. BadInput on all ranks where DeepSpeed makes none though it was to.
        """
        if not micro_batches:
            raise ValueError("a step needs at least one micro-batch")
        for group in self._base_optimizer.param_groups:
            group["lr"] = lr
        sums = self._passes.train(micro_batches, scale, step)
        if not self.world.mesh.tensor.is_first:
            sums = np.zeros_like(sums)
        norm = self._update.norm()
        if not self._uncounted.are_numbers():
            norm = float("nan")
        verdict = judge(sums, norm)
        if verdict.apply:
            self._apply(step, norm)
        else:
            self._update.discard()
        return StepResult(sums, norm, verdict)

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
        found = self._passes.evaluate(micro_batches)
        return found if self.world.mesh.tensor.is_first else Evaluation.of_nothing(self._passes.shape)

    def reduce(self, vector: np.ndarray) -> np.ndarray:
        """float64: the sum of a small vector over all ranks. `reducer.start` does it in the background."""
        return self.reducer.start(vector).wait()

    def each_weight(self) -> Iterator[tuple[str, Tensor]]:
        """(name, whole weight), one parameter after the other, a tied one once; the weight is valid until the
        next is asked for. A collective, on all ranks to its end: each is made whole on every rank."""
        own, sections = self.model.named_weights(), self.model.shared_weights()
        for name, shape in self.state.shapes.items():
            with engine_deepspeed.undivided([own[name]]) if self.layout.zero == 3 else nullcontext():
                whole = own[name].detach() if name in own else self._empty(shape)
                if name in sections:
                    whole = gathered(whole, sections[name], self._tensor_group)
                if name in self._holders:  # in some stage
                    # Into a copy: one that has drifted is for `replicas` to find, not to mend.
                    whole = whole if self.world.rank == self._holders[name] else whole.clone()
                    distributed.broadcast(whole, self._holders[name])
                yield name, whole

    def replicas(self) -> Iterator[tuple[str, Tensor | int]]:
        """What this rank holds, each under a label; what others hold under the same one has to be equal."""
        return held_copies(self.model, self.state, self.world.mesh)

    def _empty(self, shape: Sequence[int]) -> Tensor:
        return torch.empty(*shape, dtype=next(self.model.parameters()).dtype, device=self.device)

    def close(self) -> None:
        """Free DeepSpeed's hooks and buffers."""
        self._deepspeed.destroy()

    @property
    def _base_optimizer(self) -> torch.optim.Optimizer:
        return self._deepspeed.basic_optimizer
