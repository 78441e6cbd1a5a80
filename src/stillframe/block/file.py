"""Disk files and block devices.

Answers: "how are the bytes of a raw disk file or of a device read and written, and what does a failure mean?" A source
is opened read-only. Devices are read and written past the page cache (O_DIRECT): a disk is larger than the cache, and
what is read back must come from the disk. It does not ask whether a target may be written: ``host.target`` does.
"""

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Self

import numpy as np

from stillframe.block import syscalls
from stillframe.block.base import Buffer, ExtentKind, KnownExtent, ReadFault, check_range, read_filled
from stillframe.block.opening import OpenFile, open_raw
from stillframe.errors import DeviceError, StillframeError, TargetError
from stillframe.extents import Extent
from stillframe.hanging import Underway, is_any_left, reach, read_limit
from stillframe.units import GIB, MIB, align_down, align_up

BOUNCE_SIZE: Final = MIB
ZERO_STEP: Final = GIB  # one BLKZEROOUT may not be interrupted: never ask for a whole disk at once

_RANGES_AT_ONCE: Final = 256
"""Ranges of data that are looked for in one call that may hang: handing each over to a thread takes longer."""
_WRITEBACK_STEP: Final = 16 << 20
"""The system would begin to write a file to its disk when gigabytes wait, and a flush at the end wait for all of it."""

EREMOTEIO: Final = 121  # Linux include/uapi/asm-generic/errno.h; other systems lack the name

# What the kernel answers when sectors, not the whole device, failed. Past the page cache a bad sector is ENODATA
# and a failed integrity check EILSEQ. Source: Linux block/blk-core.c, table blk_errors.
_SECTOR_ERRORS: Final = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, EREMOTEIO, errno.ETIMEDOUT})
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WRITE_PROTECTED: Final = frozenset({errno.EROFS, errno.EPERM, errno.EACCES})


def aligned_buffer(size: int) -> memoryview:
    """A zeroed buffer that starts on a page, so that a device reads straight into it and nothing is copied."""
    return memoryview(mmap.mmap(-1, max(size, 1)))[:size]


def open_file_reader(path: str, *, direct: bool | None = None) -> "FileReader":
    """Open a disk file or a block device for reading only.

    Args:
        path: A regular file or a block device.
        direct: Read past the page cache; ``None`` does so for devices.

    Raises:
        UsageError: There is nothing there, or it is neither file nor device.
        MachineRefusal: It may not be opened by this user.
        DeviceError: It cannot be opened.
    """
    opening = partial(open_raw, path, write=False, direct=direct, exclusive=False)
    return FileReader(reach(opening, Underway("opening", path, limit_s=read_limit())))


def open_file_writer(path: str, *, direct: bool | None = None, exclusive: bool = False) -> "FileWriter":
    """Open an existing disk file or block device for writing; arguments and errors as ``open_file_reader``.

    Args:
        path: A regular file or a block device.
        direct: Write past the page cache; ``None`` does so for devices.
        exclusive: For a device, fail with ``TargetError`` when something has mounted or claimed it, and keep
            others from doing so until it is closed. Without effect on files.

    Raises:
        TargetError: It is in use, or write-protected.
    """
    opening = partial(open_raw, path, write=True, direct=direct, exclusive=exclusive)
    return FileWriter(reach(opening, Underway("opening", path, limit_s=read_limit())))


