"""Where a run writes to is full, read-only, or gone in the middle of it, and then it is there again.

Real file systems on loop devices, and one served by FUSE that fails when it is told to, or whose server is killed.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.loops import loop_device
from stillframe.testing.moody_folder import MoodyFolder

pytestmark = pytest.mark.root
MIB: Final = 1 << 20
SIZE: Final = 96 * MIB
LARGE: Final = 320 * MIB
"""Enough that packs are whole when it is cut off: three threads each fill one of 64 MiB."""
PACKS_OPEN: Final = 3 * 66 * MIB
SOON_S: Final = 20.0


class Place:
    """Programs, with their own state, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.repo = folder, folder / "repo"
        self.environment = os.environ | {
            "STILLFRAME_CACHE_DIR": str(folder / "cache"), "STILLFRAME_STATE_DIR": str(folder / "state"),
        }  # fmt: skip
        self.started: list[subprocess.Popen[str]] = []

    def make_source(self, size: int) -> Path:
        disk = MemoryDisk(bytes(size))
        write_gpt(disk, [Extent(MIB, size - MIB)])
        for start in range(MIB, size - MIB, 64 * MIB):
            fill_with_noise(disk, Extent(start, min(start + 64 * MIB, size - MIB)), start)
        path = self.folder / "source"
        path.write_bytes(disk.contents)
        return path

    def init(self, repo: Path) -> None:
        self.repo = repo
        self.do("init", repo, "--encryption", "none")

    def start(self, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "stillframe", *(str(word) for word in words), "--json"]
        if words[0] not in ("init", "clone"):
            command += ["--repo", str(self.repo)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=self.environment, text=True, stdout=pipe, stderr=pipe)
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)  # it cannot be far ahead of what was read
        self.started.append(process)
        return process

    def do(self, *words: object, code: int = 0) -> dict[str, Any]:
        return finished(self.start(*words), code)

    def cut_off(self, *words: object, fault: Callable[[], None], moved: int, code: int) -> dict[str, Any]:
        """Run something; when it has moved so many bytes it is held, the fault is made, and it goes on into it."""
        process = self.start(*words)
        assert process.stdout is not None
        while moved > 0:
            line = process.stdout.readline()
            assert line, process.communicate()
            event = json.loads(line)
            moved -= event["size"] if event["type"] == "bytes_moved" else 0
        process.send_signal(signal.SIGSTOP)
        fault()
        process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        said = finished(process, code)
        assert time.monotonic() - began < SOON_S
        return said

    def check_restored(self, source: Path) -> None:
        target = self.folder / "restored"
        self.do("restore", "latest", target, "--yes")
        subprocess.run(["cmp", source, target], check=True)
        assert self.do("check")["ok"]


def finished(process: subprocess.Popen[str], code: int) -> dict[str, Any]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, out[-2000:] + errors
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.communicate(timeout=60)


@pytest.fixture
def moody(place: Place) -> Iterator[MoodyFolder]:
    (place.folder / "medium").mkdir()
    with MoodyFolder(place.folder / "medium") as moody:
        yield moody


@pytest.fixture
def mounted(place: Place) -> Iterator[Path]:
    """A file system of its own: ext4, room for two of the large sources."""
    image, folder = place.folder / "image", place.folder / "mounted"
    image.touch()
    os.truncate(image, 2 * LARGE)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    folder.mkdir()
    with loop_device(image) as device:
        subprocess.run(["mount", device, folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """Take all the room that is left."""
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - MIB)


BACKUP: Final = ("--compression", "none", "--no-verify")


@pytest.mark.slow
def test_a_repository_that_becomes_full(place: Place, mounted: Path) -> None:
    source = place.make_source(LARGE)
    place.init(mounted / "repo")
    said = place.cut_off("backup", source, *BACKUP, fault=lambda: fill(mounted), moved=260 * MIB, code=30)
    assert said["code"] == "storage-full"
    assert "No space left" in said["message"]
    assert str(mounted) in said["message"]
    assert "Free some room" in said["hint"]
    (mounted / "filler").unlink()
    assert place.do("backup", source, *BACKUP)["bytes_added"] < PACKS_OPEN
    place.check_restored(source)


@pytest.mark.slow
def test_a_repository_whose_file_system_becomes_read_only(place: Place, mounted: Path) -> None:
    """As the kernel does by itself when the disk below fails: ext4's own 'abort'."""
    source = place.make_source(LARGE)
    place.init(mounted / "repo")
    device = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", mounted], capture_output=True, text=True, check=True
    ).stdout.strip()

    def abort() -> None:
        subprocess.run(["sync", "-f", mounted], check=True)
        subprocess.run(["mount", "-o", "remount,abort", mounted], check=True)

    said = place.cut_off("backup", source, *BACKUP, fault=abort, moved=260 * MIB, code=30)
    assert said["code"] == "storage"
    assert "Read-only file system" in said["message"]
    assert "mounted read-only" in said["hint"]
    subprocess.run(["umount", "--lazy", mounted], check=True)
    subprocess.run(["e2fsck", "-fp", device], check=False, capture_output=True)
    subprocess.run(["mount", device, mounted], check=True)
    assert place.do("backup", source, *BACKUP)["bytes_added"] < PACKS_OPEN
    place.check_restored(source)


GONE: Final = {
    "EIO": ("Input/output error", "may be failing"),
    "ENODEV": ("No such device", "connected and mounted"),
    "EROFS": ("Read-only file system", "read-only"),
    "ENOSPC": ("No space left", "Free some room"),
    "killed": ("connect", "connected and mounted"),  # which words depends on the call that was being made
    "unmounted": ("", "mounted"),  # and here on whether a file is open
}
QUICK: Final = ("killed",)


