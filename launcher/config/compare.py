"""What differs between two configs, and whether it makes another training of it.

WATCHING lists the keys that only watch a run or make it faster. They may differ from start to start of the
same run: `headrace train CONFIG` goes on with a run whatever it says of them, and what changed stands in the
ledger. A difference anywhere else is another run, or an edit, which is what `headrace resume` is for.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.config.run_config import Config, build, plain
from launcher.config.yaml_reader import Key, dotted

WATCHING: tuple[tuple[str, ...], ...] = (
    ("log",),
    ("wandb",),
    ("fingerprint",),
    ("replicas",),
    ("tokenizer", "lossy"),
    ("data", "threads"),
    ("data", "memory_mib"),
    ("data", "cache"),
    ("data", "token_cache"),
    ("data", "patience"),
)
"""A key, or a section with all its keys, stands here only if no batch, weight, loss, checkpoint that is kept
or evaluation changes by it:

log, wandb        who sees the records; metrics.jsonl has every step, whatever stands here.
fingerprint       one more value in the lines of metrics.jsonl, of rows that are the same.
replicas          when copies are compared; one that differs stops the run and changes nothing.
tokenizer.lossy   whether a start is refused.
data.threads, data.memory_mib, data.cache, data.token_cache, data.patience
                  when a block is read and encoded, how often, and how long that is waited for: trouble that
                  passes is never skipped. What stands in row n never depends on it.

Not here, though it may look so:

eval.samples      are part of what an evaluation writes, and need eval.every.
layout, model.attention, model.loss_chunk
                  change sums by rounding, and layout where dropout falls.
checkpoint        which step can be gone back to.
"""

ABSENT = object()
"""The value of a key in a config that does not have it, such as one of a corpus that the other one names."""


@dataclass(frozen=True)
class Change:
    """A key whose value in the new config is not that of the old one."""

    key: Key
    before: Any
    now: Any

    def __str__(self) -> str:
        """'model.width: 256, now 512'."""
        return f"{dotted(self.key)}: {_shown(self.before)}, now {_shown(self.now)}"

    @property
    def plain(self) -> list[Any]:
        """[before, now] for a record; null where the key was not there."""
        return [None if value is ABSENT else value for value in (self.before, self.now)]


def changes(old: Config, new: Config) -> list[Change]:
    """Every key whose values differ, in the order of the config."""
    before, after = flat(plain(old)), flat(plain(new))
    pairs = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in {**before, **after}}
    return [Change(key, *pair) for key, pair in pairs.items() if pair[0] != pair[1]]


def of_another_run(old: Config, new: Config) -> list[Change]:
    """Of these, those that do more than watch."""
    return [change for change in changes(old, new) if not lies_in(change.key, WATCHING)]


def watched_as(config: Config, wanted: Config) -> Config:
    """`config`, with the keys that only watch as they stand in `wanted`."""
    data, other = plain(config), plain(wanted)
    for *above, last in WATCHING:
        section, source = data, other
        for word in above:
            section, source = section[word], source[word]
        section[last] = source[last]
    return build(data, {}, "the run's config")


def lies_in(key: Key, sections: Iterable[Key]) -> bool:
    """Whether a key is one of these, or below one."""
    return any(key[: len(section)] == section for section in sections)


def flat(data: Mapping[str, Any], above: Key = ()) -> dict[Key, Any]:
    """Every value under its whole key. Lists, and sections without a key in them, are values."""
    found: dict[Key, Any] = {}
    for word, value in data.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, (*above, word)))
        else:
            found[(*above, word)] = value
    return found


def _shown(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value, ensure_ascii=False)
