"""Places that this machine cannot have: network shares, and file systems that say nothing of where their bytes are."""

from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent
from stillframe.host import places
from stillframe.host.blocks import BlockNode, BlockTree
from stillframe.host.linux import DeviceNumber
from stillframe.host.mounts import Users, parse_mountinfo

SDA, SDA1, SDA2, SDA3, ROOT, HOME, CRYPT = (
    DeviceNumber(*pair) for pair in ((8, 0), (8, 1), (8, 2), (8, 3), (254, 0), (254, 1), (254, 2))
)
ANONYMOUS = DeviceNumber(0, 77)
GIB = 1 << 30


def node(number: DeviceNumber, name: str, place: Extent, **more: object) -> BlockNode:
    fields: dict[str, object] = {
        "disk": name,
        "partition": None,
        "read_only": False,
        "slaves": (),
        "holders": (),
        "backing": None,
        "backing_path": "",
        "backing_start": 0,
        "mapped_name": "",
        "mapped_uuid": "",
    }
    fields |= more
    return BlockNode(number=number, name=name, folder="", path=f"/dev/{name}", place=place, **fields)  # type: ignore[arg-type]


def part(number: DeviceNumber, index: int) -> BlockNode:
    return node(number, f"sda{index}", Extent(index * GIB, (index + 1) * GIB), disk="sda", partition=index)


NODES = (
    node(SDA, "sda", Extent(0, 10 * GIB)),
    part(SDA1, 1),
    part(SDA2, 2),
    part(SDA3, 3),
    node(ROOT, "dm-0", Extent(0, GIB), slaves=("sda3",), mapped_uuid="LVM-a"),
    node(HOME, "dm-1", Extent(0, GIB), slaves=("sda3",), mapped_uuid="LVM-b"),
    node(CRYPT, "dm-2", Extent(0, GIB), slaves=("sda3",), mapped_uuid="CRYPT-LUKS2-c"),
)


def answer(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    lies: DeviceNumber,
    target: DeviceNumber,
    mount: str = "ext4 /dev/x",
) -> bool | None:
    line = f"20 1 {lies} / {tmp_path} rw - {mount} rw\n"
    users = Users(BlockTree({n.number: n for n in NODES}), parse_mountinfo(line), (), ())
    monkeypatch.setattr(places, "read_users", lambda _: users)
    monkeypatch.setattr(places, "filesystem_number", lambda _: lies)
    monkeypatch.setattr(places, "thing_at", lambda _: target)
    return places.lies_on(str(tmp_path), "/dev/target")


@pytest.mark.parametrize(
    ("lies", "target", "expected"),
    [
        (SDA1, SDA, True),
        (SDA1, SDA1, True),
        (SDA1, SDA2, False),
        (ROOT, SDA, True),
        (ROOT, SDA3, True),
        (ROOT, SDA1, False),
        (ROOT, HOME, False),
        (ROOT, CRYPT, None),
        (SDA1, DeviceNumber(8, 16), False),
    ],
)
def test_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lies: DeviceNumber, target: DeviceNumber, *, expected: bool | None
) -> None:
    assert answer(monkeypatch, tmp_path, lies=lies, target=target) is expected


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ("nfs4 nas:/backup", False),
        ("cifs //nas/backup", False),
        ("fuse.sshfs kim@nas:/backup", False),
        ("fuse.something s3:bucket", False),
        ("tmpfs none", False),
        ("zfs tank/backup", None),
        ("fuse.unknown unknown", None),
        ("overlay overlay", None),
    ],
)
def test_places_without_a_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mount: str, *, expected: bool | None
) -> None:
    assert answer(monkeypatch, tmp_path, lies=ANONYMOUS, target=SDA, mount=mount) is expected


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ("ext4 /dev/x", True),
        ("fuseblk /dev/x", True),
        ("btrfs /dev/x", True),
        ("tmpfs none", True),
        ("nfs4 nas:/backup", False),
        ("cifs //nas/backup", False),
        ("fuse.sshfs kim@nas:/backup", False),
        ("fuse.unknown unknown", False),
    ],
)
def test_a_share_is_not_near(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mount: str, *, expected: bool) -> None:
    answer(monkeypatch, tmp_path, lies=ANONYMOUS, target=SDA, mount=mount)  # puts the picture in place
    assert places.is_near(str(tmp_path)) is expected
    assert places.is_near(str(tmp_path / "not" / "there")) is expected


def test_nobody_can_tell_what_is_near_without_the_list_of_mounts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: object) -> Users:
        raise MachineRefusal("there is no list")

    monkeypatch.setattr(places, "read_users", refuse)
    assert not places.is_near(str(tmp_path))
