"""The calls that only Linux has, behind plain functions, so that every other module reads the same on every system.

Answers nothing by itself. On another system a call is a ``MachineRefusal``, never a silent nothing.
"""

import ctypes
import errno
import os
import stat
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stillframe.block.syscalls import refusal

if sys.platform == "linux" or TYPE_CHECKING:
    import fcntl

FIFREEZE: Final = 0xC0045877  # Linux include/uapi/linux/fs.h: _IOWR('X', 119, int)
FITHAW: Final = 0xC0045878  # the same file: _IOWR('X', 120, int)
_MCL_CURRENT: Final = 1  # Linux include/uapi/asm-generic/mman.h
LOOP_GET_STATUS64: Final = 0x4C05  # Linux include/uapi/linux/loop.h
LOOP_STATUS_SIZE: Final = 232  # struct loop_info64, same file


@dataclass(frozen=True, slots=True)
class DeviceNumber:
    """What the kernel knows a block device by, whatever its name in ``/dev``; written ``8:1`` in sysfs."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


@dataclass(frozen=True, slots=True)
class FileKey:
    """What a regular file is known by, whatever its path: the file system's device number and the inode."""

    filesystem: DeviceNumber
    inode: int


Thing = DeviceNumber | FileKey
"""A block device or a regular file: something that holds a disk's bytes."""


def require_linux(what: str) -> None:
    """Refuse on any other system."""
    if sys.platform != "linux":
        raise refusal(what)


def parse_device_number(text: str) -> DeviceNumber | None:
    """Read ``8:1``; ``None`` for anything else."""
    major, colon, minor = text.strip().partition(":")
    return DeviceNumber(int(major), int(minor)) if colon and major.isdecimal() and minor.isdecimal() else None


def split_device_number(number: int) -> DeviceNumber:
    """Take ``st_dev`` or ``st_rdev`` apart."""
    if sys.platform != "linux":
        raise refusal("device numbers")
    return DeviceNumber(os.major(number), os.minor(number))


def thing_at(path: str) -> Thing | None:
    """What lies at a path; ``None`` when it is nothing, or neither a block device nor a regular file."""
    if sys.platform != "linux":
        raise refusal("looking for disks")
    try:
        found = os.stat(path)
    except OSError:
        return None
    if stat.S_ISBLK(found.st_mode):
        return split_device_number(found.st_rdev)
    return FileKey(split_device_number(found.st_dev), found.st_ino) if stat.S_ISREG(found.st_mode) else None


def filesystem_number(path: str) -> DeviceNumber:
    """The device number that the file system of an existing path gives its files."""
    return split_device_number(os.stat(path).st_dev)


def loop_backing(device: str) -> Thing | None:
    """What a loop device rests on, asked of the kernel; ``None`` when it is no loop device or cannot be asked.

    The path in sysfs is not enough: the file may have been renamed, deleted, or lie in another mount namespace.
    Source: Linux include/uapi/linux/loop.h, struct loop_info64.
    """
    if sys.platform != "linux":
        raise refusal("loop devices")
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = fcntl.ioctl(descriptor, LOOP_GET_STATUS64, bytes(LOOP_STATUS_SIZE))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    filesystem, inode, device_number = struct.unpack_from("=QQQ", status)
    if device_number not in (0, filesystem):  # kernels before 4.x repeat the file system's number here for a file
        return split_device_number(device_number)
    return FileKey(split_device_number(filesystem), inode)


def is_claimed(device: str) -> bool:
    """Whether the kernel says that something holds a block device exclusively.

    This finds what no list shows: a mount in another namespace, ZFS, bcache, an external journal. Devices that may
    not be opened count as not claimed: opening them for the work itself will say so.
    """
    if sys.platform != "linux":
        raise refusal("asking who uses a disk")
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def hold_exclusively(device: str) -> int | None:
    """Claim a block device, so that nobody mounts it: an open descriptor; ``None`` when somebody has it already.

    What may not be opened is not claimed either. Source: Linux block/bdev.c, bd_prepare_to_claim: a claim of a disk
    keeps its partitions from being claimed, and the other way round; a mount claims.
    """
    if sys.platform != "linux":
        raise refusal("claiming a disk")
    try:
        return os.open(device, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def lock_whole(path: str, *, patience_s: float) -> int | None:
    """Take the exclusive lock on a whole disk or a file; the open descriptor that holds it, ``None`` if another has it.

    The lock is what keeps udev and systemd-repart away too. udev holds it for moments while it looks at a disk, so we
    are patient. Source: https://systemd.io/BLOCK_DEVICE_LOCKING/
    """
    if sys.platform != "linux":
        raise refusal("locking a disk")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.05)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return descriptor


def open_for_reading(path: str, *, waits: bool = True) -> int:
    """Open anything for reading; ``waits`` false makes a read that finds nothing a ``BlockingIOError``."""
    if sys.platform != "linux":
        raise refusal("reading what the kernel shows")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if waits else os.O_NONBLOCK))


def memory_file(name: str) -> int:
    """An open descriptor of a new file that lies in memory, whatever becomes of the disks. Source: memfd_create(2)."""
    if sys.platform != "linux":
        raise refusal("a file in memory")
    return os.memfd_create(name)


def sync_filesystem(descriptor: int) -> None:
    """Write out what one file system holds back. Source: syncfs(2).

    Raises:
        OSError: Something could not be written.
    """
    if sys.platform != "linux":
        raise refusal("writing out one file system")
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def freeze_filesystem(descriptor: int) -> None:
    """Stop all writes to a file system, after everything is written. Source: Linux fs/super.c, freeze_super.

    Raises:
        OSError: ``EBUSY`` when it is frozen already, ``EOPNOTSUPP`` when it cannot be.
    """
    if sys.platform != "linux":
        raise refusal("freezing a file system")
    fcntl.ioctl(descriptor, FIFREEZE, 0)


def thaw_filesystem(descriptor: int) -> None:
    """Let writes go on. Source: Linux fs/super.c, thaw_super.

    Raises:
        OSError: ``EINVAL`` when it is not frozen.
    """
    if sys.platform != "linux":
        raise refusal("thawing a file system")
    fcntl.ioctl(descriptor, FITHAW, 0)


def lock_memory(*, locked: bool) -> None:
    """Keep every page this process has now in memory, or let them go again; as far as that is allowed.

    Source: mlockall(2).
    """
    if sys.platform != "linux":
        raise refusal("locking memory")
    libc = ctypes.CDLL(None)
    if locked:
        libc.mlockall(_MCL_CURRENT)
    else:
        libc.munlockall()


def is_root() -> bool:
    """Whether this user may do everything here."""
    return sys.platform == "linux" and os.geteuid() == 0


def stand_alone() -> None:
    """Leave the session of whoever started this process, and keep all its pages in memory, as far as that is allowed.

    Source: setsid(2), mlockall(2), proc_pid_oom_score_adj(5).
    """
    if sys.platform != "linux":
        raise refusal("a process that outlives its parent")
    os.setsid()
    ctypes.CDLL(None).mlockall(_MCL_CURRENT)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000")
    except OSError:  # not allowed: the rest protects as well as it can
        pass
