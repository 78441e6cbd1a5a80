"""A Windows that does not start any more, repaired where it lies: read by hivexget, mtools, ntfs-3g and sfdisk.

No real Windows was started. What records must say is packed by the makers of the disks, not by the code under test.
"""

import filecmp
import hashlib
import json
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.testing.boot_disks import write_code
from stillframe.testing.hive_builder import build_hive
from stillframe.testing.mended_disks import plan_of, repaired, undo_of, undone
from stillframe.testing.system_disks import GPT_DISK, TYPES, Part, build_system_disk
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import hash_tree, mounted_ntfs, place_of, restart_page
from stillframe.testing.windows_adaptable import ESP_GUID, WINDOWS_GUID, build_program, system_tree, windows_files
from stillframe.testing.windows_backup import BOOTMGR, LOADER, gpt_device
from stillframe.testing.windows_moved import (
    FOREIGN,
    FOREIGN_DISK,
    FOREIGN_PARTITION,
    GPT,
    MBR,
    MIB,
    MadeDisk,
    build_disk,
    make_volumes,
)

pytestmark = pytest.mark.root
STORES = {"gpt": ("esp", "EFI/Microsoft/Boot/BCD"), "mbr": ("reserved", "Boot/BCD")}
NEW_GPT, NEW_MBR = "22222222-BBBB-4BBB-8BBB-000000000001", "0BADCAFE"
OTHER = "33333333-CCCC-4CCC-8CCC-00000000000"
Volumes = dict[str, dict[str, bytes]]


@pytest.fixture(scope="module", name="volumes")
def made_volumes(tmp_path_factory: pytest.TempPathFactory) -> Volumes:
    return {disk.scheme: make_volumes(disk, tmp_path_factory.mktemp(disk.scheme)) for disk in (GPT, MBR)}


def further(disk: MadeDisk, by: int, *, size: int = 0, disk_id: str = "") -> MadeDisk:
    places = [
        replace(place, start=place.start + by, guid=place.guid.replace("1111", "2222") if disk_id else place.guid)
        for place in disk.places
    ]
    return disk.moved(disk_id=disk_id, places=places, size=size, container=disk.container and disk.container + by)


def renamed(disk: MadeDisk, volume: str) -> MadeDisk:
    """The same disk, one of whose partitions has another GUID."""
    places = [
        replace(place, guid=f"{OTHER}{place.number}") if place.volume == volume else place for place in disk.places
    ]
    return disk.moved(places=places)


CASES: dict[str, MadeDisk] = {
    "MBR, another signature": further(MBR, 0, disk_id=NEW_MBR),
    "MBR, partitions moved": further(MBR, 3 * MIB + 512, size=40 * MIB),
    "MBR, moved, another signature": further(MBR, 5 * MIB, size=40 * MIB, disk_id=NEW_MBR),
    "GPT, partition of Windows made anew": renamed(GPT, "windows"),
    "GPT, another identity": further(GPT, 0, disk_id=NEW_GPT),
}


def write_disk(path: Path, disk: MadeDisk, volumes: Mapping[str, bytes]) -> Path:
    path.write_bytes(build_disk(disk, volumes))
    return path


def volume_of(path: Path, disk: MadeDisk, name: str, volumes: Mapping[str, bytes]) -> Path:
    found = path.with_name(f"{path.name}.{name}")
    start = disk.find(name).start
    found.write_bytes(path.read_bytes()[start : start + len(volumes[name])])
    return found


def file_of(volume: Path, kind: str, name: str) -> Path:
    """A file out of a volume, by mtools or ntfs-3g."""
    found = volume.with_suffix(f".{name.replace('/', '-')}")
    if kind == "esp":
        run_tool("mcopy", "-n", "-i", str(volume), f"::/{name}", str(found))
        return found
    with mounted_ntfs(volume, volume.with_name("place"), "ro") as place:
        shutil.copyfile(place / name, found)
    return found


