"""The widgets of a page: text that is read, a list to choose from, a line to type, a bar.

Answers: "how does it look in 80 columns without colour?" Only characters that every console font has; what is chosen is
marked by a character and by reverse video, never by a colour alone. Text is wrapped here and shown in pieces, so that
nothing needs a scroll bar or a mouse.
"""

import textwrap
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from stillframe.rescue.pages.pages import Option

_BAR: Final = 50
_MARK: Final = ">"
_REPLACED: Final = str.maketrans(
    {"\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'", "\u2026": "...", "\u00d7": "x"}
)


def printable(text: str) -> str:
    """Text that cannot steer the terminal: what is not printable is shown as its code."""
    text = text.translate(_REPLACED)
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def wrap(lines: Sequence[str], width: int) -> list[str]:
    """Lines that are not wider; what goes on is indented as the line began."""
    found = list[str]()
    for line in (part for text in lines for part in printable(text).split("\n")):
        indent = " " * (len(line) - len(line.lstrip()))
        found += textwrap.wrap(line, width, subsequent_indent=indent, drop_whitespace=True, break_on_hyphens=False) or [
            ""
        ]
    return found


class Reading(Widget):
    """Text, in pieces of the height that is there."""

    DEFAULT_CSS = "Reading { height: 1fr; width: 1fr; }"

    def __init__(self, *, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._lines: tuple[str, ...] = ()
        self._first = 0

    def show(self, lines: Sequence[str]) -> None:
        """Show other text, from its start."""
        self._lines, self._first = tuple(lines), 0
        self.refresh()

    def line_count(self, width: int) -> int:
        """How many lines it has at a width."""
        return len(wrap(self._lines, width))

    def turn(self, pages: int) -> None:
        """Go on, or back, by pieces."""
        room = max(self.size.height - 1, 1)
        last = max(self.line_count(self.size.width) - room, 0)
        self._first = min(max(self._first + pages * max(room - 1, 1), 0), last)
        self.refresh()

    def render(self) -> Text:
        """What is seen now."""
        width, height = self.size
        lines = wrap(self._lines, max(width, 10))
        if len(lines) <= height:
            return Text("\n".join(lines), no_wrap=True)
        room = height - 1
        shown = lines[self._first : self._first + room]
        below = len(lines) - self._first - len(shown)
        words = f"-- {f'{below} more lines: PgDn' if below > 0 else 'end'}{'; PgUp: back' if self._first else ''} --"
        return Text("\n".join([*shown, *[""] * (room - len(shown)), words]), no_wrap=True)


class Rows(Widget, can_focus=True):
    """A list to choose from, by arrows or by numbers."""

    DEFAULT_CSS = "Rows { height: auto; width: 1fr; }"
    BINDINGS: ClassVar = [
        Binding("up,k,shift+tab", "move(-1)", show=False),
        Binding("down,j,tab", "move(1)", show=False),
        Binding("home", "move(-9999)", show=False),
        Binding("end", "move(9999)", show=False),
        Binding("enter,space", "take", show=False),
    ]

    class Taken(Message):
        """An option was chosen."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self, *, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._options: tuple[Option, ...] = ()
        self._at = 0
        self._said = ""

    def show(self, options: Sequence[Option]) -> None:
        """Offer other options; the first that can be chosen is marked."""
        self._options = tuple(options)
        self._at = next((number for number, one in enumerate(self._options) if not one.refusal), 0)
        self._said = ""
        self.refresh(layout=True)

    @property
    def height_wanted(self) -> int:
        """Lines that all options need."""
        return sum(_height(option) for option in self._options)

    def action_move(self, step: int) -> None:
        """Mark another one."""
        if self._options:
            self._at = min(max(self._at + step, 0), len(self._options) - 1)
            self._said = ""
            self.refresh()

    def action_take(self) -> None:
        """Choose what is marked, if that can be."""
        if not self._options:
            return
        option = self._options[self._at]
        if option.refusal:
            self._said = option.key
            self.app.bell()
            self.refresh()
            return
        self.post_message(self.Taken(option.key))

    def on_key(self, event: events.Key) -> None:
        """A number goes straight to its line."""
        if event.character and event.character.isdecimal():
            number = int(event.character) - 1
            if 0 <= number < len(self._options):
                self._at = number
                self.refresh()

    def render(self) -> Text:
        """The part of the list that has room, with what is marked in it."""
        width, height = self.size
        first, last = self._window(max(height, 2))
        text = Text(no_wrap=True)
        for number in range(first, last):
            self._append(text, number, width)
        if last < len(self._options):
            text.append(f"  -- {len(self._options) - last} more below --")
        elif first:
            text.append(f"  -- end; {first} more above --")
        return text

    def _append(self, text: Text, number: int, width: int) -> None:
        option, marked = self._options[number], number == self._at
        label = f"{number + 1}" if number < 9 else " "
        line = printable(f"{_MARK if marked else ' '} {label} {option.words}")
        text.append(line[:width].ljust(width) + "\n", style="reverse bold" if marked else "")
        detail = printable(f"NOT POSSIBLE: {option.refusal}" if option.refusal else option.detail)
        if detail:
            shown = f"    {detail}"
            text.append(shown[: width - 3] + ("..." if len(shown) > width - 3 else "") + "\n")

    def _window(self, height: int) -> tuple[int, int]:
        """Which options are shown, around the marked one."""
        if self.height_wanted <= height:
            return 0, len(self._options)
        room, first, last = height - 1, self._at, self._at + 1
        used = _height(self._options[self._at]) if self._options else 0
        while True:
            if first and used + _height(self._options[first - 1]) <= room:
                first -= 1
                used += _height(self._options[first])
            elif last < len(self._options) and used + _height(self._options[last]) <= room:
                used += _height(self._options[last])
                last += 1
            else:
                return first, last


def _height(option: Option) -> int:
    return 2 if option.detail or option.refusal else 1


class Entry(Input):
    """A line to type; a secret shows a star for each character."""

    DEFAULT_CSS = "Entry, Entry:focus { border: none; height: 1; padding: 0; width: 1fr; background: ansi_default; }"

    @property
    def _value(self) -> Text:
        text = "*" * len(self.value) if self.password else self.value
        return Text(text, no_wrap=True, overflow="ignore", end="")


def bar(done: int, total: int) -> str:
    """How far, as characters."""
    if not total:
        return ""
    filled = min(_BAR * done // total, _BAR)
    return f"[{'#' * filled}{'.' * (_BAR - filled)}]"