@pytest.mark.parametrize("how", [pytest.param(how, marks=() if how in QUICK else pytest.mark.slow) for how in GONE])
def test_a_repository_that_is_gone_and_comes_back(place: Place, moody: MoodyFolder, how: str) -> None:
    source = place.make_source(SIZE)
    place.init(moody.folder / "repo")
    faults = {"killed": moody.kill, "unmounted": moody.unmount}
    fault = faults.get(how, lambda: moody.be(how))
    said = place.cut_off("backup", source, *BACKUP, fault=fault, moved=40 * MIB, code=30)
    assert said["code"] == ("storage-full" if how == "ENOSPC" else "storage")
    words, hint = GONE[how]
    assert words in said["message"]
    assert str(moody.folder) in said["message"]
    assert hint in said["hint"]
    if how == "unmounted":  # an empty folder of the disk below: neither a repository, nor a place for one
        assert list(moody.folder.iterdir()) == []
        assert place.do("backup", source, *BACKUP, code=10)["code"] == "not-found"
        assert list(moody.folder.iterdir()) == []
    if how == "killed":
        assert place.do("backup", source, *BACKUP, code=30)["code"] == "storage"
        moody.unmount()
    moody.be()
    if how in faults:
        moody.start()
    place.do("backup", source, *BACKUP)
    assert not [one for one in (place.folder / "medium/repo/sessions").rglob("*") if one.is_file()]
    place.check_restored(source)


@pytest.mark.slow
def test_what_a_lost_repository_had_is_not_stored_again(place: Place, moody: MoodyFolder) -> None:
    source = place.make_source(LARGE)
    place.init(moody.folder / "repo")
    place.cut_off("backup", source, *BACKUP, fault=lambda: moody.be("EIO"), moved=260 * MIB, code=30)
    moody.be()
    assert place.do("backup", source, *BACKUP)["bytes_added"] < PACKS_OPEN


# The disk that is written to by a restore or a clone.


def restored_half(
    place: Place, source: Path, target: Path, *, fault: Callable[[], None], code: int, verb: str = "restore"
) -> dict[str, Any]:
    """A restore or a clone that is cut off in the middle."""
    what = "latest" if verb == "restore" else source
    said = place.cut_off(verb, what, target, "--yes", fault=fault, moved=SIZE // 3, code=code)
    assert str(target) in said["message"]
    assert said["hint"]
    return said


@pytest.mark.parametrize("verb", ["restore", pytest.param("clone", marks=pytest.mark.slow)])
def test_a_target_that_is_gone_and_comes_back(place: Place, moody: MoodyFolder, verb: str) -> None:
    source = place.make_source(SIZE)
    place.init(place.folder / "repo")
    place.do("backup", source, *BACKUP)
    (place.folder / "medium" / "disk").touch()
    os.truncate(place.folder / "medium" / "disk", SIZE)
    with loop_device(moody.folder / "disk") as device:
        said = restored_half(place, source, device, fault=lambda: moody.be("EIO"), code=23, verb=verb)
        assert "Input/output error" in said["message"]
        moody.be()
        what = "latest" if verb == "restore" else source
        again = place.do(verb, what, device, "--delta", "--yes")
        assert 0 < again["bytes_written"] < SIZE
        assert again["bytes_skipped"] > MIB
        subprocess.run(["cmp", source, device], check=True)


@pytest.mark.slow
def test_a_target_that_is_made_read_only(place: Place) -> None:
    source = place.make_source(2 * SIZE)
    place.init(place.folder / "repo")
    place.do("backup", source, *BACKUP)
    target = place.folder / "target"
    target.write_bytes(os.urandom(2 * SIZE))
    with loop_device(target) as device:

        def make_read_only() -> None:
            subprocess.run(["blockdev", "--setro", device], check=True)

        try:
            said = restored_half(place, source, device, fault=make_read_only, code=22)
        finally:  # it would outlive the file, and whoever gets that loop device next could not write
            subprocess.run(["blockdev", "--setrw", device], check=True)
        assert "write-protected" in said["message"]
        assert "setrw" in said["hint"]
        assert place.do("restore", "latest", device, "--delta", "--yes")["bytes_skipped"] > MIB
        subprocess.run(["cmp", source, device], check=True)


@pytest.mark.slow
def test_a_disk_file_whose_disk_becomes_full(place: Place, mounted: Path) -> None:
    source = place.make_source(SIZE)
    place.init(place.folder / "repo")
    place.do("backup", source, *BACKUP)
    target = mounted / "target"
    said = restored_half(place, source, target, fault=lambda: fill(mounted), code=22)
    assert "no room left" in said["message"]
    (mounted / "filler").unlink()
    assert place.do("restore", "latest", target, "--delta", "--yes")["bytes_skipped"] > MIB
    subprocess.run(["cmp", source, target], check=True)


# A source that changes its size.


@pytest.mark.variants(1)
@pytest.mark.parametrize("kind", ["file", "device"])
def test_a_source_that_becomes_smaller_makes_no_image(place: Place, kind: str) -> None:
    source = place.make_source(LARGE)
    place.init(place.folder / "repo")
    with loop_device(source) if kind == "device" else nullcontext(source) as path:

        def shrink() -> None:
            os.truncate(source, 16 * MIB)
            if kind == "device":
                subprocess.run(["losetup", "--set-capacity", path], check=True)

        said = place.cut_off("backup", path, *BACKUP, fault=shrink, moved=4 * MIB, code=23)
    assert str(path) in said["message"]
    assert f"had {LARGE} bytes when it was opened" in said["message"]
    assert place.do("images")["images"] == []
