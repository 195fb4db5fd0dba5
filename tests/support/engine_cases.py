"""What the engine's tests run in their ranks: a tiny model, synthetic rows, a plain torch reference."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.stream.rows import Rows
from launcher.checkpoint.load import load
from launcher.checkpoint.read import StoredCheckpoint
from launcher.checkpoint.retention import Retention
from launcher.checkpoint.save import Checkpoints
from launcher.distributed.world import World
from launcher.engine.cut import Cut
from launcher.engine.engine import Engine
from launcher.engine.layout import LayoutConfig
from launcher.engine.optimizer import OptimizerConfig, lr_at, parameter_groups
from launcher.engine.sharded_state import LayoutMismatch
from launcher.engine.stages import stage_borders
from model.config import ModelConfig
from model.initialise import initialise
from model.share import WHOLE, Share
from model.transformer import Transformer
from objectives.registry import HEADS

VOCABULARY, LENGTH, CORPORA = 61, 24, 2
MODEL = ModelConfig(layers=2, width=16, heads=4, mlp_width=24, max_sequence_length=LENGTH)
SEED = 3
SHARES = (1.0, 0.6, 0.1, 0.05, 0.4, 0.2, 0.8)
CORPUS_COEFFICIENTS = (1.0, 0.6)
COEFFICIENTS = (1.0, 0.5, 2.0, 1.0, 0.25, 1.5, 0.75)
"""By objective: of a segment's positions, those that have a target; what its loss is multiplied by."""
OPTIMIZER = OptimizerConfig(lr=1e-2, warmup=2, grad_clip=0.5, eps=1e-6)
"""eps: of a gradient that is nothing but rounding Adam would make a whole step in either direction."""


@dataclass(frozen=True)
class Ruling:
    """A Verdict."""

    apply: bool


def agree(_sums: np.ndarray, _norm: float) -> Ruling:
    """A judge that has every step made."""
    return Ruling(apply=True)


@dataclass(frozen=True)
class Setting:
    """One cell of the parity matrix."""

    zero: int = 1
    precision: str = "fp32"
    micro_batch: int = 2
    steps: int = 4
    rows: int = 8
    normalise: str = "global"
    model: ModelConfig = MODEL
    optimizer: OptimizerConfig = OPTIMIZER
    compile: bool = False
    offload: str = "none"
    pipeline: int = 1
    tensor: int = 1
    stages: tuple[int, ...] = ()
    sequence: int = 1
    activation_checkpointing: bool = False

    @property
    def layout(self) -> LayoutConfig:
        """Its layout."""
        names = set(LayoutConfig.model_fields) & {field.name for field in fields(self)}
        return LayoutConfig(**{name: getattr(self, name) for name in names})


def plain(
    config: ModelConfig = MODEL,
    checkpointing: bool = False,
    part: range | None = None,
    share: Share = WHOLE,
) -> Transformer:
    """A model whose weights are not filled, or a part of it."""
    return Transformer(config, VOCABULARY, HEADS, CORPORA, checkpointing, part, share)


def build(config: ModelConfig = MODEL) -> Transformer:
    """A model with its initial weights."""
    model = plain(config)
    initialise(model, config, SEED)
    return model


def rows_of(step: int, rows: int, seed: int = 5) -> Rows:
    """Rows with segments of all kinds of context and very unequal numbers of targets: some rows have one,
    some nearly T, some objectives many and some few."""
    random = np.random.default_rng([seed, step])
    blank = Rows.blank(rows, LENGTH, 0)
    arrays = {name: array.copy() for name, array in blank.arrays().items()}
    arrays["tokens"][:] = random.integers(0, VOCABULARY, (rows, LENGTH))
    for row in range(rows):
        cut = int(random.integers(4, LENGTH - 4))
        for half, (begin, end) in enumerate(((0, cut), (cut, LENGTH))):
            arrays["start"][row, begin:end] = begin
            prefix = int(random.integers(begin, end))
            arrays["bound"][row, begin:prefix] = max(begin, prefix - 1)
            objective = (2 * row + half + step) % len(HEADS)
            arrays["objective"][row, begin:end] = objective
            arrays["corpus"][row, begin:end] = random.integers(0, CORPORA)
            share = SHARES[objective] if row % 3 else 0.02
            aimed = begin + np.flatnonzero(random.random(end - begin) < share)
            aimed = aimed if len(aimed) else np.array([begin])
            top = 2 if HEADS[objective] == "binary" else VOCABULARY
            arrays["targets"][row, aimed] = random.integers(0, top, len(aimed))
            arrays["weights"][row, aimed] = random.uniform(0.5, 2.0, len(aimed))
    return Rows.of(arrays)


