"""What is refused, before a byte is read or written, and what the person is told."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.capture import open_source
from stillframe.errors import Cancelled, SourceInUse, StillframeError, TargetError, UsageError
from stillframe.events import NoEvents
from stillframe.extents import Extent
from stillframe.jobs.backup import BackupOptions, apply_backup, plan_backup
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.restore import RestoreOptions, apply_restore, plan_restore
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore, MemoryStore
from stillframe.testing import real_disks
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.job_runs import ANNA, backup, backup_paths, job_context, make_repository, restore, verify
from stillframe.testing.loops import loop_device
from stillframe.testing.real_disks import MIB, RealDisk, hash_file
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root

Disks = Callable[[str, int], RealDisk]
Saved = tuple[Repository, Manifest]


@pytest.fixture(scope="module")
def saved() -> Saved:
    """An image of a disk of 6 MiB with one partition."""
    disk = MemoryDisk(bytes(6 * MIB))
    write_gpt(disk, [Extent(MIB, 5 * MIB)])
    fill_with_noise(disk, Extent(MIB, 4 * MIB), 1)
    repository = make_repository(MemoryStore())
    return repository, backup(repository, disk).manifest


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.touch()
    os.truncate(path, 16 * MIB)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", str(path))
    return path


def refused(
    saved: Saved, target: Path, *, folder: str = "", is_live: bool = False, **options: int | bool
) -> StillframeError:
    """The refusal of a restore; the target must be as it was, unless it is mounted and its driver writes."""
    watched = target.is_file() and not is_live
    before = target.read_bytes() if watched else b""
    with pytest.raises(StillframeError) as refusal:
        restore(saved[0], saved[1], target, folder=folder, options=RestoreOptions(**options))  # type: ignore[arg-type]
    assert (target.read_bytes() if watched else b"") == before
    assert refusal.value.hint
    return refusal.value


def test_a_source_mounted_for_writing_is_refused(volume: Path, tmp_path: Path) -> None:
    repository = make_repository(MemoryStore())
    with real_disks.mounted_kernel(volume, tmp_path / "mount"):
        with pytest.raises(SourceInUse) as refusal:
            backup_paths(repository, volume)
        assert refusal.value.exit_code == 20
        assert str(tmp_path / "mount") in refusal.value.message
        assert "--allow-torn" in refusal.value.hint
    assert repository.images().images == ()
    assert backup_paths(repository, volume).is_complete


def test_a_source_mounted_for_reading_only_is_still(volume: Path, tmp_path: Path) -> None:
    with real_disks.mounted_kernel(volume, tmp_path / "mount", options="ro"):
        assert backup_paths(make_repository(MemoryStore()), volume).is_complete


def test_a_torn_image_is_raw_and_never_a_baseline(volume: Path, tmp_path: Path) -> None:
    repository = make_repository(MemoryStore())
    first = backup_paths(repository, volume).manifest
    with real_disks.mounted_kernel(volume, tmp_path / "mount") as root:
        (root / "file").write_bytes(b"x" * MIB)
        os.sync()
        torn = backup_paths(repository, volume, allow_torn=True)
    assert not torn.is_complete
    (part,) = torn.manifest.disks[0].partitions
    assert (part.consistency, part.map) == ("torn", "raw")
    assert torn.manifest.is_torn
    assert "source-torn" in [notice.code for notice in torn.manifest.notices]
    third = backup_paths(repository, volume).manifest
    assert third.baseline == first.image
    assert [listed.sequence for listed in (first, torn.manifest, third)] == [1, 2, 3]


def test_a_source_that_is_written_meanwhile_is_torn(tmp_path: Path) -> None:
    source = tmp_path / "disk"
    source.write_bytes(b"a" * (3 * MIB))

    class Meddler(NoEvents):
        def emit(self, event: object) -> None:
            if type(event).__name__ == "PhaseStarted":
                with source.open("r+b") as file:
                    file.write(b"b")

    result = backup_paths(make_repository(MemoryStore()), source, events=Meddler())
    assert not result.is_complete
    assert result.manifest.is_torn


def test_no_source_and_the_same_one_twice(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(MIB))
    (tmp_path / "same").symlink_to(tmp_path / "disk")
    repository = make_repository(MemoryStore())
    with pytest.raises(UsageError):
        backup_paths(repository)
    with pytest.raises(UsageError):
        backup_paths(repository, tmp_path / "disk", tmp_path / "same")
    with pytest.raises(UsageError):
        backup_paths(repository, tmp_path / "none")
    with pytest.raises(UsageError):
        backup_paths(repository, tmp_path)


def test_a_mounted_target_is_refused(saved: Saved, volume: Path, tmp_path: Path) -> None:
    for options in ("rw", "ro"):
        with real_disks.mounted_kernel(volume, tmp_path / "mount", options=options):
            error = refused(saved, volume, is_live=True)
            assert isinstance(error, TargetError)
            assert "in use" in error.message
    with loop_device(volume) as device:
        (tmp_path / "other").mkdir()
        run_tool("mount", str(device), str(tmp_path / "other"))
        try:
            assert "mounted" in refused(saved, device).message
        finally:
            unmount(tmp_path / "other")


def test_the_target_that_holds_the_repository_is_refused(volume: Path, tmp_path: Path) -> None:
    os.truncate(volume, 64 * MIB)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", str(volume))
    with loop_device(volume) as device:
        (tmp_path / "mount").mkdir()
        run_tool("mount", str(device), str(tmp_path / "mount"))
        try:
            folder = tmp_path / "mount" / "repository"
            repository = make_repository(LocalStore(str(folder)))
            manifest = backup(repository, MemoryDisk(b"x" * MIB)).manifest
            for target in (device, volume):
                error = refused((repository, manifest), target, folder=str(folder), is_live=True)
                assert "holds the repository" in error.message
            inside = folder / "index" / "target"
            with pytest.raises(TargetError, match="holds the repository"):
                restore(repository, manifest, inside, folder=str(folder))
            assert verify(repository, manifest).ok
        finally:
            unmount(tmp_path / "mount")


@pytest.mark.parametrize("size", [0, 512, MIB, 5 * MIB + 512 * 32])
def test_a_target_that_is_too_small_is_refused(saved: Saved, tmp_path: Path, size: int) -> None:
    (tmp_path / "target").write_bytes(b"\xff" * size)
    error = refused(saved, tmp_path / "target")
    assert error.exit_code in (2, 22)


def test_a_smaller_target_on_which_all_partitions_fit_is_right(saved: Saved, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"\xff" * (5 * MIB + 512 * 33))
    restore(saved[0], saved[1], target)
    assert "No problems found" in run_tool("sgdisk", "--verify", str(target))


def test_other_sectors_are_refused(saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(bytes(8 * MIB))
    with loop_device(tmp_path / "target", sector_size=4096) as device:
        assert "sectors of 4096 bytes" in refused(saved, device).message


@pytest.mark.parametrize("change", ["first bytes", "last bytes", "size", "gone", "mounted"])
def test_a_target_that_changed_since_it_was_shown_is_refused(
    saved: Saved, volume: Path, tmp_path: Path, change: str
) -> None:
    repository, manifest = saved
    plan = plan_restore(repository, manifest, 1, str(volume), repository_folder="", options=RestoreOptions())
    assert plan.lost == ("the whole disk: ext4, 16.8 MB",)
    match change:
        case "first bytes" | "last bytes":
            with volume.open("r+b") as file:
                file.seek(0 if change == "first bytes" else volume.stat().st_size - 1)
                file.write(b"!")
        case "size":
            os.truncate(volume, 17 * MIB)
        case "gone":
            volume.unlink()
        case _:
            run_tool("mount", "-o", "loop", str(volume), str(_made(tmp_path / "mount")))
    before = hash_file(volume) if volume.exists() else ""
    try:
        with pytest.raises(TargetError):
            apply_restore(repository, plan, job_context())
        assert (hash_file(volume) if volume.exists() else "") == before
    finally:
        if change == "mounted":
            unmount(tmp_path / "mount")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_new_file_that_came_into_being_meanwhile_is_not_overwritten(saved: Saved, tmp_path: Path) -> None:
    repository, manifest = saved
    target = tmp_path / "target"
    plan = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=RestoreOptions())
    target.write_bytes(b"precious")
    with pytest.raises(TargetError, match="exists already"):
        apply_restore(repository, plan, job_context())
    assert target.read_bytes() == b"precious"


def test_partitions_and_disks_that_are_not_there(saved: Saved, tmp_path: Path) -> None:
    target = tmp_path / "target"
    disk = MemoryDisk(bytes(8 * MIB))
    write_gpt(disk, [Extent(MIB, 2 * MIB), Extent(2 * MIB, 7 * MIB)])
    target.write_bytes(disk.contents)
    assert "no partition 7" in refused(saved, target, partition=7).message
    assert "no partition 7" in refused(saved, target, partition=1, onto=7).message
    assert "too small" in refused(saved, target, partition=1, onto=1).message
    assert "without a source partition" in refused(saved, target, onto=1).message
    with pytest.raises(UsageError, match="no disk 2"):
        restore(saved[0], saved[1], target, disk_number=2)
    with pytest.raises(TargetError, match="does not exist"):
        restore(saved[0], saved[1], tmp_path / "none", options=RestoreOptions(partition=1, onto=1))
    restore(saved[0], saved[1], target, options=RestoreOptions(partition=1, onto=2))
    contents = target.read_bytes()
    assert contents[: 2 * MIB] == disk.contents[: 2 * MIB]
    assert contents[6 * MIB :] == disk.contents[6 * MIB :]


def test_a_run_that_is_stopped_leaves_no_image(disks: Disks) -> None:
    repository, cancel = make_repository(MemoryStore()), CancelToken()

    class Stopper(NoEvents):
        def emit(self, event: object) -> None:
            if type(event).__name__ == "BytesMoved":
                cancel.cancel()

    with open_source(str(disks("gpt", 512).path)) as source:
        plan = plan_backup(repository, [source], BackupOptions(), ANNA)
        with pytest.raises(Cancelled):
            apply_backup(repository, [source], plan, job_context(ANNA, Stopper(), cancel))
    assert repository.images().images == ()
    assert repository.sessions() == ()
    assert backup_paths(repository, disks("gpt", 512).path).is_complete


def test_a_read_back_that_is_stopped_leaves_the_image(disks: Disks) -> None:
    repository, cancel = make_repository(MemoryStore()), CancelToken()
    told: list[str] = []

    class Stopper(NoEvents):
        def emit(self, event: object) -> None:
            if getattr(event, "name", "").startswith("reading back"):
                cancel.cancel()
            told.append(getattr(event, "code", ""))

    with open_source(str(disks("gpt", 512).path)) as source:
        plan = plan_backup(repository, [source], BackupOptions(), ANNA)
        result = apply_backup(repository, [source], plan, job_context(ANNA, Stopper(), cancel))
    assert (result.read_back, result.is_complete) == (None, True)
    assert "read-back-stopped" in told
    assert [image.manifest.image for image in repository.images().images] == [result.manifest.image]
