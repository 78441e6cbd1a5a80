"""Partitions of an image become new ones on a disk that is in use: what was there stays, to the byte."""

import os
import subprocess
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.disk import Partition, add_partitions, find_room, read_layout
from stillframe.errors import Cancelled, TargetError, UsageError
from stillframe.events import NoEvents
from stillframe.extents import Extent
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.restore import RestoreOptions, RestorePlan, apply_restore, plan_restore
from stillframe.jobs.restoring.undo_table import apply_undo, plan_undo
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore
from stillframe.testing import real_disks
from stillframe.testing.command_line import call, init_own
from stillframe.testing.disks_partitioned import make_disk, see_table, shown_to_tools
from stillframe.testing.job_runs import ANNA, backup_paths, job_context, make_repository, restore
from stillframe.testing.real_disks import RealDisk, build_disk, hash_file
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 200 * MIB
Saved = tuple[RealDisk, Repository, Manifest]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("beside")
    disk = build_disk(folder)
    repository = make_repository(LocalStore(str(folder / "repository")))
    return disk, repository, backup_paths(repository, disk.path).manifest


def used_target(path: Path, label: str, size: int = SIZE) -> Path:
    """A disk in use: two partitions, noise everywhere else, free from 70 MiB on."""
    script = f"label: {label}\nstart=1MiB, size=20MiB\nstart=30MiB, size=40MiB\n"
    table = make_disk(size, sfdisk=script)
    path.write_bytes(table)
    noise = os.urandom(MIB)
    with path.open("r+b") as file:
        for at in range(MIB, size - 2 * MIB, MIB):
            file.seek(at)
            file.write(noise)
    return path