def scale_of(rows: Rows, normalise: str) -> np.ndarray:
    """The two normalisations of docs/design/loss.md, with coefficients, over the global batch: [objectives,
    corpora]."""
    weight = np.bincount(rows.objective[rows.targets >= 0], rows.weights[rows.targets >= 0], len(HEADS))
    divisor = weight.sum() if normalise == "global" else np.maximum(weight, 0.2 * weight.sum())
    return np.outer(COEFFICIENTS / divisor, CORPUS_COEFFICIENTS)


Trained = tuple[list[list[float]], list[float], dict[str, np.ndarray]]
"""Of each step the loss by objective, and the norm of the gradient; the weights at the end."""


def reference(setting: Setting) -> Trained:
    """Plain torch, one process, the whole batch at once."""
    model = build(setting.model)
    options = setting.optimizer
    groups = parameter_groups(model.named_parameters(), options)
    adam = torch.optim.AdamW(groups, betas=options.betas, eps=options.eps)
    losses, norms = [], []
    for step in range(1, setting.steps + 1):
        rows = rows_of(step, setting.rows)
        for group in adam.param_groups:
            group["lr"] = lr_at(step, setting.steps, options)
        weights = (
            rows.weights * np.pad(scale_of(rows, setting.normalise), (0, 1))[rows.objective, rows.corpus]
        )
        arrays = rows.arrays() | {"weights": weights.astype(np.float32)}
        loss, sums = model({name: torch.from_numpy(array) for name, array in arrays.items()})
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)))
        adam.step()
        adam.zero_grad()
        losses.append(sums.sum(dim=1).tolist())
    return losses, norms, {n: p.detach().numpy().copy() for n, p in model.named_parameters()}


def unfilled_engine(world: World, setting: Setting) -> Engine:
    """An engine of a setting whose weights nobody has filled."""
    layout = setting.layout
    world = replace(world, degrees=layout.degrees)
    build = partial(plain, setting.model, layout.activation_checkpointing)
    borders = stage_borders(layout, setting.model, VOCABULARY, LENGTH)
    return Engine(build, borders, setting.optimizer, layout, world, seed=1)


def make_engine(world: World, setting: Setting) -> Engine:
    """An engine of a setting."""
    engine = unfilled_engine(world, setting)
    engine.initialise(SEED)
    return engine