class FileReader:
    """A ``BlockReader`` of a disk file or device. Positional reads only, so any number of threads may share it."""

    def __init__(self, opened: OpenFile) -> None:
        self._opened = opened
        self._local = threading.local()
        self._limit_s = read_limit()
        self._companions: list[int] = []

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._opened.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector; 512 for files."""
        return self._opened.sector_size

    @property
    def path(self) -> str:
        """Where it was opened."""
        return self._opened.path

    @property
    def descriptor(self) -> int:
        """The open file descriptor; -1 when closed."""
        return self._opened.descriptor

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        return read_filled(self, offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; without a copy when it came from ``aligned_buffer`` and the range is whole sectors."""
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        asked = Extent(offset, offset + len(view))
        if not self._opened.direct:
            self._fill(offset, view, asked)
            return
        done = 0
        while done < len(view):
            done += self._read_direct(offset + done, view[done:], asked)

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Holes of a file as ``HOLE``; a device is all ``DATA``."""
        check_range(self.size, within.start, within.size)
        if self._opened.is_device:
            if within.size:
                yield KnownExtent(within, ExtentKind.DATA)
            return
        position = within.start
        while position < within.end:
            look = partial(syscalls.data_ranges, self.descriptor, position, within.end, most=_RANGES_AT_ONCE)
            found, looked = reach(look, self._call("looking for holes", position))
            for start, stop in found:
                if position < start:
                    yield KnownExtent(Extent(position, start), ExtentKind.HOLE)
                yield KnownExtent(Extent(start, stop), ExtentKind.DATA)
                position = stop
            if position < looked:
                yield KnownExtent(Extent(position, looked), ExtentKind.HOLE)
            position = looked

    def close_with(self, descriptor: int) -> None:
        """Close one more descriptor together with this one: a lock that is to last as long."""
        self._companions.append(descriptor)

    def close(self) -> None:
        """Close it; twice is once.

        While a call that was left behind may still use it, it stays open until the process ends: its number could be
        given to another file.
        """
        if is_any_left():
            return
        descriptors = [self._opened.descriptor, *self._companions]
        self._opened.descriptor = -1
        self._companions.clear()
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_direct(self, offset: int, view: memoryview, asked: Extent) -> int:
        """Read some of ``view``, at least one byte, in whole sectors; the number of bytes read."""
        step = self._opened.alignment
        if offset % step == 0 and len(view) >= step and _is_aligned(view):
            length = align_down(len(view), step)
            self._fill(offset, view[:length], asked)
            return length
        bounce, start = self._bounce(), align_down(offset, step)
        end = min(align_up(offset + len(view), step), start + len(bounce))
        self._fill(start, bounce[: end - start], asked)
        length = min(end - offset, len(view))
        view[:length] = bounce[offset - start : offset - start + length]
        return length

    def _fill(self, offset: int, view: memoryview, asked: Extent) -> None:
        done = 0
        while done < len(view):
            here = Extent(offset + done, offset + len(view)).clipped(asked) or asked
            try:
                read = partial(syscalls.read_some, self.descriptor, view[done:], offset + done)
                count = self._reach(read, "reading", offset + done)
            except OSError as error:
                raise self._read_failure(error, here) from error
            if count == 0:
                raise DeviceError(  # no fault of sectors, which would be zeros in an image: it is another disk now
                    f"{self.path} ended at byte {offset + done}, but had {self.size} bytes when it was opened",
                    hint="It became smaller, or was unplugged. Look at the cable, then run `stillframe disks`.",
                )
            done += count

    def _read_failure(self, error: OSError, extent: Extent) -> DeviceError:
        if error.errno in _SECTOR_ERRORS:
            return ReadFault(
                f"{self.path}: bytes {extent.start} to {extent.end} could not be read: {error.strerror}",
                extent=extent,
                hint="The disk is failing: make an image of it now, then replace it.",
            )
        return DeviceError(
            f"{self.path}: reading at byte {extent.start} failed: {error.strerror}",
            hint="Look at the cable, and whether the device is still there: `stillframe disks`.",
        )

    def _call(self, verb: str, place: int) -> Underway:
        return Underway(verb, self.path, place, None if verb == "writing" else self._limit_s)

    def _reach(self, work: Callable[[], int], verb: str, place: int) -> int:
        """Make a call that may hang. Memory that one left behind may still be filling is never used again."""
        try:
            return reach(work, self._call(verb, place))
        except OSError:
            raise
        except BaseException:
            self._local = threading.local()
            raise

    def _bounce(self) -> memoryview:
        """This thread's own aligned buffer."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = aligned_buffer(BOUNCE_SIZE)
        return buffer


