r"""Reading a shadow, a partition or a disk of Windows as raw bytes.

Answers: "how are the bytes behind a handle read, and what does a failure mean?" Reads go past Windows' file cache
(FILE_FLAG_NO_BUFFERING), so offset, length and the address of the buffer are whole sectors; any other range goes
through a buffer of our own.

The last sector of an NTFS partition is outside the file system and holds a copy of the boot sector. A volume may refuse
to show it, even after FSCTL_ALLOW_EXTENDED_DASD_IO. Then, and only when that one sector is all that lies outside, the
copy is made from sector 0 and a notice says so.

Source: learn.microsoft.com, "File Buffering", CreateFileW, FSCTL_ALLOW_EXTENDED_DASD_IO.
"""

import mmap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np

from stillframe.block.base import Buffer, ExtentKind, KnownExtent, ReadFault, check_range, read_filled
from stillframe.block.file import aligned_buffer
from stillframe.errors import DeviceError
from stillframe.events import Notice
from stillframe.extents import Extent
from stillframe.host.windows import codes
from stillframe.host.windows.asking import ask_length, device_failure, open_failure
from stillframe.host.windows.calls import DeviceCalls, Win32Failure
from stillframe.units import MIB, align_down, align_up

READ_SIZE: Final = 4 * MIB
BOUNCE_SIZE: Final = MIB


@dataclass(slots=True, kw_only=True)
class OpenHandle:
    """What a reader stands on.

    Attributes:
        handle: The open handle; 0 when closed.
        path: What it was opened as.
        size: Bytes.
        sector_size: Logical sector, bytes.
        last_sector: What is shown instead of the last sector, which cannot be read; empty when it can.
        notices: What a person should know.
    """

    handle: int
    path: str
    size: int
    sector_size: int
    last_sector: bytes = b""
    notices: tuple[Notice, ...] = ()


def open_handle_reader(calls: DeviceCalls, path: str, *, sector_size: int) -> "HandleReader":
    r"""Open a shadow, a partition or a whole disk for reading.

    Args:
        calls: Windows.
        path: Without a backslash at its end, such as ``\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1``.
        sector_size: Logical sector of the disk below, bytes; ``volumes.DiskSeen`` has it.

    Raises:
        ValueError: The path ends with a backslash: that would be a folder. A bug of the caller.
        UsageError: There is no such device.
        MachineRefusal: It may not be opened by this user.
        DeviceError: It cannot be opened, or does not say its size.
    """
    if path.endswith("\\"):
        raise ValueError(f"{path} is a folder: the device has no backslash at its end")
    try:
        handle = calls.open_handle(path, unbuffered=True)
    except Win32Failure as failure:
        raise open_failure(path, failure) from failure
    try:
        size = _whole_sectors(ask_length(calls, handle, path), sector_size, path)
        _allow_whole_volume(calls, handle)
        opened = OpenHandle(handle=handle, path=path, size=size, sector_size=sector_size)
        return HandleReader(calls, _with_last_sector(opened, HandleReader(calls, opened)))
    except BaseException:
        calls.close_handle(handle)
        raise


