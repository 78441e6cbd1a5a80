"""Whether a virtual machine has a disk file open for writing.

Answers: "may this file change while I read it?", as far as can be told: QEMU leaves locks of the kernel on its files,
VMware a folder beside them. What leaves no trace is not seen; a file that changed is noticed afterwards by its stamp.

Sources: QEMU block/file-posix.c (RAW_LOCK_PERM_BASE 100: a byte for each permission, locked while it is held) and
include/block/block-common.h (BLK_PERM_WRITE is bit 1, BLK_PERM_RESIZE bit 3); VMware KB 1003857, ``NAME.lck``.
"""

import os
import struct
import sys
from typing import TYPE_CHECKING, Final

if sys.platform == "linux" or TYPE_CHECKING:
    import fcntl

_WRITE_BYTES: Final = (100 + 1, 100 + 3)
_FLOCK: Final = "hhqqi4x"  # struct flock on Linux with 64-bit off_t: type, whence, start, length, process


def find_writer(path: str) -> str | None:
    """Who has a disk file open for writing, in words; ``None`` when nobody is seen."""
    folder = f"{path}.lck"
    try:
        if os.path.isdir(folder) and os.listdir(folder):
            return f"VMware (it left its lock in {folder}; delete that if no virtual machine runs)"
    except OSError:
        return f"VMware (its lock in {folder} cannot be read)"
    return "a virtual machine or another program of QEMU, which has it open for writing" if _is_locked(path) else None


def _is_locked(path: str) -> bool:
    """Whether a process holds one of QEMU's locks for writing; asking takes no lock."""
    if sys.platform != "linux":
        return False  # elsewhere a file that is open for writing cannot be opened at all
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        for byte in _WRITE_BYTES:
            wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted)
            if struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK:
                return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