def plan_of(saved: Saved, target: Path, options: RestoreOptions) -> RestorePlan:
    return plan_restore(saved[1], saved[2], 1, str(target), repository_folder="", options=options)


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_a_new_partition_beside_those_that_stay(saved: Saved, tmp_path: Path, label: str) -> None:
    target = used_target(tmp_path / "target", label)
    before, old = target.read_bytes(), see_table(target)
    options = RestoreOptions(added=(2, 3))
    plan = plan_of(saved, target, options)
    assert plan.lost == ()
    restore(saved[1], saved[2], target, options=options)
    if label == "gpt":
        assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    assert "No errors detected" in run_tool("sfdisk", "--verify", str(target))
    seen = see_table(target)
    assert (seen.disk_id, seen.partitions[:2]) == (old.disk_id, old.partitions)
    assert [part.number for part in seen.partitions] == [1, 2, 3, 4]
    ext4 = next(part for part in seen.partitions if part.number == 4)  # two is taken; three is free for the NTFS
    ntfs = next(part for part in seen.partitions if part.number == 3)
    for kind, found, volume in (("ext4", ext4, saved[0].volumes[1]), ("ntfs", ntfs, saved[0].volumes[2])):
        assert found.extent.size == volume.extent.size
        copy = real_disks.extract(target, found.extent, tmp_path / f"copy-{kind}")
        files = real_disks.read_files(kind, copy)
        kept = {name: one for name, one in volume.files.items() if name not in real_disks.LEFT_OUT}
        assert {name: one for name, one in files.items() if name not in real_disks.LEFT_OUT} == kept
    if label == "gpt":
        of_image = {part.number: part for part in see_table(saved[0].path).partitions}
        assert (ext4.guid, ext4.type) == (of_image[2].guid, of_image[2].type)
    else:
        assert (ext4.type, ntfs.type) == ("83", "07")
    after = target.read_bytes()
    assert after[MIB : 70 * MIB] == before[MIB : 70 * MIB]
    assert after[:440] == before[:440]
    end = max(ext4.extent.end, ntfs.extent.end)
    assert after[end : SIZE - MIB] == before[end : SIZE - MIB]


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_a_run_that_is_stopped_leaves_the_old_table_and_a_full_one_is_undone(
    saved: Saved, tmp_path: Path, label: str
) -> None:
    target = used_target(tmp_path / "target", label)
    before, old = target.read_bytes(), see_table(target)
    plan = plan_of(saved, target, RestoreOptions(added=(2,)))
    cancel = CancelToken()

    class Stopper(NoEvents):
        def emit(self, event: object) -> None:
            if type(event).__name__ == "BytesMoved":
                cancel.cancel()

    with pytest.raises(Cancelled):
        apply_restore(saved[1], plan, job_context(ANNA, Stopper(), cancel))
    after = target.read_bytes()
    assert after[: 70 * MIB] == before[: 70 * MIB]
    assert after[-MIB:] == before[-MIB:]
    restore(saved[1], saved[2], target, options=RestoreOptions(added=(2,)))
    assert len(see_table(target).partitions) == 3
    apply_undo(plan_undo(saved[1], str(target), repository_folder="", lost=()), saved[1].clock, job_context())
    assert see_table(target) == old


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_the_table_is_good_after_every_write(label: str) -> None:
    """Cut off between any two writes, sfdisk sees the old partitions, or the old and the new."""
    source = make_disk(64 * MIB, sfdisk=f"label: {label}\nstart=1MiB, size=20MiB\nstart=30MiB, size=10MiB\n")
    disk = MemoryDisk(source)
    layout = read_layout(disk)
    kind = layout.partitions[0].type
    new = Partition(
        number=3, extent=Extent(44 * MIB, 50 * MIB), type=kind, type_name="", name="new" if label == "gpt" else "",
        guid="11111111-2222-3333-4444-555555555555" if label == "gpt" else "", attributes=0, index=2, logical=False,
    )  # fmt: skip
    patches = add_partitions(layout, disk, [new])
    counts = []
    for done in range(len(patches) + 1):
        with shown_to_tools(bytes(disk.contents)) as path:
            seen = see_table(path)
        counts.append(len(seen.partitions))
        assert [part.extent for part in seen.partitions][:2] == [part.extent for part in layout.partitions]
        if done < len(patches):
            disk.write_at(patches[done].offset, patches[done].data)
    assert (counts[0], counts[-1]) == (2, 3)
    assert list(find_room(read_layout(disk), disk)) == [
        Extent(21 * MIB, 30 * MIB), Extent(40 * MIB, 44 * MIB), Extent(50 * MIB, find_end(label)),
    ]  # fmt: skip


def find_end(label: str) -> int:
    return 64 * MIB - 33 * 512 if label == "gpt" else 64 * MIB


def test_size_and_place_are_wishes_too(saved: Saved, tmp_path: Path) -> None:
    target = used_target(tmp_path / "target", "gpt")
    options = RestoreOptions(added=(2,), wishes={2: 60 * MIB}, moves={2: 100 * MIB}, new_identity=True)
    plan = plan_of(saved, target, options)
    assert any("as '--resize' asks" in reason.text for reason in plan.reasons)
    restore(saved[1], saved[2], target, options=options)
    seen = {part.number: part for part in see_table(target).partitions}
    assert seen[3].extent == Extent(100 * MIB, 160 * MIB)
    assert seen[3].guid != saved[2].disks[0].partitions[1].guid
    restore(saved[1], saved[2], target, options=RestoreOptions(added=(3,), fit=True))
    seen = {part.number: part for part in see_table(target).partitions}
    assert seen[4].extent == Extent(160 * MIB, 199 * MIB)
    copy = real_disks.extract(target, seen[4].extent, tmp_path / "copy")
    run_tool("ntfsresize", "--info", "--force", str(copy))


