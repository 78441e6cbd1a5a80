"""Whole disks with real file systems: backed up from a device, put back onto one, and judged by other tools."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.capture import Selection
from stillframe.errors import TargetError
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.backup import BackupOptions
from stillframe.jobs.restore import RestoreOptions
from stillframe.repo.records import Manifest
from stillframe.store import LocalStore
from stillframe.testing import real_disks
from stillframe.testing.disks_partitioned import see_table
from stillframe.testing.job_runs import backup_paths, make_repository, restore, verify
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.real_disks import RealDisk, RealVolume, hash_file, used_file
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root

Disks = Callable[[str, int], RealDisk]
MIB = 1 << 20
KINDS = [("gpt", 512), ("gpt", 4096), ("dos", 512)]


def excluded_of(manifest: Manifest, number: int) -> ExtentSet:
    (part,) = [part for part in manifest.disks[0].partitions if part.number == number]
    return ExtentSet.of(*(Extent(start, end) for start, end in part.excluded))


def without_left_out(files: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in files.items() if name not in real_disks.LEFT_OUT}


def compare(source: Path, target: Path, extents: ExtentSet) -> None:
    """As ``cmp`` does, range by range."""
    with source.open("rb") as one, target.open("rb") as other:
        for extent in extents:
            one.seek(extent.start)
            other.seek(extent.start)
            assert one.read(extent.size) == other.read(extent.size), f"{source} and {target} differ in {extent}"


def judge_volume(disk: RealDisk, volume: RealVolume, restored: Path, manifest: Manifest, folder: Path) -> None:
    before = real_disks.extract(disk.path, volume.extent, folder / f"{volume.number}-before")
    after = real_disks.extract(restored, volume.extent, folder / f"{volume.number}-after")
    excluded = excluded_of(manifest, volume.number)
    used = real_disks.used_by_partclone(volume.kind, before) - excluded
    compare(before, after, used.clipped(Extent(0, volume.extent.size)))
    with after.open("rb") as file:
        for extent in excluded:
            file.seek(extent.start)
            assert file.read(extent.size).count(0) == extent.size
    real_disks.check_volume(volume.kind, after)
    if volume.files:
        found = real_disks.read_files(volume.kind, after)
        assert without_left_out(found) == without_left_out(volume.files)
        assert found.keys() == volume.files.keys()
    if volume.kind:
        assert run_tool("blkid", "-p", "-o", "value", str(after)) == run_tool(
            "blkid", "-p", "-o", "value", str(before)
        ).replace(str(before), str(after))
    before.unlink()
    after.unlink()


@pytest.mark.variants(2)
@pytest.mark.parametrize(("label", "sector_size"), KINDS)
@pytest.mark.parametrize("growth", [0, 24 * MIB + 4096])
def test_a_disk_comes_back_on_a_dirty_device(
    disks: Disks, tmp_path: Path, label: str, sector_size: int, growth: int
) -> None:
    disk = disks(label, sector_size)
    before = hash_file(disk.path)
    repository = make_repository(LocalStore(str(tmp_path / "repository")), chunk_size=262_144, passphrase="one two")  # noqa: S106
    with loop_device(disk.path, "--read-only", sector_size=sector_size) as source:
        result = backup_paths(repository, source)
        table = see_table(source)
    assert hash_file(disk.path) == before
    manifest = result.manifest
    assert result.is_complete
    assert verify(repository, manifest).ok
    assert [(part.number, part.filesystem) for part in manifest.disks[0].partitions] == [
        (volume.number, volume.kind) for volume in disk.volumes
    ]
    assert [part.map for part in manifest.disks[0].partitions] == ["used"] * 5 + ["raw"]
    assert manifest.disks[0].sector_size == sector_size

    restored = used_file(tmp_path / "restored", disk.size + growth)
    with loop_device(restored, sector_size=sector_size) as target:
        restore(repository, manifest, target, folder=str(tmp_path / "repository"))
        found = see_table(target)
        assert (found.label, found.disk_id, found.partitions) == (table.label, table.disk_id, table.partitions)
        if label == "gpt":
            assert "No problems found" in run_tool("sgdisk", "--verify", str(target))
    assert hash_file(disk.path) == before
    for volume in disk.volumes:
        judge_volume(disk, volume, restored, manifest, tmp_path)


def test_a_disk_comes_back_as_a_new_file(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    restored = tmp_path / "restored"
    restore(repository, manifest, restored)
    assert restored.stat().st_blocks * 512 < disk.size * 0.6
    for volume in disk.volumes:
        judge_volume(disk, volume, restored, manifest, tmp_path)


@pytest.mark.variants(1)
@pytest.mark.parametrize("selection", ["all_sectors", "include_paging"])
def test_what_is_left_out_can_be_asked_for(disks: Disks, tmp_path: Path, selection: str) -> None:
    disk = disks("gpt", 512)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    wanted = Selection(all_sectors=selection == "all_sectors", include_paging=selection == "include_paging")
    manifest = backup_paths(repository, disk.path, options=BackupOptions(selection=wanted)).manifest
    restored = tmp_path / "restored"
    restore(repository, manifest, restored)
    if selection == "all_sectors":
        assert hash_file(restored) == hash_file(disk.path)
    for volume in disk.volumes:
        if volume.files:
            after = real_disks.extract(restored, volume.extent, tmp_path / f"after{volume.number}")
            assert real_disks.read_files(volume.kind, after) == volume.files


def test_one_partition_goes_into_another_ones_place(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    source = disk.volumes[3]
    target = tmp_path / "target"
    target.write_bytes(disk.path.read_bytes())
    place = disk.volumes[1].extent  # larger: the rest of it stays as it is
    restore(repository, manifest, target, options=RestoreOptions(partition=source.number, onto=2))
    whole = disk.path.stat().st_size
    untouched = ExtentSet.of(place).complement(Extent(0, whole)) | ExtentSet.of(
        Extent(place.start + source.extent.size, place.end)
    )
    compare(disk.path, target, untouched)
    after = real_disks.extract(target, Extent(place.start, place.start + source.extent.size), tmp_path / "after")
    assert real_disks.read_files(source.kind, after) == source.files
    real_disks.check_volume(source.kind, after)


def test_one_partition_becomes_a_file(disks: Disks, tmp_path: Path) -> None:
    disk = disks("dos", 512)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    volume = disk.volumes[2]
    restore(repository, manifest, tmp_path / "volume", options=RestoreOptions(partition=volume.number))
    assert (tmp_path / "volume").stat().st_size == volume.extent.size
    real_disks.check_volume(volume.kind, tmp_path / "volume")
    found = real_disks.read_files(volume.kind, tmp_path / "volume")
    assert without_left_out(found) == without_left_out(volume.files)


def test_a_new_identity_is_one_for_other_tools(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    result = restore(repository, manifest, tmp_path / "twin", options=RestoreOptions(new_identity=True))
    old, new = see_table(disk.path), see_table(tmp_path / "twin")
    assert new.disk_id != old.disk_id
    assert [part.extent for part in new.partitions] == [part.extent for part in old.partitions]
    assert not {part.guid for part in new.partitions} & {part.guid for part in old.partitions}
    assert "No problems found" in run_tool("sgdisk", "--verify", str(tmp_path / "twin"))
    assert new.disk_id in result.changes[0]


def test_two_disks_in_one_image(disks: Disks, tmp_path: Path) -> None:
    first, second = disks("gpt", 512), disks("dos", 512)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, first.path, second.path).manifest
    assert [disk.number for disk in manifest.disks] == [1, 2]
    restore(repository, manifest, tmp_path / "second", disk_number=2)
    volume = second.volumes[1]
    after = real_disks.extract(tmp_path / "second", volume.extent, tmp_path / "after")
    assert without_left_out(real_disks.read_files(volume.kind, after)) == without_left_out(volume.files)


def test_the_second_image_of_a_changed_disk_is_small_and_both_come_back(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    live = tmp_path / "live"
    live.write_bytes(disk.path.read_bytes())
    first = backup_paths(repository, live).manifest
    volume = disk.volumes[1]
    image = real_disks.extract(live, volume.extent, tmp_path / "volume")
    with real_disks.mounted_kernel(image, tmp_path / "mount") as root:
        (root / "new file").write_bytes(b"new" * 100_000)
        changed = hash_tree(root)
    real_disks.copy_into(image, live, volume.extent.start)
    second = backup_paths(repository, live).manifest
    assert (second.kind, second.baseline) == ("incremental", first.image)
    assert second.bytes_added < 3 * MIB < first.bytes_added
    for manifest, files in ((first, volume.files), (second, changed)):
        restored = tmp_path / manifest.image
        restore(repository, manifest, restored)
        after = real_disks.extract(restored, volume.extent, tmp_path / f"after-{manifest.image}")
        assert without_left_out(real_disks.read_files("ext4", after)) == without_left_out(files)


def test_a_partition_device_is_saved_and_put_into_another_one(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    volume = disk.volumes[1]
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    with loop_device(disk.path, "--read-only") as source, partition_nodes(source):
        manifest = backup_paths(repository, Path(f"{source}p2")).manifest
    (part,) = manifest.disks[0].partitions
    assert (manifest.disks[0].scheme, part.filesystem, part.size, part.map) == (
        "none",
        "ext4",
        volume.extent.size,
        "used",
    )
    whole = tmp_path / "target"
    whole.write_bytes(disk.path.read_bytes())
    with whole.open("r+b") as file:
        file.seek(volume.extent.start)
        file.write(b"\xff" * volume.extent.size)
    with loop_device(whole) as target, partition_nodes(target):
        restore(repository, manifest, Path(f"{target}p2"), folder=str(tmp_path / "repository"))
        with pytest.raises(TargetError, match="too small"):
            restore(repository, manifest, Path(f"{target}p1"))
    compare(disk.path, whole, ExtentSet.of(volume.extent).complement(Extent(0, disk.size)))
    after = real_disks.extract(whole, volume.extent, tmp_path / "after")
    real_disks.check_volume("ext4", after)
    assert without_left_out(real_disks.read_files("ext4", after)) == without_left_out(volume.files)


def test_a_partition_of_a_disk_goes_into_a_partition_device_by_delta(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    volume = disk.volumes[2]
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    whole = tmp_path / "target"
    whole.write_bytes(disk.path.read_bytes())
    options = RestoreOptions(partition=volume.number, delta=True)
    with loop_device(whole) as target, partition_nodes(target):
        first = restore(repository, manifest, Path(f"{target}p3"), options=options)
        again = restore(repository, manifest, Path(f"{target}p3"), options=options)
        mounted = tmp_path / "mount"
        mounted.mkdir()
        run_tool("mount", f"{target}p2", str(mounted))
        try:
            with pytest.raises(TargetError, match="mounted"):
                restore(repository, manifest, target)
            restore(repository, manifest, Path(f"{target}p3"), options=options)  # a neighbour is no obstacle
        finally:
            unmount(mounted)
    assert (
        first.bytes_written
        <= sum(end - start for part in manifest.disks[0].partitions for start, end in part.excluded) + 4 * MIB
    )
    assert again.bytes_written == 0
    after = real_disks.extract(whole, volume.extent, tmp_path / "after")
    real_disks.check_volume("ntfs", after)
    assert without_left_out(real_disks.read_files("ntfs", after)) == without_left_out(volume.files)
