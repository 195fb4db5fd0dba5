"""What a run reports: the very sums that it optimised, the same on any number of ranks, held-out ones too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.tokenization.tokenizer import Tokenizer
from launcher.config import run_config
from launcher.inference.evaluate import evaluate
from launcher.inference.trained_model import plain_model
from launcher.runs.lineage import merged
from launcher.runs.run_folder import open_run
from objectives.mixture import Mixture
from objectives.registry import NAMES
from tests.support.helpers import TrainingText
from tests.support.training import config, saved, told, train

UNEQUAL: dict[str, dict[str, float]] = {
    "causal": {"weight": 3},
    "mlm": {"weight": 1, "coefficient": 2.5, "select": 0.05},
    "nsp": {"weight": 1, "coefficient": 0.5},
    "span": {"weight": 1, "coefficient": 1.5},
}
"""Very unequal numbers of targets, and unequal coefficients."""

WITHOUT_DROPOUT = {"layers": 2, "width": 32, "heads": 2}


@pytest.mark.parametrize("normalise", ["global", "objective"])
def test_reported_losses_are_the_parts_of_the_optimised_one(
    text: TrainingText, tmp_path: Path, normalise: str
) -> None:
    """Σ over objectives of loss · weight · scale is the loss of the line, to 1e-6; the parts of a corpus add
    up the same. Weights are counted from the rows, the scale is worked out here. On 3 ranks as on 1."""
    lines = {}
    for ranks in (1, 3):
        folder = tmp_path / str(ranks)
        changes = {"objectives": UNEQUAL, "normalise": normalise, "model": WITHOUT_DROPOUT}
        left = train(ranks, config(text, folder, **changes, steps=6))
        lines[ranks] = told(folder)
        for number, line in enumerate(lines[ranks]):
            weight = np.sum([one.weights[number] for one in left], axis=0)
            scale = _scale(weight.sum(axis=1), line, normalise)
            for one in left:
                np.testing.assert_allclose(one.scales[number], np.outer(scale, [1, 1]), rtol=1e-6)
            _check_line(line, weight, scale)
        assert {name for line in lines[ranks] for name in line["objectives"]} == UNEQUAL.keys()
    for line, other in zip(lines[1], lines[3], strict=True):
        _assert_close(line, other, 2e-5)


@pytest.mark.parametrize(("ranks", "zero"), [(1, 0), (2, 3)])
def test_activation_checkpointing_changes_the_memory_alone(
    text: TrainingText, tmp_path: Path, ranks: int, zero: int
) -> None:
    """With dropout, whose draws the second pass has to make again."""
    lines = []
    for again in (False, True):
        layout = {"zero": zero, "micro_batch": 2, "activation_checkpointing": again}
        plain = config(text, tmp_path / str(again), layout=layout, steps=4)
        model = plain_model(run_config.build(plain, {}, "test"), Tokenizer.load(text.tokenizer_path), 2)
        assert model.checkpoint_blocks == again
        train(ranks, plain)
        lines.append([(line["loss"], line["grad_norm"]) for line in told(tmp_path / str(again))])
    np.testing.assert_allclose(lines[0], lines[1], rtol=1e-6)


def _scale(weight: np.ndarray, line: dict[str, Any], normalise: str) -> np.ndarray:
    """coefficient / Σ weight; or / max(the objective's own weight, its planned share of the text)."""
    mixture = Mixture.parse(UNEQUAL)
    if normalise == "global":
        divisor = np.full(len(NAMES), weight.sum())
    else:
        tokens = sum(part["tokens"] for part in line["objectives"].values())
        divisor = np.maximum(weight, mixture.planned(0) * tokens)
    return np.array(
        [
            UNEQUAL.get(name, {"coefficient": 0.0}).get("coefficient", 1.0) / divisor[number]
            if divisor[number]
            else 0.0
            for number, name in enumerate(NAMES)
        ]
    )


def _check_line(line: dict[str, Any], weight: np.ndarray, scale: np.ndarray) -> None:
    parts = line["objectives"]
    used = {NAMES[number] for number in np.nonzero(weight.sum(axis=1))[0]}
    assert used <= parts.keys() <= UNEQUAL.keys()
    for name, part in parts.items():
        np.testing.assert_allclose(part["weight"], weight[NAMES.index(name)].sum(), rtol=1e-6)
        assert (part["loss"] is not None) == (name in used)
    parts = {name: part for name, part in parts.items() if name in used}
    total = sum(part["loss"] * part["weight"] * scale[NAMES.index(name)] for name, part in parts.items())
    np.testing.assert_allclose(total, line["loss"], rtol=1e-6)
    by_objective = sum(part["loss"] * part["weight"] for part in parts.values())
    by_corpus = sum(
        line["corpora"][name]["loss"] * weight[:, corpus].sum()
        for corpus, name in enumerate(("code", "prose"))
        if line["corpora"][name]["loss"] is not None
    )
    np.testing.assert_allclose(by_corpus, by_objective, rtol=1e-6)
    assert sum(part["rows"] for part in line["corpora"].values()) == 10
    np.testing.assert_allclose(sum(part["share"] for part in line["objectives"].values()), 1)


def _assert_close(one: Any, other: Any, tolerance: float, at: str = "") -> None:
    """Every number of two lines, but for those about time and machines."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"time", "tokens_per_second", "data_wait", "step_seconds", "memory_gib"}:
            _assert_close(one[key], other[key], tolerance, f"{at}.{key}")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=tolerance), at
    else:
        assert one == other, at


def test_held_out_losses_are_those_of_one_rank_and_of_evaluate(
    text: TrainingText, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 and 4 ranks (ZeRO 3) agree to 1e-5 on the weights of the seed and after 2 steps; `headrace evaluate`
    agrees with the run's last evaluation to 1e-6. So do the losses of the average of the weights."""
    found = {}
    for ranks, zero in ((1, 1), (4, 3)):
        folder = tmp_path / str(ranks)
        changes = {"steps": 2, "model": WITHOUT_DROPOUT, "eval": {"every": 2, "bytes": 1_500}}
        changes["ema"] = {"decay": 0.5}
        train(ranks, config(text, folder, **changes, layout={"zero": zero, "micro_batch": 3}))
        found[ranks] = [line for line in merged(open_run(folder / "run")) if "eval" in line]
        assert [line["step"] for line in found[ranks]] == [0, 2]
    for one, four in zip(found[1], found[4], strict=True):
        assert one["eval"].keys() == {"code", "prose"}
        assert one["eval"]["code"].keys() == set(NAMES)
        _assert_close(one["eval"], four["eval"], 1e-5)
        _assert_close(one["ema"], four["ema"], 1e-5)
        assert (one["ema"] == one["eval"]) == (one["step"] == 0)
    first, last = found[1]
    assert last["ema"] != first["ema"], "it follows the weights"
    before, after = (line["eval"]["code"]["causal"] for line in found[1])
    assert after["loss"] != before["loss"]
    assert after["tokens"] == before["tokens"]
    assert before["bits_per_byte"] > 0
    evaluate(open_run(tmp_path / "4" / "run"), (), None, json=True)
    printed = capsys.readouterr()
    assert printed.err == f"evaluating {tmp_path}/4/run, step 2\n"
    told_again = json.loads(printed.out)
    assert list(told_again["eval"]["code"]) == list(NAMES), "in the order of the config"
    assert told_again["step"] == 2
    for weights in ("eval", "ema"):
        _assert_close(found[4][-1][weights], told_again[weights], 1e-6)


def test_an_average_that_begins_or_ends_at_a_resume_is_said(text: TrainingText, tmp_path: Path) -> None:
    """In the ledger; it begins as the weights of the checkpoint."""
    on = {"decay": 0.9}
    for number, ema in enumerate([{}, on, on, {}], 1):
        (left,) = train(1, config(text, tmp_path, ema=ema, steps=number), tensors=True)
        kinds = {kind for _, kind in left.loaded}
        assert ("ema" in kinds) == bool(ema)
        if number == 2:
            for (name, kind), tensor in left.loaded.items():
                if kind == "ema":
                    np.testing.assert_array_equal(tensor, left.loaded[name, "w"])
        assert {kind for _, kind in saved(tmp_path)} == kinds
    begins, dropped = (
        "ema: the average begins now, as the weights of step 1",
        "ema: the average of step 3 is dropped, for ema.decay is not set",
    )
    starts = [line for line in open_run(tmp_path / "run").ledger() if line["event"] in ("start", "resume")]
    assert [line["average"] for line in starts] == [None, begins, None, dropped]
