"""Opening a disk file or block device, and saying in people's words why it cannot be opened.

Answers: "is this a disk or a disk file, how large is it, and may it be opened?" Reading is in ``block.file``.
"""

import errno
import mmap
import os
import stat
from dataclasses import dataclass

from stillframe.block import syscalls
from stillframe.errors import DeviceError, MachineRefusal, StillframeError, TargetError, UsageError


@dataclass(slots=True, kw_only=True)
class OpenFile:
    """An open descriptor with what was found out about it.

    ``direct`` says that it bypasses the page cache; then offset, length and memory are multiples of ``alignment``.
    """

    descriptor: int
    path: str
    size: int
    sector_size: int
    alignment: int
    is_device: bool
    direct: bool


def open_raw(path: str, *, write: bool, direct: bool | None, exclusive: bool) -> OpenFile:
    """Open a regular file or block device; ``block.file.open_file_writer`` explains arguments and errors."""
    try:
        found = os.stat(path)
        is_device = stat.S_ISBLK(found.st_mode)
        if not is_device and not stat.S_ISREG(found.st_mode):
            raise UsageError(
                f"{path} is neither a disk nor a disk file",
                hint="Name a device such as /dev/sdb, or a file; `stillframe disks` lists the disks.",
            )
        # Past the cache a file is read in whole pages: the strictest that any file system asks for.
        wanted = is_device if direct is None else direct and (is_device or found.st_size % mmap.PAGESIZE == 0)
        descriptor, direct = _open_descriptor(path, write=write, direct=wanted, exclusive=exclusive and is_device)
    except OSError as error:
        raise _open_failure(error, path, write=write) from error
    try:
        return _examine(descriptor, path, found=found, direct=direct)
    except OSError as error:
        os.close(descriptor)
        raise _open_failure(error, path, write=write) from error
    except BaseException:
        os.close(descriptor)
        raise


def _open_descriptor(path: str, *, write: bool, direct: bool, exclusive: bool) -> tuple[int, bool]:
    """The descriptor, and whether it bypasses the page cache: some file systems cannot, and say ``EINVAL``."""
    try:
        return os.open(path, syscalls.open_flags(write=write, direct=direct, exclusive=exclusive)), direct
    except OSError as error:
        if not direct or error.errno != errno.EINVAL:
            raise
    return os.open(path, syscalls.open_flags(write=write, direct=False, exclusive=exclusive)), False


def _examine(descriptor: int, path: str, *, found: os.stat_result, direct: bool) -> OpenFile:
    opened = os.fstat(descriptor)
    if not os.path.samestat(opened, found):
        raise DeviceError(f"{path} was replaced by something else while it was opened", hint="Run it again.")
    is_device = stat.S_ISBLK(opened.st_mode)
    sector_size = syscalls.sector_sizes(descriptor)[0] if is_device else 512
    return OpenFile(
        descriptor=descriptor,
        path=path,
        size=syscalls.device_size(descriptor) if is_device else opened.st_size,
        sector_size=sector_size,
        alignment=sector_size if is_device else mmap.PAGESIZE,
        is_device=is_device,
        direct=direct,
    )


def _open_failure(error: OSError, path: str, *, write: bool) -> StillframeError:
    reason = error.strerror
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UsageError(f"there is no {path}", hint="`stillframe disks` lists the disks of this machine.")
    if error.errno == errno.EBUSY:
        return TargetError(
            f"{path} is in use: it, or a part of it, is mounted or belongs to an array, a volume group or another run",
            hint="Unmount it first; `lsblk` shows what uses it.",
        )
    if write and error.errno == errno.EROFS:
        return TargetError(f"{path} is write-protected", hint="Look for a switch on the card or stick.")
    if error.errno in (errno.EACCES, errno.EPERM):
        verb = "write" if write else "read"
        return MachineRefusal(f"{path}: this user may not {verb} it ({reason})", hint="Run it again with sudo.")
    return DeviceError(f"{path} cannot be opened: {reason}", hint="Is the disk plugged in, and a card in its reader?")
