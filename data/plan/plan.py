"""The plan: everything that shapes the rows of a run, and its history.

A Plan is frozen and JSON-able. A History is the list of plans with the global row from which each holds: the
rows are a function of it, so an edit is on disk (`plan.jsonl`, fsynced) before a row uses it, and a segment
that begins at row n supersedes those recorded later (a run rewound to n forgets what came after). What must
never change within a run is refused here, with what was and what is asked.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from data.durable import append_record
from data.errors import BadInput
from data.plan.corpus_mix import STREAMS
from data.plan.epochs import Era
from objectives.mixture import Mixture
from objectives.schedule import Schedule

BatchRows = int | tuple[tuple[int, int], ...]
"""B, or ((row, B), …): B of the steps that begin at that row or later."""
Normalise = Literal["global", "objective"]
"""What the loss of a step is divided by: its whole weight, or each objective's own."""


@dataclass(frozen=True)
class CorpusPlan:
    """A corpus in the plan. id: never used again for another corpus (it stands in rows); weight: its
    part of the rows, beside those of the others, 0 when dropped (the position is kept); coefficient: what its
    losses are multiplied by; held_out: the share of its text that is set aside; streams: S;
    held_out_documents: (unit, numbers of documents in it), what is set aside besides whole units."""

    name: str
    id: int
    weight: Schedule
    held_out: float
    streams: int
    eras: tuple[Era, ...]
    held_out_documents: tuple[tuple[int, tuple[int, ...]], ...] = ()
    coefficient: float = 1.0

    @property
    def set_aside(self) -> dict[int, frozenset[int]]:
        """Unit → the numbers of the documents in it that are held out."""
        return {unit: frozenset(numbers) for unit, numbers in self.held_out_documents}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "weight": self.weight.describe()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "CorpusPlan":
        """What to_json gave."""
        documents = tuple((unit, tuple(numbers)) for unit, numbers in value["held_out_documents"])
        own = {
            "weight": Schedule.parse(value["weight"]),
            "eras": tuple(Era(**era) for era in value["eras"]),
            "held_out_documents": documents,
        }
        return CorpusPlan(**{**value, **own})


@dataclass(frozen=True)
class OnBad:
    """What a sample without text, or a unit whose bytes are not as they were indexed, leads to: `data.on_bad`
    of the config. A bad value is a ValueError "key: what was expected"."""

    action: Literal["stop", "skip"] = "stop"
    budget: int = 100
    """With `skip`: how many different samples and units may be skipped, over all ranks and starts of the run,
    before it stops after all."""

    def __post_init__(self) -> None:
        if self.budget < 0:
            raise ValueError(f"budget: expected a whole number of at least 0, got {self.budget}")


@dataclass(frozen=True)
class Skip:
    """A unit that could not be read and is skipped at one slot of its corpus, for ever."""

    corpus: str
    block_slot: int
    unit: int


FIXED = {
    "seed": "seed",
    "tokenizer": "tokenizer",
    "lanes": "lanes",
    "block_bytes": "data.block_bytes",
    "streams": "data.streams",
}
"""What no edit can change in a run: the fields of Plan, and the config keys that ask for them."""

STREAM = 6
"""Version of the stream: raised where the same plan would give other rows than before."""


