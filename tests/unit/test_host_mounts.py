"""Mounts and users from the kernel's text. ``samples/mountinfo.txt`` was recorded from mounts made for it."""

from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal, UsageError
from stillframe.extents import Extent
from stillframe.host.blocks import BlockNode, BlockTree, KernelPaths
from stillframe.host.linux import DeviceNumber, FileKey, Thing
from stillframe.host.mounts import Use, Users, parse_mountinfo, parse_swaps, read_mounts, unescape, users_of

SAMPLE = (Path(__file__).parent / "samples" / "mountinfo.txt").read_text()


def node(
    name: str,
    number: str,
    *,
    disk: str = "",
    partition: int | None = None,
    holders: tuple[str, ...] = (),
    slaves: tuple[str, ...] = (),
    backing: Thing | None = None,
    mapped: str = "",
    read_only: bool = False,
) -> BlockNode:
    major, minor = number.split(":")
    return BlockNode(
        number=DeviceNumber(int(major), int(minor)),
        name=name,
        folder="",
        path=f"/dev/{name}",
        disk=disk or name,
        partition=partition,
        place=Extent(0, 1 << 30),
        read_only=read_only,
        slaves=slaves,
        holders=holders,
        backing=backing,
        backing_path="/srv/disk.img" if backing else "",
        backing_start=0,
        mapped_name=mapped,
        mapped_uuid="",
    )


def tree_of(*nodes: BlockNode) -> BlockTree:
    return BlockTree({n.number: n for n in nodes})


SDA, SDA1, SDA2, DM0, LOOP0 = (DeviceNumber(*pair) for pair in ((8, 0), (8, 1), (8, 2), (254, 0), (7, 0)))
FILE = FileKey(SDA1, 42)
TREE = tree_of(
    node("sda", "8:0"),
    node("sda1", "8:1", disk="sda", partition=1),
    node("sda2", "8:2", disk="sda", partition=2, holders=("dm-0",)),
    node("dm-0", "254:0", slaves=("sda2",), mapped="vg-root"),
    node("sdb", "8:16"),
    node("loop0", "7:0", backing=FILE),
    node("loop0p1", "259:0", disk="loop0", partition=1),
)


def line(number: str, where: str, kind: str = "ext4", source: str = "/dev/x", super_options: str = "rw") -> str:
    return f"20 1 {number} / {where} rw,relatime shared:1 master:2 - {kind} {source} {super_options}\n"


def test_recorded_mounts() -> None:
    mounts = {mount.where: mount for mount in parse_mountinfo(SAMPLE)}
    assert len(mounts) == len(SAMPLE.splitlines())
    assert mounts["/mnt/sample/with space"].number == DeviceNumber(7, 0)
    assert mounts["/mnt/sample/bind"].root == "/folder"
    tab = mounts["/mnt/sample/tab\there"]
    assert "ro" in tab.options
    assert tab.read_write, "a read-only bind of a file system that is mounted read-write elsewhere"
    assert "/mnt/sample/back\\slash" in mounts
    assert (mounts["/mnt/sample/sub"].root, mounts["/mnt/sample/sub"].number.major) == ("/home", 0)
    assert mounts["/mnt/sample/ntfs"].filesystem == "fuseblk"
    assert mounts["/mnt/sample/ov"].filesystem == "overlay"


@pytest.mark.parametrize(
    "text",
    ["", "\n", "nonsense", "1 2 8:1 / /mnt rw ext4 /dev/sda1 rw", "1 2 x / /m rw - ext4 /dev/a rw", "1 2 8:1 / - ext4"],
)
def test_lines_of_another_form_are_left_out(text: str) -> None:
    assert parse_mountinfo(text) == ()


def test_lines_end_only_at_newlines() -> None:
    (mount,) = parse_mountinfo(line("8:1", "/mnt/a\x0bb\u2028c\rd"))
    assert mount.where == "/mnt/a\x0bb\u2028c\rd"