class HandleReader:
    """A ``BlockReader`` over a handle of Windows. Reads carry their own offset, so threads may share it."""

    def __init__(self, calls: DeviceCalls, opened: OpenHandle) -> None:
        self._calls = calls
        self._opened = opened
        self._local = threading.local()

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._opened.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector."""
        return self._opened.sector_size

    @property
    def path(self) -> str:
        """What it was opened as."""
        return self._opened.path

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What a person should know of what is read here."""
        return self._opened.notices

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        return read_filled(self, offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; without a copy when it came from ``aligned_buffer`` and the range is whole sectors."""
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        asked = Extent(offset, offset + len(view))
        readable = self.size - len(self._opened.last_sector)
        inside = max(min(asked.end, readable) - offset, 0)
        done = 0
        while done < inside:
            done += self._read_some(offset + done, view[done:inside], asked)
        if inside < len(view):
            first = max(offset - readable, 0)
            view[inside:] = self._opened.last_sector[first : first + len(view) - inside]

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Everything is data: a device does not say more."""
        check_range(self.size, within.start, within.size)
        if within.size:
            yield KnownExtent(within, ExtentKind.DATA)

    def close(self) -> None:
        """Close it; twice is once."""
        handle, self._opened.handle = self._opened.handle, 0
        if handle:
            self._calls.close_handle(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_some(self, offset: int, view: memoryview, asked: Extent) -> int:
        """Read some of ``view``, at least one byte, in whole sectors; the number of bytes read."""
        step = self.sector_size
        if offset % step == 0 and len(view) >= step and _is_aligned(view):
            length = min(align_down(len(view), step), READ_SIZE)
            self._fill(offset, view[:length], asked)
            return length
        bounce, start = self._bounce(), align_down(offset, step)
        end = min(align_up(offset + len(view), step), start + len(bounce))
        self._fill(start, bounce[: end - start], asked)
        length = min(end - offset, len(view))
        view[:length] = bounce[offset - start : offset - start + length]
        return length

    def _fill(self, offset: int, view: memoryview, asked: Extent) -> None:
        """Fill an aligned view; Windows may give fewer bytes than were asked for."""
        done = 0
        while done < len(view):
            here = Extent(offset + done, offset + len(view)).clipped(asked) or asked
            try:
                count = self._calls.read(self._opened.handle, offset + done, view[done:])
            except Win32Failure as failure:
                raise self._read_failure(failure, here) from failure
            count = align_down(count, self.sector_size)
            if count == 0:
                raise ReadFault(
                    f"{self.path} gave nothing at byte {offset + done}, but has {self.size} bytes",
                    extent=here,
                    hint="Windows keeps this range to itself, or the disk was unplugged.",
                )
            done += count

    def _read_failure(self, failure: Win32Failure, extent: Extent) -> DeviceError:
        refused = failure.code in (codes.ERROR_HANDLE_EOF, codes.ERROR_INVALID_PARAMETER)
        if failure.code in codes.SECTOR_ERRORS or refused:
            return ReadFault(
                f"{self.path}: bytes {extent.start} to {extent.end} could not be read (Windows error {failure.code})",
                extent=extent,
                hint="Windows keeps this range to itself." if refused else "Make an image now, then replace the disk.",
            )
        if failure.code in codes.GONE:
            return DeviceError(
                f"{self.path} went away while it was read (Windows error {failure.code})",
                hint="A shadow goes when its room is full: free some room on the volume. Or the disk was unplugged.",
            )
        return device_failure(self.path, f"reading at byte {extent.start}", failure)

    def _bounce(self) -> memoryview:
        """This thread's own aligned buffer."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = aligned_buffer(BOUNCE_SIZE)
        return buffer


def ntfs_size(boot: bytes) -> int | None:
    """Bytes that NTFS counts as its own, from its boot sector; ``None`` when it is none.

    Source: learn.microsoft.com "NTFS boot sector" (bytes per sector at 0x0B, total sectors at 0x28, both little-endian;
    the total leaves out the last sector of the partition).
    """
    if len(boot) < 512 or boot[3:11] != b"NTFS    " or boot[510:512] != b"\x55\xaa":
        return None
    return int.from_bytes(boot[0x28:0x30], "little") * int.from_bytes(boot[0x0B:0x0D], "little")


def _allow_whole_volume(calls: DeviceCalls, handle: int) -> None:
    """Ask NTFS for what lies outside the file system too. Disks and other file systems refuse, and lose nothing."""
    try:
        calls.device_io_control(handle, codes.FSCTL_ALLOW_EXTENDED_DASD_IO, b"", 0)
    except Win32Failure:
        return


def _with_last_sector(opened: OpenHandle, reader: HandleReader) -> OpenHandle:
    """Find out whether the last sector of an NTFS partition can be read, and stand in for it when it cannot."""
    step = opened.sector_size
    if opened.size < 2 * step:
        return opened
    try:
        boot = reader.read_at(0, step)
    except ReadFault:
        return opened  # a disk with a bad first sector is a disk too; whoever reads there hears of it
    if ntfs_size(boot) != opened.size - step:
        return opened
    try:
        reader.read_at(opened.size - step, step)
    except DeviceError as error:
        notice = Notice(
            code="last-sector-copied",
            message=f"the last sector of {opened.path} could not be read; a copy of the first is kept in its place, "
            f"as NTFS has it there ({error.message})",
        )
        return replace(opened, last_sector=boot, notices=(notice,))
    return opened


def _whole_sectors(size: int, sector_size: int, path: str) -> int:
    if size % sector_size:
        raise DeviceError(
            f"{path} has {size} bytes, which is no whole number of sectors of {sector_size} bytes",
            hint="The sector size of its disk may have been told wrongly: look with `stillframe disks`.",
        )
    return size


def _is_aligned(view: memoryview) -> bool:
    return np.frombuffer(view, np.uint8).ctypes.data % mmap.PAGESIZE == 0
