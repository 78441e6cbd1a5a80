"""A program that keeps a file system busy: ``python busy_writer.py FOLDER LEDGER SEED``.

It creates, syncs, rewrites, renames, truncates, allocates, punches, clears, deletes and maps files, and discards what
is free, until it is killed. Files named
``kept-*`` are written once and synced; after that the ledger, which lies elsewhere, gets a line with the name and the
SHA-256: whoever reads a line knows that the file must be in every later state of the file system.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import struct
import sys
from typing import Final

assert sys.platform != "win32"  # the calls are those of Linux

_ROOM: Final = 100 << 20
_KEEP_SIZE: Final = 0x01  # Linux include/uapi/linux/falloc.h
_PUNCH_HOLE: Final = 0x02
_ZERO_RANGE: Final = 0x10
_FITRIM: Final = 0xC0185879  # Linux include/uapi/linux/fs.h: _IOWR('X', 121, struct fstrim_range)


def keep_file(folder: str, ledger: int, number: int, chance: random.Random) -> None:
    """Write a file for good."""
    data = chance.randbytes(chance.choice((100, 4096, 70_000, 900_000)))
    path = f"{folder}/kept-{number}"
    with open(f"{path}.new", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    os.write(ledger, f"{os.path.basename(path)} {hashlib.sha256(data).hexdigest()}\n".encode())


def stir(folder: str, chance: random.Random) -> None:
    """Do something to a file that nobody will look for."""
    path = f"{folder}/stir-{chance.randrange(40)}"
    match chance.randrange(10):
        case 0:
            os.unlink(path)
        case 1:
            os.truncate(path, chance.randrange(500_000))
        case 2:
            os.rename(path, f"{folder}/stir-{chance.randrange(40)}")
        case 3:
            with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
                at = chance.randrange(len(mapped))
                mapped[at : at + 1] = b"x"
        case 4:
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), chance.randrange(100_000), 50_000)
        case 5:
            allocate(path, _PUNCH_HOLE | _KEEP_SIZE, chance)
        case 6:
            allocate(path, _ZERO_RANGE, chance)
        case _:
            with open(path, "ab" if chance.randrange(2) else "wb") as longer:
                longer.write(chance.randbytes(chance.randrange(1, 300_000)))
                if chance.randrange(3) == 0:
                    longer.flush()
                    os.fsync(longer.fileno())


def allocate(path: str, mode: int, chance: random.Random) -> None:
    """fallocate(2) of a part of a file that exists."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as file:
        start, size = ctypes.c_int64(chance.randrange(100_000)), ctypes.c_int64(chance.randrange(1, 100_000))
        if libc.fallocate(file.fileno(), mode, start, size):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)


def discard_free(folder: str, chance: random.Random) -> None:
    """Have the file system discard what is free in a part of it, as ``fstrim`` does. Nothing on a disk that cannot."""
    start = chance.randrange(300) << 20
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _FITRIM, struct.pack("=QQQ", start, 32 << 20, 0))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    finally:
        os.close(descriptor)


def has_room(folder: str) -> bool:
    """Whether files may be added."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_bsize > _ROOM


def main() -> None:
    """Write until killed. When the room is used up files are only changed and deleted."""
    folder, ledger_path, seed = sys.argv[1:4]
    chance = random.Random(int(seed))  # noqa: S311 a repeatable test, not a secret
    ledger = os.open(ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while True:
        for _ in range(chance.randrange(1, 12)):
            with contextlib.suppress(FileNotFoundError, ValueError):
                stir(folder, chance)
        if chance.randrange(20) == 0:
            discard_free(folder, chance)
        if has_room(folder):
            keep_file(folder, ledger, number, chance)
            number += 1
        else:
            for _ in range(10):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{folder}/stir-{chance.randrange(40)}")


if __name__ == "__main__":
    main()
