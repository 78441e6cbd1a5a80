"""A slow disk that finishes requests in another order than they came in: a file served by FUSE, for a loop device.

Answers: "what if a write takes long, overtakes another, or rests in the disk's own cache when it is called done?" It is
a process of its own: ``python -m stillframe.testing.slow_medium BACKING FOLDER``; the file is ``FOLDER/disk``. Every
write waits for a while before it lands, and again before it is called done. What was called done may rest in memory
for a while, page by page, in no order; a read sees it at once, and a flush (fsync) puts all of it down.
"""

import argparse
import contextlib
import ctypes
import errno
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

assert sys.platform != "win32"  # FUSE is not there

PAGE_SIZE: Final = 4096
FILE_NAME: Final = "disk"
_STEP_S: Final = 0.003
_PUNCH_HOLE_KEEP_SIZE: Final = 0x02 | 0x01  # Linux include/uapi/linux/falloc.h
_START_S: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slow a medium is.

    Attributes:
        delay_s: Longest time that a write or a flush takes.
        held_s: Longest time that a write rests in memory after it was called done; 0 for never.
        seed: Of the times that are drawn.
    """

    delay_s: float = 0.01
    held_s: float = 0.1
    seed: int = 1


class HeldPages:
    """A file whose writes may rest in memory for a while; reads see them. Safe for many threads.

    Args:
        descriptor: The file, open for reading and writing.
        held_s: Longest time that a page rests.
        seed: Of the times that are drawn.
    """

    def __init__(self, descriptor: int, *, held_s: float, seed: int = 1) -> None:
        self._descriptor = descriptor
        self._held_s = held_s
        self._chance = random.Random(seed)  # noqa: S311 a repeatable test, not a secret
        self._lock = threading.Lock()
        self._held: dict[int, tuple[float, bytes]] = {}

    def read(self, offset: int, size: int) -> bytes:
        """What was written last."""
        with self._lock:
            return self._read(offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        found = bytearray(os.pread(self._descriptor, size, offset))
        first, last = offset // PAGE_SIZE, -(-(offset + len(found)) // PAGE_SIZE)
        for page in range(first, last) if self._held else ():
            if page in self._held:
                _, data = self._held[page]
                start = page * PAGE_SIZE - offset
                low, high = max(start, 0), min(start + PAGE_SIZE, len(found))
                found[low:high] = data[low - start : high - start]
        return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        """Write: into the file, or into memory for now."""
        with self._lock:
            if not self._held_s:
                os.pwrite(self._descriptor, data, offset)
                return
            now = time.monotonic()
            end = offset + len(data)
            for page in range(offset // PAGE_SIZE, -(-end // PAGE_SIZE)):
                start = page * PAGE_SIZE
                low, high = max(start, offset), min(start + PAGE_SIZE, end)
                piece = data[low - offset : high - offset]
                if len(piece) < PAGE_SIZE:
                    whole = bytearray(self._read(start, PAGE_SIZE))
                    whole[low - start : high - start] = piece
                    piece = bytes(whole)
                self._held[page] = (now + self._chance.uniform(0, self._held_s), piece)

    def clear(self, offset: int, size: int) -> None:
        """Make zeros of a range."""
        first, last = -(-offset // PAGE_SIZE) * PAGE_SIZE, (offset + size) // PAGE_SIZE * PAGE_SIZE
        if first >= last:
            self.write(offset, bytes(size))
            return
        self.write(offset, bytes(first - offset))
        self.write(last, bytes(offset + size - last))
        with self._lock:
            for page in [one for one in self._held if first <= one * PAGE_SIZE < last]:
                del self._held[page]
            _punch(self._descriptor, first, last - first)

    def put_down(self, *, all_of_it: bool = True) -> None:
        """Write what rests in memory into the file: everything, or what has rested long enough."""
        with self._lock:
            now = time.monotonic()
            due = [page for page, (until, _) in self._held.items() if all_of_it or until <= now]
            self._chance.shuffle(due)
            for page in due:
                os.pwrite(self._descriptor, self._held.pop(page)[1], page * PAGE_SIZE)


def _punch(descriptor: int, offset: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(size)):
        raise OSError(ctypes.get_errno(), "fallocate")


class _Served:
    """The file system of one file: its methods are what mfusepy calls."""

    use_ns = True

    def __init__(self, backing: str, pace: Pace) -> None:
        self._descriptor = os.open(backing, os.O_RDWR)
        self._size = os.fstat(self._descriptor).st_size
        self._pages = HeldPages(self._descriptor, held_s=pace.held_s, seed=pace.seed)
        self._pace = pace
        self._chance = random.Random(pace.seed)  # noqa: S311 a repeatable test, not a secret

    def init(self, _path: str) -> None:
        if self._pace.held_s:
            threading.Thread(target=self._put_down, daemon=True).start()

    def _put_down(self) -> None:
        while True:
            time.sleep(_STEP_S)
            self._pages.put_down(all_of_it=False)

    def _wait(self) -> None:
        time.sleep(self._chance.uniform(0, self._pace.delay_s))

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == f"/{FILE_NAME}":
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._size}
        raise OSError(errno.ENOENT, path)

    def readdir(self, _path: str, _handle: int) -> list[str]:
        return [".", "..", FILE_NAME]

    def open(self, _path: str, _flags: int) -> int:
        return 0

    def read(self, _path: str, size: int, offset: int, _handle: int) -> bytes:
        return self._pages.read(offset, size)

    def write(self, _path: str, data: bytes, offset: int, _handle: int) -> int:
        self._wait()
        self._pages.write(offset, data)
        self._wait()
        return len(data)

    def fallocate(self, _path: str, _mode: int, offset: int, size: int, _handle: int) -> int:
        self._wait()
        self._pages.clear(offset, min(size, self._size - offset))
        return 0

    def fsync(self, _path: str, _datasync: int, _handle: int) -> int:
        self._wait()
        self._pages.put_down()
        return 0


class SlowMedium:
    """The process that serves such a file, as a context.

    Args:
        folder: An existing folder for the backing file and the mount point.
        size: Of the file, in bytes.
        pace: How slow it is.
    """

    def __init__(self, folder: Path, *, size: int, pace: Pace) -> None:
        self._place = folder / "medium"
        self._backing = folder / "medium.img"
        self._size = size
        self._pace = pace
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> Path:
        """The slow file."""
        return self._place / FILE_NAME

    def __enter__(self) -> Self:
        self._place.mkdir()
        with self._backing.open("wb") as file:
            file.truncate(self._size)
        pace = (str(self._pace.delay_s), str(self._pace.held_s), str(self._pace.seed))
        command = [sys.executable, "-m", "stillframe.testing.slow_medium", str(self._backing), str(self._place), *pace]
        # libfuse 2 may be there too and is not meant.
        environment = os.environ | {"FUSE_LIBRARY_NAME": "fuse3"}
        self._process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 our own program
        deadline = time.monotonic() + _START_S
        while not os.path.ismount(self._place):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command}: not mounted, exit code {self._process.poll()}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        # Whatever still waits for the medium gets an error when its server has gone: nothing hangs for good.
        for _attempt in range(50):
            if not subprocess.run(["umount", str(self._place)], check=False, capture_output=True).returncode:  # noqa: S603, S607
                break
            time.sleep(0.1)
        else:
            self.process.kill()
            subprocess.run(["umount", "--lazy", str(self._place)], check=True)  # noqa: S603, S607
        self.process.wait(timeout=_START_S)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server."""
        assert self._process is not None
        return self._process

    def hang(self) -> None:
        """Answer nothing from now on."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)


def main() -> None:
    """Serve until it is unmounted."""
    from mfusepy import FUSE  # noqa: PLC0415 only this process needs libfuse

    parser = argparse.ArgumentParser()
    for name in ("backing", "folder"):
        parser.add_argument(name)
    for name in ("delay_s", "held_s"):
        parser.add_argument(name, type=float)
    parser.add_argument("seed", type=int)
    given = parser.parse_args()
    pace = Pace(delay_s=given.delay_s, held_s=given.held_s, seed=given.seed)
    # Python's own threads come and go with libfuse's; requests of a loop device with direct I/O come many at a time.
    FUSE(_Served(given.backing, pace), given.folder, foreground=True, fsname="stillframe-slow")


if __name__ == "__main__":
    main()
