"""The screens of the medium, as they are seen over the serial line, and keys typed there.

Answers: "which page is shown now?" What is shown stands in the output of the test (``pytest -s``).
"""

import re
import time
from pathlib import Path
from typing import Final

import pyte

from stillframe.testing.medium_machine import RunningMedium

_ENTER: Final = "\r"


class Watcher:
    """Looks at the serial line as a terminal of 80 by 24 does.

    Args:
        machine: What is typed to.
        log: What came over its serial line.
        limit_s: How long a page is waited for.
    """

    def __init__(self, machine: RunningMedium, log: Path, *, limit_s: float) -> None:
        self.machine = machine
        self._log = log
        self._limit_s = limit_s
        self._seen = 0
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def text(self) -> str:
        """What stands on the screen now."""
        raw = self._log.read_bytes()
        for number in raw[self._seen :]:
            try:
                self._stream.feed(bytes([number]))
            except TypeError:  # a letter that came twice, in the midst of a code of the terminal
                self._stream = pyte.ByteStream(self._screen)
        self._seen = len(raw)
        return "\n".join(line.rstrip() for line in self._screen.display)

    def wait(self, pattern: str) -> str:
        """The screen, once it shows this and has come to rest."""
        deadline, before = time.monotonic() + self._limit_s, ""
        while True:
            now = self.text
            if re.search(_loosely(pattern), now) and now == before:
                print(now, "\n", "-" * 80, sep="")  # noqa: T201 - pytest -s shows it
                return now
            assert time.monotonic() < deadline, f"not shown in {self._limit_s:g} s: {pattern}\n{now}"
            before = now
            time.sleep(1)

    def choose(self, title: str, line: str) -> None:
        """Wait for a page, go down to a line, and take it."""
        shown = self.wait(title)
        options = re.findall(r"(?m)^ (?:>| ) +(\d+) (.*(?:\n {5}.*)*)", shown)
        number = next((number for number, words in options if re.search(_loosely(line), words)), "")
        assert number, f"no line with {line!r}\n{shown}"
        self.machine.send(number)
        time.sleep(1)
        self.machine.send(_ENTER)

    def go_on(self, title: str) -> str:
        """Wait for a page that only tells something, and go on; what it said."""
        shown = self.wait(title)
        self.machine.send(_ENTER)
        return shown

    def write(self, title: str, words: str) -> None:
        """Wait for a page that asks, type, and go on."""
        self.wait(title)
        for letter in words:
            self.machine.send(letter)
            time.sleep(0.05)
        self.machine.send(_ENTER)


def _loosely(words: str) -> str:
    """A pattern for words in which letters come twice: QEMU's serial line does so when the machine is busy.

    What it does to a code of the terminal can hide a line, so each page is known by one of two.
    """
    return re.sub(r"([A-Za-z])", r"\1{1,2}", words)
