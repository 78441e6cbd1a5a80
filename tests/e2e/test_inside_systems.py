"""A Linux in logical volumes: named, taken by ``backup --system`` with its reasons, checked and compared."""

import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from stillframe.extents import Extent
from stillframe.testing.command_line import call, init_own
from stillframe.testing.real_disks import copy_into
from stillframe.testing.system_disks import (
    BOOT,
    DEBIAN,
    GPT_DISK,
    HOME,
    MIB,
    ROOT,
    SWAP,
    TYPES,
    Part,
    build_system_disk,
)
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_lvm import GROUP, lvm_on
from stillframe.testing.volumes_raid import MemberPlan, build_member

pytestmark = pytest.mark.root
NAME = "Debian GNU/Linux 12 (bookworm)"
MENU = (
    f"menuentry 'Debian' {{\n search --no-floppy --fs-uuid --set=root {BOOT}\n"
    " linux /vmlinuz-6.1.0-18-amd64 root=/dev/mapper/house-root ro quiet\n}\n"
)
EARLY = f"search.fs_uuid {BOOT} root\nset prefix=($root)'/grub'\nconfigfile $prefix/grub.cfg\n"
FSTAB = (
    f"/dev/mapper/house-root / ext4 errors=remount-ro 0 1\nUUID={BOOT} /boot ext4 defaults 0 2\n"
    "/dev/mapper/house-swap none swap sw 0 0\n/dev/mapper/attic-home /home ext4 nofail 0 2\n"
)


def ext4(path: Path, uuid: str, files: dict[str, bytes]) -> None:
    tree = path.with_suffix(".tree")
    for name, contents in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(contents)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-d", str(tree), str(path), "16m")
    shutil.rmtree(tree)


def fill(disk: Path, place: Extent, volumes: dict[str, Callable[[Path], None]], *, name: str) -> None:
    """A group on one partition, with volumes of 16 MiB, made by LVM's own commands."""
    with lvm_on((disk, place)) as lvm:
        lvm.make_group()
        for volume, make in volumes.items():
            lvm.make_volume(volume, "-L", "16m")
            made = disk.with_suffix(f".{volume}")
            make(made)
            lvm.write_volume(volume, made)
            made.unlink()
        if name != GROUP:
            lvm.run("vgrename", GROUP, name)


