"""A folder on a disk with bad sectors: another folder served by FUSE, of which some blocks give an input/output error.

Answers: "what does a program see when the kernel itself says EIO?" It is a process of its own: ``python -m
stillframe.testing.failing_folder BACKING FOLDER BAD``; ``BAD`` is a JSON file: by the path of a file, from the folder,
the numbers of its blocks of 4 KiB. A file that is deleted takes its bad blocks along. Each refusal is a line in
``BAD.refused``.
"""

import argparse
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

assert sys.platform != "win32"  # FUSE is not there

BLOCK: Final = 4096
_START_S: Final = 20


class _Served:
    """The file system: its methods are what mfusepy calls."""

    use_ns = True

    def __init__(self, backing: str, bad: str) -> None:
        self._backing = backing
        with open(bad, encoding="utf-8") as file:
            self._bad = {path: set(blocks) for path, blocks in json.load(file).items()}
        self._refused = f"{bad}.refused"

    def _path(self, path: str) -> str:
        return os.path.join(self._backing, path.lstrip("/"))

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        found = os.lstat(self._path(path))
        return {name: getattr(found, name) for name in ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")}

    def readdir(self, path: str, _handle: int) -> list[str]:
        return [".", "..", *os.listdir(self._path(path))]

    def open(self, path: str, flags: int) -> int:
        return os.open(self._path(path), flags)

    def create(self, path: str, mode: int) -> int:
        return os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        touched = range(offset // BLOCK, -(-(offset + size) // BLOCK))
        if not self._bad.get(path.lstrip("/"), set()).isdisjoint(touched):
            with open(self._refused, "a", encoding="utf-8") as file:
                file.write(f"{path} {offset} {size}\n")
            raise OSError(errno.EIO, path)
        return os.pread(handle, size, offset)

    def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
        return os.pwrite(handle, data, offset)

    def fsync(self, _path: str, _datasync: int, handle: int) -> int:
        os.fsync(handle)
        return 0

    def release(self, _path: str, handle: int) -> int:
        os.close(handle)
        return 0

    def unlink(self, path: str) -> int:
        self._bad.pop(path.lstrip("/"), None)
        os.unlink(self._path(path))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._path(path), mode)
        return 0


class FailingFolder:
    """The process that serves such a folder, as a context.

    Args:
        backing: The folder with the files.
        bad: By the path of a file from there, the numbers of its blocks that cannot be read.
    """

    def __init__(self, backing: Path, bad: Mapping[str, Iterable[int]]) -> None:
        self.folder: Final = backing.with_name(f"{backing.name}-failing")
        self._backing = backing
        self._list = backing.with_name(f"{backing.name}-bad.json")
        self._list.write_text(json.dumps({path: list(blocks) for path, blocks in bad.items()}))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def refused(self) -> list[str]:
        """What was refused so far: path, offset and size of each read."""
        record = self._list.with_name(f"{self._list.name}.refused")
        return record.read_text().splitlines() if record.exists() else []

    def __enter__(self) -> Self:
        self.folder.mkdir()
        places = (str(self._backing), str(self.folder), str(self._list))
        command = [sys.executable, "-m", "stillframe.testing.failing_folder", *places]
        environment = os.environ | {"FUSE_LIBRARY_NAME": "fuse3"}  # libfuse 2 may be there too and is not meant
        self._process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 our own program
        deadline = time.monotonic() + _START_S
        while not os.path.ismount(self.folder):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command}: not mounted, exit code {self._process.poll()}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        subprocess.run(["umount", str(self.folder)], check=True)  # noqa: S603, S607
        self._process.wait(timeout=_START_S)


def main() -> None:
    """Serve until it is unmounted."""
    from mfusepy import FUSE  # noqa: PLC0415 only this process needs libfuse

    parser = argparse.ArgumentParser()
    for name in ("backing", "folder", "bad"):
        parser.add_argument(name)
    given = parser.parse_args()
    FUSE(_Served(given.backing, given.bad), given.folder, foreground=True, fsname="stillframe-failing")


if __name__ == "__main__":
    main()
