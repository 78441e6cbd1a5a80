"""Calls that may never come back: a read of a dead disk, a write to a share whose server is gone.

Answers: "who waits for such a call, so that the program can still be stopped?" Nothing interrupts a thread in such a
call, and while the main thread is in one, Ctrl-C is not even noticed. So the main thread lets a helper make the call
and waits for that, which can be interrupted at any time. Threads of a pipeline make theirs themselves and note it: who
waits for the thread sees for how long. A call that is given up is *left behind*: it may go on, so what it uses must
stay as it is.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from stillframe.errors import DeviceError, StillframeError

if TYPE_CHECKING:  # it takes long to load, and '--help' must be there at once
    from concurrent.futures import Future, ThreadPoolExecutor

READ_LIMIT_S: Final = 300.0
"""How long one read of a disk may take. A disk that tries a bad sector again and again takes up to some minutes."""
STEP_S: Final = 0.05
TIDY_S: Final = 0.2
"""How long a call may take once the run is to stop: what is tidied up then must not wait for a storage that hangs."""
HANGS_S: Final = 0.4
"""A call that lasts longer when the run is to stop is one that hangs."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Underway:
    """A call that is being made: what it does, to what, where in it, since when, and for how long it may."""

    verb: str
    thing: str
    place: int | None = None
    limit_s: float | None = None
    began: float = 0.0

    @property
    def is_overdue(self) -> bool:
        """Whether it has taken longer than it may."""
        return self.limit_s is not None and time.monotonic() - self.began > self.limit_s

    def failure(self) -> DeviceError:
        """That it is given up."""
        where = "" if self.place is None else f" at byte {self.place}"
        return DeviceError(
            f"{self.thing}: {self.verb}{where} has not come back for {self.limit_s:g} seconds: it is given up",
            hint="Look at the cable and at 'dmesg', then run it again. '--read-timeout SECONDS' waits longer.",
        )


class _Here(threading.local):
    """What a thread knows of itself."""

    helper: "_Caller | None" = None
    slot: "Slot | None" = None
    check: Callable[[], None] | None = None
    is_child = False


class Slot:
    """Where a thread of a pipeline notes the call that it is making."""

    def __init__(self) -> None:
        self.call: Underway | None = None


class _Limits:
    """What a person asked for, for this process."""

    read_s: float = READ_LIMIT_S


_here: Final = _Here()
_limits: Final = _Limits()
_left: Final[set[threading.Thread]] = set()
_serving: Final[dict[int, float]] = {}


def read_limit() -> float:
    """How long a read of a disk may take, in seconds."""
    return _limits.read_s


@contextmanager
def reads_limited(seconds: float) -> Iterator[None]:
    """Let a read of a disk take so long, for what is opened while the block runs."""
    before, _limits.read_s = _limits.read_s, seconds
    try:
        yield
    finally:
        _limits.read_s = before


@contextmanager
def heeding(check: Callable[[], None]) -> Iterator[None]:
    """While this thread waits for a call, ask ``check`` again and again: what it raises ends the waiting."""
    before, _here.check = _here.check, check
    try:
        yield
    finally:
        _here.check = before


@contextmanager
def noting(slot: Slot) -> Iterator[None]:
    """This thread makes its calls itself, notes them, and may be left behind by whoever waits for it."""
    before, _here.slot = _here.slot, slot
    try:
        yield
    finally:
        _here.slot = before


def leave_behind(thread: threading.Thread) -> None:
    """Nobody waits for this thread any more."""
    _left.add(thread)


def is_any_left() -> bool:
    """Whether a call that was left behind may still be going on."""
    _left.difference_update([thread for thread in _left if not thread.is_alive()])
    return bool(_left)


def check() -> None:
    """Raise what ends this thread's work, if it is to stop."""
    if _here.check is not None:
        _here.check()


def is_stopping() -> bool:
    """Whether this thread is to stop."""
    try:
        check()
    except StillframeError:
        return True
    return False


def patience(seconds: float) -> float:
    """How long to wait for something: less when this thread is to stop."""
    return min(seconds, HANGS_S) if is_stopping() else seconds


