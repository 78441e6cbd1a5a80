"""Control codes sent to an open device, with room for the answer, and failures in words.

Answers: "what does this device say of itself?" A device that does not know a question gives ``None`` where that is no
failure; everything else is an error that names the device.
"""

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stillframe.errors import DeviceError, DiskFormatError, MachineRefusal, StillframeError, UsageError
from stillframe.extents import ExtentSet
from stillframe.host.windows import answers, codes, structures
from stillframe.host.windows.calls import DeviceCalls, Win32Failure

FIRST_SIZE: Final = 4096
SIZE_MAX: Final = 1 << 20
BITMAP_SIZE: Final = 16 + (1 << 20)
_MORE: Final = (codes.ERROR_MORE_DATA, codes.ERROR_INSUFFICIENT_BUFFER)


@contextmanager
def opened(calls: DeviceCalls, path: str, *, unbuffered: bool = False) -> Iterator[int]:
    """A handle for the time of a ``with``.

    Raises:
        UsageError: There is no such device.
        MachineRefusal: This user may not open it, or another program keeps it to itself.
        DeviceError: It cannot be opened.
    """
    try:
        handle = calls.open_handle(path, unbuffered=unbuffered)
    except Win32Failure as failure:
        raise open_failure(path, failure) from failure
    try:
        yield handle
    finally:
        calls.close_handle(handle)


def ask(calls: DeviceCalls, handle: int, code: int, *, given: bytes = b"") -> bytes:
    """Send a control code whose answer can be of any length: the room is doubled until it fits.

    Raises:
        Win32Failure: The device refused, or more than 1 MiB would come back.

    Source: learn.microsoft.com, IOCTL_DISK_GET_DRIVE_LAYOUT_EX (ERROR_INSUFFICIENT_BUFFER) and
    IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS (ERROR_MORE_DATA).
    """
    size = FIRST_SIZE
    while True:
        try:
            return calls.device_io_control(handle, code, given, size)
        except Win32Failure as failure:
            if failure.code not in _MORE or size >= SIZE_MAX:
                raise
        size *= 2


def ask_length(calls: DeviceCalls, handle: int, path: str) -> int:
    """Bytes of a disk, partition, volume or shadow.

    Raises:
        DeviceError: It does not say.
    """
    size = ctypes.sizeof(structures.LengthStructure)
    try:
        return answers.parse_length(calls.device_io_control(handle, codes.IOCTL_DISK_GET_LENGTH_INFO, b"", size))
    except Win32Failure as failure:
        raise device_failure(path, "saying its size", failure) from failure


def ask_ntfs(calls: DeviceCalls, handle: int) -> answers.NtfsVolume | None:
    """What NTFS says of the volume; ``None`` when it says nothing, which every other file system does."""
    size = ctypes.sizeof(structures.NtfsVolumeStructure)
    try:
        answer = calls.device_io_control(handle, codes.FSCTL_GET_NTFS_VOLUME_DATA, b"", size)
    except Win32Failure:
        return None
    return answers.parse_ntfs_volume(answer)


def ask_used(calls: DeviceCalls, path: str) -> ExtentSet | None:
    """The bytes of the clusters that NTFS calls used, of a volume or shadow; ``None`` when it does not say.

    Raises:
        StillframeError: It cannot be opened.
        DiskFormatError: The pieces of the answer do not fit each other.
    """
    with opened(calls, path) as handle:
        volume = ask_ntfs(calls, handle)
        if volume is None:
            return None
        found, position = ExtentSet.empty(), 0
        while position < volume.cluster_count:
            piece = _ask_bitmap(calls, handle, position)
            if piece is None:
                return None
            count = min(len(piece.bits) * 8, piece.cluster_count)
            end = piece.first_cluster + count
            whole = piece.first_cluster + piece.cluster_count
            if piece.first_cluster > position or end <= position or whole != volume.cluster_count:
                raise DiskFormatError(
                    f"{path}: the map that Windows gave ends at cluster {whole}, the volume at {volume.cluster_count}",
                    hint="Run it again; the Linux rescue system saves the volume too.",
                )
            base = piece.first_cluster * volume.cluster_size
            found |= ExtentSet.from_bitmap(piece.bits, count=count, unit=volume.cluster_size, base=base)
            position = end
    return found


def _ask_bitmap(calls: DeviceCalls, handle: int, cluster: int) -> answers.VolumeBitmap | None:
    """A piece of the map; ``None`` when the file system does not give it. Source: FSCTL_GET_VOLUME_BITMAP."""
    given = struct.pack("<q", cluster)
    try:
        answer = calls.device_io_control(handle, codes.FSCTL_GET_VOLUME_BITMAP, given, BITMAP_SIZE)
    except Win32Failure as failure:
        if failure.code != codes.ERROR_MORE_DATA:
            return None
        answer = failure.answer
    return answers.parse_volume_bitmap(answer)


def open_failure(path: str, failure: Win32Failure) -> StillframeError:
    """The error for a device that could not be opened."""
    if failure.code in codes.NOT_THERE:
        return UsageError(f"there is no {path}", hint="`stillframe disks` lists the disks of this machine.")
    if failure.code == codes.ERROR_ACCESS_DENIED:
        return MachineRefusal(
            f"{path} may not be opened by this user", hint="Run it as Administrator: disks are not open to others."
        )
    if failure.code == codes.ERROR_SHARING_VIOLATION:
        return MachineRefusal(
            f"another program keeps {path} to itself", hint="Close other backup and disk programs, then run it again."
        )
    return device_failure(path, "opening it", failure)


def device_failure(path: str, what: str, failure: Win32Failure) -> DeviceError:
    """The error for a device that failed."""
    return DeviceError(
        f"{path}: {what} failed with Windows error {failure.code}",
        hint="Is the disk still connected? `net helpmsg NUMBER` says what Windows means by the number.",
    )
