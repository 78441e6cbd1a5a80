"""A few threads and one bounded queue, stopped at the first error or when the person says so.

Answers: "do this to every item, in parallel, without filling memory."
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from stillframe.errors import Cancelled, DeviceError, StillframeError
from stillframe.hanging import STEP_S, Slot, leave_behind, noting

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)


GRACE_S: Final = 0.4
"""How long threads may go on with the piece that is at work once the run is to stop; then they are left behind."""
FAILED_GRACE_S: Final = 10.0
"""The same when one of them has failed: what they are writing is worth something, but the storage may hang."""


class CancelToken:
    """Set from a signal handler or another thread; asked between chunks."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def cancel(self) -> None:
        """Ask the run to stop."""
        self._set.set()

    @property
    def is_set(self) -> bool:
        """Whether the run was asked to stop."""
        return self._set.is_set()

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
    """Threads that each own a ``Worker``. Use as a context; items are put from inside it.

    Nobody waits for ever for a thread that hangs: it is left behind (``stillframe.hanging``) when the run is to stop,
    and when it makes a call that has taken longer than that may.
    """

    def __init__(
        self, make: Callable[[], Worker[Item]], *, count: int | None = None, waiting: int | None = None,
        cancel: CancelToken,
    ) -> None:  # fmt: skip
        """Start no thread yet.

        Args:
            make: Makes the worker of a thread.
            count: Of threads; as ``worker_count`` by default.
            waiting: How many items may wait to be dealt with; as many as two for each thread by default. More of them
                bridge the moments in which the next ones are looked for.
            cancel: Ends it.
        """
        self._make: Final = make
        self._cancel = cancel
        count = count or worker_count()
        self._queue: queue.Queue[Item | None] = queue.Queue(maxsize=waiting or count * 2)
        self._failed = threading.Event()
        self._errors: list[BaseException] = []
        self._slots = [Slot() for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(slot,), daemon=True) for slot in self._slots]
        self._looked = time.monotonic()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self._failed.set()
        for _thread in self._threads:
            self._offer(None)
        self._join()
        if error is None or isinstance(error, _Stopped):
            self._raise()
            self._cancel.check()

    def put(self, item: Item) -> None:
        """Hand one item over; waits while the queue is full.

        Raises:
            Cancelled: The person stopped the run.
        """
        self._cancel.check()
        if not self._offer(item):
            self._cancel.check()
            raise _Stopped

    def _offer(self, item: Item | None) -> bool:
        while not self._failed.is_set() and not self._cancel.is_set:
            self._look_for_hanging()
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=STEP_S)
                return True
        return False

    def _look_for_hanging(self) -> None:
        """Fail when a thread makes a call that takes too long."""
        now = time.monotonic()
        if now - self._looked < STEP_S:
            return
        self._looked = now
        calls = [call for slot in self._slots if (call := slot.call) is not None and call.is_overdue]
        if calls and not self._failed.is_set():
            self._errors.append(calls[0].failure())
            self._failed.set()

    def _join(self) -> None:
        """Wait for the threads, as long as that makes sense."""
        ending: float | None = None
        for thread in self._threads:
            while thread.is_alive():
                thread.join(STEP_S)
                self._look_for_hanging()
                now = time.monotonic()
                if ending is None and (self._cancel.is_set or self._failed.is_set()):
                    ending = now
                if ending is not None and now - ending > self._grace():
                    leave_behind(thread)
                    break

    def _grace(self) -> float:
        hangs = any(isinstance(error, DeviceError) for error in self._errors)
        return GRACE_S if hangs or self._cancel.is_set else FAILED_GRACE_S

    def _run(self, slot: Slot) -> None:
        with noting(slot):
            self._work_off()

    def _work_off(self) -> None:
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
            self._cancel.check()
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=2 * STEP_S)
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
