"""A folder on a disk that can be told how to behave: to hang, to be full, read-only, failing, gone, and back again.

Answers: "what does a program see when the kernel itself does not answer, or says that the disk is gone?" Another
folder, served by FUSE, by a process of its own: ``python -m stillframe.testing.moody_folder BACKING FOLDER MOOD``.
``MOOD`` is a file that is read before each operation: empty, or the name of an error (``EIO``) for all that follows,
or ``slow`` (12 MiB a second), or ``hang`` for reads and ``hang-writes`` for what changes something, which then do not
come back until the word is gone.
"""

import argparse
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

assert sys.platform != "win32"  # FUSE is not there

_START_S: Final = 20
_HANG_S: Final = 120
_STEP_S: Final = 0.02
_SLOW: Final = 12 << 20
_CHANGES: Final = frozenset({"create", "write", "fsync", "unlink", "mkdir", "truncate", "fallocate"})
_NEEDS_ROOM: Final = frozenset({"create", "write", "mkdir", "fallocate"})
_NEVER: Final = frozenset({"release", "flush", "init", "destroy"})


class _Served:
    """The file system: its methods are what mfusepy calls."""

    use_ns = True

    def __init__(self, backing: str, mood: str) -> None:
        self._backing = backing
        self._mood = mood

    def _obey(self, verb: str, size: int = 0) -> None:
        """Behave as was told before an operation."""
        hung = False
        while verb not in _NEVER:
            with open(self._mood, encoding="utf-8") as file:
                word = file.read().strip()
            if word == "slow":
                time.sleep(size / _SLOW)
                return
            hangs = {"hang": verb == "read", "hang-writes": verb in _CHANGES}.get(word)
            if hangs is None and word and self._is_meant(word, verb):
                raise OSError(getattr(errno, word), os.strerror(getattr(errno, word)))
            if not hangs:
                return
            if not hung:
                hung = True
                with open(f"{self._mood}.hung", "a", encoding="utf-8") as file:
                    file.write(f"{verb}\n")
            time.sleep(_STEP_S)

    @staticmethod
    def _is_meant(word: str, verb: str) -> bool:
        """Whether an operation fails with an error: a full disk only refuses more, a read-only one only changes."""
        return {"ENOSPC": verb in _NEEDS_ROOM, "EROFS": verb in _CHANGES}.get(word, True)

    def _path(self, path: str) -> str:
        return os.path.join(self._backing, path.lstrip("/"))

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        self._obey("getattr")
        found = os.lstat(self._path(path))
        return {name: getattr(found, name) for name in ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")}

    def readdir(self, path: str, _handle: int) -> list[str]:
        self._obey("readdir")
        return [".", "..", *os.listdir(self._path(path))]

    def statfs(self, path: str) -> dict[str, int]:
        self._obey("statfs")
        found = os.statvfs(self._path(path))
        return {name: getattr(found, name) for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail")}

    def open(self, path: str, flags: int) -> int:
        self._obey("open")
        return os.open(self._path(path), flags & ~os.O_DIRECT)

    def create(self, path: str, mode: int) -> int:
        self._obey("create")
        return os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, _path: str, size: int, offset: int, handle: int) -> bytes:
        self._obey("read", size)
        return os.pread(handle, size, offset)

    def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
        self._obey("write", len(data))
        return os.pwrite(handle, data, offset)

    def truncate(self, path: str, size: int, _handle: int | None = None) -> int:
        self._obey("truncate")
        os.truncate(self._path(path), size)
        return 0

    def fsync(self, _path: str, _datasync: int, handle: int) -> int:
        self._obey("fsync")
        os.fsync(handle)
        return 0

    def release(self, _path: str, handle: int) -> int:
        os.close(handle)
        return 0

    def unlink(self, path: str) -> int:
        self._obey("unlink")
        os.unlink(self._path(path))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._obey("mkdir")
        os.mkdir(self._path(path), mode)
        return 0


class MoodyFolder:
    """The process that serves such a folder, as a context.

    Args:
        backing: The folder with the files; what is served is beside it.
    """

    def __init__(self, backing: Path) -> None:
        self.folder: Final = backing.with_name(f"{backing.name}-moody")
        self._backing = backing
        self._mood = backing.with_name(f"{backing.name}-mood")
        self._process: subprocess.Popen[bytes] | None = None

    def be(self, word: str = "") -> None:
        """Behave so from now on; without a word, well."""
        fresh = self._mood.with_suffix(".new")
        fresh.write_text(word)
        fresh.replace(self._mood)

    @property
    def hung(self) -> list[str]:
        """The operations that hang, or did."""
        record = self._mood.with_name(f"{self._mood.name}.hung")
        return record.read_text().split() if record.exists() else []

    def await_hanging(self, count: int = 1) -> None:
        """Return when so many operations have hung."""
        deadline = time.monotonic() + _HANG_S
        while len(self.hung) < count:
            assert time.monotonic() < deadline, "nothing hangs"
            time.sleep(_STEP_S)

    def start(self) -> None:
        """Mount it."""
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "stillframe.testing.moody_folder"]
        places = (str(self._backing), str(self.folder), str(self._mood))
        environment = os.environ | {"FUSE_LIBRARY_NAME": "fuse3"}  # libfuse 2 may be there too and is not meant
        self._process = subprocess.Popen([*command, *places], env=environment, start_new_session=True)  # noqa: S603
        deadline = time.monotonic() + _START_S
        while not os.path.ismount(self.folder):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"not mounted, exit code {self._process.poll()}")
            time.sleep(_STEP_S)

    def kill(self) -> None:
        """End the process and leave the mount: "Transport endpoint is not connected"."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, *, running: bool = False) -> None:
        """Let the process stand still, or run again: nobody takes a request, so the kernel lets who waits be ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT if running else signal.SIGSTOP)
        while not running and self._process.poll() is None and not self._stands_still():
            time.sleep(_STEP_S)

    def is_idle(self) -> bool:
        """Whether the kernel waits for no request of it. Source: Linux Documentation/filesystems/fuse/fuse.rst."""
        number = os.minor(os.stat(self.folder).st_dev)
        control = self._backing.with_name(f"{self._backing.name}-control")  # not every machine has it mounted
        control.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "fusectl", "none", str(control)], check=True)  # noqa: S603, S607
        try:
            return int((control / str(number) / "waiting").read_text()) == 0
        finally:
            subprocess.run(["umount", "--lazy", str(control)], check=True)  # noqa: S603, S607

    def _stands_still(self) -> bool:
        assert self._process is not None
        states = [task.joinpath("stat").read_text() for task in Path(f"/proc/{self._process.pid}/task").iterdir()]
        return all(state.rpartition(")")[2].split()[0] == "T" for state in states)

    def unmount(self) -> None:
        """Take it away: the mount point is an empty folder then."""
        assert self._process is not None
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)  # noqa: S603, S607
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.be()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.be()
        if self._process is not None:
            self.unmount()


def main() -> None:
    """Serve until it is unmounted."""
    from mfusepy import FUSE  # noqa: PLC0415 only this process needs libfuse

    parser = argparse.ArgumentParser()
    for name in ("backing", "folder", "mood"):
        parser.add_argument(name)
    given = parser.parse_args()
    options: dict[str, Any] = {"attr_timeout": 0, "entry_timeout": 0}
    FUSE(_Served(given.backing, given.mood), given.folder, foreground=True, fsname="stillframe-moody", **options)


if __name__ == "__main__":
    main()
