"""What happens while a job runs, as records. The library never prints: front doors draw these.

Answers: "what is going on?" A sink must be quick and must not raise; it is called from worker threads.
"""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted:
    """A verb began. ``bytes_total`` is what ``BytesMoved`` counts up to; 0 when it is not known."""

    verb: str
    what: str
    bytes_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted:
    """The job entered another part of its work, in words a person reads."""

    name: str
    bytes_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesMoved:
    """``size`` more bytes were dealt with since the last such event."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the person should know; nothing failed. ``code`` is stable, ``hint`` is the next step."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something is wrong with what was examined: what, where, and what to do next."""

    code: str
    message: str
    hint: str = ""
    thing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """A verb ended well."""

    verb: str
    seconds: float


Event = JobStarted | PhaseStarted | BytesMoved | Notice | Finding | JobFinished


class EventSink(Protocol):
    """Where events go. Must not raise, must not block for long, may be called from any thread."""

    def emit(self, event: Event) -> None:
        """Take one event."""
        ...


class NoEvents:
    """A sink that forgets everything."""

    def emit(self, event: Event) -> None:
        """Forget the event."""


@dataclass(slots=True)
class RecordedEvents:
    """A sink that keeps everything, for callers that look afterwards."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)
