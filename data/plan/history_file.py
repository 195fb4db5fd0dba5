"""The file of a plan's history, plan.jsonl: one record a line, a segment or a skip.

A line is appended, never changed, and on the disk before a row follows it. Lines cut short by a crash are
passed over; any other damage is named.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from data.durable import append_record
from data.errors import BadInput
from data.plan.epochs import Era
from data.plan.plan import CorpusPlan, History, Plan, Skip


def append_skip(path: Path, skip: Skip) -> None:
    """Writes a skip to plan.jsonl, fsynced."""
    append_record(path, {"skip": asdict(skip)})


def read_history(path: Path) -> History:
    """The history in plan.jsonl. BadInput where the file is damaged other than by lines cut short."""
    remedy = "bring it back; or move it away, and a resume writes it again from its checkpoint"
    records = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            if line.startswith(b"{") and line.count(b"{") > line.count(b"}"):
                continue
            record = None
        if not isinstance(record, dict) or not ("skip" in record or {"row", "plan"} <= record.keys()):
            raise BadInput(f"{path}:{number}: is damaged: expected a plan segment or a skip; {remedy}")
        records.append(record)
    if not any("plan" in record for record in records):
        raise BadInput(f"{path}: is damaged: no plan stands in it; {remedy}")
    try:
        return History.from_json(records)
    except (KeyError, TypeError, ValueError) as error:
        if strange := [name for record in records for name in _strange_names(record)]:
            raise BadInput(
                f"{path}: was written by another version of headrace (it has {strange[0]!r}): go on with the "
                "headrace that began the run, or begin a new run"
            ) from error
        raise BadInput(
            f"{path}: not a plan history that this version can read ({error}); {remedy}"
        ) from error


def _strange_names(record: Mapping[str, Any]) -> Iterator[str]:
    """Names in a record of plan.jsonl that nothing bears here: another version wrote it."""
    if "skip" in record:
        yield from _beyond(Skip, record["skip"])
        return
    yield from _beyond(Plan, record["plan"], "objectives")  # which a plan holds as its mixture
    for corpus in _each(record["plan"], "corpora"):
        yield from _beyond(CorpusPlan, corpus)
        for era in _each(corpus, "eras"):
            yield from _beyond(Era, era)


def _beyond(known: type, value: Any, *more: str) -> list[str]:
    names = {*more, *(part.name for part in fields(known))}
    return [name for name in value if name not in names] if isinstance(value, dict) else []


def _each(value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []
