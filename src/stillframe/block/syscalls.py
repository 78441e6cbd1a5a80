"""The few system calls that raw disks need and Python's ``os`` spells differently, or not at all.

Answers: "how does this system read at an offset into a buffer, find holes, and make a range zero?" It does not decide
anything: errors are plain ``OSError``. On a system where a call is not possible yet it is a ``MachineRefusal``.
"""

import ctypes
import errno
import os
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent

if sys.platform == "linux" or TYPE_CHECKING:
    import fcntl

# Linux include/uapi/linux/fs.h, for machines with asm-generic/ioctl.h (x86, Arm, RISC-V, s390): _IO() adds nothing.
BLKSSZGET: Final = 0x1268  # logical sector size, as int
BLKPBSZGET: Final = 0x127B  # physical sector size, as int
BLKZEROOUT: Final = 0x127F  # takes uint64[2]: start and length in bytes
BLKRRPART: Final = 0x125F  # read the partition table again

# Linux include/uapi/linux/falloc.h
FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02

_SYNC_FILE_RANGE_WRITE: Final = 2  # Linux include/uapi/linux/fs.h

NOT_SUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL})
"""Answers of a system or device that cannot do a call at all."""


def open_flags(*, write: bool, direct: bool, exclusive: bool) -> int:
    """Flags for ``os.open``. ``exclusive`` is for devices only: nobody may mount or claim it meanwhile."""
    if sys.platform != "linux":
        raise refusal("reading disks as raw bytes")
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
    return flags | (os.O_DIRECT if direct else 0) | (os.O_EXCL if exclusive else 0)


def read_some(descriptor: int, view: memoryview, offset: int) -> int:
    """Read at most ``len(view)`` bytes at an offset into ``view``; the number of bytes read, 0 at the end."""
    if sys.platform != "linux":
        raise refusal("reading disks as raw bytes")
    return os.preadv(descriptor, [view], offset)


def write_some(descriptor: int, view: memoryview, offset: int) -> int:
    """Write at most ``len(view)`` bytes at an offset; the number of bytes written."""
    if sys.platform != "linux":
        raise refusal("writing disks as raw bytes")
    return os.pwritev(descriptor, [view], offset)


def sector_sizes(descriptor: int) -> tuple[int, int]:
    """Logical and physical sector size of a block device, in bytes."""
    if sys.platform != "linux":
        raise refusal("asking a disk for its sector size")
    logical, physical = (
        struct.unpack("=i", fcntl.ioctl(descriptor, request, bytes(4)))[0] for request in (BLKSSZGET, BLKPBSZGET)
    )
    return logical, physical


def device_size(descriptor: int) -> int:
    """Size of an open block device, in bytes."""
    return os.lseek(descriptor, 0, os.SEEK_END)


def zero_device_range(descriptor: int, extent: Extent) -> None:
    """Make a range of a block device read as zeros; both ends on sector boundaries."""
    if sys.platform != "linux":
        raise refusal("writing disks as raw bytes")
    fcntl.ioctl(descriptor, BLKZEROOUT, struct.pack("=QQ", extent.start, extent.size))


def punch_hole(descriptor: int, extent: Extent) -> None:
    """Make a range of a file read as zeros and give its room back. Source: fallocate(2)."""
    if sys.platform != "linux":
        raise refusal("holes in files")
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or libc.fallocate  # musl has 64-bit offsets in the plain name
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    while call(descriptor, mode, extent.start, extent.size):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def start_writeback(descriptor: int) -> None:
    """Have the system begin to write a file's bytes to its disk, without waiting for it; a hint, nothing more.

    Source: sync_file_range(2), SYNC_FILE_RANGE_WRITE.
    """
    if sys.platform == "linux":
        call = getattr(_libc(), "sync_file_range", None)
        if call is not None:
            call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
            call(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def next_data(descriptor: int, offset: int, end: int) -> tuple[int, int]:
    """The next range of a file that holds data, ``[start, stop)`` inside ``[offset, end)``.

    ``start == end`` means that only holes follow. A file system that knows no holes answers that everything is data.
    Source: lseek(2), SEEK_DATA and SEEK_HOLE.
    """
    if sys.platform != "linux":
        return offset, end
    try:
        start = os.lseek(descriptor, offset, os.SEEK_DATA)
        stop = os.lseek(descriptor, start, os.SEEK_HOLE)
    except OSError as error:
        # Past the end of a file that became shorter there is no hole, only an error for whoever reads there.
        is_hole = error.errno == errno.ENXIO and os.fstat(descriptor).st_size >= end
        return (end, end) if is_hole else (offset, end)
    if start >= end:
        return end, end
    return max(start, offset), max(min(stop, end), start + 1)


def data_ranges(descriptor: int, offset: int, end: int, *, most: int) -> tuple[list[tuple[int, int]], int]:
    """Ranges of a file that hold data inside ``[offset, end)``, no more than ``most``, and up to where was looked."""
    found: list[tuple[int, int]] = []
    while offset < end and len(found) < most:
        start, offset = next_data(descriptor, offset, end)
        if start < offset:
            found.append((start, offset))
    return found, offset


def reread_partitions(descriptor: int) -> None:
    """Ask the system to read the partition table of a whole disk again."""
    if sys.platform != "linux":
        raise refusal("telling the system of new partitions")
    fcntl.ioctl(descriptor, BLKRRPART)


def refusal(what: str) -> MachineRefusal:
    """The error for something that this system cannot do yet."""
    return MachineRefusal(
        f"{what} is not possible on this system yet",
        hint="Use Linux, for example the rescue system: it works on the disks of any computer.",
    )


def lock_file(descriptor: int) -> bool:
    """Lock a file for as long as it is open; ``False`` when another program has it locked. Raises ``OSError``."""
    if sys.platform != "linux":
        raise refusal("keeping changes in a file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def forget_pages(descriptor: int) -> bool:
    """Ask the system to drop what it holds of a file in memory; what is not written stays.

    Returns:
        Whether this system can be asked.

    Raises:
        OSError: Of a file for which it cannot.
    """
    advise = getattr(os, "posix_fadvise", None)
    if advise is not None:
        advise(descriptor, 0, 0, getattr(os, "POSIX_FADV_DONTNEED", 4))
    return advise is not None
