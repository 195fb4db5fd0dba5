"""The page of a run: a section a part, written anew whenever a row comes."""

import os
from pathlib import Path

from tests.gpu.budget import CUT, NOT_REACHED, Outcome, Part

NAMES = {True: "gpu-tables.md", False: "gpu-rehearsal.md"}
"""By whether there is a GPU: what a CPU says at a tiny size never takes the place of a GPU's figures."""


class Page:
    """The sections so far."""

    def __init__(self, folder: Path, gpu: bool, machine: str) -> None:
        self.path = folder / NAMES[gpu]
        self.machine = machine
        self.rows: dict[Part, list[list[str]]] = {}
        self.outcomes: dict[Part, Outcome] = {}

    def begin(self, part: Part) -> None:
        """A section without rows."""
        self.rows[part] = []
        self._write()

    def add(self, part: Part, row: list[str]) -> None:
        """One more row. ValueError where it has not a cell for each column."""
        if len(row) != len(part.columns):
            raise ValueError(f"{part.name}: {len(part.columns)} columns, but a row of {len(row)}: {row}")
        self.rows[part].append(row)
        self._write()

    def end(self, part: Part, outcome: Outcome) -> None:
        """How it went."""
        self.outcomes[part] = outcome
        self._write()

    def not_reached(self) -> list[str]:
        """Names of the parts that the time did not suffice for, in order; of one that was cut how far it
        came."""
        return [
            part.name if outcome.state == NOT_REACHED else f"{part.name} (after {outcome.rows} rows)"
            for part, outcome in self.outcomes.items()
            if outcome.state in (CUT, NOT_REACHED)
        ]

    def text(self) -> str:
        """The page in Markdown."""
        lines = ["# What tests/gpu/run.sh measured", "", self.machine, ""]
        for part, rows in self.rows.items():
            outcome = self.outcomes.get(part)
            if outcome is not None and outcome.state == NOT_REACHED:
                continue
            lines += [f"## {part.title}", "", part.about, ""]
            if rows:
                lines += [f"| {' | '.join(cells)} |" for cells in (part.columns, *rows)]
                lines.insert(len(lines) - len(rows), f"|{'---|' * len(part.columns)}")
                lines.append("")
            lines += [f"`{part.name}` {outcome or 'is at work'}.", ""]
        if missing := self.not_reached():
            lines += ["## Not reached", "", f"The time was up before: {', '.join(missing)}.", ""]
        return "\n".join(lines)

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(self.text())
        os.replace(partial, self.path)
