"""The table of a full run of the tests, from pytest's JUnit file: what `make test-full` keeps in docs/.

    python -m tests.support.table REPORT.xml > docs/test-full.md

A line a test that has more than one cell, and one a file for all others.
"""

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

OUTCOMES = ("failure", "error", "skipped")


@dataclass
class Line:
    """Cells of a test, or tests of a file."""

    cells: int = 0
    passed: int = 0
    skipped: int = 0
    seconds: float = 0.0


def lines(report: Path) -> tuple[dict[tuple[str, str], Line], str]:
    """(file, test) → its Line, "" being all tests of one cell; and when the run began."""
    suite = ET.parse(report).getroot()[0]
    found: dict[tuple[str, str], list[ET.Element]] = defaultdict(list)
    for case in suite.iter("testcase"):
        file = case.attrib["classname"] or case.attrib["name"]  # a file that was skipped whole has no class
        found[file.split(".")[-1], case.attrib["name"].split("[")[0]].append(case)
    table: dict[tuple[str, str], Line] = defaultdict(Line)
    for (file, test), cases in found.items():
        line = table[file, test if len(cases) > 1 else ""]
        for case in cases:
            outcomes = [child.tag for child in case if child.tag in OUTCOMES]
            line.cells += 1
            line.passed += not outcomes
            line.skipped += outcomes == ["skipped"]
            line.seconds += float(case.attrib["time"])
    return table, suite.attrib["timestamp"][:16]


def main() -> None:
    """Prints the table."""
    table, begun = lines(Path(sys.argv[1]))
    whole = Line()
    print(f"# Every cell\n\nWhat `make test-full` ran on {begun.replace('T', ' ')}.\n")
    print("| file | test | cells | passed | skipped | seconds |\n|---|---|---|---|---|---|")
    for (file, test), line in sorted(table.items()):
        name = test.removeprefix("test_").replace("_", " ") or "those of one cell"
        print(
            f"| {file} | {name} | {line.cells} | {line.passed} | {line.skipped or ''} | {line.seconds:.0f} |"
        )
        for field in ("cells", "passed", "skipped", "seconds"):
            setattr(whole, field, getattr(whole, field) + getattr(line, field))
    print(f"| all | | {whole.cells} | {whole.passed} | {whole.skipped} | {whole.seconds:.0f} |")


if __name__ == "__main__":
    main()
