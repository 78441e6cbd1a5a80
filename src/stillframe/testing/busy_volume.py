"""A mounted volume that programs write to, saved while they do, and the judgement of what was saved.

Answers: "is the image the state of one moment?" The judges are a copy of the device made under the freeze, the kernel,
which mounts the restored volume and replays its journal, and the file system's own checker.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest import mock

from stillframe.block.file import open_file_reader
from stillframe.capture.live import LiveSource, Watch
from stillframe.capture.live import watch as live_watching
from stillframe.extents import ExtentSet
from stillframe.fs.registry import identify, read_used_map
from stillframe.jobs.backup import BackupResult
from stillframe.jobs.saving import live as live_job
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner
from stillframe.store import LocalStore
from stillframe.testing.job_runs import ANNA, backup_paths, make_repository, restore
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.tools import run_tool

assert sys.platform != "win32"  # mounts are those of Linux

MIB: Final = 1 << 20
WRITER: Final = Path(__file__).with_name("busy_writer.py")
MAKE: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
CHECK: Final = {
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
}
WRITERS: Final[dict[str, tuple[str, ...] | None]] = {
    "files": None,
    "buffered": ("--rw=randwrite",),
    "direct": ("--rw=randwrite", "--direct=1"),
    "synced": ("--rw=randwrite", "--fsync=4"),
    "mapped": ("--rw=randwrite", "--ioengine=mmap"),
    "allocated": ("--rw=randtrimwrite", "--ioengine=falloc"),
    "discards": ("--rw=randwrite", "--direct=1"),
}
"""What runs beside ``busy_writer``: the flags of fio. ``discards`` has a process that discards what is free, too."""
_PROMISES: Final = 5
_PATIENCE_S: Final = 60
_FOREVER: Final = "while :; do fstrim {}; sleep 0.02; done"


class BusyVolume:
    """A mounted volume on a loop device with programs that write to it. ``busy_volume`` makes it.

    Attributes:
        folder: For everything that belongs to it.
        image: What the loop device rests on.
        device: The loop device.
        mount: The mount point.
        ledger: Names and hashes of files that were synced, a line each.
    """

    def __init__(self, folder: Path, filesystem: str, image: Path, *, loop_flags: Sequence[str]) -> None:
        self.folder, self.filesystem, self.image = folder, filesystem, image
        self.mount, self.ledger = folder / "mount", folder / "ledger"
        self.mount.mkdir()
        self._programs: list[subprocess.Popen[bytes]] = []
        self.device = attach_loop(image, *loop_flags)
        with contextlib.ExitStack() as stack:
            stack.callback(detach_loop, self.device)
            run_tool(*MAKE[filesystem], self.device)
            run_tool("mount", "-o", "discard", self.device, str(self.mount))
            stack.pop_all()

    def write(self, writer: str, seed: int, *, rate: str = "30m", size: str = "40M") -> None:
        """Start to write, and wait until some files are promised."""
        self._start(sys.executable, str(WRITER), str(self.mount), str(self.ledger), str(seed))
        flags = WRITERS[writer]
        if flags is not None:
            where = (f"--directory={self.mount}", f"--size={size}", f"--rate={rate}", f"--randseed={seed + 1}")
            self._start("fio", "--name=a", "--bs=4k", "--time_based", "--runtime=3600", "--thread", *where, *flags)
        if writer == "discards":
            self._start("sh", "-c", _FOREVER.format(self.mount))
        deadline = time.monotonic() + _PATIENCE_S
        while len(self.promised()) < _PROMISES:
            assert time.monotonic() < deadline, "the writer promises nothing"
            time.sleep(0.01)

    def _start(self, *command: str) -> None:
        silent = subprocess.DEVNULL
        self._programs.append(subprocess.Popen(command, stdout=silent, stderr=silent))  # noqa: S603 programs of tests

    def require_busy(self) -> None:
        """Every program must be at work still, or nothing was tested."""
        for program in self._programs:
            assert program.poll() is None, f"{program.args!r} ended with exit code {program.returncode}"

    def promised(self) -> dict[str, str]:
        """Files that were synced by now, with their hashes."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return dict(line.split() for line in lines if len(line.split()) == 2)

    def close(self) -> None:
        """Stop, unmount and detach."""
        for program in self._programs:
            program.kill()
            program.wait()
        _unmount(self.mount)
        detach_loop(self.device)
        if self.filesystem == "btrfs":  # or the kernel takes the restored copy for the device it has seen before
            run_tool("btrfs", "device", "scan", "--forget", accept=(0, 1))


