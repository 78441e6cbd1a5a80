"""Volumes inside partitions: logical volumes of LVM and RAID 1, listed, searched, brought back and compared."""

import random
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from stillframe.block import MemoryDisk
from stillframe.disk.lvm import LogicalVolume, PhysicalPlace, Segment, join_volume, lift_extents
from stillframe.extents import Extent, ExtentSet
from stillframe.testing.command_line import call
from stillframe.testing.disks_partitioned import make_disk
from stillframe.testing.real_disks import Hashes, copy_into, make_ext4, mounted_kernel
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_lvm import lvm_on
from stillframe.testing.volumes_raid import MemberPlan, build_member
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root

MIB = 1 << 20
PARTITION = Extent(4 * MIB, 28 * MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Two disks with one group over both: ``root`` linear over both, ``home`` in stripes, ``swap``, ``snap``."""

    disks: tuple[Path, Path]
    root: Hashes
    home: Hashes


def make_house(folder: Path) -> House:
    """Partition 2 of each disk is a physical volume; partition 1 of the first is a plain ext4."""
    table = "label: gpt\nstart=2048, size=4096\nstart=8192, size=49152\n"
    disks = folder / "one.img", folder / "two.img"
    for disk in disks:
        disk.write_bytes(make_disk(32 * MIB, sfdisk=table))
    volumes = [(name, size) for name, size in (("root", 16 * MIB), ("home", 12 * MIB))]
    hashes = {
        name: make_ext4(folder / name, size, seed=number, options=("-E", "lazy_itable_init=0"))
        for number, (name, size) in enumerate(volumes)
    }
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-L", "boot", "-E", f"offset={MIB}", str(disks[0]), "2048k")
    with lvm_on((disks[0], PARTITION), (disks[1], PARTITION)) as lvm:
        first, second = lvm.devices
        lvm.make_group()
        lvm.make_volume("root", "-L", "10m", first)
        lvm.make_striped("home", "12m")
        lvm.extend("root", "16m", second)
        lvm.make_volume("swap", "-L", "4m", second)
        for name, _ in volumes:
            lvm.write_volume(name, folder / name)
        (folder / "swap").write_bytes(bytes(4 * MIB))
        run_tool("mkswap", "-L", "swapped", str(folder / "swap"))
        lvm.write_volume("swap", folder / "swap")
    return House(disks=disks, root=hashes["root"], home=hashes["home"])


def make_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_REPO", str(folder / "repo"))
    assert call("init", folder / "repo", "--encryption", "none").exit_code == 0


def test_logical_volumes_are_listed_searched_brought_back_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(tmp_path)
    make_repository(tmp_path, monkeypatch)
    assert call("backup", *house.disks, "--name", "office").exit_code == 0

    shown = call("ls", "latest:office", "--disk", "1", "--json").result
    below = {one["number"]: one["volumes"] for one in shown["partitions"]}
    assert [(one["name"], one["filesystem"], one["label"]) for one in below[2]] == [
        ("root", "ext4", "linux"), ("home", "ext4", "linux"),
    ]  # fmt: skip
    assert below[1] == shown["notices"] == []
    lines = call("ls", "latest:office", "--disk", "2").output.splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["latest:office:2", "LVM2_member", "-", "25.2", "MB"],
        ["latest:office:2@swap", "swap", "swapped", "4.19", "MB"],
    ]  # fmt: skip

    for name, files in (("root", house.root), ("home", house.home)):
        entries = call("ls", "-R", f"latest:2@{name}", "--disk", "2", "--json").result["entries"]
        assert {one["path"].lstrip("/") for one in entries if one["type"] == "file"} == set(files)
        assert {(one["partition"], one["volume"]) for one in entries} == {(2, name)}
        out = tmp_path / f"out-{name}"
        assert call("get", f"latest:2@{name}", out, "--disk", "1").exit_code == 0
        assert hash_tree(out) == files

    found = call("find", "latest", "last*", "--disk", "1")
    assert found.exit_code == 0, found.errors
    lines = found.output.splitlines()
    assert [shlex.split(line)[0] for line in lines] == ["latest:2@root/last ü.bin", "latest:2@home/last ü.bin"]
    for number, line in enumerate(lines):
        assert call("get", *shlex.split(line), tmp_path / f"found{number}", "--disk", "1").exit_code == 0

    image = call("images", "--json").result["images"][0]["id"]
    with mounted_kernel(tmp_path / "home", tmp_path / "mounted") as root:
        (root / "letter.txt").write_text("dear")
        victim = next(path for path in sorted(root.rglob("*.bin")) if path.stat().st_size)
        gone = str(victim.relative_to(root))
        victim.unlink()
    with lvm_on(*((disk, PARTITION) for disk in house.disks)) as lvm:
        lvm.write_volume("home", tmp_path / "home")
    assert call("backup", *house.disks, "--name", "office").exit_code == 0
    changes = call("diff", image, "latest", "--json").result
    told = {(one["kind"], one["disk"], one["partition"], one.get("volume"), one["path"]) for one in changes["changes"]}
    assert told == {("added", 1, 2, "home", "/letter.txt"), ("removed", 1, 2, "home", f"/{gone}")}
    assert changes["complete"] is True
    assert "added    1:2@home/letter.txt" in call("diff", image, "latest").output


def test_a_volume_whose_disk_is_not_in_the_image_is_named_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(tmp_path)
    make_repository(tmp_path, monkeypatch)
    assert call("backup", house.disks[1]).exit_code == 0
    shown = call("ls", "latest")
    assert shown.exit_code == 0
    assert shown.output.count("which is not in the image.") == 2
    volumes = call("ls", "latest", "--json").result["partitions"][1]["volumes"]
    assert [(one["name"], one["filesystem"]) for one in volumes] == [("root", ""), ("home", ""), ("swap", "swap")]
    refused = call("get", "latest:2@root/last", tmp_path / "out")
    assert refused.exit_code == 20
    assert "needs the physical volume" in refused.errors
    unknown = call("ls", "latest:2@attic")
    assert unknown.exit_code == 2
    assert "2@root, 2@home, 2@swap" in unknown.errors
    found = call("find", "latest", "last*")
    assert found.exit_code == 3  # two volumes were not searched
    assert found.errors.count("Not searched: volume 2@") == 2
    refused = call("ls", "latest:2")
    assert refused.exit_code == 20
    assert "IMAGE:N@NAME" in refused.errors


@pytest.mark.parametrize("version", ["0.90", "1.0", "1.1", "1.2"])
def test_the_files_of_a_raid_1_are_read_from_a_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    files = make_ext4(tmp_path / "volume", 12 * MIB, seed=3)
    disk = tmp_path / "disk.img"
    disk.write_bytes(make_disk(20 * MIB, sfdisk="label: gpt\nstart=2048, size=32768\n"))
    plan = MemberPlan(version=version, data_start=4 * MIB)
    member = build_member((tmp_path / "volume").read_bytes(), replace(plan, roles=(0, 0xFFFE)))
    if version in ("0.90", "1.0"):  # the superblock counts from the end of the partition
        member = build_member((tmp_path / "volume").read_bytes().ljust(16 * MIB - 65536, b"\0"), plan)
    (tmp_path / "member").write_bytes(member)
    assert "raid1" in run_tool("mdadm", "--examine", str(tmp_path / "member"))
    copy_into(tmp_path / "member", disk, MIB)
    make_repository(tmp_path, monkeypatch)
    assert call("backup", disk).exit_code == 0
    volumes = call("ls", "latest", "--json").result["partitions"][0]["volumes"]
    assert [(one["name"], one["filesystem"], one["label"]) for one in volumes] == [("", "ext4", "linux")]
    assert call("get", "latest:1@/", tmp_path / "out").exit_code == 0
    assert hash_tree(tmp_path / "out") == files
    assert call("find", "latest", "last*").output.splitlines() == ["'latest:1@/last ü.bin'"]


def test_a_member_that_is_behind_is_not_read_and_lvm_on_raid_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(tmp_path)
    inside = house.disks[0].read_bytes()[PARTITION.start : PARTITION.end], house.disks[1].read_bytes()
    disks = tmp_path / "a.img", tmp_path / "b.img", tmp_path / "c.img"
    for number, disk in enumerate(disks[:2]):
        disk.write_bytes(build_member(inside[0], MemberPlan(number=number, events=20 - number)))
    disks[2].write_bytes(inside[1])
    make_repository(tmp_path, monkeypatch)
    assert call("backup", *disks).exit_code == 0
    assert call("get", "latest:1@home", tmp_path / "out", "--disk", "1").exit_code == 0
    assert hash_tree(tmp_path / "out") == house.home
    behind = call("ls", "latest:1@/", "--disk", "2")
    assert behind.exit_code == 20
    assert "it is behind" in behind.errors


def test_what_is_left_out_of_a_volume_is_an_error_and_no_zeros() -> None:
    """The ranges that an image left out of a partition are those of the volume, through stripes too."""
    place = PhysicalPlace(name="pv0", uuid="A", start=MIB, size=64 * MIB, is_missing=False)
    other = replace(place, name="pv1", uuid="B")
    rows = Segment(size=4 * MIB, stripes=((place, 3 * MIB), (other, MIB)), stripe_size=65536)
    plain = Segment(size=MIB, stripes=((place, MIB),), stripe_size=MIB)
    volume = LogicalVolume(
        name="v", uuid="C", size=5 * MIB, type="striped", is_visible=True, segments=(plain, rows)
    )  # fmt: skip
    disks = {uuid: bytearray(random.Random(uuid).randbytes(8 * MIB)) for uuid in ("A", "B")}
    before = join_volume(volume, {uuid: MemoryDisk(one) for uuid, one in disks.items()}).read_at(0, volume.size)
    gone = ExtentSet.of(Extent(100, 5000), Extent(MIB + 7, MIB + 9), Extent(3 * MIB + 65530, 4 * MIB + 3))
    for uuid in ("A", "B"):
        changed = {name: bytearray(one) for name, one in disks.items()}
        for one in gone:
            changed[uuid][one.start : one.end] = bytes(255 - byte for byte in changed[uuid][one.start : one.end])
        after = join_volume(volume, {name: MemoryDisk(one) for name, one in changed.items()}).read_at(0, volume.size)
        differs = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
        assert lift_extents(volume, uuid, gone) == ExtentSet.from_mask(differs, unit=1)


def test_a_whole_disk_of_lvm_and_a_file_system_that_the_kernel_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, volume, disk = tmp_path / "tree", tmp_path / "volume", tmp_path / "disk.img"
    tree.mkdir()
    (tree / "letter").write_bytes(b"dear " * 1000)
    volume.write_bytes(bytes(40 * MIB))
    run_tool("mkfs.btrfs", "-q", "-M", "-r", str(tree), str(volume))
    disk.write_bytes(bytes(48 * MIB))
    with lvm_on((disk, Extent(0, 48 * MIB))) as lvm:
        lvm.make_group()
        lvm.make_volume("kept", "-L", "40m", lvm.devices[0])
        lvm.write_volume("kept", volume)
    make_repository(tmp_path, monkeypatch)
    assert call("backup", disk, "--json").result["bytes_used"] < 4 * MIB
    assert call("find", "latest", "letter").output == "latest:1@kept/letter\n"
    assert call("get", "latest:1@kept/letter", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "letter").read_bytes() == (tree / "letter").read_bytes()
