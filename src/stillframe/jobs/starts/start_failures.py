"""Whether a restored system could be made ready to start, when it had to be.

Answers: "did this restore finish, and something of it not work out?" What was copied is whole all the same.
"""

from typing import Final

from stillframe.events import Event, EventSink, Notice

NOT_REPAIRED: Final = "linux-not-repaired"
"""The code of the notice that a Linux may not start."""
NOT_ADAPTED: Final = "not-adapted"
"""The code of the notice that no Windows was made ready for another computer, because nothing could be changed here."""
WINDOWS_NOT_ADAPTED: Final = "windows-not-adapted"
"""Likewise, of one Windows."""
_FAILURES: Final = frozenset({NOT_REPAIRED, NOT_ADAPTED, WINDOWS_NOT_ADAPTED})


class StartFailures:
    """Passes events on; ``found`` when one of them says that a system may not start.

    Args:
        inner: Where they go.
    """

    def __init__(self, inner: EventSink) -> None:
        self._inner = inner
        self.found = False

    def emit(self, event: Event) -> None:
        """Pass an event on."""
        self.found |= isinstance(event, Notice) and event.code in _FAILURES
        self._inner.emit(event)
