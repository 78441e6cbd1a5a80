"""A disk is copied onto a smaller and a larger one without a repository: the plan of a restore, and its judges."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.block import ReadFault, file
from stillframe.capture import Selection, open_source
from stillframe.errors import Cancelled, DeviceError, Disturbed, SourceInUse, StillframeError, TargetError, UsageError
from stillframe.events import BytesMoved, Event
from stillframe.extents import Extent
from stillframe.jobs.cloning.disk_image import disk_image
from stillframe.jobs.cloning.fitted import clone_planner
from stillframe.jobs.conversions.conversion import ConvertWish
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.restore import RestoreOptions, RestorePlan, plan_restore
from stillframe.store import MemoryStore
from stillframe.testing.clocks import FakeClock
from stillframe.testing.command_line import call
from stillframe.testing.disks_partitioned import see_table
from stillframe.testing.fitted_disks import (
    judge_gpt,
    judge_late_mbr,
    judge_late_volume,
    judge_volumes,
    make_late_mbr,
    make_late_volume,
)  # fmt: skip
from stillframe.testing.job_runs import backup_paths, clone, clone_fitted, job_context, make_repository
from stillframe.testing.loops import loop_device
from stillframe.testing.real_disks import MIB, RealDisk, hash_file, see_valid_table, used_file
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
FIT = RestoreOptions(fit=True)
Disks = Callable[[str, int], RealDisk]


def plan_clone(source: Path, target: Path, options: RestoreOptions) -> RestorePlan:
    with open_source(str(source), may_snapshot=True) as opened:
        return clone_planner(disk_image(opened, Selection(), FakeClock()), str(target)).plan(options)


@contextmanager
def mounted(device: Path, place: Path) -> Iterator[Path]:
    place.mkdir()
    run_tool("mount", str(device), str(place))
    try:
        yield place
    finally:
        unmount(place)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a test lies in the state of this machine, and no repository is named."""
    monkeypatch.setenv("STILLFRAME_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("STILLFRAME_REPO", raising=False)


@pytest.mark.parametrize("size", [116, pytest.param(300, marks=pytest.mark.slow)])
def test_a_disk_fits_and_its_source_stays_as_it_was(disks: Disks, tmp_path: Path, size: int) -> None:
    disk = disks("gpt", 512)
    before = hash_file(disk.path)
    target = used_file(tmp_path / "target", size * MIB)
    result = clone_fitted(disk.path, target, FIT)
    places = judge_gpt(disk, target, tmp_path)
    assert (places[2].size > disk.volumes[1].extent.size) == (size == 300)
    assert hash_file(disk.path) == before
    assert any("partition 2 was made" in words for words in result.changes)
    assert run_tool("sgdisk", "-p", str(target)).split("(GUID): ")[1][:36] == "9A5B2C1D-0000-4000-8000-000000000001"


@pytest.mark.slow
def test_the_plan_is_that_of_a_restore(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    repository = make_repository(MemoryStore(), chunk_size=262_144)
    manifest = backup_paths(repository, disk.path).manifest
    target = used_file(tmp_path / "target", 122 * MIB)
    every = [
        RestoreOptions(fit=True, wishes={2: "max"}),
        RestoreOptions(fit=True, leave_out=frozenset({4}), moves={5: 114 * MIB}, new_identity=True, adapt=True),
    ]
    for options in every:
        stored = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=options)
        found = plan_clone(disk.path, target, options)
        assert found.placements == stored.placements
        assert found.reasons == stored.reasons
        assert found.steps == stored.steps
        assert found.made_anew == stored.made_anew


def test_into_a_new_file_it_is_what_a_plain_clone_makes(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    clone(disk.path, tmp_path / "plain")
    clone_fitted(disk.path, tmp_path / "fitted", FIT)
    assert hash_file(tmp_path / "fitted") == hash_file(tmp_path / "plain")
    sizes = [(tmp_path / name).stat().st_blocks * 512 for name in ("fitted", "plain")]
    assert sizes[0] < sizes[1] + 4 * MIB  # what is zeros takes no room


@pytest.mark.slow
def test_delta_writes_only_what_differs(disks: Disks, tmp_path: Path) -> None:
    disk, target = disks("gpt", 512), tmp_path / "target"
    larger = RestoreOptions(wishes={2: 40 * MIB}, fit=True)
    target.write_bytes(bytes(300 * MIB))
    first = clone_fitted(disk.path, target, larger)
    places = judge_gpt(disk, target, tmp_path)
    again = clone_fitted(disk.path, target, replace(larger, delta=True))
    assert again.bytes_written < first.bytes_written // 4
    assert judge_gpt(disk, target, tmp_path) == places
    with target.open("r+b") as written:
        written.seek(places[2].start + 3 * MIB)
        written.write(b"\xaa" * 100_000)
    clone_fitted(disk.path, target, replace(larger, delta=True))
    assert judge_gpt(disk, target, tmp_path) == places


@pytest.mark.slow
def test_with_new_ids_onto_a_larger_dirty_device(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    used_file(tmp_path / "target", 200 * MIB)
    with loop_device(disk.path, "--read-only") as source, loop_device(tmp_path / "target") as target:
        clone_fitted(source, target, RestoreOptions(fit=True, new_identity=True, wipe=True))
        old, new = see_table(source), see_table(target)
        assert old.disk_id != new.disk_id
    judge_gpt(disk, tmp_path / "target", tmp_path)
    raw = (tmp_path / "target").read_bytes()
    gaps = new.partitions[0].extent.start, new.partitions[1].extent
    assert not any(raw[34 * 512 : gaps[0]])


@pytest.mark.slow
@pytest.mark.parametrize("size", [110, 240])
def test_an_mbr_disk_with_files_at_its_end(tmp_path: Path, size: int) -> None:
    disk, files = make_late_mbr(tmp_path)
    before = hash_file(disk)
    target = used_file(tmp_path / "target", size * MIB)
    clone_fitted(disk, target, FIT)
    judge_late_mbr(target, files, tmp_path)
    assert hash_file(disk) == before


@pytest.mark.slow
def test_logical_partitions(disks: Disks, tmp_path: Path) -> None:
    disk = disks("dos", 512)
    target = used_file(tmp_path / "target", 120 * MIB)
    clone_fitted(disk.path, target, FIT)
    assert "No errors detected" in run_tool("sfdisk", "--verify", str(target))
    seen = {part.number: part.extent for part in see_table(target).partitions}
    assert sorted(seen) == [1, 2, 3, 5, 6, 7]
    judge_volumes(disk, target, seen, tmp_path)


@pytest.mark.parametrize(
    ("kind", "size", "room"),
    [
        ("ext4", 160, 100),
        pytest.param("ext4", 160, 200, marks=pytest.mark.slow),
        pytest.param("ntfs", 160, 60, marks=pytest.mark.slow),
        pytest.param("ntfs", 160, 200, marks=pytest.mark.slow),
        pytest.param("btrfs", 400, 300, marks=pytest.mark.slow),
        pytest.param("btrfs", 400, 500, marks=pytest.mark.slow),
        pytest.param("xfs", 640, 400, marks=pytest.mark.slow),
        pytest.param("xfs", 320, 400, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_volume_by_itself(tmp_path: Path, kind: str, size: int, room: int) -> None:
    volume, target = tmp_path / "volume", used_file(tmp_path / "target", room * MIB)
    files = make_late_volume(volume, kind, size * MIB)
    before = hash_file(volume)
    clone_fitted(volume, target, FIT)
    judge_late_volume(kind, target, files)
    assert hash_file(volume) == before


@pytest.mark.slow
def test_a_disk_file_of_a_virtual_machine(disks: Disks, tmp_path: Path) -> None:
    disk = disks("gpt", 512)
    run_tool("qemu-img", "convert", "-O", "qcow2", str(disk.path), str(tmp_path / "disk.qcow2"))
    before = hash_file(tmp_path / "disk.qcow2")
    target = used_file(tmp_path / "target", 130 * MIB)
    clone_fitted(tmp_path / "disk.qcow2", target, FIT)
    judge_gpt(disk, target, tmp_path)
    assert hash_file(tmp_path / "disk.qcow2") == before


def test_too_small_is_refused_by_how_much_and_nothing_is_written(disks: Disks, tmp_path: Path) -> None:
    target = used_file(tmp_path / "target", 90 * MIB)
    with pytest.raises(TargetError, match=r"need .* more than there is: partition 1 .*swap is kept at its size"):
        clone_fitted(disks("gpt", 512).path, target, FIT)
    assert target.read_bytes() == b"\xff" * (90 * MIB)


def test_what_cannot_be_meant_or_done_is_refused(disks: Disks, tmp_path: Path) -> None:
    disk, target = disks("gpt", 512).path, used_file(tmp_path / "target", 120 * MIB)
    with pytest.raises(UsageError, match="there is no partition 9; there are 1, 2, 3, 4, 5, 6"):
        plan_clone(disk, target, RestoreOptions(fit=True, wishes={9: "max"}))
    with pytest.raises(UsageError, match=r"'--leave-out 2' and '--resize 2=\.\.\.' cannot be meant together"):
        plan_clone(disk, target, RestoreOptions(fit=True, leave_out=frozenset({2}), wishes={2: "max"}))
    make_late_volume(tmp_path / "volume", "ext4", 32 * MIB)
    wish = ConvertWish(starts_by="uefi", esp_size=None, is_experimental=False)
    for options in (RestoreOptions(wishes={1: "max"}), RestoreOptions(new_identity=True), RestoreOptions(convert=wish)):
        with pytest.raises(UsageError, match="has no partition table"):
            plan_clone(tmp_path / "volume", target, options)
    with loop_device(target, sector_size=4096) as device, pytest.raises(TargetError, match="sectors of 4096 bytes"):
        plan_clone(disk, Path(device), FIT)
    assert target.read_bytes() == b"\xff" * (120 * MIB)


def test_the_source_is_no_target(tmp_path: Path) -> None:
    make_late_volume(tmp_path / "volume", "ext4", 32 * MIB)
    before = hash_file(tmp_path / "volume")
    (tmp_path / "link").symlink_to(tmp_path / "volume")
    for name in ("volume", "link"):
        with pytest.raises(TargetError, match="same disk"):
            plan_clone(tmp_path / "volume", tmp_path / name, FIT)
    with loop_device(tmp_path / "volume") as device:
        with pytest.raises((TargetError, SourceInUse)):
            plan_clone(tmp_path / "volume", Path(device), FIT)
        with pytest.raises((TargetError, SourceInUse)):
            plan_clone(Path(device), tmp_path / "volume", FIT)
    assert hash_file(tmp_path / "volume") == before


def test_a_target_that_holds_the_source_is_refused(tmp_path: Path) -> None:
    outer = used_file(tmp_path / "outer", 64 * MIB)
    with loop_device(outer) as device:
        run_tool("mke2fs", "-q", "-F", "-t", "ext4", str(device))
        with mounted(device, tmp_path / "mount") as root:
            make_late_volume(root / "volume", "ext4", 16 * MIB)
            with pytest.raises(TargetError, match="holds the source"):
                plan_clone(root / "volume", Path(device), FIT)


def test_a_source_in_use_is_refused_with_the_ways(tmp_path: Path) -> None:
    make_late_volume(tmp_path / "volume", "ext4", 64 * MIB)
    target = used_file(tmp_path / "target", 40 * MIB)
    with loop_device(tmp_path / "volume") as device, mounted(device, tmp_path / "mount"):
        done = call("clone", device, target, "--fit", "--yes")
        assert done.exit_code == 20
        assert "is in use: what is made to fit is read more than once" in done.errors
        assert "stillframe restore --fit" in done.errors
        torn = call("clone", device, target, "--fit", "--yes", "--allow-torn")
        assert (torn.exit_code, "is in use: what" in torn.errors) == (20, True)
    assert target.read_bytes() == b"\xff" * (40 * MIB)


def test_a_source_that_cannot_be_read_leaves_no_table(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disks("gpt", 512)
    place, name = disk.volumes[5].extent.start + MIB, disk.path.name
    real = file.FileReader.read_into

    def fail(self: file.FileReader, offset: int, buffer: bytearray) -> None:
        if self.path.endswith(name) and offset <= place < offset + len(buffer):
            raise ReadFault("planned", extent=Extent(offset, offset + len(buffer)))
        real(self, offset, buffer)

    target = used_file(tmp_path / "target", 300 * MIB)
    with monkeypatch.context() as patch:
        patch.setattr(file.FileReader, "read_into", fail)
        with pytest.raises(DeviceError, match=f"the source cannot be read at byte {place // 512 * 512}"):
            clone_fitted(disk.path, target, FIT)
    assert not see_valid_table(target)


class OnFirstBytes:
    """Does something when bytes have been written."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self.happened = False

    def emit(self, event: Event) -> None:
        if isinstance(event, BytesMoved) and not self.happened:
            self.happened = True
            self._action()


@pytest.mark.variants(1)
@pytest.mark.parametrize(("kind", "error"), [("stopped", Cancelled), ("changed", Disturbed)])
def test_what_is_cut_off_or_disturbed_leaves_no_table(
    disks: Disks, tmp_path: Path, kind: str, error: type[StillframeError]
) -> None:
    source, cancel = tmp_path / "source", CancelToken()
    source.write_bytes(disks("gpt", 512).path.read_bytes())
    target = used_file(tmp_path / "target", 300 * MIB)
    subprocess.run(["sfdisk", "-q", str(target)], input=b"label: gpt\n,8M\n", check=True)

    def change() -> None:
        with source.open("r+b") as opened:
            opened.seek(40 * MIB)
            opened.write(b"x")

    events = OnFirstBytes(cancel.cancel if kind == "stopped" else change)
    with pytest.raises(error):
        clone_fitted(source, target, FIT, context=job_context(events=events, cancel=cancel))
    assert events.happened
    assert not see_valid_table(target)
    clone_fitted(source, target, FIT)
    assert see_valid_table(target)


def test_on_the_command_line(disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = disks("gpt", 512)
    monkeypatch.chdir(tmp_path)
    before = hash_file(used_file(tmp_path / "smaller.img", 120 * MIB))
    refused = call("clone", disk.path, "smaller.img", "--dry-run")
    assert (refused.exit_code, "'--fit' makes partitions smaller" in refused.errors) == (22, True)
    shown = call("clone", disk.path, "smaller.img", "--fit", "--dry-run", "--explain")
    assert shown.exit_code == 0
    assert "On the source, 144 MB:" in shown.output
    assert "all that can shrink give the same share" in shown.output
    assert hash_file(tmp_path / "smaller.img") == before
    asked = call("clone", disk.path, "smaller.img", "--fit", "--edit", typed=["4=out", "3=keep", "", "clone"])
    assert asked.exit_code == 0, asked.errors
    assert f"to {tmp_path}/smaller.img in" in asked.output, asked.output[-500:]
    assert sorted(part.number for part in see_table(tmp_path / "smaller.img").partitions) == [1, 2, 3, 5, 6]
    planned = call("clone", disk.path, "smaller.img", "--resize", "2=max", "--dry-run", "--json").result
    assert [one["partition"] for one in planned["places"]] == [1, 2, 3, 4, 5, 6]
    assert {one["partition"] for one in planned["reasons"]} == {1, 2, 3, 4, 5, 6, None}
    new = call("clone", disk.path, "new.img", "--fit", "--dry-run")
    assert "new.img does not exist and is made as large as the source" in new.output
    assert not (tmp_path / "new.img").exists()


def test_the_table_that_was_there_can_be_put_back(disks: Disks, tmp_path: Path) -> None:
    target = used_file(tmp_path / "target", 120 * MIB)
    subprocess.run(["sfdisk", "-q", str(target)], input=b"label: gpt\n,8M\n,9M\n", check=True)
    before = run_tool("sfdisk", "--dump", str(target))
    done = call("clone", disks("gpt", 512).path, target, "--fit", "--yes", "--keep-table", tmp_path / "kept", "--json")
    assert done.exit_code == 0
    assert done.result["complete"] is True
    assert run_tool("sfdisk", "--dump", str(target)) != before
    assert call("restore", "--undo-table", target, "--from", tmp_path / "kept", "--yes").exit_code == 0
    assert run_tool("sfdisk", "--dump", str(target)) == before
