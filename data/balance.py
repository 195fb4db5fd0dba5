"""The account of what was read: used + left out by reason = what is there.

Whoever reads something of other people's making (the members of a shard, the files of a folder, the lines of
a text file) counts all that is there, and each thing once: as used, or under the reason for which it was not,
with the names of the first. So text that is passed over shows, if only as a number that the user did not
expect.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

NAMED = 3
"""Names kept for each reason."""


@dataclass
class Balance:
    """used, left_out: how many things, and by reason; names: reason → the first few."""

    used: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def there(self) -> int:
        """All that there was."""
        return self.used + self.left_out.total()

    def leave_out(self, reason: str, names: Iterable[str], count: int | None = None) -> None:
        """Count these as left out; `count` where there are more of them than are named."""
        names = list(names)
        self.left_out[reason] += len(names) if count is None else count
        kept = self.names.setdefault(reason, [])
        kept += names[: NAMED - len(kept)]

    def add(self, other: "Balance", prefix: str = "") -> None:
        """Take another account in, its names with a prefix."""
        self.used += other.used
        for reason, count in other.left_out.items():
            self.leave_out(reason, [prefix + name for name in other.names.get(reason, ())], count)

    def lines(self, thing: str, used: str) -> list[str]:
        """For the eye: "12 members there: 9 read as text + 3 left out", then a line for each reason."""
        s = "" if self.there == 1 else "s"
        whole = f"{self.there:,} {thing}{s} there: {self.used:,} {used} + {self.left_out.total():,} left out"
        return [whole, *(f"  {line}" for line in self.reasons())]

    def reasons(self) -> list[str]:
        """ "2 × hidden: .a, .b" for each reason, the most frequent first."""
        lines = []
        for reason, number in self.left_out.most_common():
            names = self.names.get(reason, [])
            named = f": {', '.join(names)}{', …' if number > len(names) else ''}" if names else ""
            lines.append(f"{number:,} × {reason}{named}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"used": self.used, "left_out": dict(self.left_out), "names": self.names}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Balance":
        """What to_json gave. KeyError, TypeError or ValueError for what it did not."""
        names = {str(reason): [str(name) for name in names] for reason, names in value["names"].items()}
        return Balance(
            int(value["used"]), Counter({str(k): int(v) for k, v in value["left_out"].items()}), names
        )