@dataclass(frozen=True)
class Plan:
    """tokenizer: its hash; lanes: L; length: T; max_length: the longest T planned when the run began, for
    which its blocks are made; streams: the most of a corpus; quarantine: ((corpus, sample key), …); stream:
    the version that gives its rows; padding: the bound on the share of a block's positions that is padding,
    beside one row (None: no segment is cut for it); reach: the most slots that a block of this run has been
    opened from so far."""

    seed: int
    tokenizer: str
    lanes: int
    block_bytes: int
    max_length: int
    length: int
    batch_rows: BatchRows
    corpora: tuple[CorpusPlan, ...]
    mixture: Mixture
    normalise: Normalise
    quarantine: tuple[tuple[str, str], ...]
    on_bad: OnBad
    streams: int = STREAMS
    stream: int = STREAM
    padding: float | None = None
    reach: int = 1

    def __post_init__(self) -> None:
        if self.stream != STREAM:
            raise BadInput(
                f"the run's stream is of version {self.stream}, this headrace gives other rows (version "
                f"{STREAM}): go on with the headrace that began it, or begin a new run"
            )
        if [corpus.id for corpus in self.corpora] != list(range(len(self.corpora))):
            raise ValueError("corpora: ids must be 0, 1, 2, … in order")

    @property
    def slots(self) -> int:
        """Consecutive slots of a stream that are opened as one block, so that one of rows longer than planned
        has as many rows as were planned."""
        return -(-self.length // self.max_length)

    def corpus(self, name: str) -> CorpusPlan | None:
        """The corpus of that name."""
        return next((corpus for corpus in self.corpora if corpus.name == name), None)

    def rows_at(self, row: int) -> int:
        """B of a step that begins at a global row."""
        if isinstance(self.batch_rows, int):
            return self.batch_rows
        at = bisect_right(self.batch_rows, row, key=lambda point: point[0])
        return self.batch_rows[max(at - 1, 0)][1]

    def to_json(self) -> dict[str, Any]:
        """Plain values; the mixture's stand under `objectives`, as in a config."""
        plain = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "mixture"}
        return plain | {
            "corpora": tuple(corpus.to_json() for corpus in self.corpora),
            "objectives": self.mixture.describe(),
            "on_bad": asdict(self.on_bad),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Plan":
        """The plan that to_json described, also after a trip through JSON. KeyError, TypeError or ValueError
        where the values are not those of a plan."""
        batch_rows = value["batch_rows"]
        rest = {
            "batch_rows": batch_rows if isinstance(batch_rows, int) else tuple((r, b) for r, b in batch_rows),
            "corpora": tuple(map(CorpusPlan.from_json, value["corpora"])),
            "mixture": Mixture.parse(value["objectives"]),
            "quarantine": tuple((corpus, sample) for corpus, sample in value["quarantine"]),
            "on_bad": OnBad(**value["on_bad"]),
        }
        plain = {name: number for name, number in value.items() if name != "objectives"}
        return Plan(**{"stream": 1, **plain, **rest})


def refuse_change(old: Plan, new: Plan) -> None:
    """BadInput where a plan changes what must not change within a run."""
    for name, key in FIXED.items():
        was, asked = getattr(old, name), getattr(new, name)
        if was != asked:
            raise BadInput(f"{key}: the run was started with {was}, got {asked}; this cannot be edited")
    for corpus in old.corpora:
        same = new.corpus(corpus.name)
        if same is None or same.id != corpus.id or same.streams != corpus.streams:
            raise BadInput(f"corpus {corpus.name}: it left the plan; drop it by weight 0")
        if same.held_out != corpus.held_out:
            raise BadInput(
                f"data.corpora.{corpus.name}.held_out: the run was started with {corpus.held_out}, "
                f"got {same.held_out}; this cannot be edited"
            )
        if same.eras[: len(corpus.eras)] != corpus.eras:
            raise BadInput(
                f"corpus {corpus.name}: its shards changed, or some are missing or in another order "
                f"(fingerprint {corpus.eras[-1].fingerprint}, now {same.eras[-1].fingerprint}); "
                "shards can only be appended, and an index made anew needs the --unit-kib that it had"
            )


@dataclass(frozen=True)
class History:
    """segments: ((first global row, Plan), …) in ascending order from row 0 on; skips: the units skipped."""

    segments: tuple[tuple[int, Plan], ...]
    skips: tuple[Skip, ...] = ()

    def __post_init__(self) -> None:
        rows = [row for row, _ in self.segments]
        if not rows or rows[0] != 0 or sorted(set(rows)) != rows:
            raise ValueError(f"segments: expected ascending rows from 0 on, got {rows}")

    def at(self, row: int) -> Plan:
        """The plan in force at a global row."""
        return self.segments[self._segment(row)][1]

    @property
    def newest(self) -> Plan:
        """The plan of the last segment."""
        return self.segments[-1][1]

    def before(self, row: int) -> Plan | None:
        """The plan of the row before: what an edit at `row` is compared with. None at row 0."""
        return self.at(row - 1) if row else None

    def end_of(self, row: int) -> int | None:
        """The first row of the segment after that of `row`; None in the last one."""
        following = self._segment(row) + 1
        return self.segments[following][0] if following < len(self.segments) else None

    def _segment(self, row: int) -> int:
        return bisect_right(self.segments, row, key=lambda segment: segment[0]) - 1

    def extended(self, row: int, plan: Plan) -> "History":
        """With `plan` from `row` on; what was recorded for later rows is forgotten. The same history where
        that plan is in force already."""
        if self.segments[-1][0] <= row and self.newest == plan:
            return self
        before = self.before(row)
        if before is not None:
            refuse_change(before, plan)
        kept = tuple(segment for segment in self.segments if segment[0] < row)
        return replace(self, segments=(*kept, (row, plan)))

    def with_skip(self, skip: Skip) -> "History":
        """With one more unit skipped."""
        return self if skip in self.skips else replace(self, skips=(*self.skips, skip))

    def to_json(self) -> list[dict[str, Any]]:
        """The records of plan.jsonl."""
        segments = [{"row": row, "plan": plan.to_json()} for row, plan in self.segments]
        return segments + [{"skip": asdict(skip)} for skip in self.skips]

    @staticmethod
    def from_json(records: "list[dict[str, Any]]") -> "History":
        """From records in the order in which they were written, those of plan.jsonl or of a checkpoint."""
        segments: list[tuple[int, Plan]] = []
        skips: list[Skip] = []
        for record in records:
            if "skip" in record:
                skips.append(Skip(**record["skip"]))
            else:
                segments = [segment for segment in segments if segment[0] < record["row"]]
                segments.append((record["row"], Plan.from_json(record["plan"])))
        return History(tuple(segments), tuple(dict.fromkeys(skips)))

    def append_to(self, path: Path) -> None:
        """Writes the newest segment to plan.jsonl, fsynced, so that it is on the record before it acts."""
        row, plan = self.segments[-1]
        append_record(path, {"row": row, "plan": plan.to_json()})
