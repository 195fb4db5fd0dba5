"""The values in a .json file one by one: lines, values one behind the other, or the elements of an array.

The text is read through a window that grows to the longest single value and no further, so an array of a
million records costs what one of them does.

    window   … , {"text": "one"} , {"text": "tw
                 ▲ at              ▲ not whole yet: more is read, half as much again, and it is tried again
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_NEAR_END = 16
"""Characters: an error this near to the end of the window may only say that a value goes on."""
_DECODER = json.JSONDecoder()
_MARK = re.compile(r"[^ \t\r\n\ufeff]")


class JsonValue(NamedTuple):
    """A value, or why there is none here."""

    value: Any
    problem: str | None = None


def json_values(chunks: Iterable[bytes]) -> Iterator[JsonValue]:
    """The values of a file, those of its arrays opened. Bytes that are no UTF-8 come as halves of surrogate
    pairs, so that the one text that holds them is at fault.

    Where no value can be read, the rest of its line is passed over; within an array, the rest of the file.
    """
    window = _Window(chunks)
    while window.skip_blank():
        if window.next_is("["):
            yield from _elements(window)
        else:
            value = window.value()
            yield value
            if value.problem is not None:
                window.skip_line()


def _elements(window: "_Window") -> Iterator[JsonValue]:
    """What stands in an array, behind its [."""
    if window.skip_blank() and window.next_is("]"):
        return
    while (value := window.value()).problem is None:
        yield value
        if window.skip_blank() and window.next_is("]"):
            return
        if not window.next_is(","):
            break
        window.skip_blank()
    yield JsonValue(None, "not JSON, and the rest of its array is not read")
    window.skip_all()


class _Window:
    """A part of the text, from `at` on not used yet."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._ended = False
        self.text = ""
        self.at = 0

    def _more(self) -> bool:
        """Read half as much again as there is, a chunk at least. False where the end was read before."""
        if self._ended:
            return False
        parts = [self.text[self.at :]]
        self.text, self.at = "", 0  # a long value should not be there more often than need be
        wanted = len(parts[0]) // 2
        while not self._ended and wanted >= 0:
            chunk = next(self._chunks, b"")
            self._ended = not chunk
            parts.append(self._decoder.decode(chunk, final=self._ended))
            wanted -= len(chunk)
        self.text = "".join(parts)
        return True

    def skip_blank(self) -> bool:
        """Go to the next character that is no white space. False at the end."""
        while (found := _MARK.search(self.text, self.at)) is None:
            self.at = len(self.text)
            if not self._more():
                return False
        self.at = found.start()
        return True

    def next_is(self, character: str) -> bool:
        """Whether this is the next one, which is then passed."""
        found = self.text.startswith(character, self.at)
        self.at += found
        return found

    def skip_line(self) -> None:
        """Go behind the next line end."""
        while (end := self.text.find("\n", self.at)) < 0:
            self.at = len(self.text)
            if not self._more():
                return
        self.at = end + 1

    def skip_all(self) -> None:
        """Go to the end."""
        self.at = len(self.text)
        while self._more():
            self.at = len(self.text)

    def value(self) -> JsonValue:
        """The value that begins here; `at` stays where there is none."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not (self._goes_on(error) and self._more()):
                    return JsonValue(None, "not JSON")
            except (ValueError, RecursionError):  # a number of 5,000 digits; a hundred thousand brackets
                return JsonValue(None, "not JSON")
            else:
                if (
                    end + _NEAR_END < len(self.text)
                    or isinstance(value, str | dict | list)
                    or not self._more()
                ):
                    self.at = end
                    return JsonValue(value)

    def _goes_on(self, error: json.JSONDecodeError) -> bool:
        """Whether the value may only not be whole yet."""
        return error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _NEAR_END