def share(world: World, rows: Rows, micro_batch: int) -> list[Rows]:
    """This rank's rows in micro-batches, evened out with blank rows."""
    data = world.mesh.data
    own = rows[np.arange(data.rank, len(rows), data.size)]
    most = -(-len(rows) // data.size)
    padded = -(-most // micro_batch) * micro_batch
    own = Rows.join([own, Rows.blank(padded - len(own), LENGTH, 0)])
    return [own[slice(i, i + micro_batch)] for i in range(0, padded, micro_batch)]


def train(
    engine: Engine, setting: Setting, first: int = 1, last: int | None = None
) -> tuple[list[list[float]], list[float]]:
    """Losses over all ranks by objective, and gradient norms, of steps first … last."""
    losses, norms = [], []
    for step in range(first, (last or setting.steps) + 1):
        rows = rows_of(step, setting.rows)
        result = engine.step(
            share(engine.world, rows, setting.micro_batch),
            scale_of(rows, setting.normalise),
            step,
            lr_at(step, setting.steps, setting.optimizer),
            agree,
        )
        losses.append(engine.reduce(result.sums.ravel()).reshape(result.sums.shape).sum(axis=1).tolist())
        norms.append(result.grad_norm)
    return losses, norms


def run_setting(world: World, setting: Setting) -> Trained:
    """The case of a parity test: the same three things as `reference`."""
    engine = make_engine(world, setting)
    losses, norms = train(engine, setting)
    found = {name: weight.float().cpu().numpy().copy() for name, weight in engine.each_weight()}
    return losses, norms, found


def train_and_evaluate(world: World, setting: Setting, heights: tuple[int, ...]) -> list[float]:
    """The losses of a setting, and after them the sums over evaluated micro-batches of so many rows each."""
    engine = make_engine(world, setting)
    losses, _ = train(engine, setting)
    return np.sum(losses, axis=1).tolist() + [
        float(engine.evaluate([rows_of(9, rows)]).sums.sum()) for rows in heights
    ]


def varied(**changes: Any) -> Setting:
    """The default setting with changes."""
    return replace(Setting(), **changes)


def elements(cut: Cut) -> np.ndarray:
    """Which elements of its parameter a cut has, int64 [length]: the formula, one element at a time."""
    local = np.arange(cut.length)
    return cut.offset + local // cut.run * cut.stride + local % cut.run


def tensors(engine: Engine) -> dict[tuple[str, str], np.ndarray]:
    """(name, kind) → whole fp32 tensor, put together from all ranks' own fragments: master and moments."""
    state = engine.state
    whole = {}
    for name, shape in state.shapes.items():
        for kind in state.kinds:
            vector = np.zeros(int(np.prod(shape)))
            for fragment in state.owned:
                if fragment.name == name:
                    vector[elements(fragment.cut)] = state.piece(fragment, kind).cpu().numpy()
            whole[name, kind] = engine.reduce(vector).astype(np.float32).reshape(shape)
    return whole


def checkpoints(engine: Engine, folder: Path, attempt: int = 1, **options: Any) -> Checkpoints:
    """The saves of an engine, all kept."""
    retention = options.pop("retention", Retention(keep=100))
    return Checkpoints(folder, engine.world, attempt, engine.reducer, retention, **options)


def train_and_save(
    world: World, setting: Setting, folder: Path, load_from: str | None, first: int, last: int
) -> dict[str, Any]:
    """Optionally go on from a checkpoint, train steps first … last, save; everything that can be compared."""
    engine = make_engine(world, setting)
    if load_from:
        stored = StoredCheckpoint(Path(load_from))
        load(world, stored, engine.state)
        assert stored.progress == {"step": first - 1}
    before = tensors(engine)
    losses, _ = train(engine, setting, first, last)
    parent = {"step": first - 1, "attempt": 1} if load_from else None
    saves = checkpoints(engine, folder, parent=parent)
    saves.save(engine, last, {"step": last})
    saves.finish()
    return {"before": before, "losses": losses, "after": tensors(engine), "adam": engine.state.adam_step}


def exchanged_masters(world: World, setting: Setting) -> str:
    """What the guard says of a right map ('') and then of one that exchanges two parameters of one shape."""
    engine = make_engine(world, setting)
    train(engine, setting)
    engine.state.check_guard()
    held = engine.state.held
    first, second = (
        next(f for f in held if f.name == f"layers.{layer}.attention.qkv.weight") for layer in (1, 2)
    )
    exchanged = {
        first: replace(first, flat=second.flat, position=second.position),
        second: replace(second, flat=first.flat, position=first.position),
    }
    engine.state.held[:] = [exchanged.get(fragment, fragment) for fragment in held]
    try:
        engine.state.check_guard()
    except LayoutMismatch as mismatch:
        return str(mismatch)
    return ""


@contextmanager
def poisoned(engine: Engine, rank: int, value: float) -> Iterator[None]:
    """Within it a gradient on that rank has elements that are no number, while the loss stays one."""

    def spoil(_module: Any, entering: tuple, _leaving: tuple) -> tuple:
        return tuple(gradient + value for gradient in entering)

    block = engine.model.blocks[0] if engine.model.blocks else None
    handle = None
    if engine.world.rank == rank and block is not None:
        handle = block.mlp.down.register_full_backward_hook(spoil)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def judged_run(
    world: World, setting: Setting, refused: frozenset[int], poison: tuple[int, float] | None = None
) -> dict[str, Any]:
    """As many steps as the setting has, and before those whose number is in `refused` one more, on rows of
    its own, that is judged away. poison: the rank and the value that spoil its gradient."""
    engine = make_engine(world, setting)
    told: list[tuple[float, float]] = []
    for step in range(1, setting.steps + 1):
        if step in refused:
            with poisoned(engine, *poison) if poison else nullcontext():
                _judged(engine, setting, step, rows_of(100 + step, setting.rows), apply=False)
        told.append(_judged(engine, setting, step, rows_of(step, setting.rows), apply=True))
    return {"told": told, "after": tensors(engine), "adam": engine.state.adam_step}


def _judged(engine: Engine, setting: Setting, step: int, rows: Rows, apply: bool) -> tuple[float, float]:
    """One step; its loss over all ranks and its norm. The judge is asked once, before anything changes."""
    asked: list[np.ndarray] = []
    before = engine.state.tensor(0, "w").clone()

    def judge(sums: np.ndarray, norm: float) -> Ruling:
        assert torch.equal(before, engine.state.tensor(0, "w"))
        asked.append(engine.reduce(sums.ravel()))
        assert math.isfinite(norm) or not apply
        return Ruling(apply)

    result = engine.step(
        share(engine.world, rows, setting.micro_batch),
        scale_of(rows, setting.normalise),
        step,
        lr_at(step, setting.steps, setting.optimizer),
        judge,
    )
    (sums,) = asked
    return float(sums.sum()), result.grad_norm
