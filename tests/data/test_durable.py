"""Made aside, then named: a file or a folder is whole under its name, or there is nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.durable import folder_aside, write_once, writing, written_aside
from data.errors import BadInput
from tests.support.sources import ROOT


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("there", [None, b"before"])
def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path, sync: bool, there: bytes | None) -> None:
    path = tmp_path / "a"
    if there:
        path.write_bytes(there)
    with written_aside(path, sync=sync) as file:
        file.write(b"half")
        file.flush()
        (aside,) = (name for name in names(tmp_path) if name != "a")
        assert aside.startswith(".a.part-")
        assert (path.read_bytes() if path.exists() else None) == there
        file.write(b", whole")
    assert path.read_bytes() == b"half, whole"
    assert names(tmp_path) == ["a"]


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def interrupted() -> None:
        with written_aside(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    for before in ([], ["a"]):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert names(tmp_path) == before
        path.write_bytes(b"before")
    assert path.read_bytes() == b"before"


def test_a_file_that_exists_stays_where_that_is_asked_for(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_once(tmp_path / "a", content)
        with written_aside(tmp_path / "b", replace=False) as file:
            file.write(content)
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"first", b"first"]


def test_a_name_that_is_taken_by_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(BadInput, match=f"^{tmp_path}/a: cannot be written: Is a directory$"),
        writing(tmp_path / "a"),
        written_aside(tmp_path / "a") as file,
    ):
        file.write(b"whole")
    assert names(tmp_path) == ["a"]


def test_of_a_folder_stays_what_got_another_name(tmp_path: Path) -> None:
    aside = tmp_path / "deep" / "aside"
    with folder_aside(aside):
        (aside / "kept").write_text("")
        (aside / "left").write_text("")
        (aside / "kept").rename(tmp_path / "kept")
    with pytest.raises(FileNotFoundError), folder_aside(aside):
        (aside / "left").rename(tmp_path / "nowhere" / "left")
    with folder_aside(aside):
        (aside / "inside").write_text("")
        aside.rename(tmp_path / "whole")
    assert names(tmp_path) == ["deep", "kept", "whole"]
    assert names(tmp_path / "deep") == []
    assert names(tmp_path / "whole") == ["inside"]
    (tmp_path / "others").mkdir()
    with pytest.raises(FileExistsError), folder_aside(tmp_path / "others"):
        pass
    assert (tmp_path / "others").is_dir(), "it was not ours"


KILLED = """
import os, signal, sys
from pathlib import Path
from data.durable import written_aside
with written_aside(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_in_the_middle_the_name_says_what_it_said_before(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"before"
    assert len(names(tmp_path)) == 2, "what was written stays under a name that nobody looks for"
