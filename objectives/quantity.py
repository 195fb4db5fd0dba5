"""How long something takes, as a config says it: steps, tokens or minutes.

    2000              steps (where rows are meant: rows)
    20B tokens        positions read; K, M, B and T stand for 10³, 10⁶, 10⁹ and 10¹²
    30 minutes        by the clock

A token here is a position: a row of T positions counts T, whether they hold text or padding, so that what a
config says can be reckoned before anything is read. There is one way to write each; whatever comes near to it
is refused with that one.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from objectives.settings import brief, did_you_mean

SIZES = {"T": 10**12, "B": 10**9, "M": 10**6, "K": 10**3, "": 1}
MOST_TOKENS = 10**18
MOST_MINUTES = 525_600
"""A year."""
_TOKENS = re.compile(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)([KMBT]?) tokens")
_MINUTES = re.compile(r"([0-9]+(?:\.[0-9]+)?) minutes?")
_NEAR = re.compile(r"\+?([0-9][0-9_,]*(?:\.[0-9]*)?|\.[0-9]+)(e\+?[0-9]{1,2})?([a-z]*)", re.IGNORECASE)
_SIZE_WORDS = {
    **dict.fromkeys(("k", "thousand"), "K"),
    **dict.fromkeys(("m", "million", "millions", "mio"), "M"),
    **dict.fromkeys(("b", "g", "bn", "billion", "billions"), "B"),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), "T"),
    "": "",
}
_TOKEN_WORDS = ("tokens", "token", "toks", "tok", "positions", "")
_CLOCK_WORDS = {
    **dict.fromkeys(("minutes", "minute", "mins", "min"), Decimal(1)),
    **dict.fromkeys(("hours", "hour", "hrs", "hr", "h"), Decimal(60)),
    **dict.fromkeys(("seconds", "second", "secs", "sec", "s"), 1 / Decimal(60)),
    **dict.fromkeys(("days", "day", "d"), Decimal(1440)),
}


@dataclass(frozen=True, order=True)
class Tokens:
    """So many positions."""

    count: int

    def __str__(self) -> str:
        """As a config has it: '20B tokens', '1.5T tokens', '640K tokens', '6553 tokens'."""
        for suffix, size in SIZES.items():
            short = Decimal(self.count) / size
            whole = short * (1 if size <= 1000 else 1000) % 1 == 0  # K alone takes no decimals
            if self.count >= size and whole and (short < 1000 or suffix in ("T", "")):
                return f"{short.normalize():f}{suffix} tokens"
        return f"{self.count} tokens"


@dataclass(frozen=True)
class Minutes:
    """So long by the clock."""

    count: float

    def __str__(self) -> str:
        return f"{self.count!r} minutes".replace(".0 ", " ")


Quantity = int | Tokens | Minutes
"""An int: of steps, or of rows."""


def steps_or_tokens(value: Any, least: int = 1, unit: str = "steps") -> int | Tokens:
    """A whole number from `least` on, of `unit`, or '20B tokens'. ValueError in one line."""
    found = quantity(value, least, unit=unit)
    if isinstance(found, Minutes):
        raise ValueError(f"expected a whole number, got {brief(value)}; minutes are for checkpoint.every")
    return found


def quantity(value: Any, least: int = 1, minutes: bool = False, unit: str = "steps") -> Quantity:
    """A whole number from `least` on, of `unit` (steps or rows), '20B tokens', '30 minutes'. minutes: whether
    the latter are asked for. ValueError in one line, with what may have been meant."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < least:
            raise ValueError(f"expected at least {least}, got {value}")
        return value
    if isinstance(value, str):
        if match := _TOKENS.fullmatch(value):
            return _tokens(Decimal(match[1].replace("_", "")) * SIZES[match[2]], value)
        if match := _MINUTES.fullmatch(value):
            return _minutes(float(match[1]), value)
    also = (
        "; or tokens or minutes, as in 20B tokens, 30 minutes" if minutes else "; or tokens, as in 20B tokens"
    )
    guess = _meant(value, minutes, unit) if isinstance(value, str) else None
    raise ValueError(f"expected a whole number, got {brief(value)}{did_you_mean(guess) or also}")


def written(value: Quantity) -> int | str:
    """As a config has it: `quantity` gives an equal one."""
    return value if isinstance(value, int) else str(value)


def _tokens(count: Decimal, text: str) -> Tokens:
    if not 0 < count <= MOST_TOKENS:
        raise ValueError(f"expected from 1 to {Tokens(MOST_TOKENS)}, got {brief(text)}")
    if count % 1 != 0:
        raise ValueError(f"expected a whole number of tokens, got {brief(text)}")
    return Tokens(int(count))


def _minutes(count: float, text: str) -> Minutes:
    if not 0.01 <= count <= MOST_MINUTES:
        raise ValueError(f"expected from 0.01 to {MOST_MINUTES} minutes, got {brief(text)}")
    return Minutes(count)


def _meant(text: str, minutes: bool, unit: str) -> str | None:
    """What a text that is none was to say: '20 B', '20b tokens', '1e9 tokens', '2 hours'."""
    match = _NEAR.fullmatch(re.sub(r"\s+|-(?=[a-z])", "", text, flags=re.IGNORECASE))
    if not match:
        return None
    try:
        number = Decimal(match[1].replace("_", "").replace(",", "") + (match[2] or ""))
    except InvalidOperation:
        return None
    if not 0 < number <= MOST_TOKENS:
        return None
    word = match[3].lower()
    if word in (unit, unit.removesuffix("s")):
        return str(int(number)) if number % 1 == 0 else None
    if minutes and (clock := _CLOCK_WORDS.get(word)):
        return str(Minutes(round(float(number * clock), 2)))
    for ending in _TOKEN_WORDS:
        size = _SIZE_WORDS.get(word.removesuffix(ending)) if word.endswith(ending) else None
        if size is not None and word:
            count = number * SIZES[size]
            return str(Tokens(int(count))) if 1 <= count <= MOST_TOKENS and count % 1 == 0 else None
    return None
