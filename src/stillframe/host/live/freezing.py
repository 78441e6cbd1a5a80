"""Freezing and thawing mounted file systems.

Answers: "let nothing be written to these file systems for a moment, and tell me whether that held." A freeze is never
made without a watchdog that would end it (``watchdog``).

Source: Linux fs/super.c (freeze_super, thaw_super); Documentation/admin-guide/sysrq.rst.
"""

import errno
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal, ThawedEarly
from stillframe.host.linux import freeze_filesystem, lock_memory, open_for_reading, sync_filesystem, thaw_filesystem
from stillframe.host.live.watchdog import Watchdog

_SETTLED_S: Final = 0.1
_ROUNDS_MAX: Final = 30
_SETTLING_S: Final = 15.0
_HINT: Final = "SysRq-j ('echo j > /proc/sysrq-trigger') thaws everything, as the last resort."


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedFilesystem:
    """One mounted file system, by a descriptor of its mount point.

    Attributes:
        where: The mount point, for messages.
        descriptor: An open descriptor of it; it stays open while anything is planned with it.
    """

    where: str
    descriptor: int


def open_mounted(where: str) -> MountedFilesystem:
    """Open a mount point.

    Raises:
        MachineRefusal: It cannot be opened.
    """
    try:
        descriptor = open_for_reading(where)
    except OSError as error:
        raise MachineRefusal(f"{where} cannot be opened: {error.strerror}", hint="Is it still mounted?") from error
    return MountedFilesystem(where=where, descriptor=descriptor)


def settle(filesystems: Sequence[MountedFilesystem]) -> None:
    """Write out again and again until that is quick: the freeze itself then has little left to write.

    A disk that is kept busy for longer than 15 seconds is not going to be quicker: it is frozen as it is.

    Raises:
        MachineRefusal: Something could not be written.
    """
    for filesystem in filesystems:
        enough = time.monotonic() + _SETTLING_S
        for _ in range(_ROUNDS_MAX):
            began = time.monotonic()
            try:
                sync_filesystem(filesystem.descriptor)
            except OSError as error:
                raise MachineRefusal(
                    f"{filesystem.where} could not be written out: {error.strerror}", hint="Look at 'dmesg'."
                ) from error
            now = time.monotonic()
            if now - began < _SETTLED_S or now > enough:
                break


@dataclass(slots=True)
class Stillness:
    """How long file systems were frozen: from entering the first freeze to the end of the last thaw."""

    seconds: float = 0.0


@contextmanager
def frozen(filesystems: Sequence[MountedFilesystem], watchdog: Watchdog) -> Iterator[Stillness]:
    """Freeze file systems in this order, and thaw them in the opposite one.

    Nothing in the block may write to them, load a module, or log. What is read in it counts only when the block ends
    without ``ThawedEarly``.

    Raises:
        MachineRefusal: One of them cannot be frozen; none is then.
        ThawedEarly: One of them did not stay frozen.
    """
    stillness, frozen_now = Stillness(), list[MountedFilesystem]()
    with _pages_locked():
        began = time.monotonic()
        watchdog.arm()
        thawed_early: list[MountedFilesystem] = []
        try:
            for filesystem in filesystems:
                # Noted before: an interruption may come between the freeze and the next line.
                frozen_now.append(filesystem)
                _freeze(filesystem, frozen_now)
            yield stillness
        finally:
            thawed_early = _thaw_all(frozen_now)
            watchdog.disarm()
            stillness.seconds = time.monotonic() - began
    for filesystem in thawed_early:
        raise ThawedEarly(
            f"{filesystem.where} was thawed by somebody else while it was read: the image is discarded",
            hint="The limit of the watchdog may have been too short for this disk, or another program thawed it. "
            "Run the backup again.",
        )


@contextmanager
def _pages_locked() -> Iterator[None]:
    """Keep the pages of this program in memory: they may lie on what is frozen."""
    lock_memory(locked=True)
    try:
        yield
    finally:
        lock_memory(locked=False)


def _freeze(filesystem: MountedFilesystem, frozen_now: list[MountedFilesystem]) -> None:
    """Freeze the last of a list; what cannot be frozen is taken off it."""
    try:
        freeze_filesystem(filesystem.descriptor)
    except OSError as error:
        frozen_now.pop()
        if error.errno == errno.EBUSY:
            raise MachineRefusal(
                f"{filesystem.where} is frozen already, by another program", hint=f"Wait until it has ended. {_HINT}"
            ) from error
        raise MachineRefusal(
            f"{filesystem.where} cannot be frozen: {error.strerror}",
            hint="Unmount it, or back up from the rescue medium.",
        ) from error


def _thaw_all(filesystems: Sequence[MountedFilesystem]) -> list[MountedFilesystem]:
    """Thaw in the opposite order; those that were not frozen any more.

    Raises:
        MachineRefusal: One could not be thawed; the others are, and the watchdog goes on with it.
    """
    thawed_early, failure = [], None
    for filesystem in reversed(filesystems):
        try:
            thaw_filesystem(filesystem.descriptor)
        except OSError as error:
            if error.errno == errno.EINVAL:
                thawed_early.append(filesystem)
                continue
            failure = MachineRefusal(f"{filesystem.where} could not be thawed: {error.strerror}", hint=_HINT)
    if failure is not None:
        raise failure
    return thawed_early
