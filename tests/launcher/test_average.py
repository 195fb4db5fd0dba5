"""The mean of checkpoints: float64 sums rounded once, a stretch in memory at a time, refused in words."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import BadInput
from launcher.checkpoint import average
from launcher.checkpoint.average import write_average
from launcher.checkpoint.catalog import verify, weights_at
from launcher.checkpoint.format import step_name, weights_name
from launcher.checkpoint.load import read_weights
from launcher.checkpoint.read import Request, StoredCheckpoint
from launcher.checkpoint.retention import Retention
from tests.support.engine_cases import MODEL, train_and_save, varied
from tests.support.ranks import run


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """Checkpoints of three steps, by three layouts, and the weights in them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    weights = []
    for step, (ranks, zero) in enumerate([(2, 3), (1, 0), (2, 1)], 1):
        at = str(folder / step_name(step - 1)) if step > 1 else None
        after = run(train_and_save, ranks, varied(zero=zero, steps=3), folder, at, step, step)[0]["after"]
        weights.append({name: tensor for (name, kind), tensor in after.items() if kind == "w"})
    return folder, weights


def test_it_is_the_mean_a_stretch_at_a_time(
    three: tuple[Path, list[dict[str, np.ndarray]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of weights alone: its moments were given up."""
    folder, weights = Path(shutil.copytree(three[0], tmp_path / "c")), three[1]
    assert Retention(1, lambda _: True, 1).apply(folder, 3, 1, set()) == [step_name(1)]
    asked: list[int] = []

    def noted(*arguments: object) -> Request:
        request = Request(*arguments)  # type: ignore[arg-type]
        asked.append(request.cut.length)
        return request

    monkeypatch.setattr(average, "STRETCH", 100)
    monkeypatch.setattr(average, "Request", noted)
    stored = [weights_at(folder, step) for step in (1, 2, 3)]
    path = write_average(tmp_path, stored, {})
    assert path == tmp_path / weights_name(3)
    assert verify(tmp_path) == {path: []}
    assert max(asked) == 100
    assert min(asked) < 100
    found = StoredCheckpoint(path)
    assert (found.kinds, found.step) == (["w"], 3)
    assert [one["step"] for one in found.manifest["about"]["mean_of"]] == [1, 2, 3]
    whole = {name: torch.empty(shape) for name, shape in found.shapes.items()}
    read_weights(found, whole)
    assert whole.keys() == weights[0].keys()
    for name, weight in whole.items():
        expected = sum(part[name].astype(np.float64) for part in weights) / 3
        np.testing.assert_array_equal(weight.numpy(), expected.astype(np.float32), err_msg=name)


def test_other_shapes_and_damage_are_refused_in_words(
    three: tuple[Path, list[dict[str, np.ndarray]]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(three[0], tmp_path / "c"))
    stored = [StoredCheckpoint(folder / step_name(step)) for step in (1, 2)]
    wide = varied(model=replace(MODEL, mlp_width=32), zero=0, steps=1)
    run(train_and_save, 1, wide, tmp_path, None, 1, 1)
    other = StoredCheckpoint(tmp_path / step_name(1))
    with pytest.raises(BadInput, match=r"step-00000001: layers\.1\.mlp\..* is \(.*\) there and \(.*\) in "):
        write_average(tmp_path, [*stored, other], {})
    file = folder / step_name(2) / "frag-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"step-00000002/frag-00000\.safetensors: bytes .* a mean needs"):
        write_average(tmp_path, stored, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", step_name(1)]
