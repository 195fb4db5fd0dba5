"""What the stream passes over: samples that cannot be used, units that cannot be read.

    a sample    whether it can be used is a property of its text: it is told of, once, and not recorded
    a unit      may be readable again tomorrow: so it is told of, then added to the plan's history, by which
                blocks are opened from now on and which every batch carries

Whether anything may be passed over at all is the plan's policy (`data.on_bad`), within a budget.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from data.errors import BadInput
from data.plan.plan import Skip
from data.plan.segments import PlanSegments
from data.shards.corpus import Corpus
from data.shards.names import is_named
from data.stream.block import OpenBlock
from data.stream.reading import UnitTrouble


@dataclass(frozen=True)
class SkipNotice:
    """A unit that could not be read (key None) or a sample that could not be used, skipped by policy."""

    corpus: str
    block_slot: int
    unit: int
    key: str | None
    problem: str
    row: int

    @property
    def of_unit(self) -> Skip | None:
        """What the plan's history keeps of it: the skip of a unit, nothing of a sample."""
        return Skip(self.corpus, self.block_slot, self.unit) if self.key is None else None


class Skipping:
    """The skips of one rank, and how many it may still make."""

    def __init__(
        self,
        plan_segments: PlanSegments,
        corpora: Mapping[str, Corpus],
        on_skip: Callable[[SkipNotice], None] | None,
    ) -> None:
        """on_skip: called before a skip acts."""
        self._plan_segments, self._corpora, self._on_skip = plan_segments, corpora, on_skip
        self._skipped: set[tuple[str, int, str | None]] = set()

    def samples(self, block: OpenBlock, row: int, tell: bool) -> None:
        """Those of a block, just opened for `row`, that cannot be used; quarantined ones are settled already.
        tell: this rank is the one that reports the block's stream. BadInput where the policy is to stop."""
        name = block.corpus.name
        plan_segment = self._plan_segments.at(row)
        for bad in block.documents.bad:
            if is_named(bad.shard, bad.key, plan_segment.quarantined(name)):
                continue
            if plan_segment.plan.on_bad.action != "skip":
                raise BadInput(
                    f"{self._where(name, bad.unit)}, sample {bad.key}: {bad.problem}; quarantine it "
                    f"(data.corpora.{name}.quarantine=[{bad.name}]), or set data.on_bad.action to skip"
                )
            self._skip(SkipNotice(name, block.block_slot, bad.unit, bad.name, bad.problem, row), tell)

    def unit(
        self, corpus: str, block_slot: int, trouble: UnitTrouble, row: int, obstacle: str | None
    ) -> None:
        """A unit of the block at a slot, which is opened for `row`; the next opening goes without it.
        BadInput where the policy is to stop, or an obstacle forbids it: something depends on the unit."""
        if self._plan_segments.at(row).plan.on_bad.action != "skip":
            raise BadInput(str(trouble)) from trouble
        if obstacle:
            raise BadInput(f"{trouble}; it cannot be skipped: {obstacle}") from trouble
        self._skip(SkipNotice(corpus, block_slot, trouble.unit, None, str(trouble), row), tell=True)

    def _skip(self, notice: SkipNotice, tell: bool) -> None:
        """Within the budget, which each rank counts for itself: to add up the ranks' counts at the same row
        they would have to wait for each other."""
        identity = notice.corpus, notice.unit, notice.key
        if identity in self._skipped and notice.key is not None:
            return
        self._skipped.add(identity)
        budget = self._plan_segments.at(notice.row).plan.on_bad.budget
        if len(self._skipped) > budget:
            raise BadInput(
                f"{self._where(notice.corpus, notice.unit)}: {notice.problem}; more than {budget} samples "
                "and units were skipped by this process since its start (data.on_bad.budget)"
            )
        if self._on_skip and tell:
            self._on_skip(notice)
        if notice.of_unit:
            self._plan_segments.skip(notice.of_unit)

    def _where(self, corpus: str, unit: int) -> str:
        opened = self._corpora[corpus]
        shard = opened.shards[int(opened.index.units["shard"][unit])]
        return f"corpus {corpus}: {shard}, unit {unit}"
