"""What time it is, injected so that tests decide.

Answers: "what is the date", "how long did it take", "how long has this boot lasted, sleep included".
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time. ``boottime`` goes on while the machine sleeps: a writer fences itself by it."""

    def now(self) -> datetime:
        """The date and time in UTC, with a time zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        ...

    def boottime(self) -> float:
        """Seconds since boot, time asleep included."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """The date and time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        return time.monotonic()

    def boottime(self) -> float:
        """Seconds since boot, time asleep included, where the system can tell; else monotonic seconds."""
        clock, read = getattr(time, "CLOCK_BOOTTIME", None), getattr(time, "clock_gettime", None)
        return float(read(clock)) if clock is not None and read is not None else time.monotonic()


def rfc3339(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC with seconds, such as ``2026-03-01T08:30:00Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
