"""One thing that `headrace doctor` looked at."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it matters, and what to do."""

    name: str
    severity: int
    """0 well, 1 will hurt, 2 training cannot work."""
    text: str
    remedy: str = ""

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)