def hivexget(file: Path, key: str, value: str) -> bytes:
    return subprocess.run(["hivexget", str(file), key, value], capture_output=True, check=True).stdout


@pytest.mark.variants(2)
@pytest.mark.parametrize("name", CASES)
def test_the_boot_configuration_follows_partitions_that_were_moved(name: str, volumes: Volumes, tmp_path: Path) -> None:
    new = CASES[name]
    mine = volumes[new.scheme]
    disk = write_disk(tmp_path / "disk", new, mine)
    before = tmp_path / "before"
    shutil.copyfile(disk, before)
    plan, _ = repaired(disk)
    assert plan.mended.broken
    loader, store = STORES[new.scheme]
    bcd = file_of(volume_of(disk, new, loader, mine), loader, store)
    expected = {
        (BOOTMGR, "11000001"): new.device(loader), (LOADER, "11000001"): new.device("windows"),
        (LOADER, "21000001"): new.device("windows"), (FOREIGN, "21000001"): gpt_device(FOREIGN_DISK, FOREIGN_PARTITION),
    }  # fmt: skip
    for (key, element), device in expected.items():
        assert hivexget(bcd, rf"\Objects\{key}\Elements\{element}", "Element") == device
    system = file_of(volume_of(disk, new, "windows", mine), "windows", "Windows/System32/config/SYSTEM")
    assert hivexget(system, r"\MountedDevices", r"\DosDevices\C:") == new.mounted("windows")
    undone(disk)
    assert filecmp.cmp(disk, before, shallow=False)


def test_the_boot_sectors_of_windows_say_where_it_begins(volumes: Volumes, tmp_path: Path) -> None:
    mine, disk = volumes["mbr"], tmp_path / "disk"
    write_disk(disk, MBR, mine)
    whole = disk.read_bytes()
    reserved = MBR.find("reserved").start
    broken = bytearray(whole)
    struct.pack_into("<I", broken, reserved + 0x1C, 63)
    struct.pack_into("<I", broken, reserved + len(mine["reserved"]) - 512 + 0x1C, 63)
    disk.write_bytes(broken)
    plan, _ = repaired(disk)
    assert any("begins at byte 32256" in words for words in plan.mended.broken)
    assert disk.read_bytes()[MIB:] == whole[MIB:], "both copies, and nothing else"
    assert [(one.number, one.size) for one in plan.places if one.number] == [(1, 1024)]


def test_a_hibernated_windows_is_left_alone(volumes: Volumes, tmp_path: Path) -> None:
    new = CASES["MBR, another signature"]
    mine = dict(volumes["mbr"])
    image, place = tmp_path / "windows", tmp_path / "place"
    image.write_bytes(mine["windows"])
    with mounted_ntfs(image, place):
        (place / "hiberfil.sys").write_bytes(b"HIBR".ljust(65536, b"\0"))
    mine["windows"] = image.read_bytes()
    disk = write_disk(tmp_path / "disk", new, mine)
    plan = plan_of(disk)
    assert plan.mended.changes == ()
    assert len(plan.differences) == 0
    assert any("hibernated" in notice.message and notice.hint for notice in plan.mended.notices)


def test_a_windows_that_was_not_closed_is_left_alone(volumes: Volumes, tmp_path: Path) -> None:
    new = CASES["MBR, another signature"]
    mine = dict(volumes["mbr"])
    log = restart_page(in_use=0, flags=0)
    for name in ("windows", "reserved"):
        volume = bytearray(mine[name])
        at = place_of(MemoryDisk(bytearray(mine[name])), 2).start  # $LogFile
        volume[at : at + len(log)] = log
        mine[name] = bytes(volume)
    disk = write_disk(tmp_path / "disk", new, mine)
    before = disk.read_bytes()
    plan = plan_of(disk)
    assert {notice.code for notice in plan.mended.notices} >= {"windows-not-closed"}
    assert all(notice.hint for notice in plan.mended.notices)
    assert {one.number for one in plan.places} <= {None, 3}, "only what was closed"
    assert disk.read_bytes() == before