@contextmanager
def pool(count: int) -> "Iterator[ThreadPoolExecutor]":
    """Threads that are not waited for when the run is to stop: what they do may hang."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - see above

    threads = ThreadPoolExecutor(count)
    try:
        yield threads
    finally:
        threads.shutdown(wait=not is_stopping(), cancel_futures=True)


def join(thread: threading.Thread) -> None:
    """Wait for a thread that serves somebody; when this one is to stop, no longer than its calls come back."""
    while thread.is_alive():
        thread.join(STEP_S)
        if is_stopping() and serving_since() > HANGS_S:
            leave_behind(thread)
            return


def reach(work: Callable[[], Answer], call: Underway) -> Answer:
    """Make a call that may hang.

    Args:
        work: The call.
        call: What it is.

    Raises:
        DeviceError: It took longer than it may, and was left behind.
        BaseException: What the call raised; or what ends this thread's work, with the call left behind.
    """
    here = _here
    if here.slot is not None:
        here.slot.call = Underway(call.verb, call.thing, call.place, call.limit_s, time.monotonic())
        try:
            return work()
        finally:
            here.slot.call = None
    if here.is_child:
        return work()
    if here.check is None and threading.current_thread() is not threading.main_thread():
        return _served(work)
    helper = here.helper
    if helper is None:
        helper = here.helper = _Caller()
    try:
        return cast("Answer", helper.make(work, call))
    except _LeftBehind as left:
        here.helper = None
        raise left.reason from None


def _served(work: Callable[[], Answer]) -> Answer:
    """A call for somebody outside: a thread of a server makes it, and nobody waits for that thread."""
    me = threading.get_ident()
    nested = me in _serving
    _serving.setdefault(me, time.monotonic())
    try:
        return work()
    finally:
        if not nested:
            del _serving[me]


def serving_since() -> float:
    """How long the oldest call lasts that is being made for somebody outside, in seconds; 0 without any."""
    return max((time.monotonic() - began for began in list(_serving.values())), default=0.0)


def is_ended_from_outside() -> None:
    """Say that this process is a child that somebody ends when it takes too long: it makes its calls itself."""
    _here.is_child = True


def prepare() -> None:
    """Have this thread's helper there already: no thread may be started where no memory may have to be found."""
    here = _here
    if here.slot is None and not here.is_child and here.helper is None:
        here.helper = _Caller()


def result(future: "Future[Answer]", call: Underway) -> Answer:
    """The result of a call that a pool of threads makes; errors as ``reach``."""
    began = time.monotonic()
    while True:
        try:
            return future.result(STEP_S)
        except TimeoutError:
            if future.done():
                raise
        check()
        if call.limit_s is not None and time.monotonic() - began > call.limit_s:
            raise call.failure()


class _LeftBehind(BaseException):
    """The helper was left behind, for a reason. Never leaves this module."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


class _Caller:
    """A thread that makes the calls of another one."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[object, bool, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name="calls that may hang")
        self._thread.start()

    def make(self, work: Callable[[], object], call: Underway) -> object:
        try:
            self._asked.put(work)
            good, answer = self._await(work, call)
        except BaseException as reason:  # noqa: BLE001 - the caller gets it
            leave_behind(self._thread)
            self._asked.put(None)  # its end, should the call come back
            raise _LeftBehind(reason) from None
        if good:
            return answer
        raise answer

    def end(self) -> None:
        """End the thread, which waits for nothing."""
        self._asked.put(None)
        self._thread.join()

    def _await(self, work: Callable[[], object], call: Underway) -> tuple[bool, Any]:
        began = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                asked, good, answer = self._answers.get(timeout=STEP_S)
                if asked is work:  # an interruption may have come between a call and its answer
                    return good, answer
            waited = time.monotonic() - began
            if waited > TIDY_S:
                check()
            if call.limit_s is not None and waited > call.limit_s:
                raise call.failure()

    def _run(self) -> None:
        while (work := self._asked.get()) is not None:
            try:
                answer: tuple[object, bool, Any] = work, True, work()
            except BaseException as error:  # noqa: BLE001 - it is raised again where the call was asked for
                answer = work, False, error
            self._answers.put(answer)
            del work, answer


def _before_fork() -> None:
    """A process is best copied while it has one thread."""
    helper, _here.helper = _here.helper, None
    if helper is not None:
        helper.end()


def _after_fork() -> None:
    """In a child the helpers are gone."""
    _here.helper, _here.slot, _here.check = None, None, None
    _left.clear()
    _serving.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
