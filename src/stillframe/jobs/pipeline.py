"""A few threads and one bounded queue, stopped at the first error or when the person says so.

Answers: "do this to every item, in parallel, without filling memory."
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from stillframe.errors import Cancelled, StillframeError

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)


class CancelToken:
    """Set from a signal handler or another thread; asked between chunks."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def cancel(self) -> None:
        """Ask the run to stop."""
        self._set.set()

    def wait(self) -> None:
        """Return when the run is asked to stop."""
        self._set.wait()

    def check(self) -> None:
        """Raise ``Cancelled`` when the run was asked to stop."""
        if self._set.is_set():
            raise Cancelled("stopped on request", hint="What was stored stays; run it again to go on.")


class Worker(Protocol[Item_contra]):
    """What one thread does."""

    def work(self, item: Item_contra) -> None:
        """Deal with one item."""
        ...

    def finish(self) -> None:
        """All items are dealt with and none failed."""
        ...

    def abandon(self) -> None:
        """Something failed somewhere: let go of what is unfinished. Must not raise."""
        ...


def worker_count() -> int:
    """One thread more than processors: one of them is always waiting for the disk."""
    affinity = getattr(os, "sched_getaffinity", None)
    return (len(affinity(0)) if affinity else os.cpu_count() or 1) + 1


class Workers(Generic[Item]):
    """Threads that each own a ``Worker``. Use as a context; items are put from inside it."""

    def __init__(self, make: Callable[[], Worker[Item]], *, count: int | None = None, cancel: CancelToken) -> None:
        self._make: Final = make
        self._cancel = cancel
        count = count or worker_count()
        self._queue: queue.Queue[Item | None] = queue.Queue(maxsize=count * 2)
        self._failed = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self._failed.set()
        for _thread in self._threads:
            self._offer(None)
        for thread in self._threads:
            thread.join()
        if error is None or (isinstance(error, _Stopped) and self._errors):
            self._raise()

    def put(self, item: Item) -> None:
        """Hand one item over; waits while the queue is full.

        Raises:
            Cancelled: The person stopped the run.
        """
        self._cancel.check()
        if not self._offer(item):
            raise _Stopped

    def _offer(self, item: Item | None) -> bool:
        while not self._failed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.5)
                return True
        return False

    def _run(self) -> None:
        worker: Worker[Item] | None = None
        try:
            worker = self._make()
            while (item := self._take()) is not None:
                self._cancel.check()
                worker.work(item)
            if not self._failed.is_set():
                worker.finish()
            else:
                worker.abandon()
        except BaseException as error:  # noqa: BLE001 - a thread's error is raised again where the run waits
            self._errors.append(error)
            self._failed.set()
            if worker is not None:
                worker.abandon()

    def _take(self) -> Item | None:
        while not self._failed.is_set():
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=0.5)
        return None

    def _raise(self) -> None:
        ours = [error for error in self._errors if isinstance(error, StillframeError)]
        others = [error for error in self._errors if not isinstance(error, StillframeError)]
        if others:
            raise others[0]
        if len(ours) > 1 and not any(isinstance(error, Cancelled) for error in ours):
            raise ours[0] from ExceptionGroup("more than one thread failed", ours)
        if ours:
            raise ours[0]


class _Stopped(Exception):
    """The queue was given up because a thread failed; never leaves this module."""