class FileWriter(FileReader):
    """A ``BlockWriter`` of a disk file or device. It never changes the size."""

    def __init__(self, opened: OpenFile) -> None:
        super().__init__(opened)
        self._edge = threading.Lock()  # two writes that do not overlap may still share a sector
        self._unhinted = 0  # of several threads: a count that is a little wrong does no harm

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data``.

        Raises:
            TargetError: There is no room for it, or it is write-protected.
            DeviceError: The device failed.
        """
        view = memoryview(data).cast("B")
        check_range(self.size, offset, len(view))
        if not self._opened.direct:
            self._put(offset, view)
            return
        done = 0
        while done < len(view):
            done += self._write_direct(offset + done, view[done:])

    def zero(self, extent: Extent) -> None:
        """Make a range read as zeros, quickly where the file system or device can; never by a mere discard."""
        check_range(self.size, extent.start, extent.size)
        step = self._opened.alignment if self._opened.is_device else 1
        inner = Extent(align_up(extent.start, step), max(align_down(extent.end, step), align_up(extent.start, step)))
        if inner.end > extent.end or not self._zero_quickly(inner):
            self._write_zeros(extent)
            return
        self._write_zeros(Extent(extent.start, inner.start))
        self._write_zeros(Extent(inner.end, extent.end))

    def flush(self) -> None:
        """Return when what was written would survive a power cut."""
        try:
            reach(partial(os.fsync, self.descriptor), Underway("writing out", self.path))
        except OSError as error:
            raise self._write_failure(error, Extent(0, self.size)) from error

    def reread_partitions(self) -> bool:
        """Let the system know the partitions of a whole disk that was written; whether it took them over."""
        try:
            syscalls.reread_partitions(self.descriptor)
        except OSError:
            return False
        return True

    def _zero_quickly(self, extent: Extent) -> bool:
        """Zero whole sectors without sending zeros; ``False`` when that is not possible here."""
        zero_range = syscalls.zero_device_range if self._opened.is_device else syscalls.punch_hole
        for start in range(extent.start, extent.end, ZERO_STEP):
            piece = Extent(start, min(start + ZERO_STEP, extent.end))
            try:
                reach(partial(zero_range, self.descriptor, piece), Underway("clearing", self.path, piece.start))
            except OSError as error:
                if error.errno in syscalls.NOT_SUPPORTED:
                    return False
                raise self._write_failure(error, piece) from error
        return True

    def _write_zeros(self, extent: Extent) -> None:
        zeros = aligned_buffer(min(extent.size, BOUNCE_SIZE))
        for start in range(extent.start, extent.end, BOUNCE_SIZE):
            self.write_at(start, zeros[: min(BOUNCE_SIZE, extent.end - start)])

    def _write_direct(self, offset: int, view: memoryview) -> int:
        """Write some of ``view``, at least one byte, in whole sectors; the number of bytes written."""
        step = self._opened.alignment
        if offset % step or len(view) < step:
            return self._write_edge(offset, view)
        length = align_down(len(view), step)
        if _is_aligned(view):
            self._put(offset, view[:length])
            return length
        bounce = self._bounce()
        length = min(length, len(bounce))
        bounce[:length] = view[:length]
        self._put(offset, bounce[:length])
        return length

    def _write_edge(self, offset: int, view: memoryview) -> int:
        """Write into one sector and keep the rest of it as it is."""
        step = self._opened.alignment
        start = align_down(offset, step)
        length = min(start + step - offset, len(view))
        sector = self._bounce()[:step]
        with self._edge:
            self._fill(start, sector, Extent(start, start + step))
            sector[offset - start : offset - start + length] = view[:length]
            self._put(start, sector)
        return length

    def _put(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                write = partial(syscalls.write_some, self.descriptor, view[done:], offset + done)
                count = self._reach(write, "writing", offset + done)
            except OSError as error:
                raise self._write_failure(error, Extent(offset + done, offset + len(view))) from error
            if count == 0:
                raise DeviceError(f"{self.path}: nothing was written at byte {offset + done}", hint="Try another disk.")
            done += count
        if not self._opened.direct:
            self._unhinted += len(view)
            if self._unhinted >= _WRITEBACK_STEP:
                self._unhinted = 0
                reach(partial(syscalls.start_writeback, self.descriptor), self._call("writing", offset))

    def _write_failure(self, error: OSError, extent: Extent) -> StillframeError:
        where = f"{self.path}: writing at byte {extent.start}"
        if error.errno in _NO_ROOM:
            return TargetError(
                f"{where}: no room left for it there ({error.strerror})",
                hint="Make room, or choose another place. A disk file on FAT32 cannot be larger than 4 GiB.",
            )
        if error.errno in _WRITE_PROTECTED:
            return TargetError(
                f"{where}: it is write-protected ({error.strerror})",
                hint="Look for a switch on the card or stick; `blockdev --setrw` lifts a software protection.",
            )
        return DeviceError(f"{where} failed: {error.strerror}", hint="Look at the cable, then try another disk.")


def _is_aligned(view: memoryview) -> bool:
    return np.frombuffer(view, np.uint8).ctypes.data % mmap.PAGESIZE == 0
