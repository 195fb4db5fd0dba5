"""Where every stream stands: all that a resume needs of the stream besides the row number and the plan.

A stream's position is j, the number of the slot that it draws from (the first one, where a block is opened
from several: the plan at its first build says how many), and the build history of that block: for each time
it was built, the global row at which and the rows emitted since. Between two blocks the history is empty, so
equal positions have equal states. A stream that was never drawn from is absent: (0, ()).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Position = tuple[int, tuple[tuple[int, int], ...]]
"""(j, ((row at build, rows emitted), …)), as above."""
START: Position = (0, ())


@dataclass(frozen=True)
class StreamPositions:
    """positions: (corpus name, stream) → Position."""

    positions: Mapping[tuple[str, int], Position] = field(default_factory=dict)

    def at(self, corpus: str, stream: int) -> Position:
        """The position of a stream."""
        return self.positions.get((corpus, stream), START)

    def furthest(self, corpus: str) -> int:
        """The largest j of the corpus's streams."""
        return max((j for (name, _), (j, _) in self.positions.items() if name == corpus), default=0)

    @staticmethod
    def merge(states: Iterable["StreamPositions"]) -> "StreamPositions":
        """The states that all ranks reported, as one. Each stream is reported by one rank."""
        positions: dict[tuple[str, int], Position] = {}
        for state in states:
            twice = positions.keys() & state.positions.keys()
            if twice:
                raise ValueError(f"streams reported by two ranks: {sorted(twice)[:3]}")
            positions.update(state.positions)
        return StreamPositions(positions)

    def to_json(self) -> dict[str, Any]:
        """{corpus: {stream: [j, [[row, emitted], …]]}}, ordered."""
        result: dict[str, Any] = {}
        for (corpus, stream), (j, builds) in sorted(self.positions.items()):
            result.setdefault(corpus, {})[str(stream)] = [j, [list(build) for build in builds]]
        return result

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "StreamPositions":
        """The positions of which `to_json` gave this value; also after a trip through JSON."""
        return StreamPositions(
            {
                (corpus, int(stream)): (j, tuple((row, emitted) for row, emitted in builds))
                for corpus, streams in value.items()
                for stream, (j, builds) in streams.items()
            }
        )
