"""What is closed, as LVM and mdadm tell it: groups made by LVM, members that mdadm judges."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stillframe.host.stacked_places import ClosedVolume, Part, find_closed
from stillframe.host.volume_places import VolumeDevice
from stillframe.testing.loops import loop_device
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_lvm import LvmTools
from stillframe.testing.volumes_raid import MemberPlan, build_member

MIB = 1 << 20


def part(path: Path, filesystem: str) -> Part:
    device = VolumeDevice(
        path=str(path), size=64 * MIB, disk=str(path), partition=0, name="", mounted=(), read_write=False,
        external=False, disks=(str(path),),
    )  # fmt: skip
    return Part(device=device, filesystem=filesystem)


@contextmanager
def devices(folder: Path, count: int) -> Iterator[list[Path]]:
    with ExitStack() as stack:
        found = list[Path]()
        for number in range(count):
            file = folder / f"disk-{number}"
            file.touch()
            os.truncate(file, 64 * MIB)
            found.append(stack.enter_context(loop_device(file)))
        yield found


def names(found: tuple[ClosedVolume, ...]) -> dict[str, ClosedVolume]:
    return {one.name: one for one in found}


@pytest.mark.root
def test_logical_volumes_with_the_disks_of_their_group_and_what_is_missing(tmp_path: Path) -> None:
    with devices(tmp_path, 2) as disks:
        lvm = LvmTools(devices=tuple(str(disk) for disk in disks))
        lvm.make_group()
        lvm.make_volume("small", "-L", "8m")
        lvm.make_volume("large-one", "-L", "90m")
        before = [path.read_bytes() for path in disks]
        both = names(find_closed([part(disk, "LVM2_member") for disk in disks]))
        half = names(find_closed([part(disks[0], "LVM2_member")]))
        assert [path.read_bytes() for path in disks] == before, "looking wrote something"
        told = {uuid: int(size) for uuid, size in lvm.ask("lvs", "lv_uuid,lv_size")}
    assert set(both) == {"house/small", "house/large-one"}
    assert {one.id: one.size for one in both.values()} == told
    for one in both.values():
        assert (one.members, one.missing, one.refusal) == (tuple(map(str, disks)), 0, "")
    assert half["house/large-one"].refusal == "a disk of its group is missing"
    assert (half["house/small"].refusal, half["house/small"].missing) == ("", 1)


@pytest.mark.parametrize("version", ["0.90", "1.1", "1.2"])
def test_arrays_with_their_members_and_what_is_missing(tmp_path: Path, version: str) -> None:
    files = [tmp_path / "one", tmp_path / "other"]
    for number, file in enumerate(files):
        file.write_bytes(build_member(bytes(MIB), MemberPlan(version=version, number=number)))
    (whole,) = find_closed([part(file, "linux_raid_member") for file in files])
    (half,) = find_closed([part(files[1], "linux_raid_member")])
    assert whole.members == tuple(map(str, files))
    assert (whole.missing, half.missing, whole.refusal) == (0, 1, "")
    assert whole.name.split()[0] == "1"
    said = run_tool("mdadm", "--examine", str(files[0]))
    uuid = next(line.split(" : ")[1].split()[0] for line in said.splitlines() if "UUID :" in line)
    assert whole.id == half.id == uuid


def test_a_file_that_is_no_member_is_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(bytes(MIB))
    (found,) = find_closed([part(tmp_path / "none", "linux_raid_member")])
    assert "mdadm failed" in found.refusal
