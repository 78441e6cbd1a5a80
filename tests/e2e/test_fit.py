"""Disks that come back on larger and smaller ones: tables, file systems and every file, judged by other tools."""

import os
import subprocess
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.disk import read_layout
from stillframe.errors import TargetError, UsageError
from stillframe.jobs.restore import RestoreOptions, plan_restore
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore
from stillframe.testing import real_disks
from stillframe.testing.disks_partitioned import make_disk, see_table
from stillframe.testing.fitted_disks import (
    judge_gpt,
    judge_late_mbr,
    judge_late_volume,
    judge_volumes,
    make_late_mbr,
    make_late_volume,
)
from stillframe.testing.job_runs import backup_paths, make_repository, restore
from stillframe.testing.real_disks import RealDisk, build_disk, used_file
from stillframe.testing.tools import run_tool
from stillframe.testing.windows_backup import gpt_device
from stillframe.testing.windows_moved import GPT
from stillframe.testing.windows_moved import build_disk as build_windows
from stillframe.testing.windows_moved import make_volumes as make_windows_volumes

pytestmark = pytest.mark.root
MIB = 1 << 20
FIT = RestoreOptions(fit=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[RealDisk, Repository, Manifest]:
    folder = tmp_path_factory.mktemp("fit")
    disk = build_disk(folder)
    repository = make_repository(LocalStore(str(folder / "repository")))
    return disk, repository, backup_paths(repository, disk.path).manifest


def test_a_larger_disk_is_filled(saved: tuple[RealDisk, Repository, Manifest], tmp_path: Path) -> None:
    disk, repository, manifest = saved
    target = used_file(tmp_path / "target", 300 * MIB + 7 * 512)
    before = {volume.number: volume.extent for volume in disk.volumes}
    result = restore(repository, manifest, target, options=RestoreOptions(fit=True, wipe=True))
    places = judge_gpt(disk, target, tmp_path)
    assert places[2].size > before[2].size + 150 * MIB  # the largest
    assert {number: place.size for number, place in places.items() if number != 2} == {
        number: place.size for number, place in before.items() if number != 2
    }
    assert 300 * MIB - max(place.end for place in places.values()) < 3 * MIB
    assert any("partition 2 was made larger" in words for words in result.changes)


def test_a_named_partition_takes_what_is_left_and_others_what_was_asked(
    saved: tuple[RealDisk, Repository, Manifest], tmp_path: Path
) -> None:
    disk, repository, manifest = saved
    target = used_file(tmp_path / "target", 300 * MIB)
    restore(repository, manifest, target, options=RestoreOptions(fit=True, wishes={3: "max", 2: 60 * MIB}))
    places = judge_gpt(disk, target, tmp_path)
    assert places[2].size == 60 * MIB
    assert places[3].size > 150 * MIB


@pytest.mark.parametrize("new_identity", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_smaller_disk_on_which_the_files_fit(
    saved: tuple[RealDisk, Repository, Manifest], tmp_path: Path, new_identity: bool
) -> None:
    disk, repository, manifest = saved
    size = 116 * MIB
    target = used_file(tmp_path / "target", size)
    with pytest.raises(TargetError, match="too few"):
        restore(repository, manifest, target, options=RestoreOptions())
    options = RestoreOptions(fit=True, new_identity=new_identity, wipe=new_identity)
    restore(repository, manifest, target, options=options)
    plan = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=options)
    assert any("new UUIDs" in step for step in plan.steps) == new_identity
    places = judge_gpt(disk, target, tmp_path)
    assert places[2].size < 48 * MIB
    assert places[3].size < 40 * MIB
    assert (run_tool("sgdisk", "-p", str(target)).split("(GUID): ")[1][:36] != run_tool(
        "sgdisk", "-p", str(disk.path)
    ).split("(GUID): ")[1][:36]) == new_identity  # fmt: skip


def test_too_small_is_refused_before_anything_is_written(
    saved: tuple[RealDisk, Repository, Manifest], tmp_path: Path
) -> None:
    _, repository, manifest = saved
    target = used_file(tmp_path / "target", 90 * MIB)
    with pytest.raises(TargetError, match=r"more than there is: partition 1 .*swap is kept at its size"):
        restore(repository, manifest, target, options=FIT)
    with pytest.raises(UsageError, match="partition 2 cannot be made"):
        restore(repository, manifest, target, options=RestoreOptions(fit=True, wishes={2: 5 * MIB}))
    assert target.read_bytes() == b"\xff" * (90 * MIB)


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("kind", "size", "room"),
    [
        ("ext4", 160, 100),
        ("ntfs", 160, 60),
        pytest.param("btrfs", 400, 300, marks=pytest.mark.slow),
        ("xfs", 320, 400),
        pytest.param("ext4", 160, 200, marks=pytest.mark.slow),
        pytest.param("ntfs", 512, 150, marks=pytest.mark.slow),
        pytest.param("ntfs", 512, 600, marks=pytest.mark.slow),
        pytest.param("btrfs", 512, 600, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_one_partition_in_a_place_of_another_size(tmp_path: Path, kind: str, size: int, room: int) -> None:
    volume, target = tmp_path / "volume", used_file(tmp_path / "target", room * MIB)
    files = make_late_volume(volume, kind, size * MIB)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    restore(repository, manifest, target, options=RestoreOptions(partition=1, fit=True))
    judge_late_volume(kind, target, files)
    assert backup_paths(repository, volume).manifest.bytes_used == manifest.bytes_used  # the image and its source stay


def test_what_cannot_shrink_says_why(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.touch()
    os.truncate(volume, 320 * MIB)
    run_tool("mkfs.xfs", "-q", str(volume))
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", 299 * MIB)
    with pytest.raises(TargetError, match=r"too small: it has .* needs .*mkfs.xfs makes no volume below 315 MB"):
        restore(repository, manifest, target, options=RestoreOptions(partition=1, fit=True))
    with pytest.raises(TargetError, match="without a partition table"):
        restore(repository, manifest, target, options=FIT)


def test_a_file_system_with_errors_keeps_its_size(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.touch()
    os.truncate(volume, 64 * MIB)
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("one", "two"):
        (tree / name).write_text(name * 999)
    run_tool("mke2fs", "-q", "-F", "-t", "ext2", "-d", str(tree), str(volume))
    block = run_tool("debugfs", "-R", "bmap one 0", str(volume)).split()[0]
    run_tool("debugfs", "-w", "-R", f"sif two block[0] {block}", str(volume))  # two files in one place
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", 40 * MIB)
    with pytest.raises(TargetError, match=r"e2fsck says: .*fsck MANUALLY"):
        restore(repository, manifest, target, options=RestoreOptions(partition=1, fit=True))
    assert target.read_bytes() == b"\xff" * (40 * MIB)


@pytest.mark.parametrize("size", [110, pytest.param(240, marks=pytest.mark.slow)])
def test_an_mbr_disk(tmp_path: Path, size: int) -> None:
    disk, files = make_late_mbr(tmp_path)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk).manifest
    target = used_file(tmp_path / "target", size * MIB)
    restore(repository, manifest, target, options=FIT)
    judge_late_mbr(target, files, tmp_path)


def test_a_hybrid_table_is_not_changed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(make_disk(32 * MIB, sgdisk=("-n", "1:2048:+4M", "-n", "2:0:+4M", "-h", "1")))
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk).manifest
    target = used_file(tmp_path / "target", 40 * MIB)
    for options in (FIT, RestoreOptions(moves={2: 20 * MIB}), RestoreOptions(leave_out=frozenset({1}))):
        with pytest.raises(TargetError, match="hybrid MBR"):
            plan_restore(repository, manifest, 1, str(target), repository_folder="", options=options)


@pytest.mark.slow
@pytest.mark.parametrize("size", [120, pytest.param(300, marks=pytest.mark.slow)])
def test_logical_partitions_get_a_chain_made_anew(tmp_path: Path, size: int) -> None:
    disk = build_disk(tmp_path, label="dos")
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    target = used_file(tmp_path / "target", size * MIB)
    restore(repository, manifest, target, options=FIT)
    assert "No errors detected" in run_tool("sfdisk", "--verify", str(target))
    seen = {part.number: part.extent for part in see_table(target).partitions}
    assert sorted(seen) == [1, 2, 3, 5, 6, 7]
    assert (seen[2].size > disk.volumes[1].extent.size) == (size == 300)
    judge_volumes(disk, target, seen, tmp_path)


@pytest.mark.parametrize("fit", [False, True])
def test_a_windows_follows_its_partitions_and_ids(tmp_path: Path, fit: bool) -> None:
    """Registry and boot sectors name the new places and GUIDs, also in a volume that was resized; read by mtools."""
    source = tmp_path / "source"
    source.write_bytes(build_windows(GPT, make_windows_volumes(GPT, tmp_path)))
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, source).manifest
    target = used_file(tmp_path / "target", source.stat().st_size + 64 * MIB)
    result = restore(repository, manifest, target, options=RestoreOptions(fit=fit, new_identity=True))
    with open_file_reader(str(source)) as old, open_file_reader(str(target)) as new:
        before, after = read_layout(old), read_layout(new)
    assert before.disk_id != after.disk_id
    assert any("BCD" in words for words in result.changes)
    loader = after.partitions[GPT.find("esp").number - 1]
    image = f"{target}@@{loader.extent.start}"
    command = ["mcopy", "-n", "-i", image, "::/EFI/Microsoft/Boot/BCD", "-"]
    store = subprocess.run(command, capture_output=True, check=True).stdout
    windows = GPT.find("windows").number - 1
    assert store.count(gpt_device(after.disk_id, after.partitions[windows].guid)) == 2
    assert store.count(gpt_device(before.disk_id, before.partitions[windows].guid)) == 1  # in an element that is a text
    for part in after.partitions:
        raw = real_disks.extract(target, part.extent, tmp_path / "volume").read_bytes()
        if raw[3:11] == b"NTFS    ":
            assert int.from_bytes(raw[0x1C:0x20], "little") * 512 == part.extent.start
    if fit:
        assert after.partitions[windows].extent.size > before.partitions[windows].extent.size