@contextmanager
def busy_volume(
    folder: Path, filesystem: str, *, size: int = 400 * MIB, image: Path | None = None, loop_flags: Sequence[str] = ()
) -> Iterator[BusyVolume]:
    """A new volume, mounted until the block ends; on a file of its own, or on ``image``."""
    if image is None:
        image = folder / "volume.img"
        with image.open("wb") as file:
            file.truncate(size)
    volume = BusyVolume(folder, filesystem, image, loop_flags=loop_flags)
    try:
        yield volume
    finally:
        volume.close()


def _unmount(place: Path) -> None:
    """Unmount; something that was killed a moment ago may hold it still."""
    deadline = time.monotonic() + _PATIENCE_S
    while subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode:  # noqa: S603, S607
        assert time.monotonic() < deadline, f"{place} stays busy"
        time.sleep(0.1)


class Judge:
    """Looks at the frozen device from inside the freeze.

    Attributes:
        copy: What the device was then.
        promised: Files that were promised before, with their hashes.
        calls: How often it was frozen to the end.
    """

    def __init__(self, volume: BusyVolume) -> None:
        self.volume = volume
        self.copy = volume.folder / "frozen.img"
        self.promised: dict[str, str] = {}
        self.calls = 0

    def look(self) -> None:
        """Copy the device; the last copy counts, as a disturbed freeze is repeated."""
        self.calls += 1
        run_tool("cp", "--sparse=always", str(self.volume.image), str(self.copy))

    @contextmanager
    def watch(self, sources: Sequence[LiveSource]) -> Iterator[Watch]:
        """``capture.live.watch`` with a long limit and this judge in it."""
        with live_watching(sources, limit_s=60) as found:
            found.on_hold = self.look
            hold = found.hold

            def promise_first(*arguments: object) -> object:
                self.promised = self.volume.promised()
                return hold(*arguments)  # type: ignore[arg-type]

            found.hold = promise_first  # type: ignore[method-assign, assignment]
            yield found


def save(
    judge: Judge, repository: Repository | None = None, owner: Owner = ANNA
) -> tuple[Repository, BackupResult]:  # fmt: skip
    """Save the volume of a judge, by default into a repository in its folder; writers must be at work to the end."""
    if repository is None:
        repository = make_repository(LocalStore(str(judge.volume.folder / "repository")))
    with mock.patch.object(live_job, "watch", judge.watch):
        result = backup_paths(repository, judge.volume.device, owner=owner)
    assert judge.calls >= 1
    assert len(judge.promised) >= _PROMISES
    judge.volume.require_busy()
    return repository, result


def compare(judge: Judge, repository: Repository, result: BackupResult) -> None:
    """The used ranges are those of the frozen device, and every promised file is there after a replay."""
    part = result.manifest.disks[0].partitions[0]
    assert (part.consistency, part.map, result.is_complete) == ("frozen", "used", True)
    target = judge.volume.folder / "restored.img"
    target.write_bytes(b"\xee" * result.manifest.disks[0].size)  # what nobody uses must not matter
    restore(repository, result.manifest, target)
    compare_target(judge, target)


def compare_target(judge: Judge, target: Path) -> None:
    """The same of a disk file that the volume was restored or cloned to."""
    _compare_used(judge.copy, target)
    place = judge.volume.folder / "again"
    place.mkdir(exist_ok=True)
    filesystem = judge.volume.filesystem
    run_tool("mount", "-o", "loop" + (",nouuid" if filesystem == "xfs" else ""), str(target), str(place))
    try:
        for name, digest in judge.promised.items():
            assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest, name
    finally:
        _unmount(place)
    run_tool(*CHECK[filesystem], str(target))


def used_of(frozen: Path) -> ExtentSet:
    """What the file system uses on a copy of it that was made under a freeze."""
    with open_file_reader(str(frozen)) as reader:
        used = read_used_map(reader, identify(reader), is_frozen=True).extents
    assert used.size
    return used


def _compare_used(frozen: Path, restored: Path) -> None:
    used = used_of(frozen)
    with frozen.open("rb") as one, restored.open("rb") as other:
        for extent in used:
            for start in range(extent.start, extent.end, 4 * MIB):
                size = min(4 * MIB, extent.end - start)
                assert os.pread(one.fileno(), size, start) == os.pread(other.fileno(), size, start), start
