"""What a plain model says, without DeepSpeed and in one process: the loss of a step, and each way of seeing.

`recompute` makes the first step's loss and gradient from its rows by the formula of docs/design/loss.md, in
words of its own: nothing of what a run sums, scales or reduces is used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.stream.rows import Rows
from data.tokenization.tokenizer import Tokenizer
from launcher.config import run_config
from launcher.config.run_config import Config
from launcher.distributed.process_group import device_of
from launcher.distributed.world import World
from launcher.engine.forward import to_device
from launcher.inference.trained_model import plain_model
from launcher.proving.probes import evaluated, read_rows_file
from model.initialise import initialise
from model.transformer import Transformer
from objectives.registry import NAMES

DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}


def recompute(world: World, task: dict[str, Any]) -> dict[str, Any]:
    """loss, norm and the losses of the objectives of the first step, from its rows and the seed's weights."""
    config = run_config.build(task["config"], {}, task["name"])
    device = device_of(world)
    rows = read_rows_file(Path(task["rows"]))["step"]
    model = _initial(config, len(config.data.corpora), device)
    scale = _scale(config, rows, task["source_tokens"])
    terms = np.zeros_like(scale)
    whole = [torch.zeros(p.shape, dtype=torch.float32, device=device) for p in model.parameters()]
    for row in range(len(rows)):
        loss, sums = model(to_device(rows[row : row + 1], scale, device))
        loss.backward()
        terms += sums.double().cpu().numpy()
        for total, parameter in zip(whole, model.parameters()):
            if parameter.grad is not None:
                total += parameter.grad.float()
                parameter.grad = None
    weight = np.where(scale > 0, _weight(rows, scale.shape[1]), 0.0)
    plain = np.divide(terms, scale, out=np.zeros_like(terms), where=scale > 0).sum(axis=1)
    used = np.flatnonzero(weight.sum(axis=1)).tolist()
    return {
        "loss": float(terms.sum()),
        "objectives": {NAMES[number]: float(plain[number] / weight[number].sum()) for number in used},
        "norm": float(torch.linalg.vector_norm(torch.stack([one.double().norm() for one in whole]))),
    }


def _initial(config: Config, corpora: int, device: torch.device) -> Transformer:
    """The model of a config with the weights of its seed."""
    model = plain_model(config, Tokenizer.load(config.tokenizer.model), corpora)
    initialise(model, config.model, config.seed)
    return model.to(device, DTYPE[config.layout.precision])


def _weight(rows: Rows, corpora: int) -> np.ndarray:
    """float64 [objectives, corpora]: the loss weight of the targets."""
    weight = np.zeros((len(NAMES), corpora))
    aimed = rows.targets >= 0
    np.add.at(weight, (rows.objective[aimed], rows.corpus[aimed]), rows.weights[aimed])
    return weight


def _scale(config: Config, rows: Rows, source_tokens: float) -> np.ndarray:
    """float64 [objectives, corpora]: coefficients over the weight of the whole batch, or of the objective in
    it."""
    weight = _weight(rows, len(config.data.corpora)).sum(axis=1)
    mixture = config.mixture
    divisor = np.full(len(NAMES), weight.sum())
    if config.normalise == "objective":
        divisor = np.maximum(weight, mixture.planned(0) * source_tokens)
    safe = np.where(divisor > 0, divisor, 1.0)
    scale = np.where(divisor > 0, mixture.coefficients() / safe, 0.0)
    return np.outer(scale, [corpus.coefficient for corpus in config.data.corpora.values()])


def back_ends(world: World, task: dict[str, Any]) -> dict[str, Any]:
    """Back end of attention → what `evaluated` says of the probes under it: those that the config may use on
    this device."""
    probes = read_rows_file(Path(task["probes"]))
    device = device_of(world)
    found: dict[str, Any] = {}
    for name in in_use(run_config.build(task["config"], {}, task["name"]), device):
        plain = task["config"] | {"model": task["config"]["model"] | {"attention": name}}
        config = run_config.build(plain, {}, task["name"])
        found[name] = evaluated(_by(_initial(config, len(config.data.corpora), device)), probes)
    return found


def in_use(config: Config, device: torch.device) -> list[str]:
    """The back ends of attention that a run of the config may use there: `auto` chooses by the rows."""
    if config.model.attention != "auto":
        return [config.model.attention]
    if device.type == "cpu":
        return ["dense", "segments", "auto"]
    return ["dense", "auto", *(["flex"] if config.model.flex_fits else [])]


def _by(model: Transformer) -> Callable[[Rows], float]:
    model.eval()
    device, head = next(model.parameters()).device, model.head

    @torch.no_grad()
    def loss(rows: Rows) -> float:
        _, sums = model(to_device(rows, np.ones((head.objectives, head.corpora)), device))
        return float(sums.double().sum())

    return loss
