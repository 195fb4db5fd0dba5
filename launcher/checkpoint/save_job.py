"""What the background threads of a save do: each rank writes its part, rank 0 publishes the whole.

No collective runs in a thread: ranks meet through files in the `.partial` folder. A rank that has written all
leaves rank-N.json there, one that fails rank-N.failed, and rank 0 then clears the folder away.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launcher.checkpoint.format import (
    BLOCK,
    FORMAT,
    canonical,
    fragment_name,
    publish_folder,
    seal,
    step_name,
    write_file,
    write_fragments,
)
from launcher.engine.cut import Cut, cover_fault


class SaveFailed(Exception):
    """A save that cannot be published, for a reason that no file system gave."""


@dataclass
class SaveJob:
    """One save on one rank, in a background thread: `write_own`, on rank 0 then `publish`; `give_up` where
    either fails."""

    folder: Path
    partial: Path
    rank: int
    size: int
    begin: float
    data: dict[str, np.ndarray]
    """Kind → float32: this rank's elements of it, of one fragment behind the other, each parameter's where it
    is kept."""
    fragments: list[tuple[int, Cut]]
    """Number of the parameter, and what of it."""
    parameters: list[list[Any]]
    """Name and shape, and the kinds that are kept of it where that is not all."""
    progress: dict[str, Any]
    manifest: dict[str, Any]
    all_written: bool = False
    """On rank 0: no other rank writes any more."""

    @property
    def step(self) -> int:
        """After which the state is saved."""
        return self.manifest["step"]

    @property
    def target(self) -> Path:
        """The folder that it becomes."""
        return self.folder / step_name(self.step)

    def write_own(self) -> None:
        """This rank's fragment file, block table and, last, the note that says so, into `partial`."""
        self._refuse_no_numbers()
        name = fragment_name(self.rank)
        elements = {kind: len(values) for kind, values in self.data.items()}
        entry = write_fragments(self.partial, name, elements, (values.data for values in self.data.values()))
        entry["fragments"] = [[number, *cut.numbers] for number, cut in self.fragments]
        write_file(self._note(self.rank), canonical(entry))

    def _refuse_no_numbers(self) -> None:
        """SaveFailed where a master or a moment is no number: a run could never go on from it."""
        for kind, data in self.data.items():
            begin = 0
            for number, cut in self.fragments:
                name, _, *kept = self.parameters[number]
                if kept and kind not in kept[0]:
                    continue
                values = data[begin : begin + cut.length]
                begin += cut.length
                # Both ends, for a NaN is the least and the most of what it stands among: no copy is made.
                if not np.isfinite([values.min(), values.max()]).all():
                    local = int(np.flatnonzero(~np.isfinite(values))[0])
                    raise SaveFailed(
                        f"{name}: element {cut.element(local)} of {kind} is no number ({values[local]})"
                    )

    def publish(self, may_publish: Callable[[], bool], patience: float) -> int:
        """Everything else, on rank 0. The checkpoint's size in bytes."""
        notes = self._wait_for_notes(patience)
        self.all_written = True
        self._check_cover(notes)
        index = {
            "format": FORMAT,
            "block": BLOCK,
            "kinds": list(self.data),
            "parameters": self.parameters,
            "files": notes,
        }
        for rank in range(self.size):
            self._note(rank).unlink()
        size = seal(self.partial, self.manifest, index, self.progress)
        if not may_publish():
            raise SaveFailed(f"attempt {self.manifest['attempt']} is no longer the newest of its run")
        publish_folder(self.partial, self.target, self.manifest["attempt"])
        return size

    def give_up(self, error: BaseException, patience: float) -> None:
        """Leave no trace on the disk. Rank 0 clears the folder once no other rank writes in it."""
        with contextlib.suppress(OSError):
            # First its own file: on a full disk that makes the room for what follows.
            (self.partial / fragment_name(self.rank)).unlink(missing_ok=True)
            self._note(self.rank).with_suffix(".failed").write_text(str(error))
        if self.rank == 0:
            if not self.all_written:
                with contextlib.suppress(OSError, SaveFailed):
                    self._wait_for_notes(patience, clearing=True)
            shutil.rmtree(self.partial, ignore_errors=True)

    def _note(self, rank: int) -> Path:
        return self.partial / f"rank-{rank:05d}.json"

    def _wait_for_notes(self, patience: float, clearing: bool = False) -> list[dict[str, Any]]:
        notes: dict[int, dict[str, Any]] = {}
        deadline = time.monotonic() + patience
        while True:
            failed = 0
            for rank in range(self.size):
                if rank in notes:
                    continue
                if clearing and rank == self.rank:  # known to have failed, even where no file can say so
                    failed += 1
                elif self._note(rank).exists():
                    notes[rank] = json.loads(self._note(rank).read_bytes())
                elif (sign := self._note(rank).with_suffix(".failed")).exists():
                    failed += 1
                    if not clearing:
                        raise SaveFailed(f"rank {rank} could not write its part: {sign.read_text()}")
            if len(notes) + failed == self.size:
                return [notes[rank] for rank in sorted(notes)]
            if time.monotonic() > deadline:
                missing = [rank for rank in range(self.size) if rank not in notes]
                raise SaveFailed(f"ranks {missing} did not write their parts within {patience:.0f} s")
            time.sleep(0.02)

    def _check_cover(self, notes: list[dict[str, Any]]) -> None:
        """Each element of each parameter in exactly one fragment."""
        cuts: list[list[Cut]] = [[] for _ in self.parameters]
        for note in notes:
            for number, *numbers in note["fragments"]:
                cuts[number].append(Cut.of(*numbers))
        for (name, shape, *_), own in zip(self.parameters, cuts):
            if (fault := cover_fault(own, math.prod(shape))) is not None:
                raise SaveFailed(f"{name}: {fault} in what was saved")
