"""The progress bar of a terminal: how much, how fast, how long still.

Answers: "shall I wait or have a coffee?" It is drawn on standard error; words between two drawings stand above it.
"""

import threading
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from stillframe.cli.progress import Pace, event_words, printable
from stillframe.events import BytesMoved, Event, JobFinished, JobStarted, PhaseStarted

_STEP_S = 0.1


class Bar:
    """An ``EventSink`` that draws. It appears with the first job and is gone after ``close``."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)
        self._columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
        self._progress: Progress | None = None
        self._pace = Pace()
        self._last = 0.0
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Draw one event."""
        with self._lock:
            if isinstance(event, BytesMoved):
                self._pace.move(event.size)
                if time.monotonic() - self._last >= _STEP_S:
                    self._draw()
                return
            if isinstance(event, JobStarted | PhaseStarted):
                name = f"{event.verb} {event.what}" if isinstance(event, JobStarted) else event.name
                self._begin(name, event.bytes_total)
            else:
                for line in event_words(event):
                    self._console.print(printable(line))
            if isinstance(event, JobFinished):
                self._stop()

    def close(self) -> None:
        """Take the bar away."""
        with self._lock:
            self._stop()

    def _begin(self, name: str, total: int) -> None:
        self._stop()
        self._pace.begin(total)
        words = TextColumn("{task.fields[words]}", markup=False)
        self._progress = Progress(*self._columns, words, console=self._console, transient=True)
        self._progress.add_task(printable(name), total=total or None, words="")
        self._progress.start()

    def _draw(self) -> None:
        self._last = time.monotonic()
        if self._progress is not None:
            task = self._progress.task_ids[0]
            done = min(self._pace.done, self._pace.total) if self._pace.total else self._pace.done
            self._progress.update(task, completed=done, words=self._pace.words)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