def test_beside_its_own_original_it_gets_an_id_and_that_is_said(saved: Saved, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(saved[0].path.read_bytes() + bytes(80 * MIB))
    with pytest.raises(TargetError, match="not whole"):  # its second copy is not at its end
        plan_of(saved, target, RestoreOptions(added=(2,)))
    run_tool("sgdisk", "-e", str(target))
    plan = plan_of(saved, target, RestoreOptions(added=(2,)))
    assert [notice.code for notice in plan.notices if notice.code == "volume-twice"]
    assert any("the target has one of that id" in reason.text for reason in plan.reasons)
    restore(saved[1], saved[2], target, options=RestoreOptions(added=(2,)))
    guids = [part.guid for part in see_table(target).partitions]
    assert len(set(guids)) == len(guids) == 7


def test_what_is_not_certain_is_refused(saved: Saved, tmp_path: Path) -> None:
    target = used_target(tmp_path / "target", "dos", 120 * MIB)
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(90 * MIB))
    full = tmp_path / "full"
    script = "".join(f"start={1 + 5 * number}MiB, size=4MiB\n" for number in range(4))
    full.write_bytes(make_disk(SIZE, sfdisk="label: dos\n" + script))
    refusals: list[tuple[Path, RestoreOptions, str]] = [
        (target, RestoreOptions(added=(2, 3)), "no free room for partition 3 on the target: it needs 41.9 MB"),
        (target, RestoreOptions(added=(2,), moves={2: 31 * MIB}), "is not free"),
        (target, RestoreOptions(added=(6,)), "no type that is certain in a table of MBR"),
        (target, RestoreOptions(added=(2, 4), fit=True), "several new partitions"),
        (target, RestoreOptions(added=(2,), wishes={3: "max"}), "'--partition 2:new' and '--resize 3=...'"),
        (target, RestoreOptions(added=(2,), leave_out=frozenset({2})), "'--leave-out 2' and '--partition 2:new'"),
        (target, RestoreOptions(added=(2,), partition=1), "'--partition 1' and '--partition 2:new'"),
        (empty, RestoreOptions(added=(2,)), "no partition table"),
        (full, RestoreOptions(added=(2,)), "all 4 numbers"),
        (tmp_path / "none", RestoreOptions(added=(2,)), "does not exist"),
    ]
    hashes = [hash_file(path) for path in (target, empty, full)]
    for path, options, words in refusals:
        with pytest.raises((TargetError, UsageError), match=words):
            plan_of(saved, path, options)
    assert [hash_file(path) for path in (target, empty, full)] == hashes
    with pytest.raises(TargetError, match="were changed since"):
        apply_to_changed(saved, used_target(tmp_path / "other", "dos"))


def apply_to_changed(saved: Saved, target: Path) -> None:
    """A logical partition is added, outside the first and last MiB, after the plan was made."""
    subprocess.run(["sfdisk", "-q", "--append", str(target)], input=b"start=180MiB, size=15MiB, type=5\n", check=True)
    plan = plan_of(saved, target, RestoreOptions(added=(2,)))
    add = b"start=181MiB, size=4MiB\n"
    subprocess.run(["sfdisk", "-q", "--append", "--wipe", "never", str(target)], input=add, check=True)
    apply_restore(saved[1], plan, job_context())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_own(tmp_path, monkeypatch)
    disk, target = build_disk(tmp_path), used_target(tmp_path / "target", "gpt")
    call("backup", disk.path, "--name", "d")
    words = ("restore", "latest:d", target, "--partition", "2:new", "--partition", "3:new")
    said = call(*words, "--dry-run", "--explain")
    assert "leave partition 1, 2 of the target, as it is" in said.output
    assert "WILL BE LOST" not in said.output
    assert "It becomes partition 4: the target has a partition 2 of its own." in said.output
    assert call(*words, "--yes").exit_code == 0
    assert len(see_table(target).partitions) == 4
    for other in (("--partition", "2", "--partition", "3"), ("--partition", "2:new", "--partition", "2:new")):
        assert call("restore", "latest:d", target, *other, "--dry-run").exit_code == 2
