"""A clock that goes only when a test says so.

Answers: "what does the code do after fourteen days, or after a night asleep?" without waiting for either.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

FIRST_MOMENT: Final = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)


class FakeClock:
    """A ``Clock`` that stands still between two calls of ``advance``.

    Args:
        moment: The first date and time.
    """

    def __init__(self, moment: datetime = FIRST_MOMENT) -> None:
        self._now = moment
        self._awake = 0.0
        self._boot = 0.0

    def now(self) -> datetime:
        """The date and time in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds awake."""
        return self._awake

    def boottime(self) -> float:
        """Seconds since boot, time asleep included."""
        return self._boot

    def advance(self, step: timedelta, *, asleep: bool = False) -> None:
        """Let time pass; ``asleep``: only the clocks that count sleep go on."""
        self._now += step
        self._boot += step.total_seconds()
        if not asleep:
            self._awake += step.total_seconds()

    def set_date(self, moment: datetime) -> None:
        """Set the date alone, as a person or a time server does."""
        self._now = moment

    def set_boottime(self, seconds: float) -> None:
        """Set the clock of this boot, as a virtual machine does that was stopped, or a system that does not count."""
        self._boot = seconds
