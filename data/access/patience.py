"""How long a shard that cannot be reached is waited for, and who is told.

    attempt ── Transient ──▶ told, wait ──▶ attempt ── … ──▶ the bytes, or PassingTrouble when patience ends

Trouble belongs to a place, a server or a folder: a dozen threads that meet the same outage tell of it once,
keep one Retry-After, and lose patience together. The pause between two attempts doubles up to half a minute.
A wait ends within half a second once the run is asked to stop.
"""

import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from data.access.trouble import Transient
from data.errors import PassingTrouble

Result = TypeVar("Result")

MINUTES = 15.0
"""That are waited unless something else is asked for."""
MOST_MINUTES = 10_080.0
"""A week."""
_LONGEST_PAUSE = 30.0
_SLICE = 0.5
"""Seconds between two looks at whether to stop."""
_SPARSE = 60.0
"""Seconds to the second line on the same trouble; doubled before each further one, up to ten minutes."""
_SPARSEST = 600.0


def to_stderr(line: str) -> None:
    """Tell on stderr, if that can be written."""
    with suppress(OSError, ValueError):
        print(f"headrace: {line}", file=sys.stderr, flush=True)


def minutes(seconds: float) -> str:
    """'15 min', '1.5 min', '3 s'."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.3g} min"


@dataclass
class _Outage:
    """Trouble of a place without a success since. told: lines so far."""

    began: float
    tell_next: float
    told: int = 0


class Patience:
    """May be used from several threads. Sent to another process it begins anew there, and tells on the stderr
    of that one."""

    def __init__(
        self,
        minutes: float = MINUTES,
        *,
        setting: str = "data.patience",
        tell: Callable[[str], None] = to_stderr,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """minutes: from the first failure on. setting: by which the user changes them. tell: called with each
        line for the user. asked_to_stop: from then on nothing is waited for."""
        self.minutes, self.setting = minutes, setting
        self._tell, self._asked_to_stop = tell, asked_to_stop
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._outages: dict[str, _Outage] = {}
        self._not_before: dict[str, float] = {}
        self._quiet_until: dict[str, float] = {}
        """A place that comes and goes is not told of at each turn."""

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Patience, self.minutes, setting=self.setting), ()

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.minutes * 60

    def end(self) -> None:
        """Nothing is waited for any more: whoever waits gets PassingTrouble."""
        self._ended.set()

    def keep_trying(self, what: str, place: str, pause: float, attempt: Callable[[], Result]) -> Result:
        """attempt(), again and again while it raises Transient. what: is read, for the lines; place: where it
        lies; pause: seconds before the second attempt. Raises PassingTrouble."""
        began: float | None = None
        number = 0
        while True:
            self._wait_until(self._not_before.get(place, 0.0), what, "the server asked to wait")
            try:
                result = attempt()
            except Transient as error:
                now = time.monotonic()
                began = began or now
                since = self._failed(place, began, now)
                left = since + self.seconds - now
                if left <= 0 or error.wait > left:
                    raise self._lost(what, error, number + 1, now - since) from error
                self._tell_of(what, place, error, now)
                pause_now = min(pause * 2 ** min(number, 16), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
                if error.wait:  # at the earliest; and many ranks should not come back at one instant
                    self._keep_away(place, now + error.wait)
                    pause_now = error.wait + random.uniform(0.0, pause)
                self._wait_until(now + min(pause_now, left), what, str(error))
                number += 1
            else:
                self._succeeded(place)
                return result

    def tell(self, line: str) -> None:
        """A line for the user that is about no wait."""
        self._tell(line)

    def _wait_until(self, until: float, what: str, why: str) -> None:
        while (left := until - time.monotonic()) > 0:
            if self._asked_to_stop() or self._ended.is_set():
                raise PassingTrouble(f"{what}: {why}; was asked to stop while it waited: start again")
            self._ended.wait(min(left, _SLICE))

    def _keep_away(self, place: str, until: float) -> None:
        with self._lock:
            self._not_before[place] = max(self._not_before.get(place, 0.0), until)

    def _failed(self, place: str, began: float, now: float) -> float:
        """Take note of a failure; since when there is trouble."""
        with self._lock:
            first_line = max(now, self._quiet_until.get(place, 0.0))
            outage = self._outages.setdefault(place, _Outage(now, first_line))
            return min(began, outage.began)

    def _tell_of(self, what: str, place: str, error: Transient, now: float) -> None:
        """Say that it is waited, if it is time."""
        with self._lock:
            outage = self._outages.get(place)
            if outage is None or now < outage.tell_next:
                return
            outage.tell_next = now + min(_SPARSE * 2**outage.told, _SPARSEST)
            self._quiet_until[place] = outage.tell_next
            outage.told += 1
            since = f", since {minutes(now - outage.began)}" if outage.told > 1 else ""
        self._tell(f"waits for {what}: {error}{since}; for up to {minutes(self.seconds)} ({self.setting})")

    def _succeeded(self, place: str) -> None:
        if not self._outages and not self._not_before:  # as nearly always
            return
        with self._lock:
            if self._not_before.get(place, 0.0) <= time.monotonic():  # one that was under way may come back
                self._not_before.pop(place, None)
            outage = self._outages.pop(place, None)
        if outage is not None and outage.told:
            self._tell(f"{place} answers again, after {minutes(time.monotonic() - outage.began)}")

    def _lost(self, what: str, error: Transient, attempts: int, waited: float) -> PassingTrouble:
        if error.wait > self.seconds:
            return PassingTrouble(
                f"{what}: {error}, longer than {self.setting}, {self.minutes:g} min: start again later, or "
                "raise it"
            )
        tries = f"{attempts} attempt{'s' if attempts != 1 else ''} in {minutes(waited)}"
        return PassingTrouble(
            f"{what}: {error} ({tries}); such trouble passes, but this did not within {self.setting}, "
            f"{self.minutes:g} min: start again later, or raise it"
        )
