"""DeepSpeed's PipelineEngine around a stage: its schedule, its sends, its reduction; the rest is ours.

    train_batch    F F F B F B B … of the micro-batches (1F1B, Narayanan et al. 2021), between neighbouring
                   stages hidden forward and its gradient backward; then the gradients are reduced
    ReduceTiedGrads   → the tied table's gradients of both ends are added up (below)
    OptimizerStep     → nothing: the step is judged first (update.py), and made by `take_step`

A stage is one module on one rank; the PipelineModule is told of as many modules as there are stages and given
this rank's alone. It is never told of the tie: DeepSpeed would add the gradients of the two ends of each
pipeline and then those of the data ranks, two sums in orders that differ between the copies, which from three
data ranks on drift apart. Here both ends of all pipelines are one sum, which all of them get bit for bit:

    gradient on each end ← Σ over both ends of all data ranks; on data ranks but the first ← 0
    DeepSpeed's mean over the data ranks then leaves it as it is, everywhere

Private names: _INSTRUCTION_MAP, micro_batches, ds_pipe_replicated, _hp_grad, using_bf16_optimizer.
"""

import sys
from contextlib import redirect_stdout
from typing import Any

from torch import distributed, nn

from launcher.distributed.process_group import group_along
from launcher.distributed.world import World
from launcher.engine.deepspeed.start import load, start
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig
from launcher.engine.parallel.pipeline import Stage
from model.transformer import TABLE


def start_stage(
    stage: Stage,
    optimizer: OptimizerConfig,
    layout: LayoutConfig,
    world: World,
) -> Any:
    """The PipelineEngine around this rank's stage. A collective."""
    deepspeed = load()
    deepspeed.comm.init_distributed(dist_init_required=False)  # else PipelineModule finds no back end
    pipe, own = deepspeed.runtime.pipe, world.mesh
    modules: list[nn.Module | None] = [None] * own.pipeline.size
    modules[own.pipeline.rank] = stage
    topology = pipe.topology.PipeModelDataParallelTopology(
        num_pp=own.pipeline.size, num_mp=own.tensor.size, num_dp=own.replicas.size
    )
    with redirect_stdout(sys.stderr):  # it prints
        module = pipe.PipelineModule(layers=modules, topology=topology, partition_method="uniform")
        if stage.model.twin is not None:
            stage.model.twin.ds_pipe_replicated = True  # type: ignore[attr-defined]  # the norm counts it once
        engine = start(module, optimizer, layout)
    table = stage.model.named_weights().get(TABLE)
    tie = _Tie(table, world) if stage.model.config.tie_embeddings else None
    engine._INSTRUCTION_MAP = type(engine)._INSTRUCTION_MAP | {
        pipe.schedule.OptimizerStep: _nothing,
        pipe.schedule.ReduceTiedGrads: tie.add_up if tie else _nothing,
    }
    return engine


def take_step(engine: Any) -> None:
    """The update that the schedule leaves out."""
    type(engine)._INSTRUCTION_MAP[load().runtime.pipe.schedule.OptimizerStep](engine)


def _nothing(_engine: Any) -> None:
    pass


class _Tie:
    """The token table that the first and the last stage share."""

    def __init__(self, table: nn.Parameter | None, world: World) -> None:
        """table: this rank's copy; None in the stages between. A collective."""
        self._table, self._counts = table, world.mesh.replicas.is_first
        self._ends = group_along(world, "pipeline", "data", "sequence", ends=True)

    def add_up(self, engine: Any) -> None:
        """Its gradients of both ends of all pipelines, one sum; the mean over data ranks follows."""
        if self._table is None:
            return
        gradient: Any = self._table
        gradient = gradient._hp_grad if engine.using_bf16_optimizer else gradient.grad
        distributed.all_reduce(gradient, group=self._ends)
        if not self._counts:
            gradient.zero_()
