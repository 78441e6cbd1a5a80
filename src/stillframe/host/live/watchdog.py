"""A process of its own that thaws file systems when this one cannot.

Answers: "who thaws when the backup hangs or is killed?" It is a child made before anything is frozen, in a session of
its own, locked in memory, that holds the mount points open and a pipe. It thaws when a freeze lasts longer than the
limit, and when the pipe says that its parent is gone; then again every 100 ms until the kernel says that nothing is
frozen: a parent killed inside the freeze may complete it afterwards. Where systemd runs it lies in a scope of its own,
so that stopping the service of the backup does not take it along (``scope``).
"""

import contextlib
import errno
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final, NoReturn, Self

from stillframe.block.syscalls import refusal
from stillframe.errors import MachineRefusal
from stillframe.host.linux import stand_alone, thaw_filesystem
from stillframe.host.live.scope import move_into_scope

LIMIT_S: Final = 10.0
_STEP_S: Final = 0.1
_FAREWELL_S: Final = 5.0
"""Longest time that the parent waits for its watchdog to end. One that has something to thaw still stays behind."""
_STACK_SIZE: Final = 256 << 10
_ARM: Final = b"A"
_DISARM: Final = b"D"
_READY: Final = b"R"


class Watchdog:
    """The parent's end. Use as a context; make it while this process has one thread.

    Args:
        descriptors: Of the mount points it may have to thaw.
        limit_s: Longest time that they may be frozen.
    """

    def __init__(self, descriptors: Sequence[int], *, limit_s: float = LIMIT_S) -> None:
        self._descriptors = tuple(descriptors)
        self._limit_s = limit_s
        self._pipe = -1
        self.pid = -1

    def __enter__(self) -> Self:
        """Start it, and wait until it stands alone.

        Raises:
            MachineRefusal: It cannot.
        """
        if sys.platform == "win32":
            raise refusal("freezing a file system")
        reading, self._pipe = os.pipe()
        answer, answering = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _watch(reading, answering, self._descriptors, self._limit_s)
        os.close(reading)
        os.close(answering)
        with os.fdopen(answer, "rb") as file:
            is_ready = file.read(1) == _READY
        if not is_ready:
            self.__exit__()
            raise _gone()
        move_into_scope(self.pid)
        return self

    def __exit__(self, *_: object) -> None:
        if sys.platform == "win32":
            raise refusal("freezing a file system")
        os.close(self._pipe)
        deadline = time.monotonic() + _FAREWELL_S
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(_STEP_S / 50)

    def arm(self) -> None:
        """Begin to count: a freeze is about to begin.

        Raises:
            MachineRefusal: The watchdog is gone, so nothing may be frozen.
        """
        try:
            os.write(self._pipe, _ARM)
        except BrokenPipeError as error:
            raise _gone() from error

    def disarm(self) -> None:
        """Stop counting: everything was thawed."""
        with contextlib.suppress(BrokenPipeError):  # it is gone, and was not needed
            os.write(self._pipe, _DISARM)


def _gone() -> MachineRefusal:
    return MachineRefusal(
        "the process that thaws file systems in an emergency has ended, so nothing is frozen",
        hint="Something has killed it: look at 'dmesg'. Run the backup again.",
    )


def _watch(pipe: int, answering: int, descriptors: tuple[int, ...], limit_s: float) -> NoReturn:
    """The child."""
    code = 1
    try:
        threading.stack_size(_STACK_SIZE)
        thawers = [_Thawer(descriptor) for descriptor in reversed(descriptors)]
        _stand_alone(pipe, answering, descriptors)
        os.write(answering, _READY)
        os.close(answering)
        deadline: float | None = None
        while True:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([pipe], [], [], wait)
            word = os.read(pipe, 1) if ready else None
            if word == _ARM:
                deadline = time.monotonic() + limit_s
            elif word == _DISARM:
                deadline = None
            elif word == b"":  # the parent is gone; a freeze that is not ours is left alone
                if deadline is not None:
                    _thaw_for_good(thawers)
                break
            else:  # the time is up: thaw, and look again soon until the parent has noticed or is gone
                for thawer in thawers:
                    thawer.thaw_soon()
                deadline = time.monotonic() + _STEP_S
        code = 0
    finally:
        os._exit(code)


def _stand_alone(pipe: int, answering: int, descriptors: tuple[int, ...]) -> None:
    """Survive what ends the parent: signals to its group, memory that runs out, pages that must be read again."""
    if sys.platform == "win32":
        raise refusal("a process that outlives its parent")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    stand_alone()
    keep = sorted({pipe, answering, *descriptors})
    for low, high in zip([3, *(number + 1 for number in keep)], [*keep, 1 << 16], strict=True):
        os.closerange(low, high)


class _Thawer:
    """Thaws one file system, in a thread of its own: one whose medium hangs must not keep the others frozen."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._wanted = threading.Event()
        self.is_quiet = False
        """Whether the kernel has said since it was last asked that nothing is frozen."""
        threading.Thread(target=self._run, daemon=True).start()

    def thaw_soon(self) -> None:
        """Ask, without waiting for the answer."""
        self.is_quiet = False
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                thaw_filesystem(self._descriptor)
            except OSError as error:
                self.is_quiet = error.errno == errno.EINVAL


def _thaw_for_good(thawers: Sequence[_Thawer]) -> None:
    """Thaw until nothing is frozen, twice in a row: the parent is gone, so nobody freezes again."""
    quiet = 0
    while quiet < 2:
        for thawer in thawers:
            thawer.thaw_soon()
        time.sleep(_STEP_S)
        quiet = quiet + 1 if all(thawer.is_quiet for thawer in thawers) else 0
