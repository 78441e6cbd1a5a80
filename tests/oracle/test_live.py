"""A mounted, busy file system is saved as it was at one moment: byte for byte, and with every file that was synced.

The judge is a copy of the device made under the freeze, by the hook that is there for it, and the kernel: a mount of
the restored volume that replays its journal.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stillframe.capture import live
from stillframe.capture.live import LiveSource, Watch
from stillframe.extents import ExtentSet
from stillframe.jobs import live as live_job
from stillframe.jobs.backup import BackupResult
from stillframe.jobs.storing import store_leaves
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore
from stillframe.testing.job_runs import backup_paths, make_repository, restore
from stillframe.testing.volumes_windows import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
WRITER = Path(__file__).with_name("busy_writer.py")
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
FIO = ("--rw=randwrite", "--bs=4k", "--size=40M", "--time_based", "--runtime=60", "--rate=30m", "--thread")
WRITERS = {
    "files": None,
    "buffered": ["fio", "--name=a", *FIO],
    "direct": ["fio", "--name=a", *FIO, "--direct=1"],
    "synced": ["fio", "--name=a", *FIO, "--fsync=4"],
    "mapped": ["fio", "--name=a", *FIO, "--ioengine=mmap"],
    "discards": ["fio", "--name=a", *FIO, "--rw=randtrim"],
}


class Busy:
    """A mounted volume on a loop device with programs that write to it."""

    def __init__(self, folder: Path, filesystem: str, *, size: int) -> None:
        self.folder = folder
        self.image = folder / "volume.img"
        self.mount = folder / "mount"
        self.ledger = folder / "ledger"
        self.filesystem = filesystem
        self.mount.mkdir()
        with self.image.open("wb") as file:
            file.truncate(size)
        run_tool(*MAKE[filesystem], str(self.image))
        self.device = subprocess.run(
            ["losetup", "--find", "--show", str(self.image)], check=True, capture_output=True, text=True
        ).stdout.strip()
        run_tool("mount", "-o", "discard", self.device, str(self.mount))
        self._programs: list[subprocess.Popen[bytes]] = []

    def write(self, writer: str, seed: int) -> None:
        """Start to write."""
        self._start([sys.executable, str(WRITER), str(self.mount), str(self.ledger), str(seed)])
        fio = WRITERS[writer]
        if fio is not None:
            self._start([*fio, f"--directory={self.mount}", f"--randseed={seed + 1}"])

    def _start(self, command: Sequence[str]) -> None:
        self._programs.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def promised(self) -> dict[str, str]:
        """Files that were synced by now, with their hashes."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return dict(line.split() for line in lines if len(line.split()) == 2)

    def close(self) -> None:
        """Stop, unmount and detach."""
        for program in self._programs:
            program.kill()
            program.wait()
        run_tool("umount", str(self.mount))
        run_tool("losetup", "--detach", self.device)
        if self.filesystem == "btrfs":  # or the kernel takes the restored copy for the device it has seen before
            run_tool("btrfs", "device", "scan", "--forget", accept=(0, 1))


@contextlib.contextmanager
def busy(folder: Path, filesystem: str, *, size: int = 700 * MIB) -> Iterator[Busy]:
    volume = Busy(folder, filesystem, size=size)
    try:
        yield volume
    finally:
        volume.close()


class Judge:
    """Looks at the frozen device from inside the freeze."""

    def __init__(self, volume: Busy) -> None:
        self.volume = volume
        self.copy = volume.folder / "frozen.img"
        self.promised: dict[str, str] = {}
        self.calls = 0

    def look(self) -> None:
        """Copy the device; the last copy counts, as a disturbed freeze is repeated."""
        self.calls += 1
        run_tool("cp", "--sparse=always", str(self.volume.image), str(self.copy))

    def watch(self, sources: Sequence[LiveSource]) -> contextlib.AbstractContextManager[Watch]:
        @contextlib.contextmanager
        def watching() -> Iterator[Watch]:
            with live.watch(sources, limit_s=60) as found:
                found.on_hold = self.look
                hold = found.hold

                def promise_first(*arguments: object) -> object:
                    self.promised = self.volume.promised()
                    return hold(*arguments)  # type: ignore[arg-type]

                found.hold = promise_first  # type: ignore[method-assign, assignment]
                yield found

        return watching()


