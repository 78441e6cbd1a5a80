"""Work behind a page: done to its end, whatever becomes of it.

Answers: "how did it end?" An error of ours is an outcome; so is a fault of ours, which leaves its traceback in a file.
"""

import tempfile
import traceback
from dataclasses import dataclass, field
from threading import Event

from stillframe.errors import Cancelled, StillframeError
from stillframe.rescue.pages.pages import Outcome, Work
from stillframe.rescue.verbs.calls import Doing, Progress


@dataclass(slots=True)
class Watch(Doing):
    """How far work is, for a screen that looks now and then; and whether it is to stop."""

    progress: Progress = field(default_factory=Progress)
    stop: Event = field(default_factory=Event)

    def show(self, progress: Progress) -> None:
        """Keep the newest."""
        self.progress = progress

    def check(self) -> None:
        """Raise when it is to stop."""
        if self.stop.is_set():
            raise Cancelled("stopped on request", hint="Nothing goes on in the background.")


def do_work(page: Work, doing: Doing) -> Outcome:
    """Do it."""
    try:
        return Outcome(value=page.do(doing))
    except StillframeError as error:
        return Outcome(error=error)
    except Exception as error:  # noqa: BLE001 - whatever else arises is a bug of ours, and the screens go on
        words = f"this is a bug in Stillframe: {type(error).__name__}: {error}"
        return Outcome(error=StillframeError(words, hint=f"Please report it with the file {_keep_traceback()}."))


def _keep_traceback() -> str:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="stillframe-bug-", suffix=".txt", delete=False) as file:
            file.write(traceback.format_exc())
            return file.name
    except OSError as error:
        return f"that could not be written ({error.strerror})"
