"""`data verify` finds each kind of damage, says where it is, and goes on."""

import os
import shutil
from pathlib import Path

import pytest

from data.errors import BadInput
from data.prepare.build_index import build_index
from data.prepare.verify import verify
from tests.shards.test_pack import TEXTS
from tests.shards.test_tar import tar_of
from tests.support.helpers import pack_texts


@pytest.mark.parametrize("zstd", [False, True])
def test_a_sound_corpus(tmp_path: Path, zstd: bool) -> None:
    packed = pack_texts(tmp_path, "c", TEXTS, shard_bytes=300_000, zstd=zstd)
    told: list[tuple[int, int | None]] = []
    report = verify(packed.index, workers=2, progress=lambda *x: told.append(x))
    assert report.findings == []
    assert not report.damaged
    assert (report.samples, report.units) == (len(TEXTS), packed.units)
    assert told[-1] == (packed.text_bytes, packed.text_bytes)


def test_every_damage_is_found_in_one_run(tmp_path: Path) -> None:
    packed = pack_texts(tmp_path, "c", TEXTS, shard_bytes=300_000)
    flipped, cut, missing = packed.shards[:3]
    with flipped.open("r+b") as file:
        file.seek(100_000)
        file.write(b"\0")
    os.truncate(cut, cut.stat().st_size - 2000)
    missing.unlink()
    report = verify(packed.index)
    assert report.damaged
    found = [(Path(finding.shard).name[2:8], finding.kind, finding.what) for finding in report.findings]
    assert found[0][:2] == ("000000", "unit")
    assert "checksum" in found[0][2]
    assert found[1][:2] == ("000001", "shard")
    assert "bytes and had" in found[1][2]
    assert found[2][:2] == ("000001", "unit")
    assert "cut off" in found[2][2]
    assert found[3] == ("000002", "shard", "No such file or directory")
    assert len(found) == 4
    unit = report.findings[0].unit
    assert unit is not None
    assert report.findings[0].offset <= 100_000


def test_samples_without_text_are_listed_and_are_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([("1.txt", b"good"), ("2.txt", b"\xff"), ("3.jpg", b"picture")]))
    build_index([str(tmp_path / "a.tar")], tmp_path / "a.index")
    report = verify(tmp_path / "a.index")
    assert [(finding.key, finding.what) for finding in report.findings] == [
        ("2", "not UTF-8"),
        ("3", "no text"),
    ]
    assert not report.damaged


def test_shards_that_moved_and_a_damaged_table(tmp_path: Path) -> None:
    packed = pack_texts(tmp_path / "a", "c", TEXTS)
    shutil.move(packed.shards[0], tmp_path / "c-000000.tar")
    assert verify(packed.index).damaged
    assert not verify(packed.index, [str(tmp_path / "c-000000.tar")]).damaged
    data = packed.index.read_bytes()
    packed.index.write_bytes(data[:-8] + b"\1" * 8)
    assert "table is damaged" in verify(packed.index).findings[0].what
    packed.index.write_bytes(data[:100])
    with pytest.raises(BadInput, match=r"c\.index: "):
        verify(packed.index)
