"""Checkpoints through real ranks: every tensor survives a change of layout; damage is named, passed over."""

import errno
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from data.errors import BadInput
from launcher.checkpoint.catalog import abandon, newest, verify
from launcher.checkpoint.format import KINDS, MANIFEST, Damaged, sealed, step_name, weights_name
from launcher.checkpoint.load import load_weights, read_weights
from launcher.checkpoint.read import Request, StoredCheckpoint
from launcher.checkpoint.retention import Retention, clean
from launcher.distributed.collectives import ToldByOtherRank
from launcher.distributed.world import World
from launcher.engine.cut import Cut
from tests.support.engine_cases import (
    MODEL,
    Setting,
    checkpoints,
    make_engine,
    tensors,
    train_and_save,
    varied,
)
from tests.support.ranks import run


@pytest.mark.parametrize(
    ("ranks", "zero", "precision"), [(2, 1, "fp32"), (2, 3, "fp32"), (1, 0, "fp32"), (2, 2, "bf16")]
)
def test_the_same_layout_goes_on_bit_for_bit(tmp_path: Path, ranks: int, zero: int, precision: str) -> None:
    setting = varied(zero=zero, precision=precision, steps=6)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    straight = run(train_and_save, ranks, setting, tmp_path / "a", None, 1, 6)[0]
    first = run(train_and_save, ranks, setting, tmp_path / "b", None, 1, 3)[0]
    at = str(tmp_path / "b" / step_name(3))
    second = run(train_and_save, ranks, setting, tmp_path / "b", at, 4, 6)[0]
    assert first["losses"] + second["losses"] == straight["losses"]
    for key, tensor in straight["after"].items():
        np.testing.assert_array_equal(second["after"][key], tensor, err_msg=str(key))


def begun_from(world: World, setting: Setting, path: Path) -> dict[str, Any] | str:
    """An engine with the weights alone of a checkpoint; or what refuses them."""
    engine = make_engine(world, setting)
    try:
        load_weights(world, StoredCheckpoint(path), engine.state)
    except BadInput as refusal:
        return str(refusal)
    return {"tensors": tensors(engine), "adam": engine.state.adam_step}


def test_weights_alone_begin_in_any_layout_and_in_no_other_shape(tmp_path: Path) -> None:
    """From 2 ranks ZeRO 1 with moments: 2 ranks ZeRO 3 in bf16, whose moments stay zero."""
    after = run(train_and_save, 2, varied(steps=1), tmp_path, None, 1, 1)[0]["after"]
    path = tmp_path / step_name(1)
    found = run(begun_from, 2, varied(zero=3, precision="bf16"), path)[0]
    assert found["adam"] == 0
    for (name, kind), tensor in found["tensors"].items():
        expected = after[name, kind] if kind == "w" else np.zeros_like(tensor)
        np.testing.assert_array_equal(tensor, expected, err_msg=f"{name} {kind}")
    other = varied(zero=0, model=replace(MODEL, mlp_width=32))
    line = run(begun_from, 1, other, path)[0]
    assert re.fullmatch(
        rf"{path}: layers\.1\.mlp\.\w+\.weight is \(\d+, \d+\) in the checkpoint and \(\d+, \d+\) "
        "in the model of the config; weights begin a model of their own shape",
        line,
    ), line


def save_with_logs(world: World, folder: Path, refusing: int | None) -> tuple[list[str], str | None]:
    """One save, each rank with a log to sync, that of `refusing` in vain. What was synced when rank 0 was
    about to publish, and the line that this rank shows."""
    engine = make_engine(world, varied(steps=1))
    synced: list[str] = []

    def sync() -> None:
        time.sleep(0.2 * world.rank)
        if world.rank == refusing:
            raise BadInput("openings: cannot be written")
        (folder.parent / f"synced-{world.rank}").touch()

    def may_publish() -> bool:
        synced.extend(sorted(path.name for path in folder.parent.glob("synced-*")))
        return True

    saves = checkpoints(engine, folder, sync=sync, may_publish=may_publish, patience=5)
    saves.save(engine, 1, {"step": 1})
    try:
        saves.finish()
    except (BadInput, ToldByOtherRank) as error:
        return synced, str(error)
    return synced, None


