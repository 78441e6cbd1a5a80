"""Partitions that are left out, moved and explained: other tools judge what comes out, and files are the same."""

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.disk import read_layout
from stillframe.errors import TargetError, UsageError
from stillframe.jobs.restore import RestoreOptions, RestorePlan, plan_restore
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore
from stillframe.testing import real_disks
from stillframe.testing.command_line import call, init_own
from stillframe.testing.disks_partitioned import see_table
from stillframe.testing.job_runs import backup_paths, make_repository, restore
from stillframe.testing.real_disks import RealDisk, build_disk, used_file
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20
Saved = tuple[RealDisk, Repository, Manifest]


@pytest.fixture(scope="module", params=["gpt", "dos"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("wishes")
    disk = build_disk(folder, label=request.param)
    repository = make_repository(LocalStore(str(folder / "repository")))
    return disk, repository, backup_paths(repository, disk.path).manifest


def plan_of(saved: Saved, target: Path, options: RestoreOptions) -> RestorePlan:
    return plan_restore(saved[1], saved[2], 1, str(target), repository_folder="", options=options)


def judge(saved: Saved, target: Path, folder: Path, gone: set[int]) -> None:
    """The table holds what was not left out, each by its number, and its files are those of the source."""
    disk = saved[0]
    assert "No errors detected" in run_tool("sfdisk", "--verify", str(target))
    if "gpt" in disk.path.name:
        assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    before = {part.number: part for part in see_table(disk.path).partitions}
    after = {part.number: part for part in see_table(target).partitions}
    assert set(after) == set(before) - gone
    for volume in disk.volumes:
        if volume.number in gone:
            continue
        assert after[volume.number].type == before[volume.number].type
        assert after[volume.number].guid == before[volume.number].guid
        copy = real_disks.extract(target, after[volume.number].extent, folder / f"{volume.number}-after")
        if volume.kind in ("vfat", "ext4", "ntfs", "exfat"):
            found = real_disks.read_files(volume.kind, copy)
            kept = {name: one for name, one in volume.files.items() if name not in real_disks.LEFT_OUT}
            assert {name: one for name, one in found.items() if name not in real_disks.LEFT_OUT} == kept
        copy.unlink()


@pytest.mark.variants(2)
@pytest.mark.parametrize("wipe", [False, True])
def test_a_partition_is_left_out(saved: Saved, tmp_path: Path, wipe: bool) -> None:
    """It is not in the table, others keep numbers and places, and its place is not written to, or cleared."""
    disk = saved[0]
    target = used_file(tmp_path / "target", disk.size)
    restore(saved[1], saved[2], target, options=RestoreOptions(leave_out=frozenset({2}), wipe=wipe))
    judge(saved, target, tmp_path, {2})
    place = disk.volumes[1].extent
    with target.open("rb") as file:
        file.seek(place.start)
        assert file.read(place.size) == (b"\0" if wipe else b"\xff") * place.size
    assert see_table(target).disk_id == see_table(disk.path).disk_id


@pytest.mark.variants(1)
def test_a_smaller_disk_is_large_enough_without_one(saved: Saved, tmp_path: Path) -> None:
    target = used_file(tmp_path / "target", 100 * MIB)
    with pytest.raises(TargetError, match="more than there is"):
        restore(saved[1], saved[2], target, options=RestoreOptions(fit=True))
    plan = plan_of(saved, target, RestoreOptions(fit=True, leave_out=frozenset({3})))
    assert {reason.partition for reason in plan.reasons} >= {2, 3, None}
    restore(saved[1], saved[2], target, options=RestoreOptions(fit=True, leave_out=frozenset({3})))
    judge(saved, target, tmp_path, {3})


def test_only_what_was_named_moves(saved: Saved, tmp_path: Path) -> None:
    disk = saved[0]
    last = disk.volumes[-1]
    target = used_file(tmp_path / "target", disk.size + 80 * MIB)
    wanted = disk.size + 20 * MIB + 1000
    options = RestoreOptions(moves={last.number: wanted})
    plan = plan_of(saved, target, options)
    restore(saved[1], saved[2], target, options=options)
    judge(saved, target, tmp_path, set())
    after = {part.number: part.extent for part in see_table(target).partitions}
    assert after[last.number].start == -(-wanted // MIB) * MIB
    assert all(after[volume.number] == volume.extent for volume in disk.volumes[:-1])
    assert any("as '--move' asks, rounded up" in reason.text for reason in plan.reasons)


def test_what_cannot_be_meant_together_is_refused_by_both_names(saved: Saved, tmp_path: Path) -> None:
    target = used_file(tmp_path / "target", saved[0].size)
    before = real_disks.hash_file(target)
    out = frozenset({2})
    refusals: list[tuple[RestoreOptions, str]] = [
        (RestoreOptions(fit=True, leave_out=out, wishes={2: "max"}), r"'--leave-out 2' and '--resize 2=...'"),
        (RestoreOptions(leave_out=out, moves={2: "keep"}), r"'--leave-out 2' and '--move 2=...'"),
        (RestoreOptions(partition=1, leave_out=out), "'--partition 1' and '--leave-out'"),
        (RestoreOptions(partition=1, onto=2, moves={1: 0}), "'--partition 1:2' and '--move'"),
        (RestoreOptions(partition=1, wishes={1: "max"}), "'--partition 1' and '--resize'"),
        (RestoreOptions(leave_out=frozenset(part.number for part in saved[2].disks[0].partitions)), "nothing is left"),
        (RestoreOptions(leave_out=frozenset({17})), "there is no partition 17"),
        (RestoreOptions(moves={3: 2 * MIB}), r"partition [13] is to begin at byte \d+, and partition [13] before it"),
        (RestoreOptions(moves={2: saved[0].size * 3}), "cannot begin at byte"),
    ]
    for options, words in refusals:
        with pytest.raises((UsageError, TargetError), match=words):
            plan_of(saved, target, options)
    if "dos" in saved[0].path.name:
        with pytest.raises(UsageError, match="partition 6 would become 5"):
            plan_of(saved, target, RestoreOptions(leave_out=frozenset({5})))
    assert real_disks.hash_file(target) == before


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose image is in a repository that calls use."""
    init_own(tmp_path, monkeypatch)
    disk = build_disk(tmp_path)
    assert call("backup", disk.path, "--name", "d").exit_code == 0


@pytest.mark.usefixtures("own")
def test_the_command_explains_and_takes_wishes(tmp_path: Path) -> None:
    target = used_file(tmp_path / "target", 300 * MIB)
    words = ("restore", "latest:d", target, "--leave-out", 4, "--resize", "2=60M", "--move", "3=160M")
    said = call(*words, "--explain", "--dry-run")
    assert "leave out partition 4, exfat" in said.output
    assert "partition 2\n    It begins where it did" in said.output
    assert "It is 62.9 MB, as '--resize' asks." in said.output
    found = call(*words, "--dry-run", "--json").result
    assert {one["partition"] for one in found["places"]} == {1, 2, 3, 5, 6}
    assert {one["partition"] for one in found["reasons"]} == {1, 2, 3, 4, 5, 6, None}
    twice = call("restore", "latest:d", target, "--resize", "2=60M", "--resize", "2=50M", "--dry-run")
    assert (twice.exit_code, "given twice for number 2" in twice.errors) == (2, True)
    assert call("restore", "latest:d", target, "--edit", "--dry-run").exit_code == 2  # nobody is there


@pytest.mark.usefixtures("own")
def test_a_plan_is_changed_on_the_terminal(tmp_path: Path) -> None:
    target = used_file(tmp_path / "target", 300 * MIB)
    typed = ["2=60M 4=out", "3=zzz", "what", "3=1M", "why", "4=in", "3@160M", "", "restore"]
    done = call("restore", "latest:d", target, "--fit", "--edit", typed=typed)
    assert done.exit_code == 0, done.errors
    assert "not a size: 'zzz'" in done.errors
    assert "'what' is no change" in done.errors
    assert "partition 3 cannot be made 1.05 MB" in done.errors
    assert "leave out partition 4" in done.output
    assert "as '--resize' asks" in done.output
    with open_file_reader(str(target)) as reader:
        places = {part.number: part.extent for part in read_layout(reader).partitions}
    assert places[2].size == 60 * MIB
    assert places[3].start == 160 * MIB
    assert sorted(places) == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("own")
def test_what_does_not_fit_can_be_made_to_fit_on_the_terminal(tmp_path: Path) -> None:
    target = used_file(tmp_path / "target", 100 * MIB)
    stopped = call("restore", "latest:d", target, "--fit", "--edit", typed=["", ""])
    assert (stopped.exit_code, "more than there is" in stopped.errors) == (22, True)
    done = call("restore", "latest:d", target, "--fit", "--edit", "--dry-run", typed=["3=out", ""])
    assert done.exit_code == 0
    assert "leave out partition 3" in done.output


@pytest.mark.usefixtures("own")
def test_a_plan_is_changed_on_a_real_terminal(tmp_path: Path) -> None:
    """The program itself, on a terminal of its own."""
    target = used_file(tmp_path / "target", 300 * MIB)
    outer, inner = os.openpty()
    command = [sys.executable, "-m", "stillframe", "restore", "latest:d", str(target), "--fit", "--edit"]
    started = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    said, answers, until = "", ["2=60M", "", "restore"], time.monotonic() + 300
    while time.monotonic() < until and answers:
        if select.select([outer], [], [], 1)[0]:
            said += os.read(outer, 65536).decode(errors="replace")
        if said.rstrip().endswith((">", "to go on:")):
            os.write(outer, answers.pop(0).encode() + b"\n")
            said = ""
    while started.poll() is None and time.monotonic() < until:
        if select.select([outer], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):  # the terminal ends with the program
                os.read(outer, 65536)
    os.close(outer)
    assert started.wait(60) == 0
    assert {part.number: part.extent.size for part in see_table(target).partitions}[2] == 60 * MIB