TEMPLATE = build_hive({
    "Description": {"KeyName": "BCD00000001"},
    "Objects": {
        BOOTMGR: {"Description": {"Type": 0x10100002}, "Elements": {"12000004": {"Element": "Windows Boot Manager"}}},
        "{b2721d73-1db4-4c62-bf78-c548a880142d}": {"Description": {"Type": 0x10200005}},
        "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}": {"Description": {"Type": 0x20200003}},
    },
})  # fmt: skip
BOOT_FILES = {
    "EFI/bootmgfw.efi": build_program("amd64", size=90_000), "EFI/de-DE/bootmgfw.efi.mui": b"Windows-Start-Manager",
    "Fonts/wgl4_boot.ttf": b"font" * 3000,
}  # fmt: skip


LINUX_ROOT = "0b5d0b8e-5b0f-4d53-9d0c-3e3b0c6f7a11"
LINUX = {
    "etc/os-release": b'PRETTY_NAME="Little Linux 3"\nID=little\n',
    "etc/fstab": f"UUID={LINUX_ROOT} / ext4 defaults 0 1\n".encode(),
    "boot/grub/grub.cfg": f"menuentry 'Little' {{\nsearch --fs-uuid --set=root {LINUX_ROOT}\n"
    f"linux /boot/vmlinuz-1 root=UUID={LINUX_ROOT}\n}}\n".encode(),
    "boot/vmlinuz-1": b"kernel", "usr/bin/.keep": b"",
}  # fmt: skip


def build_windows_uefi(folder: Path, *more: Part) -> Path:
    """A Windows by UEFI whose EFI system partition was emptied."""
    files = dict(windows_files("10", system=build_hive(system_tree("10"))))
    files |= {f"Windows/Boot/{name}": contents for name, contents in BOOT_FILES.items()}
    files |= {"Windows/system32/winload.efi": build_program("amd64"), "Windows/system32/config/BCD-Template": TEMPLATE}
    path = folder / "disk"
    parts = [
        Part(size=36 * MIB, type=TYPES["esp"], kind="vfat", guid=ESP_GUID),
        Part(size=20 * MIB, type=TYPES["basic"], kind="ntfs", guid=WINDOWS_GUID, files=files), *more,
    ]  # fmt: skip
    build_system_disk(path, "gpt", GPT_DISK, parts)
    return path


@pytest.mark.variants(1)
@pytest.mark.parametrize("is_zeroed", [False, True], ids=["empty", "all zeros"])
def test_an_emptied_esp_gets_the_boot_files_of_windows_back(tmp_path: Path, *, is_zeroed: bool) -> None:
    disk, before = build_windows_uefi(tmp_path), tmp_path / "before"
    if is_zeroed:
        with disk.open("r+b") as file:
            file.seek(MIB)
            file.write(bytes(36 * MIB))
    shutil.copyfile(disk, before)
    plan, result = repaired(disk)
    assert not result.may_not_start
    assert any(one.code == "windows-uefi-experimental" for one in plan.mended.notices)
    esp = tmp_path / "esp"
    esp.write_bytes(disk.read_bytes()[MIB : 37 * MIB])
    run_tool("fsck.fat", "-n", str(esp))
    (tmp_path / "look").mkdir()
    run_tool("mcopy", "-s", "-n", "-i", str(esp), "::/EFI", str(tmp_path / "look"))
    found = hash_tree(tmp_path / "look")
    loader = hashlib.sha256(BOOT_FILES["EFI/bootmgfw.efi"]).hexdigest()
    assert found["EFI/Microsoft/Boot/bootmgfw.efi"] == found["EFI/Boot/bootx64.efi"] == loader
    bcd = tmp_path / "look/EFI/Microsoft/Boot/BCD"
    assert hivexget(bcd, rf"\Objects\{BOOTMGR}\Elements\11000001", "Element") == gpt_device(GPT_DISK, ESP_GUID)
    undone(disk)
    assert filecmp.cmp(disk, before, shallow=False)