def swap(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    run_tool("mkswap", "-q", "-U", SWAP, str(path))


def root(path: Path) -> None:
    ext4(path, ROOT, {"etc/os-release": DEBIAN, "etc/fstab": FSTAB.encode(), "etc/hostname": b"inside\n",
                      "usr/bin/dash": Path("/usr/bin/dash").read_bytes()})  # fmt: skip


def home(path: Path) -> None:
    ext4(path, HOME, {f"anna/{number}.txt": b"letter" * 500 * number for number in range(1, 9)})


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ESP, /boot, a group with the root and swap, a group with /home. No test may write to it."""
    path = tmp_path_factory.mktemp("inside") / "disk.img"
    start = {"EFI/debian/grubx64.efi": b"MZ", "EFI/debian/grub.cfg": EARLY.encode()}
    boot = {"vmlinuz-6.1.0-18-amd64": b"kernel", "grub/grub.cfg": MENU.encode()}
    starts = build_system_disk(path, "gpt", GPT_DISK, [
        Part(size=36 * MIB, type=TYPES["esp"], kind="vfat", files=start),
        Part(size=8 * MIB, type=TYPES["linux"], kind="ext4", uuid=BOOT, files=boot),
        Part(size=40 * MIB, type="E6D6D379-F507-44C2-A23C-238F2A3DF928"),
        Part(size=24 * MIB, type="E6D6D379-F507-44C2-A23C-238F2A3DF928"),
    ])  # fmt: skip
    fill(path, Extent(starts[2], starts[2] + 40 * MIB), {"root": root, "swap": swap}, name="house")
    fill(path, Extent(starts[3], starts[3] + 24 * MIB), {"home": home}, name="attic")
    return path


def test_a_linux_in_a_logical_volume_is_named_and_its_way_is_followed(disk: Path) -> None:
    seen = call("disks", disk, "--json").result
    parts = seen["disks"][0]["partitions"]
    assert [(one["name"], one["filesystem"], one["refusal"]) for part in parts for one in part["inside"]] == [
        ("house/root", "ext4", None), ("house/swap", "swap", None), ("attic/home", "ext4", None)
    ]  # fmt: skip
    installed = parts[2]["inside"][0]["installed"]
    assert (installed["name"], installed["host"], installed["architecture"]) == (NAME, "inside", "x86-64")
    assert parts[2]["system"] == NAME
    (chain,) = seen["boot"]["chains"]
    assert (chain["system"], chain["fault"], chain["limit"]) == (NAME, None, None)
    assert [(step["partition"], step["inner"]) for step in chain["steps"]][-2:] == [(3, "house/root")] * 2
    assert chain["steps"][-1]["leads"] == "/ (house/root), /boot (2), swap (house/swap), /home (attic/home)"
    lines = call("disks", disk).output.splitlines()
    assert f"System on 3 (house/root): {NAME} (x86-64)" in lines
    assert f"Starts by UEFI: GRUB (1) -> {NAME} (3, house/root)" in lines


def test_what_a_system_needs_is_named_by_its_logical_volumes(disk: Path) -> None:
    parts = call("disks", disk, "--json").result["disks"][0]["partitions"]
    assert [(one["in_system_backup"], one["reason"]) for one in parts] == [
        (True, "EFI system partition with the loader of debian"),
        (True, f"/boot of {NAME} by its fstab"),
        (True, f"{NAME} begins here, in house/root on it"),
        (False, f"data: /home of {NAME} by its fstab, in attic/home on it"),
    ]


def test_an_image_of_it_has_its_pages_and_is_checked_and_compared(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_own(tmp_path, monkeypatch)
    assert call("backup", disk).exit_code == 0
    shown = call("show", "latest", "--boot", "--json").result
    inside = [one for part in shown["disks"][0]["partitions"] for one in part["inside"]]
    assert [(one["name"], one["installed"] and one["installed"]["name"]) for one in inside] == [
        ("house/root", NAME), ("house/swap", None), ("attic/home", None)
    ]  # fmt: skip
    assert inside[2]["catalogue"]["files"] == 8
    assert [chain["system"] for chain in shown["boot"]["chains"]] == [NAME]
    lines = call("show", "latest").output.splitlines()
    at = lines.index("In disk 1, partition 3, volume house/root:")
    assert lines[at + 1 : at + 3] == [f"System        {NAME} (x86-64)", "Computer      inside"]

    checked = call("verify", "latest", "--filesystems", "--json")
    assert checked.exit_code == 0, checked.errors
    sampled = call("verify", "latest", "--files", "--json")
    assert sampled.exit_code == 0, sampled.errors
    proofs = call("show", "latest", "--json").result["proofs"]
    told = {proof["kind"]: (proof["ok"], proof["how"]) for proof in proofs}
    for kind in ("checked", "sampled"):
        assert told[kind][0]
        for name in ("house/root", "attic/home"):
            assert f"volume {name} (ext4)" in told[kind][1]


def test_a_spoilt_file_and_a_spoilt_volume_inside_are_found(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_own(tmp_path, monkeypatch)
    copy = tmp_path / "copy.img"
    run_tool("cp", "--sparse=always", str(disk), str(copy))
    assert call("backup", copy, "--all-sectors").exit_code == 0
    raw = copy.read_bytes()
    at = raw.index(b"letter" * 500 * 3)
    with copy.open("r+b") as file:
        file.seek(at + 100)
        file.write(b"LETTER")
    sampled = call("verify", "latest", "--files", "--json")
    assert sampled.exit_code != 0
    (finding,) = sampled.result["files"]["findings"]
    assert "volume attic/home (ext4): /anna/" in finding["message"]

    superblock = raw.index(UUID(HOME).bytes, 80 * MIB) - 0x68  # s_uuid of the volume in attic/home
    with copy.open("r+b") as file:
        file.seek(superblock + 0x0C)  # s_free_blocks_count_lo
        file.write(b"\x01\0\0\0")
        file.seek(superblock + 0x3A)
        file.write(b"\x02\0")  # s_state: EXT2_ERROR_FS
    assert call("backup", copy, "--all-sectors").exit_code in (0, 3)
    checked = call("verify", "latest", "--filesystems", "--json")
    (finding,) = checked.result["filesystems"]["findings"]
    assert "volume attic/home (ext4): e2fsck ended with" in finding["message"]


def test_a_system_is_saved_without_its_data(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_own(tmp_path, monkeypatch)
    done = call("backup", "--system", disk)
    assert done.exit_code == 0, done.errors
    parts = call("show", "latest", "--json").result["disks"][0]["partitions"]
    assert [one["in_image"] for one in parts] == [True, True, True, False]


def test_both_members_of_a_raid_1_are_taken_for_the_system_on_it(tmp_path: Path) -> None:
    volume, disk = tmp_path / "volume", tmp_path / "raid.img"
    root(volume)
    raid = Part(size=20 * MIB, type="A19D880F-05FC-4D3B-A006-743F0F84911E")
    starts = build_system_disk(disk, "gpt", GPT_DISK, [raid, raid])
    for number, start in enumerate(starts):
        (tmp_path / "member").write_bytes(build_member(volume.read_bytes(), MemberPlan(number=number)))
        assert "raid1" in run_tool("mdadm", "--examine", str(tmp_path / "member"))
        copy_into(tmp_path / "member", disk, start)
    parts = call("disks", disk, "--json").result["disks"][0]["partitions"]
    assert [(one["filesystem"], [inner["name"] for inner in one["inside"]]) for one in parts] == [
        ("linux_raid_member", ["RAID 1"])
    ] * 2
    assert [(one["in_system_backup"], one["reason"]) for one in parts] == [
        (True, f"{NAME} begins here, in RAID 1 on it")
    ] * 2


def test_a_group_with_a_volume_that_is_not_read_is_taken(tmp_path: Path) -> None:
    """It lies on a disk that is not there: nobody can tell whether a system needs it."""
    disk, other = tmp_path / "disk.img", tmp_path / "other.img"
    starts = build_system_disk(disk, "gpt", GPT_DISK, [
        Part(size=24 * MIB, type=TYPES["linux"], kind="ext4", uuid=ROOT, files={"etc/os-release": DEBIAN}),
        Part(size=24 * MIB, type="E6D6D379-F507-44C2-A23C-238F2A3DF928"),
    ])  # fmt: skip
    with other.open("wb") as file:
        file.truncate(16 * MIB)
    with lvm_on((disk, Extent(starts[1], starts[1] + 24 * MIB)), (other, Extent(0, 16 * MIB))) as lvm:
        lvm.make_group()
        lvm.make_volume("home", "-L", "16m", lvm.devices[0])
        home(tmp_path / "made")
        lvm.write_volume("home", tmp_path / "made")
        lvm.make_volume("odd", "-L", "4m", lvm.devices[1])
    part = call("disks", disk, "--json").result["disks"][0]["partitions"][1]
    refusals = {one["name"]: one["refusal"] for one in part["inside"]}
    assert refusals["house/home"] is None
    assert "which is not on these disks" in refusals["house/odd"]
    assert part["in_system_backup"] is True
    assert part["reason"] == "its files cannot be read here, and no fstab says that it is data: a system may be in it"