def save(volume: Busy, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> tuple[Repository, BackupResult]:
    repository = make_repository(LocalStore(str(volume.folder / "repository")))
    monkeypatch.setattr(live_job, "watch", judge.watch)
    return repository, backup_paths(repository, volume.device)


def compare(judge: Judge, repository: Repository, result: BackupResult) -> None:
    """The used ranges are those of the frozen device, and every promised file is there after a replay."""
    part = result.manifest.disks[0].partitions[0]
    assert (part.consistency, part.map, result.is_complete) == ("frozen", "used", True)
    target = judge.volume.folder / "restored.img"
    target.write_bytes(b"\xee" * result.manifest.disks[0].size)  # what nobody uses must not matter
    restore(repository, result.manifest, target)
    with judge.copy.open("rb") as frozen, target.open("rb") as restored:
        for extent in kept_of(judge.copy, result):
            for start in range(extent.start, extent.end, 4 * MIB):
                size = min(4 * MIB, extent.end - start)
                assert os.pread(frozen.fileno(), size, start) == os.pread(restored.fileno(), size, start), start
    place = judge.volume.folder / "again"
    place.mkdir(exist_ok=True)
    run_tool("mount", "-o", "loop" + (",nouuid" if judge.volume.filesystem == "xfs" else ""), str(target), str(place))
    try:
        for name, digest in judge.promised.items():
            assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest, name
    finally:
        run_tool("umount", str(place))
    check = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"], "btrfs": ["btrfs", "check", "--readonly"]}
    run_tool(*check[judge.volume.filesystem], str(target))


def kept_of(frozen: Path, result: BackupResult) -> ExtentSet:
    """What the file system on the frozen copy uses, by a program that is not ours where it reads such a volume."""
    from stillframe.block.file import open_file_reader
    from stillframe.fs.registry import identify, read_used_map

    del result
    with open_file_reader(str(frozen)) as reader:
        return read_used_map(reader, identify(reader), is_frozen=True).extents


def combinations() -> Iterator[object]:
    """Every writer on ext4, the two most different ones on the others; the rest belongs to ``make test-all``."""
    for filesystem in MAKE:
        for writer in WRITERS:
            quick = filesystem == "ext4" or writer in ("files", "buffered")
            yield pytest.param(filesystem, writer, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize(("filesystem", "writer"), list(combinations()))
def test_a_busy_file_system_is_saved_as_it_was_at_one_moment(
    filesystem: str, writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with busy(tmp_path, filesystem) as volume:
        volume.write(writer, 1)
        while len(volume.promised()) < 5:
            pass
        judge = Judge(volume)
        repository, result = save(volume, judge, monkeypatch)
        assert judge.calls >= 1
        assert len(judge.promised) >= 5
    compare(judge, repository, result)
    shutil.rmtree(tmp_path / "repository")


@pytest.mark.parametrize("filesystem", MAKE)
def test_what_is_new_since_the_copy_began_does_not_have_to_fit_into_the_freeze(
    filesystem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large new file lies in blocks that were free in the first map."""
    monkeypatch.setattr(live, "HELD_BYTES_MAX", 24 * MIB)
    monkeypatch.setattr(live_job, "_CALM_BYTES", 4 * MIB)
    with busy(tmp_path, filesystem) as volume:
        judge = Judge(volume)
        calls = 0

        def store_and_write(*arguments: object, **named: object) -> None:
            nonlocal calls
            store_leaves(*arguments, **named)  # type: ignore[arg-type]
            calls += 1
            if calls == 1:
                data = os.urandom(120 * MIB)
                (volume.mount / "large").write_bytes(data)
                os.sync()
                volume.ledger.write_text(f"large {hashlib.sha256(data).hexdigest()}\n")

        monkeypatch.setattr(live_job, "store_leaves", store_and_write)
        repository, result = save(volume, judge, monkeypatch)
        assert calls >= 2
        assert "large" in judge.promised
    compare(judge, repository, result)


def test_a_freeze_that_did_not_hold_is_repeated_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first, spoilt freeze had read counts as changed again."""
    with busy(tmp_path, "ext4") as volume:
        volume.write("buffered", 3)
        while len(volume.promised()) < 5:
            pass
        judge = Judge(volume)
        look = judge.look

        def look_and_spoil() -> None:
            look()
            if judge.calls == 1:
                run_tool("fsfreeze", "--unfreeze", str(volume.mount))

        monkeypatch.setattr(judge, "look", look_and_spoil)
        repository, result = save(volume, judge, monkeypatch)
        assert judge.calls == 2
    compare(judge, repository, result)