def test_escapes() -> None:
    assert unescape(r"/a\040b\011c\134d\012ü") == "/a b\tc\\d\nü"
    assert unescape(r"/a\08\9") == r"/a\08\9"


def test_swaps() -> None:
    text = (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/sda3                               partition\t999420\t\t0\t\t-2\n"
        "/my\\040swap                            file\t\t1024\t\t0\t\t-3\n"
        "/gone\\040(deleted)                     file\t\t1024\t\t0\t\t-4\n"
    )
    assert parse_swaps(text) == ("/dev/sda3", "/my swap", "/gone (deleted)")
    assert parse_swaps("") == ()


def test_disk_is_used_through_its_partition_and_a_volume() -> None:
    mounts = parse_mountinfo(line("8:1", "/boot", super_options="ro") + line("254:0", "/"))
    users = Users(TREE, mounts, (), ())
    boot = Use(kind="mounted", device="/dev/sda1", where="/boot", read_write=False)
    root = Use(kind="mounted", device="/dev/dm-0", where="/", read_write=True)
    held = Use(kind="holder", device="/dev/sda2", where="/dev/dm-0 (vg-root)", read_write=True)
    assert users.of(SDA, "/dev/sda") == (root, boot, held)
    assert users.of(SDA1, "/dev/sda1") == (boot,)
    assert users.of(SDA2, "/dev/sda2") == (root, held)
    assert users.of(DM0, "/dev/dm-0") == (root,)
    assert users.of(DeviceNumber(8, 16), "/dev/sdb") == ()


def test_file_is_used_through_the_partition_of_a_loop() -> None:
    users = Users(TREE, parse_mountinfo(line("259:0", "/mnt")), (), ())
    assert users.of(FILE, "/srv/disk.img") == (
        Use(kind="mounted", device="/dev/loop0p1", where="/mnt", read_write=True),
        Use(kind="holder", device="/srv/disk.img", where="/dev/loop0", read_write=True),
    )
    assert users.of(FileKey(SDA1, 43), "/srv/other.img") == ()


def test_partition_is_used_when_its_whole_disk_is() -> None:
    tree = tree_of(
        node("sda", "8:0", holders=("dm-1",)), node("sda1", "8:1", disk="sda", partition=1), node("dm-1", "254:1")
    )
    users = Users(tree, parse_mountinfo(line("254:1", "/mnt")), (), ())
    assert {use.kind for use in users.of(SDA1, "/dev/sda1")} == {"mounted", "holder"}


def test_read_only_holder_is_said_to_be() -> None:
    tree = tree_of(node("sda", "8:0"), node("loop0", "7:0", backing=SDA, read_only=True))
    assert users_reads(tree) == (Use(kind="holder", device="/dev/sda", where="/dev/loop0", read_write=False),)


def users_reads(tree: BlockTree) -> tuple[Use, ...]:
    return Users(tree, (), (), ()).of(SDA, "/dev/sda")


def test_every_device_of_a_btrfs_is_used() -> None:
    tree = tree_of(node("sda", "8:0"), node("sda1", "8:1", disk="sda", partition=1), node("sdb", "8:16"))
    mounts = parse_mountinfo(line("8:1", "/data", "btrfs", "/dev/sda1"))
    users = Users(tree, mounts, (), [frozenset({SDA1, DeviceNumber(8, 16)})])
    assert [use.where for use in users.of(DeviceNumber(8, 16), "/dev/sdb")] == ["/data"]


def test_devices_that_hold_each_other_do_not_loop() -> None:
    tree = tree_of(node("dm-0", "254:0", holders=("dm-1",)), node("dm-1", "254:1", holders=("dm-0",)))
    assert len(Users(tree, (), (), ()).of(DM0, "/dev/dm-0")) == 2


def test_unknown_mounts_are_an_error_not_nothing(tmp_path: Path) -> None:
    with pytest.raises(MachineRefusal, match="nobody can say what is mounted"):
        read_mounts(KernelPaths(proc=str(tmp_path)))


def test_users_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a disk nor a disk file"):
        users_of(str(tmp_path))
