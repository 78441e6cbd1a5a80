"""Restores over disks that held something else: nothing of it may come to light inside the restored system."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.restore import RestoreOptions
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore
from stillframe.testing import real_disks
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.job_runs import backup, backup_paths, make_repository, restore
from stillframe.testing.loops import loop_device
from stillframe.testing.real_disks import MIB, RealDisk, build_disk, hash_file

pytestmark = pytest.mark.root

Disks = Callable[[str, int], RealDisk]


@pytest.fixture(scope="module")
def saved(disks: Disks, tmp_path_factory: pytest.TempPathFactory) -> tuple[RealDisk, Repository, Manifest, Path]:
    """A disk, its image, and the same image as a new file: zeros wherever nothing was in use."""
    disk, folder = disks("gpt", 512), tmp_path_factory.mktemp("saved")
    repository = make_repository(LocalStore(str(folder / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    restore(repository, manifest, folder / "clean")
    return disk, repository, manifest, folder / "clean"


Saved = tuple[RealDisk, Repository, Manifest, Path]


def excluded_on_disk(manifest: Manifest) -> ExtentSet:
    return ExtentSet.of(
        *(
            Extent(part.start + start, part.start + end)
            for part in manifest.disks[0].partitions
            for start, end in part.excluded
        )
    )


def test_with_wipe_a_dirty_target_becomes_a_clean_one(saved: Saved, tmp_path: Path) -> None:
    disk, repository, manifest, clean = saved
    target = tmp_path / "target"
    target.write_bytes(b"\xff" * disk.size)
    restore(repository, manifest, target, options=RestoreOptions(wipe=True))
    assert hash_file(target) == hash_file(clean)


def test_with_wipe_what_a_larger_target_has_beyond_is_zeros(saved: Saved, tmp_path: Path) -> None:
    disk, repository, manifest, _ = saved
    target = tmp_path / "target"
    target.write_bytes(b"\xff" * (disk.size + 5 * MIB))
    restore(repository, manifest, target, options=RestoreOptions(wipe=True))
    with target.open("rb") as file:
        file.seek(disk.size)
        rest = file.read()
    assert rest[: -33 * 512].count(0) == len(rest) - 33 * 512


@pytest.mark.parametrize("is_device", [pytest.param(False, marks=pytest.mark.slow), True])
def test_over_an_older_system_every_file_is_the_new_one(saved: Saved, tmp_path: Path, is_device: bool) -> None:
    disk, repository, manifest, clean = saved
    older = build_disk(tmp_path, seed=2)
    contents = bytearray(older.path.read_bytes().ljust(disk.size, b"\xff"))
    excluded = excluded_on_disk(manifest)
    assert excluded.size > 3 * MIB
    for extent in excluded:
        contents[extent.start : extent.end] = (b"hibr" + b"old memory".ljust(508, b"!")) * (extent.size // 512)
    older.path.write_bytes(contents)
    if is_device:
        with loop_device(older.path) as target:
            restore(repository, manifest, target)
    else:
        restore(repository, manifest, older.path)
    with older.path.open("rb") as file:
        for extent in excluded:
            file.seek(extent.start)
            assert file.read(extent.size).count(0) == extent.size
    for volume in disk.volumes:
        after = real_disks.extract(older.path, volume.extent, tmp_path / f"{volume.number}")
        real_disks.check_volume(volume.kind, after)
        if volume.files:
            found = real_disks.read_files(volume.kind, after)
            assert {n: h for n, h in found.items() if n not in real_disks.LEFT_OUT} == {
                n: h for n, h in volume.files.items() if n not in real_disks.LEFT_OUT
            }
    assert hash_file(older.path) != hash_file(clean)  # what nobody uses may stay


def test_delta_writes_only_what_differs(saved: Saved, tmp_path: Path) -> None:
    disk, repository, manifest, clean = saved
    target = tmp_path / "target"
    target.write_bytes(clean.read_bytes())
    first = restore(repository, manifest, target, options=RestoreOptions(delta=True))
    assert first.bytes_written < MIB  # the table, and nothing else
    assert hash_file(target) == hash_file(clean)
    damage = [
        (disk.volumes[1].extent.start + 4096, b"x" * 3000),
        (disk.volumes[5].extent.start + 99_999, b"y" * 200_000),
    ]
    with target.open("r+b") as file:
        for offset, data in damage:
            file.seek(offset)
            file.write(data)
    second = restore(repository, manifest, target, options=RestoreOptions(delta=True))
    assert first.bytes_written < second.bytes_written < first.bytes_written + 600_000
    assert hash_file(target) == hash_file(clean)


def test_delta_takes_a_disk_from_one_version_to_another(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    live = tmp_path / "live"
    live.write_bytes(disk.path.read_bytes())
    first = backup_paths(repository, live).manifest
    restore(repository, first, tmp_path / "target")
    volume = disk.volumes[5]
    with live.open("r+b") as file:
        file.seek(volume.extent.start + 70_000)
        file.write(b"changed" * 10_000)
    second = backup_paths(repository, live).manifest
    result = restore(repository, second, tmp_path / "target", options=RestoreOptions(delta=True))
    assert result.bytes_written < MIB
    restore(repository, second, tmp_path / "new")
    assert hash_file(tmp_path / "target") == hash_file(tmp_path / "new")


@pytest.mark.parametrize("has_table", [False, True])
def test_wipe_spares_a_volume_that_fills_the_disk(tmp_path: Path, has_table: bool) -> None:
    """Nothing lies outside of it; an empty table is bytes of the volume too."""
    disk = MemoryDisk(bytes(40 * MIB))
    for number in range(19):
        fill_with_noise(disk, Extent((2 * number + 1) * MIB, (2 * number + 2) * MIB), number)
    if has_table:
        write_gpt(disk, [])
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup(repository, disk).manifest
    target = tmp_path / "target"
    for delta in (False, True):
        target.write_bytes(b"\xff" * disk.size)
        restore(repository, manifest, target, options=RestoreOptions(wipe=True, delta=delta))
        assert target.read_bytes() == disk.contents
