"""Events of a running job as lines: JSON for programs, plain words where there is no terminal.

Answers: "how far is it?" The bar of a terminal is in ``bar``, which is loaded only when it is drawn. A sink here is
called from worker threads.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from stillframe.events import BytesMoved, Event, Finding, JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.units import format_duration, format_rate, format_size

JSON_STEP_S: Final = 0.25
PLAIN_STEP_S: Final = 10.0

_TYPES: Final[Mapping[type, str]] = {
    JobStarted: "job_started",
    PhaseStarted: "phase_started",
    BytesMoved: "bytes_moved",
    Notice: "notice",
    Finding: "finding",
    JobFinished: "job_finished",
}

Write = Callable[[str], None]
"""Writes one line."""


class Sink(Protocol):
    """An ``EventSink`` that draws, and can be told that nothing more comes."""

    def emit(self, event: Event) -> None:
        """Draw one event."""
        ...

    def close(self) -> None:
        """Draw what is held back, and take away what should not stay."""
        ...


class Pace:
    """How far a job or a phase is, and how fast. Not for several threads by itself."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.begin(0)

    def begin(self, total: int) -> None:
        """Count from nothing up to ``total`` bytes; 0 when that is not known."""
        self.total, self.done, self._began = total, 0, self._now()

    def move(self, size: int) -> None:
        """Count more bytes."""
        self.done += size

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._now() - self._began

    @property
    def words(self) -> str:
        """How far, how fast, how long still."""
        rate = format_rate(self.done, self.seconds)
        if not self.total:
            return f"{format_size(self.done)}, {rate}"
        done = min(self.done, self.total)
        left = self.seconds * (self.total - done) / done if done else 0.0
        ending = f", {format_duration(left)} left" if 0 < done < self.total else ""
        return f"{100 * done // self.total} %  {format_size(done)} of {format_size(self.total)}, {rate}{ending}"


class JsonLines:
    """Every event as a JSON line; the many ``BytesMoved`` added up, a few times a second."""

    def __init__(self, write: Write, *, now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._pace = Pace(now)
        self._held = 0
        self._last = 0.0
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Write one event."""
        with self._lock:
            if isinstance(event, BytesMoved):
                self._pace.move(event.size)
                self._held += event.size
                if self._now() - self._last >= JSON_STEP_S:
                    self._flush()
                return
            self._flush()
            if isinstance(event, JobStarted | PhaseStarted):
                self._pace.begin(event.bytes_total)
            self._write(json_line(event_fields(event)))

    def close(self) -> None:
        """Write what is held back."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            fields = {"type": "bytes_moved", "size": self._held, "done": self._pace.done, "total": self._pace.total}
            self._write(json_line(fields))
        self._held, self._last = 0, self._now()


class PlainLines:
    """Events in words, a line of progress every few seconds."""

    def __init__(self, write: Write, *, now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._pace = Pace(now)
        self._last = now()
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Write one event, or count it."""
        with self._lock:
            if isinstance(event, BytesMoved):
                self._pace.move(event.size)
                if self._now() - self._last >= PLAIN_STEP_S:
                    self._last = self._now()
                    self._write(self._pace.words)
                return
            if isinstance(event, JobStarted | PhaseStarted):
                self._pace.begin(event.bytes_total)
                self._last = self._now()
            for line in event_words(event):
                self._write(line)

    def close(self) -> None:
        """Nothing is held back."""


def event_fields(event: Event) -> dict[str, Any]:
    """An event as programs read it."""
    names = type(event).__slots__
    return {"type": _TYPES[type(event)], **{name: getattr(event, name) for name in names}}


def event_words(event: Event) -> list[str]:
    """An event as people read it; none for ``BytesMoved``."""
    match event:
        case JobStarted():
            total = f", {format_size(event.bytes_total)}" if event.bytes_total else ""
            return [f"{event.verb}: {event.what}{total}"]
        case PhaseStarted():
            return [f"{event.name} ..."]
        case Notice():
            return ["Note: " + event.message, *([f"      {event.hint}"] if event.hint else [])]
        case Finding():
            return ["FOUND: " + event.message, *([f"       {event.hint}"] if event.hint else [])]
        case JobFinished():
            return [f"{event.verb}: done in {format_duration(event.seconds)}"]
        case _:
            return []


def json_line(fields: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(fields, separators=(",", ":"))


def printable(text: str) -> str:
    """The text with every control character shown as its code."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
