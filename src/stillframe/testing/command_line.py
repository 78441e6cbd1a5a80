"""The command line called from a test: what was typed, what was said, how it ended.

Answers: "what does a person, or a program, see?" Runs in this process, so that faults can be planned; a few tests
run the real program beside it.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillframe.cli.main import main
from stillframe.cli.screen import Streams

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended."""

    exit_code: int
    output: str
    errors: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every JSON line of the output."""
        return [json.loads(line) for line in self.output.splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        """The last JSON line."""
        return self.lines[-1]


def call(*words: object, typed: Sequence[str] | None = None) -> Outcome:
    """Carry out a command line.

    Args:
        words: Without the program's name.
        typed: Lines that a person types at a terminal; ``None`` when there is no terminal.
    """
    stream = io.StringIO if typed is None else Terminal
    given, output, errors = stream("\n".join([*(typed or ()), ""])), io.StringIO(), stream()
    code = main([str(word) for word in words], Streams(input=given, output=output, errors=errors))
    return Outcome(exit_code=code, output=output.getvalue(), errors=errors.getvalue())


def init_own(folder: Path, monkeypatch: "pytest.MonkeyPatch") -> Path:
    """A new repository in a folder, which calls use until the test ends; so are its cache and its state."""
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(folder / name.lower()))
    monkeypatch.setenv("STILLFRAME_REPO", str(folder / "repo"))
    assert call("init", folder / "repo", "--encryption", "none").exit_code == 0
    return folder / "repo"
