"""What the stream passes over: samples that cannot be used, units that cannot be read.

    a sample    whether it can be used is a property of its text: it is told of, once, and not recorded
    a unit      may be readable again tomorrow: so it is told of, then added to the plan's history, by which
                blocks are opened from now on and which every batch carries

Whether anything may be passed over at all is the plan's policy (`data.on_bad`), within a budget that counts
each sample and unit once over all ranks and attempts of the run: what was left out before is on the record,
and what the ranks leave out travels with their batches (launcher/training/global_batch.py).
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from data.errors import BadInput
from data.plan.plan import Skip
from data.plan.segments import PlanSegments
from data.shards.corpus import Corpus
from data.shards.find import is_named
from data.stream.block import OpenBlock
from data.stream.reading import UnitTrouble

_NAMED = 3
"""Of what was left out, in the line that ends a run."""
Identity = tuple[str, int, str | None]
"""(corpus, unit, SHARD/KEY) of a sample; the last None: of a unit."""


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
    def identity(self) -> Identity:
        """What is counted, however often it is met."""
        return self.corpus, self.unit, self.key

    @property
    def of_unit(self) -> Skip | None:
        """What the plan's history keeps of it: the skip of a unit, nothing of a sample."""
        return Skip(self.corpus, self.block_slot, self.unit) if self.key is None else None


class LeftOut:
    """The samples and units of a run that were left out, each once, as far as this rank knows. May be used
    from several threads."""

    def __init__(self, before: Iterable[Identity] = ()) -> None:
        """before: those of earlier attempts."""
        self.before = tuple(before)
        self._known = dict.fromkeys(self.before)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, identities: Iterable[Identity]) -> None:
        """Those that are not known yet."""
        with self._lock:
            self._known.update(dict.fromkeys(identities))

    def require_within(self, budget: int, more: Iterable[Identity] = ()) -> None:
        """BadInput where these, and `more`, are more than may be left out."""
        with self._lock:
            every: list[Identity] = list(dict.fromkeys([*self._known, *more]))
        if len(every) > budget:
            beyond = len(every) - _NAMED
            rest = f" and {beyond} more, the last {_named(every[-1])}" if beyond > 0 else ""
            first = ", ".join(map(_named, every[:_NAMED]))
            raise BadInput(
                f"data.on_bad.budget: {len(every)} samples and units would be left out over all ranks and "
                f"starts of this run, more than {budget}: {first}{rest}; the ledgers say why (event skip): "
                "mend the shards, quarantine the samples, or raise the budget"
            )


def _named(identity: Identity) -> str:
    corpus, unit, sample = identity
    return f"{corpus}/{sample}" if sample is not None else f"unit {unit} of {corpus}"


class Skipping:
    """The skips of one rank, and how many it may still make."""

    def __init__(
        self,
        plan_segments: PlanSegments,
        corpora: Mapping[str, Corpus],
        on_skip: Callable[[SkipNotice], None] | None,
        left_out: LeftOut,
    ) -> None:
        """on_skip: called before a skip acts."""
        self._plan_segments, self._corpora, self._on_skip = plan_segments, corpora, on_skip
        self._left_out = left_out
        self._seen: set[Identity] = set()
        self._told: list[Identity] = []

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

    def take_told(self) -> tuple[Identity, ...]:
        """What this rank has told of since the last call."""
        told, self._told = tuple(self._told), []
        return told

    def _skip(self, notice: SkipNotice, tell: bool) -> None:
        """Within the budget, as far as this rank knows of the others: a skip that is known to be one too many
        is not made."""
        identity = notice.identity
        if identity in self._seen and notice.key is not None:
            return
        self._left_out.require_within(self._plan_segments.at(notice.row).plan.on_bad.budget, [identity])
        self._left_out.add([identity])
        self._seen.add(identity)
        if tell:
            self._told.append(identity)
            if self._on_skip:
                self._on_skip(notice)
        if notice.of_unit:
            self._plan_segments.skip(notice.of_unit)

    def _where(self, corpus: str, unit: int) -> str:
        opened = self._corpora[corpus]
        shard = opened.shards[int(opened.index.units["shard"][unit])]
        return f"corpus {corpus}: {shard}, unit {unit}"
