"""Where a verb's words go: to a person on a terminal, into a log, or as JSON to a program.

Answers: "who is reading, and may they be asked?" Results go to standard output, progress and notices to standard error;
with ``--json`` everything goes to standard output, one record a line. Words that come from a disk cannot steer the
terminal: what is not printable is shown as its code.
"""

import getpass
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from stillframe.cli.progress import JsonLines, PlainLines, Sink, json_line, printable
from stillframe.errors import Cancelled, StillframeError, UsageError
from stillframe.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """What the program reads from and writes to."""

    input: TextIO
    output: TextIO
    errors: TextIO

    @property
    def has_person(self) -> bool:
        """Whether somebody can be asked."""
        return self.input.isatty() and self.errors.isatty()


class Screen:
    """An ``EventSink``, and all that a verb may say or ask."""

    def __init__(self, streams: Streams, *, json: bool, debug: bool = False) -> None:
        self._streams = streams
        self.is_json = json
        self._debug = debug
        self._sink = self._make_sink()
        self.before_result: list[Callable[[], None]] = []
        """Called before the result is shown: who may have something to say that could not be said earlier."""

    def emit(self, event: Event) -> None:
        """Draw one event. When nobody reads any more, the job goes on in silence."""
        try:
            self._sink.emit(event)
        except OSError:
            self._sink = _Silence()

    def say(self, *lines: str) -> None:
        """Words for a person; a program does not get them."""
        if not self.is_json:
            self._write(self._streams.output, *lines)

    def warn(self, *lines: str) -> None:
        """Words beside the result, such as what to do next; a program does not get them."""
        if not self.is_json:
            self._write(self._streams.errors, *lines)

    def finish(self, verb: str, fields: Mapping[str, Any], lines: Iterable[str]) -> None:
        """The result: the last line for a program, words for a person."""
        for tell in self.before_result:
            tell()
        self.close()
        if self.is_json:
            self._write(self._streams.output, json_line({"type": "result", "verb": verb, **fields}))
        else:
            self._write(self._streams.output, *lines)

    def fail(self, error: StillframeError) -> None:
        """An error: what it was, then the next step."""
        self.close()
        if self._debug:
            self._streams.errors.write("".join(traceback.format_exception(error)))
        self._fail(error.code, error.message, error.hint, error.exit_code)

    def fail_by_bug(self, message: str, hint: str) -> None:
        """An error that is ours; called where it was caught."""
        self.close()
        if self._debug:
            self._streams.errors.write(traceback.format_exc())
        self._fail("bug", message, hint, 1)

    def confirm(self, question: str, word: str, *, yes: bool) -> None:
        """Go on only when the person types the word.

        Raises:
            UsageError: There is nobody to ask, and ``--yes`` was not given.
            Cancelled: Something else was typed. Nothing was done.
        """
        if yes:
            return
        if self.is_json or not self._streams.has_person:
            raise UsageError(
                f"'{word}' asks before it does that, and there is nobody to ask", hint="Look at the plan with "
                "'--dry-run', then add '--yes'.",
            )  # fmt: skip
        self._streams.errors.write(f"{question} Type '{word}' to go on: ")
        self._streams.errors.flush()
        if self._streams.input.readline().strip().lower() != word:
            raise Cancelled("stopped: nothing was changed")

    def ask(self, question: str) -> str:
        """One line from the person at the terminal; empty when there is no more.

        Raises:
            UsageError: There is nobody to ask.
        """
        if self.is_json or not self._streams.has_person:
            raise UsageError("there is nobody to ask", hint="Run it on a terminal, without '--json'.")
        self._streams.errors.write(question)
        self._streams.errors.flush()
        return self._streams.input.readline().strip()

    def ask_secret(self, question: str) -> str:
        """Ask for a secret; it is not shown while it is typed."""
        try:
            return getpass.getpass(printable(question), self._streams.errors)
        except EOFError:
            raise Cancelled("stopped: no passphrase was typed") from None

    @property
    def has_person(self) -> bool:
        """Whether somebody can be asked for a secret."""
        return self._streams.has_person

    def close(self) -> None:
        """Take the progress away."""
        self._sink.close()

    def _fail(self, code: str, message: str, hint: str, exit_code: int) -> None:
        if self.is_json:
            fields = {"type": "error", "code": code, "message": message, "hint": hint, "exit_code": exit_code}
            self._write(self._streams.output, json_line(fields))
        else:
            self._write(self._streams.errors, f"stillframe: {message}", *([f"  {hint}"] if hint else []))

    def _make_sink(self) -> Sink:
        if self.is_json:
            return JsonLines(lambda line: self._write(self._streams.output, line))
        if self._streams.errors.isatty():
            return _LazyBar(self._streams.errors)
        return PlainLines(lambda line: self._write(self._streams.errors, line))

    @staticmethod
    def _write(stream: TextIO, *lines: str) -> None:
        stream.writelines(f"{printable(part)}\n" for line in lines for part in line.split("\n"))
        stream.flush()


class _Silence:
    """Draws nothing."""

    def emit(self, event: Event) -> None:
        """Forget the event."""

    def close(self) -> None:
        """Nothing is drawn."""


class _LazyBar:
    """The bar, loaded with the first event: most verbs draw none."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Sink | None = None

    def emit(self, event: Event) -> None:
        """Draw the event."""
        if self._bar is None:
            from stillframe.cli.bar import Bar  # noqa: PLC0415 - rich takes as long to load as some verbs to run

            self._bar = Bar(self._stream)
        self._bar.emit(event)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
