"""What a server tells of itself: each failure once.

Answers: "did a client see an error, and which?" A client that tries again a thousand times is told of once.
"""

import threading
from typing import Final

from stillframe.events import EventSink, Finding, Notice

REPORTS_MAX: Final = 1000
"""So many different failures are told and kept."""


class Reports:
    """Failures and notices of a server, from any thread."""

    def __init__(self, events: EventSink) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._seen: dict[Finding | Notice, None] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What failed, each once, in order."""
        with self._lock:
            return tuple(seen for seen in self._seen if isinstance(seen, Finding))

    def finding(self, finding: Finding) -> None:
        """A request that failed."""
        if self._is_new(finding):
            self._events.emit(finding)

    def notice(self, notice: Notice) -> None:
        """Something about a client."""
        if self._is_new(notice):
            self._events.emit(notice)

    def _is_new(self, event: Finding | Notice) -> bool:
        with self._lock:
            if event in self._seen or len(self._seen) >= REPORTS_MAX:
                return False
            self._seen[event] = None
            return True
