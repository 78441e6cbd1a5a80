"""A clone holds what a backup and a restore would have brought."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk, file
from stillframe.errors import DeviceError, SourceInUse, TargetError
from stillframe.extents import Extent
from stillframe.store import MemoryStore
from stillframe.testing import real_disks
from stillframe.testing.command_line import call
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.disks_partitioned import see_table
from stillframe.testing.job_runs import backup_paths, clone, make_repository, restore
from stillframe.testing.loops import loop_device
from stillframe.testing.real_disks import MIB, RealDisk, hash_file
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root

Disks = Callable[[str, int], RealDisk]


@pytest.fixture(scope="module")
def clean(disks: Disks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a restore makes of the disk."""
    path = tmp_path_factory.mktemp("clean") / "disk"
    repository = make_repository(MemoryStore(), chunk_size=262_144)
    restore(repository, backup_paths(repository, disks("gpt", 512).path).manifest, path)
    return path


def judge(disk: RealDisk, target: Path, folder: Path) -> None:
    for volume in disk.volumes:
        after = real_disks.extract(target, volume.extent, folder / f"{volume.number}")
        real_disks.check_volume(volume.kind, after)
        if volume.files:
            found = real_disks.read_files(volume.kind, after)
            left_out = real_disks.LEFT_OUT
            assert {n: h for n, h in found.items() if n not in left_out} == {
                n: h for n, h in volume.files.items() if n not in left_out
            }


