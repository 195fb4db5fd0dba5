"""A row for the eye: its segments one below the other, each token marked by what the model makes of it.

What a position must predict is read from the arrays alone (docs/design/rows.md), not from the objective's
name, so a new objective needs nothing here. Two cases cover all of them:

- A position that sees nothing to its right and whose target is the very next token: that token is *predicted*
  (green and underlined; in plain text between ⟦ and ⟧).
- Any other target (a masked place, the end of a segment, a pair) stands beside its position: ‹mask→␣the›.

Everything else is given: seen, and predicted nowhere. Without colours (no terminal, NO_COLOR) the marks
remain.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.text import Text

from data.provenance.trace import Part, TracedRow, TracedSegment
from data.tokenization.tokenizer import Tokenizer
from objectives.registry import HEADS, OBJECTIVES

STYLES = {"text": "", "given": "cyan", "control": "bold magenta", "hidden": "red", "target": "bold green"}
PREDICTED = "green underline"
_CONTROL_PICTURES = 0x2400


@dataclass(frozen=True)
class Mark:
    """Some text of a segment that looks alike. kind: a key of STYLES; predicted: from what stands
    before it."""

    text: str
    kind: str
    predicted: bool


def can_colour(console: Console) -> bool:
    """Whether colours would be seen."""
    return console.color_system is not None and not console.no_color


def legend(colour: bool) -> Text:
    """One line that explains the marks."""
    predicted = _styled([Mark("predicted from what stands before it", "text", True)], colour)
    given = _styled([Mark("given", "given", False)], colour)
    control = _styled([Mark("‹name›", "control", False)], colour)
    beside = _styled(_beside("x", "y", False), colour)
    parts = [
        predicted,
        given,
        control + Text(" control token"),
        beside + Text(" x stands there, y is to be predicted there"),
        Text("⏎ newline  ⇥ tab  ␣ blank"),
    ]
    return Text("   ").join(parts)


def row_lines(row: TracedRow, title: str, names: dict[int, str], tokenizer: Tokenizer, colour: bool) -> Text:
    """A row under its title. names: `control_names` of the tokenizer."""
    lines = Text()
    lines.append(f"━━ {title} ━━\n", style="bold")
    for segment in row.segments:
        lines.append(f"── {segment_title(row, segment)}\n", style="dim")
        lines.append_text(_styled(segment_marks(row, segment, names, tokenizer), colour))
        lines.append("\n")
    padding = int((row.rows.corpus[0] < 0).sum())
    if padding:
        lines.append(f"── padding: {padding:,} positions\n", style="dim")
    return lines


def _part(part: Part) -> str:
    of_long = "" if part.part is None else f" part {part.part}"
    return f"{part.shard.rpartition('/')[2]} {part.key}{of_long} tokens {part.start}–{part.stop}"


def segment_title(row: TracedRow, segment: TracedSegment) -> str:
    """What made a segment, what it sees, and the text in it."""
    positions = np.arange(segment.length)
    bound = row.rows.bound[0, segment.first : segment.first + segment.length] - segment.first
    if (bound == segment.length - 1).all() and segment.length > 1:
        sees = "each position sees all"
    elif (bound == positions).all():
        sees = "each position sees those before it"
    else:
        sees = f"all see the first {int(bound[0]) + 1}, else those before"
    parts = " + ".join(map(_part, segment.parts))
    last = segment.first + segment.length - 1
    cut = ", cut to fill the row" if segment.cut else ""
    return (
        f"{segment.objective}, positions {segment.first}–{last}, {sees} · {parts}, segment {segment.number}"
        f"{cut}"
    )


def segment_marks(
    row: TracedRow, segment: TracedSegment, names: dict[int, str], tokenizer: Tokenizer
) -> Iterator[Mark]:
    """The tokens of a segment in order, neighbours that look alike as one."""
    span = slice(segment.first, segment.first + segment.length)
    tokens, targets = row.rows.tokens[0, span], row.rows.targets[0, span]
    sees_right = row.rows.bound[0, span] > np.arange(span.start, span.stop)
    makers = row.rows.objective[0, span].tolist()
    pair = np.array([HEADS[o] == "binary" for o in makers])
    predicted = np.zeros(len(tokens), dtype=bool)
    predicted[1:] = (targets[:-1] == tokens[1:]) & ~sees_right[:-1] & ~pair[:-1]
    beside = targets >= 0
    beside[:-1] &= ~predicted[1:]
    run: list[int] = []
    for i, token in enumerate(tokens.tolist()):
        plain = not beside[i] and token not in names
        if run and not (plain and predicted[i] == predicted[i - 1]):
            yield _text(run, bool(predicted[i - 1]), tokenizer)
            run = []
        if plain:
            run.append(token)
        elif beside[i]:
            target = int(targets[i])
            asked = OBJECTIVES[makers[i]]
            shown = asked.answers[target] if pair[i] else _name(target, names, tokenizer)
            yield from _beside(_name(token, names, tokenizer), shown, bool(predicted[i]))
        else:
            yield Mark(f"‹{names[token]}›", "control", bool(predicted[i]))
    if run:
        yield _text(run, bool(predicted[-1]), tokenizer)


def control_names(tokenizer: Tokenizer) -> dict[int, str]:
    """Control id → what it is for, the same whatever the tokenizer calls it."""
    control = tokenizer.control
    roles = ("pad", "begin", "end", "mask", "cls", "sep", "fim_prefix", "fim_middle", "fim_suffix")
    names = {getattr(control, role): role for role in roles}
    names |= {number: mode for mode, number in control.modes.items()}
    return names | {number: f"s{index}" for index, number in enumerate(control.sentinels)}


def visible(text: str) -> str:
    """With a picture for each character that has none or would move the cursor."""
    return "".join(_picture(character) for character in text)


def _picture(character: str) -> str:
    number = ord(character)
    if character == "\n":
        return "⏎"
    if character == "\t":
        return "⇥"
    if number < 32:
        return chr(_CONTROL_PICTURES + number)
    if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp"):
        return f"\\u{number:04x}"
    return character


def _characters(tokens: Iterable[int], tokenizer: Tokenizer) -> str:
    """The text of ids that are not control; bytes that are no whole character as \\xNN."""
    pieces = [(token, tokenizer.piece(token)) for token in tokens]
    joined = b"".join(
        bytes([int(piece[3:5], 16)]) if tokenizer.is_byte[token] else piece.encode()
        for token, piece in pieces
    )
    return joined.decode("utf-8", "backslashreplace")


def _text(tokens: list[int], predicted: bool, tokenizer: Tokenizer) -> Mark:
    shown = visible(_characters(tokens, tokenizer)).replace("⏎", "⏎\n").replace("⇥", "⇥   ")
    return Mark(shown, "text" if predicted else "given", predicted)


def _name(token: int, names: dict[int, str], tokenizer: Tokenizer) -> str:
    known = names.get(token)
    return known or visible(_characters([token], tokenizer)).replace(" ", "␣")


def _beside(shown: str, target: str, predicted: bool) -> list[Mark]:
    return [
        Mark("‹", "control", predicted),
        Mark(shown, "hidden", predicted),
        Mark("→", "control", predicted),
        Mark(target, "target", predicted),
        Mark("›", "control", predicted),
    ]


def _styled(marks: Iterable[Mark], colour: bool) -> Text:
    """Marks as rich text: in colours, or with brackets around what is predicted."""
    text = Text()
    inside = False
    for mark in marks:
        if colour:
            style = STYLES[mark.kind]
            text.append(mark.text, f"{PREDICTED} {style}" if mark.predicted else style)
            continue
        if mark.predicted != inside:
            text.append("⟦" if mark.predicted else "⟧")
            inside = mark.predicted
        text.append(mark.text)
    if inside:
        text.append("⟧")
    return text
