"""Control codes sent to an open device, with room for the answer, and failures in words.

Answers: "what does this device say of itself?" A device that does not know a question gives ``None`` where that is no
failure; everything else is an error that names the device.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stillframe.errors import DeviceError, MachineRefusal, StillframeError, UsageError
from stillframe.host.windows import answers, codes, structures
from stillframe.host.windows.calls import DeviceCalls, Win32Failure

FIRST_SIZE: Final = 4096
SIZE_MAX: Final = 1 << 20
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