def test_a_windows_and_a_linux_beside_each_other_both_come_back(tmp_path: Path) -> None:
    linux = Part(
        size=32 * MIB, type=TYPES["linux"], kind="ext4", uuid=LINUX_ROOT, guid=f"{OTHER}7", files=LINUX
    )  # fmt: skip
    disk = build_windows_uefi(tmp_path, linux)
    plan, result = repaired(disk)
    assert len(plan.mended.before.systems) == 2
    assert not result.may_not_start
    names = run_tool("mdir", "-b", "-/", "-i", f"{disk}@@{MIB}", "::/EFI")
    for name in ("little/grubx64.efi", "Microsoft/Boot/BCD", "Microsoft/Boot/bootmgfw.efi", "BOOT/BOOTX64.EFI"):
        assert f"::/EFI/{name}" in names
    run_tool("mcopy", "-n", "-i", f"{disk}@@{MIB}", "::/EFI/BOOT/BOOTX64.EFI", str(tmp_path / "first"))
    assert LINUX_ROOT.encode() in (tmp_path / "first").read_bytes(), "the Linux, whose menu may start both"


def test_a_lost_loader_comes_back_beside_a_whole_boot_configuration(tmp_path: Path) -> None:
    disk = build_windows_uefi(tmp_path)
    repaired(disk)
    undo_of(disk).unlink()
    esp = f"{disk}@@{MIB}"
    for name in ("EFI/Microsoft/Boot/bootmgfw.efi", "EFI/Boot/bootx64.efi"):
        run_tool("mdel", "-i", esp, f"::/{name}")
    run_tool("mcopy", "-n", "-i", esp, "::/EFI/Microsoft/Boot/BCD", str(tmp_path / "bcd"))
    plan, _ = repaired(disk)
    assert any("Windows' loader was put back" in words for words in plan.mended.changes)
    run_tool("mcopy", "-n", "-i", esp, "::/EFI/Microsoft/Boot/bootmgfw.efi", str(tmp_path / "loader"))
    assert (tmp_path / "loader").read_bytes() == BOOT_FILES["EFI/bootmgfw.efi"]
    run_tool("mcopy", "-n", "-i", esp, "::/EFI/Microsoft/Boot/BCD", str(tmp_path / "bcd2"))
    assert filecmp.cmp(tmp_path / "bcd", tmp_path / "bcd2", shallow=False)


def test_the_active_flag_and_the_code_of_the_first_sector_come_back(volumes: Volumes, tmp_path: Path) -> None:
    mine = volumes["mbr"]
    disk = write_disk(tmp_path / "disk", MBR, mine)
    write_code(disk, b"\x33\xc0\x8e\xd0\xbc\x00\x7c\x8e\xc0\x8e")
    run_tool("sfdisk", "--activate", str(disk), "-")
    assert active(disk) == []
    plan, _ = repaired(disk)
    assert "no partition is active" in " ".join(plan.mended.broken)
    assert active(disk) == [1]


def active(disk: Path) -> list[int]:
    table = json.loads(run_tool("sfdisk", "--json", str(disk)))["partitiontable"]["partitions"]
    return [number for number, one in enumerate(table, 1) if one.get("bootable")]


def test_a_disk_without_boot_code_gets_that_of_syslinux_or_is_told_what_to_do(volumes: Volumes, tmp_path: Path) -> None:
    disk = write_disk(tmp_path / "disk", MBR, volumes["mbr"])
    with disk.open("r+b") as file:
        file.write(bytes(440))
    plan, _ = repaired(disk)
    assert "the first sector of the disk has no boot code" in plan.mended.broken
    code = next((path for path in map(Path, ("/usr/lib/syslinux/mbr/mbr.bin",)) if path.exists()), None)
    if code is None:
        assert any(one.code == "boot-code-missing" and "bootrec" in one.hint for one in plan.mended.notices)
    else:
        assert disk.read_bytes()[: code.stat().st_size] == code.read_bytes()