def test_the_logs_of_all_ranks_are_on_the_disk_before_a_checkpoint_is_published(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    synced, line = run(save_with_logs, 2, folder, None)[0]
    assert (synced, line) == (["synced-0", "synced-1"], None)
    assert verify(folder) == {folder / step_name(1): []}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_log_that_cannot_be_synced_means_no_checkpoint(tmp_path: Path, rank: int) -> None:
    folder = tmp_path / "checkpoints"
    synced, line = run(save_with_logs, 2, folder, rank)[0]
    assert synced == []
    assert line is not None
    assert line.endswith("openings: cannot be written")
    assert names(folder) == []


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    run(train_and_save, 2, varied(steps=2), folder, None, 1, 1)
    run(train_and_save, 2, varied(steps=2), folder, str(folder / step_name(1)), 2, 2)
    return folder


def test_safetensors_reads_every_file_as_it_was_saved(two_checkpoints: Path, tmp_path: Path) -> None:
    """The library itself: names, dtypes, shapes, and values beside those that our own reader gives."""
    folder = Path(shutil.copytree(two_checkpoints, tmp_path / "c"))
    run(train_and_save, 2, varied(steps=3), folder, str(folder / step_name(2)), 3, 3)
    rules = Retention(keep=1, keeps=lambda _: True, weights_only_after=1)
    rules.apply(folder, published=3, attempt=1, damaged=set())
    seen = 0
    for name, kinds in ((step_name(3), KINDS), (step_name(2), KINDS), (weights_name(1), ("w",))):
        stored = StoredCheckpoint(folder / name)
        names = list(stored.shapes)
        files = {file["name"]: file for file in stored.index["files"]}
        assert {path.name for path in (folder / name).glob("*.safetensors")} == set(files)
        for file in files.values():
            with safe_open(folder / name / file["name"], "np") as opened:
                assert opened.keys() == sorted(kinds)
                found = {kind: opened.get_tensor(kind) for kind in kinds}
                assert opened.metadata() is None
            for kind, array in found.items():
                assert array.dtype == np.float32
                own = np.full(array.shape, np.nan, np.float32)
                position, requests = 0, []
                for parameter, *numbers in file["fragments"]:
                    cut = Cut.of(*numbers)
                    out = own[position : position + cut.length]
                    requests.append(Request(kind, names[parameter], cut, out))
                    position += cut.length
                assert position == len(array)
                stored.read(requests)
                np.testing.assert_array_equal(array, own)
                assert array.any(), "steps were made"
                seen += 1
    assert seen == 2 * (3 + 3 + 1)


def test_safetensors_reads_what_the_ranks_hold(tmp_path: Path) -> None:
    """One rank, so its file is the whole: each parameter's weight and moments, straight from the library."""
    after = run(train_and_save, 1, varied(zero=0, steps=1), tmp_path, None, 1, 1)[0]["after"]
    folder = tmp_path / step_name(1)
    (file,) = StoredCheckpoint(folder).index["files"]
    flat = load_file(folder / file["name"])
    names = list(StoredCheckpoint(folder).shapes)
    for kind in KINDS:
        position = 0
        for parameter, offset, length in file["fragments"]:
            expected = after[names[parameter], kind].reshape(-1)[offset : offset + length]
            np.testing.assert_array_equal(flat[kind][position : position + length], expected)
            position += length
        assert position == len(flat[kind])
    assert {name for name, _ in after} == set(names)


def readable(folder: Path) -> tuple[int, list[str]]:
    """The step of the newest checkpoint whose weights can be read, and what was passed over for it."""
    damaged: dict[int, list[str]] = {}
    while True:
        stored, passed_over = newest(folder, damaged=damaged)
        assert stored is not None
        try:
            read_weights(stored, {name: torch.empty(shape) for name, shape in stored.shapes.items()})
        except Damaged as damage:
            damaged[stored.step] = damage.lines
        else:
            return stored.step, passed_over


def test_one_flipped_byte_in_any_file_is_named_and_the_one_before_is_used(two_checkpoints: Path) -> None:
    assert verify(two_checkpoints) == {two_checkpoints / step_name(step): [] for step in (1, 2)}
    files = sorted((two_checkpoints / step_name(2)).iterdir())
    assert len(files) == 7  # manifest, index, progress, and a fragment with its block table for each rank
    for file in files:
        content = file.read_bytes()
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        (line,) = verify(two_checkpoints, 2)[two_checkpoints / step_name(2)]
        assert line.startswith(f"{file}: ")
        assert readable(two_checkpoints) == (1, [line])
        file.write_bytes(content)
    assert readable(two_checkpoints) == (2, [])


def test_a_missing_and_a_truncated_file_are_named(two_checkpoints: Path) -> None:
    for file in sorted((two_checkpoints / step_name(2)).iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        assert str(file) in newest(two_checkpoints)[1][0]
        file.unlink()
        assert str(file) in newest(two_checkpoints)[1][0]
        file.write_bytes(content)


def test_weights_that_cannot_be_kept_are_said_and_stay(
    two_checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(two_checkpoints, tmp_path / "c"))
    for step in (3, 4):
        shutil.copytree(folder / step_name(2), folder / step_name(step))
    index = folder / step_name(1) / "index.json"
    index.write_bytes(b"{}")
    rules = Retention(keep=1, keeps=lambda _: True, weights_only_after=1)
    damaged: set[int] = set()
    assert rules.apply(folder, published=4, attempt=1, damaged=damaged) == [step_name(2)]
    assert damaged == {1}
    assert sorted(path.name for path in folder.iterdir()) == [
        *(step_name(step) for step in (1, 3, 4)),
        weights_name(2),
    ]
    assert f"{index}: 2 bytes, " in caplog.text
    assert "it is damaged, and stays as it is" in caplog.text
    assert rules.apply(folder, published=4, attempt=1, damaged=damaged) == []
    assert len(caplog.records) == 1, "once, and not at each save"


def test_weights_in_another_format_stay_as_they_are(
    two_checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(two_checkpoints, tmp_path / "c"))
    shutil.copytree(folder / step_name(2), folder / step_name(3))
    manifest = json.loads((folder / step_name(1) / MANIFEST).read_bytes())
    del manifest["sha256"]
    (folder / step_name(1) / MANIFEST).write_bytes(sealed(manifest | {"format": 1}))
    before, damaged = names(folder), set[int]()
    rules = Retention(keep=1, keeps=lambda _: True, weights_only_after=1)
    for _ in range(2):
        assert rules.apply(folder, published=3, attempt=1, damaged=damaged) == []
    assert names(folder) == before
    assert caplog.text.count("was written by an older headrace (format 1)") == 1


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(number: int) -> Any:
    """A call that the file system refuses."""

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refused


def test_a_deletion_that_is_refused_is_said_once_and_tried_again(
    two_checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, while somebody holds a file of it open."""
    folder = Path(shutil.copytree(two_checkpoints, tmp_path / "c"))
    rest = f"{step_name(1)}.deleting"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse(errno.ENOTEMPTY))
        for deleted in ([step_name(1)], []):
            assert Retention(keep=1).apply(folder, published=2, attempt=1, damaged=set()) == deleted
            assert names(folder) == [rest, step_name(2)]
        assert clean(folder, attempt=2) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / step_name(1)}: cannot be deleted for now: Directory not empty"
    ]
    shutil.copytree(folder, tmp_path / "d")
    assert Retention(keep=1).apply(folder, published=2, attempt=1, damaged=set()) == []
    assert clean(tmp_path / "d", attempt=2) == [rest]
    assert names(folder) == names(tmp_path / "d") == [step_name(2)]


def test_weights_for_which_there_is_no_room_leave_the_whole_and_nothing_else(
    two_checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(two_checkpoints, tmp_path / "c"))
    shutil.copytree(folder / step_name(2), folder / step_name(3))
    before = names(folder)
    rules = Retention(keep=1, keeps=lambda _: True, weights_only_after=1)
    with monkeypatch.context() as patch:
        patch.setattr("launcher.checkpoint.format.write_file", refuse(errno.ENOSPC))
        for _ in range(2):
            assert rules.apply(folder, published=3, attempt=1, damaged=set()) == []
            assert names(folder) == before
    assert len(caplog.records) == 1
    assert (
        f"{folder / step_name(1)}: its weights alone cannot be kept, so it stays for now: No sp"
        in caplog.text
    )
    assert rules.apply(folder, published=3, attempt=1, damaged=set()) == [step_name(1)]
    assert names(folder) == [step_name(2), step_name(3), weights_name(1)]


def test_nothing_whole_is_refused_and_not_begun_again(two_checkpoints: Path) -> None:
    manifests = [two_checkpoints / step_name(step) / "MANIFEST.json" for step in (1, 2)]
    contents = [manifest.read_bytes() for manifest in manifests]
    for manifest in manifests:
        manifest.write_bytes(b"{}")
    with pytest.raises(BadInput, match="no checkpoint is whole"):
        newest(two_checkpoints)
    for manifest, content in zip(manifests, contents):
        manifest.write_bytes(content)


def test_a_folder_that_bears_the_name_of_another_step_is_passed_over(
    two_checkpoints: Path, tmp_path: Path
) -> None:
    """Else what is found wrong in it would be noted of the step that it holds, and it be chosen for ever."""
    folder = Path(shutil.copytree(two_checkpoints, tmp_path / "c"))
    copy = shutil.copytree(folder / step_name(1), folder / step_name(3))
    line = f"{copy}/MANIFEST.json: is of step 1, its folder is called step-00000003"
    assert readable(folder) == (2, [line])
    assert verify(folder, 3) == {copy: [line]}
    with pytest.raises(BadInput, match="is of step 1"):
        newest(folder, step=3)


@pytest.mark.parametrize("content", ["[1]", "[" * 100_000, "{", "null", "{}"])
def test_whatever_stands_in_a_manifest_is_one_line(
    two_checkpoints: Path, tmp_path: Path, content: str
) -> None:
    folder = Path(shutil.copytree(two_checkpoints, tmp_path / "c"))
    manifest = folder / step_name(2) / MANIFEST
    manifest.write_text(content)
    assert readable(folder) == (1, [f"{manifest}: damaged"])


def test_weights_of_a_future_that_was_given_up_step_aside_too(two_checkpoints: Path, tmp_path: Path) -> None:
    """Else step 2 of the new future would be deleted for the weights of the old one."""
    folder = Path(shutil.copytree(two_checkpoints, tmp_path / "c"))
    for step in (3, 4):
        shutil.copytree(folder / step_name(2), folder / step_name(step))
    rules = Retention(keep=1, keeps=lambda _: True, weights_only_after=1)
    rules.apply(folder, published=4, attempt=1, damaged=set())
    assert {step_name(3), weights_name(1), weights_name(2)} <= set(names(folder))
    abandon(folder, after=1, attempt=2)
    assert f"{weights_name(2)}.abandoned-0002" in names(folder)
    assert weights_name(1) in names(folder), "of the past that both futures share"
    assert weights_name(2) not in names(folder)