def test_into_a_new_file_it_is_what_a_restore_makes(disks: Disks, clean: Path, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    before = hash_file(disk.path)
    result = clone(disk.path, tmp_path / "target")
    assert result.is_complete
    assert hash_file(tmp_path / "target") == hash_file(clean)
    assert hash_file(disk.path) == before
    assert (tmp_path / "target").stat().st_blocks * 512 < disk.size * 0.6


def test_with_wipe_a_dirty_target_becomes_a_clean_one(disks: Disks, clean: Path, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    (tmp_path / "target").write_bytes(b"\xff" * disk.size)
    clone(disk.path, tmp_path / "target", wipe=True)
    assert hash_file(tmp_path / "target") == hash_file(clean)


@pytest.mark.slow
@pytest.mark.parametrize(("label", "sector_size"), [("gpt", 4096), ("dos", 512)])
def test_from_device_to_a_larger_dirty_device(disks: Disks, tmp_path: Path, label: str, sector_size: int) -> None:
    disk = disks(label, sector_size)
    before = hash_file(disk.path)
    (tmp_path / "target").write_bytes(b"\xff" * (disk.size + 8 * MIB))
    with (
        loop_device(disk.path, "--read-only", sector_size=sector_size) as source,
        loop_device(tmp_path / "target", sector_size=sector_size) as target,
    ):
        clone(source, target)
        one, other = see_table(source), see_table(target)
        assert (one.disk_id, one.partitions) == (other.disk_id, other.partitions)
        if label == "gpt":
            assert "No problems found" in run_tool("sgdisk", "--verify", str(target))
    assert hash_file(disk.path) == before
    judge(disk, tmp_path / "target", tmp_path)


def test_a_new_identity(disks: Disks, tmp_path: Path) -> None:
    disk = disks("dos", 512)
    clone(disk.path, tmp_path / "target", new_identity=True)
    old, new = see_table(disk.path), see_table(tmp_path / "target")
    assert old.disk_id != new.disk_id
    assert [part.extent for part in old.partitions] == [part.extent for part in new.partitions]


@pytest.mark.parametrize("has_table", [False, True])
def test_with_wipe_raw_volumes_come_whole(tmp_path: Path, has_table: bool) -> None:
    disk = MemoryDisk(bytes(6 * MIB + 512))
    fill_with_noise(disk, Extent(MIB, 3 * MIB + 777), 3)
    if has_table:
        write_gpt(disk, [Extent(MIB, 3 * MIB + 1024), Extent(4 * MIB, 5 * MIB)])
    (tmp_path / "source").write_bytes(disk.contents)
    (tmp_path / "target").write_bytes(b"\xff" * disk.size)
    clone(tmp_path / "source", tmp_path / "target", wipe=True)
    assert (tmp_path / "target").read_bytes() == disk.contents


@pytest.mark.parametrize("wipe", [False, True])
def test_a_volume_without_table_is_wiped_too(tmp_path: Path, wipe: bool) -> None:
    files = real_disks.make_ext4(tmp_path / "source", 24 * MIB, seed=3)
    (tmp_path / "target").write_bytes(b"\xff" * 24 * MIB)
    clone(tmp_path / "source", tmp_path / "target", wipe=wipe)
    clone(tmp_path / "source", tmp_path / "new")
    assert (hash_file(tmp_path / "target") == hash_file(tmp_path / "new")) is wipe
    found = real_disks.read_files("ext4", tmp_path / "target")
    assert {n: h for n, h in found.items() if n != "swapfile"} == {n: h for n, h in files.items() if n != "swapfile"}


def test_the_source_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(MIB))
    (tmp_path / "link").symlink_to(tmp_path / "source")
    for target in ("source", "link"):
        with pytest.raises(TargetError, match="same disk"):
            clone(tmp_path / "source", tmp_path / target)
    with loop_device(tmp_path / "source") as device:
        with pytest.raises((TargetError, SourceInUse)):
            clone(tmp_path / "source", device)
        with pytest.raises((TargetError, SourceInUse)):
            clone(device, tmp_path / "source")


def test_a_smaller_target_is_refused_before_the_first_byte(disks: Disks, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"\xff" * MIB)
    with pytest.raises(TargetError, match="too"):
        clone(disks("gpt", 512).path, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"\xff" * MIB


def test_other_sectors_are_refused(disks: Disks, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(bytes(200 * MIB))
    with loop_device(tmp_path / "target", sector_size=4096) as device, pytest.raises(TargetError, match="sectors"):
        clone(disks("gpt", 512).path, device)


def test_a_source_that_fails_is_not_cloned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillframe.block import ReadFault

    (tmp_path / "source").write_bytes(b"s" * MIB)
    real = file.FileReader.read_into

    def fail(self: file.FileReader, offset: int, buffer: bytearray) -> None:
        if self.path.endswith("source") and offset <= 500_000 < offset + len(buffer):
            raise ReadFault("planned", extent=Extent(offset, offset + len(buffer)))
        real(self, offset, buffer)

    monkeypatch.setattr(file.FileReader, "read_into", fail)
    with pytest.raises(DeviceError, match="499712"):
        clone(tmp_path / "source", tmp_path / "target")


def test_delta_writes_only_what_differs_and_comes_to_the_same(disks: Disks, clean: Path, tmp_path: Path) -> None:
    disk, target = disks("gpt", 512), tmp_path / "target"
    shutil.copyfile(clean, target)
    again = clone(disk.path, target, delta=True)
    assert hash_file(target) == hash_file(clean)
    assert again.bytes_written < MIB, "but the table, which is written last in any case"
    assert again.bytes_skipped > disk.size // 10
    spoilt = [disk.volumes[0].extent.start + MIB, disk.volumes[1].extent.start + 2 * MIB]
    with target.open("r+b") as file:
        for start in spoilt:
            file.seek(start)
            file.write(b"\xaa" * 5000)
    clone(disk.path, target, delta=True, wipe=True)
    assert hash_file(target) == hash_file(clean)


def test_with_delta_and_wipe_a_dirty_target_becomes_a_clean_one(disks: Disks, clean: Path, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    (tmp_path / "target").write_bytes(b"\xff" * disk.size)
    clone(disk.path, tmp_path / "target", wipe=True, delta=True)
    assert hash_file(tmp_path / "target") == hash_file(clean)


def test_delta_goes_on_after_a_stop(
    disks: Disks, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    disk, target = disks("gpt", 512), tmp_path / "target"
    target.write_bytes(bytes(disk.size))
    real, seen = file.FileWriter.write_at, list[int]()

    def stop(self: file.FileWriter, offset: int, data: bytes) -> None:
        seen.append(len(data))
        if sum(seen) > 8 * MIB:
            raise TargetError("planned", hint="planned")
        real(self, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(file.FileWriter, "write_at", stop)
        with pytest.raises(TargetError, match="planned"):
            clone(disk.path, target)
    assert b"EFI PART" not in target.read_bytes()[:4096], "a half-done disk has no table"
    whole = clone(disk.path, tmp_path / "other")
    result = clone(disk.path, target, delta=True)
    assert hash_file(target) == hash_file(clean)
    assert result.bytes_written <= whole.bytes_written - 6 * MIB


def test_the_command_line_has_delta(disks: Disks, clean: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copyfile(clean, target)
    done = call("clone", disks("gpt", 512).path, target, "--delta", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert done.result["bytes_written"] < MIB
    assert hash_file(target) == hash_file(clean)
