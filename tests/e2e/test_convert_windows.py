"""A disk like that of a Windows that a BIOS starts is made to start by UEFI.

Judged by sgdisk, fsck.fat, mtools, hivexml and ntfs-3g. None of it was made by Windows, and no real Windows was
started. Records are packed by ``testing``, after what was published, not by the code that is tested.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.block.file import open_file_reader
from stillframe.disk import Layout, read_layout
from stillframe.disk.other_scheme import ESP_GUID, RESERVED_GUID
from stillframe.errors import DiskFormatError, MachineRefusal, StillframeError, UsageError
from stillframe.extents import Extent
from stillframe.jobs.conversions.conversion import ConvertWish
from stillframe.jobs.restore import RestoreOptions
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import LocalStore
from stillframe.testing.command_line import call
from stillframe.testing.hive_builder import build_hive
from stillframe.testing.hive_dump import dump_hive
from stillframe.testing.job_runs import backup_paths, make_repository, restore
from stillframe.testing.real_disks import used_file
from stillframe.testing.system_disks import SIGNATURE, TYPES, Part, build_system_disk
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import hash_tree, mounted_ntfs, open_table
from stillframe.testing.windows_adaptable import build_program, software_tree, system_tree, windows_files
from stillframe.testing.windows_backup import boot_store, gpt_device, mbr_device, mounted_gpt, mounted_mbr

pytestmark = pytest.mark.root
MIB = 1 << 20
BOOTMGR, SETTINGS = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}", "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"
TEMPLATE = build_hive({
    "Description": {"KeyName": "BCD00000001"},
    "Objects": {
        BOOTMGR: {"Description": {"Type": 0x10100002}, "Elements": {"12000004": {"Element": "Windows Boot Manager"}}},
        SETTINGS: {"Description": {"Type": 0x20200003}},
    },
})  # fmt: skip
LOADER = build_program("amd64", size=90_000)
BOOT_FILES = {
    "Windows/Boot/EFI/bootmgfw.efi": LOADER, "Windows/Boot/EFI/de-DE/bootmgfw.efi.mui": b"Windows-Start-Manager",
    "Windows/Boot/Fonts/wgl4_boot.ttf": b"font" * 3000, "Windows/system32/winload.efi": build_program("amd64"),
    "Windows/system32/config/BCD-Template": TEMPLATE,
}  # fmt: skip
SIZES = (8 * MIB, 160 * MIB, 8 * MIB)
DISK = sum(SIZES) + 2 * MIB
RESERVED, WINDOWS, RECOVERY = MIB, 9 * MIB, 169 * MIB
MOUNTED: Mapping[str, bytes] = {
    "\\DosDevices\\C:": mounted_mbr(SIGNATURE, WINDOWS), "\\DosDevices\\E:": mounted_mbr(7, MIB),
    "\\??\\Volume{5eadbeef-0000-0000-0000-100000000000}": mounted_mbr(SIGNATURE, RESERVED),
    "\\??\\Volume{5eadbeef-0000-0000-0000-90a000000000}": mounted_mbr(SIGNATURE, RECOVERY),
}  # fmt: skip
BITLOCKER = (
    b"\xeb\x58\x90-FVE-FS-".ljust(0xA0, b"\0") + bytes.fromhex("3bd66749292ed84a8399f6a339e3d001").ljust(0x15E, b"\0")
    + b"\x55\xaa"
)  # fmt: skip
"""The first sector, as BitLocker since Windows 7 is recognised (util-linux, bitlocker.c)."""
WISH = ConvertWish(starts_by="uefi", esp_size=64 * MIB, is_experimental=True)


def system(**kind: bool) -> bytes:
    return build_hive(system_tree("10") | {"MountedDevices": dict(MOUNTED)}, **kind)  # type: ignore[operator, arg-type]


def make_windows(
    path: Path, changes: Mapping[str, bytes | None] | None = None, third: Part | None = None, size: int = SIZES[1]
) -> Path:
    """A disk as Windows 10 lays it out for a BIOS: System Reserved, Windows, recovery."""
    all_files = {**windows_files("10", system=system()), **BOOT_FILES, **(changes or {})}
    files = {name: contents for name, contents in all_files.items() if contents is not None}
    store = boot_store(mbr_device(SIGNATURE, RESERVED), mbr_device(SIGNATURE, WINDOWS))
    parts = [
        Part(size=SIZES[0], type="7", kind="ntfs", active=True, files={"bootmgr": b"code", "Boot/BCD": store}),
        Part(size=size, type="7", kind="ntfs", files=files),
        third or Part(size=SIZES[2], type="27", kind="ntfs", files={"Recovery/WindowsRE/Winre.wim": b"MSWIM"}),
    ]
    build_system_disk(path, "dos", f"0x{SIGNATURE:x}", parts)
    return path


def saved(folder: Path, *disks: Path) -> tuple[Repository, Manifest]:
    repository = make_repository(LocalStore(str(folder / "repository")))
    return repository, backup_paths(repository, *disks).manifest


def layout_of(disk: Path) -> Layout:
    with open_file_reader(str(disk)) as reader:
        return read_layout(reader)


def take(disk: Path, place: Extent, to: Path) -> Path:
    with disk.open("rb") as file:
        file.seek(place.start)
        to.write_bytes(file.read(place.size))
    return to


def ntfs_files(volume: Path, hive: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of all files of a Windows, and what its ``SYSTEM`` says, by hivexml."""
    with mounted_ntfs(volume, volume.with_suffix(".mounted"), "ro") as place:
        hive.write_bytes((place / "Windows/system32/config/SYSTEM").read_bytes())
        return hash_tree(place), dict(dump_hive(hive))


@pytest.mark.slow
@pytest.mark.parametrize("size", [DISK, DISK + 128 * MIB])
def test_a_windows_gets_a_gpt_boot_files_and_a_boot_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """On a disk of the same size its volume is made smaller, and recovery moves; on a larger one it is made larger."""
    monkeypatch.setenv("STILLFRAME_STATE_DIR", str(tmp_path / "state"))
    source, target = tmp_path / "source", used_file(tmp_path / "target", size)
    make_windows(source)
    repository, manifest = saved(tmp_path, source)
    done = restore(repository, manifest, target, options=RestoreOptions(convert=WISH))
    assert "partition 4 is a new EFI system partition" in done.changes
    assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    layout = layout_of(target)
    places = {part.number: part.extent for part in layout.partitions}
    types = [(part.number, part.type) for part in layout.partitions]
    assert types == [
        (1, TYPES["basic"]), (2, TYPES["basic"]), (3, TYPES["recovery"]), (4, ESP_GUID), (5, RESERVED_GUID)
    ]  # fmt: skip
    shown = run_tool("sgdisk", "-i", "3", str(target))
    assert "Attribute flags: 8000000000000001" in shown
    assert (places[4].size, places[5].size) == (64 * MIB, 16 * MIB)

    esp = take(target, places[4], tmp_path / "esp")
    run_tool("fsck.fat", "-n", str(esp))
    run_tool("mcopy", "-s", "-n", "-i", str(esp), "::/EFI", str(tmp_path))
    folder = tmp_path / "EFI" / "Microsoft" / "Boot"
    assert (folder / "bootmgfw.efi").read_bytes() == (tmp_path / "EFI/Boot/bootx64.efi").read_bytes() == LOADER
    assert (folder / "de-DE/bootmgfw.efi.mui").read_bytes() == BOOT_FILES["Windows/Boot/EFI/de-DE/bootmgfw.efi.mui"]
    assert (folder / "Fonts/wgl4_boot.ttf").read_bytes() == BOOT_FILES["Windows/Boot/Fonts/wgl4_boot.ttf"]
    store = dict(dump_hive(folder / "BCD"))
    guids = {part.number: part.guid for part in layout.partitions}
    default = store[rf"\Objects\{BOOTMGR}\Elements\23000003:Element"].removeprefix("string:")
    for element, number in ((rf"{BOOTMGR}\Elements\11000001", 4), (rf"{default}\Elements\11000001", 2),
                            (rf"{default}\Elements\21000001", 2)):  # fmt: skip
        expected = gpt_device(layout.disk_id, guids[number])
        assert store[rf"\Objects\{element}:Element"] == f"binary:{expected.hex()}", element

    volume = take(target, places[2], tmp_path / "windows.now")
    before, said = ntfs_files(take(source, Extent(WINDOWS, RECOVERY), tmp_path / "windows.old"), tmp_path / "old.hive")
    after, says = ntfs_files(volume, tmp_path / "new.hive")
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {
        "Windows/system32/config/SYSTEM"
    }
    numbers = {"\\DosDevices\\C:": 2, **dict(zip(list(MOUNTED)[2:], (1, 3), strict=True))}
    assert says == said | {
        f"\\MountedDevices:{name}": f"binary:{mounted_gpt(guids[number]).hex()}" for name, number in numbers.items()
    }
    for number, start in ((1, places[1].start), (2, places[2].start), (3, places[3].start)):
        head = take(target, Extent(start, start + 512), tmp_path / "head").read_bytes()
        assert struct.unpack_from("<I", head, 0x1C) == (start // 512,), number
    for number, was in ((1, Extent(RESERVED, WINDOWS)), (3, Extent(RECOVERY, RECOVERY + SIZES[2]))):
        trees = []
        for name, disk, place in (("was", source, was), ("is", target, places[number])):
            with mounted_ntfs(take(disk, place, tmp_path / f"{name}{number}"), tmp_path / "mounted", "ro") as folder:
                trees.append(hash_tree(folder))
        assert trees[0] == trees[1] != {}

    boot = call("disks", target, "--boot").output.splitlines()
    assert "Starts by UEFI: Windows Boot Manager (4) -> Windows 10 Pro (2)" in boot
    assert not any("BROKEN" in line for line in boot if "UEFI" in line)


def mark_dirty(disk: Path, start: int, size: int) -> None:
    """As Windows marks a volume that it wants to check."""
    contents = bytearray(disk.read_bytes())
    table = open_table(MemoryDisk(bytes(contents[start : start + size])))
    at = start + int(table.stream.disk_starts[0]) + 3 * table.boot.record_size
    flags = contents.index(b"\x70\0\0\0", at + 56) + 24 + 10  # $VOLUME_INFORMATION, resident, its flags
    contents[flags] |= 1
    disk.write_bytes(contents)


def refused(folder: Path, *disks: Path, wish: ConvertWish = WISH) -> StillframeError:
    """Why a restore onto a target is refused, of which nothing is written."""
    repository, manifest = saved(folder, *disks)
    target = used_file(folder / "target", 8 * MIB)
    with pytest.raises(StillframeError) as raised:
        restore(repository, manifest, target, options=RestoreOptions(convert=wish))
    assert target.read_bytes() == b"\xff" * (8 * MIB), "nothing was written"
    assert raised.value.hint
    return raised.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Windows/Boot/EFI/bootmgfw.efi": None}, "it has no Boot/EFI/bootmgfw.efi"),
        ({"Windows/Boot/EFI/bootmgfw.efi": build_program("x86")}, "no loader for 64 bits"),
        ({"Windows/system32/winload.efi": None}, "it has no System32/winload.efi"),
        ({"Windows/system32/config/BCD-Template": None}, "it has no System32/config/BCD-Template"),
        ({"Windows/system32/config/BCD-Template": build_hive({"Objects": {"x": {"y": 1}}})}, "lacks its object"),
        ({"Windows/system32/cmd.exe": build_program("x86")}, "only a 64-bit Windows 7 or later"),
        ({"Windows/system32/config/SOFTWARE": build_hive(software_tree("xp"))}, "only a 64-bit Windows 7 or later"),
        ({"Windows/system32/config/SYSTEM": system(dirty=True)}, "it was not closed, and there is no log of it"),
        ({"hiberfil.sys": b"hibr" + bytes(8000)}, "a Windows is hibernated"),
    ],
)
def test_a_windows_that_could_not_start_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, bytes | None], words: str
) -> None:
    error = refused(tmp_path, make_windows(tmp_path / "source", changes, size=20 * MIB))
    assert isinstance(error, MachineRefusal)
    assert words in error.message


@pytest.mark.variants(2)
@pytest.mark.parametrize(
    ("third", "words"),
    [
        (Part(size=16 * MIB, type="7", kind="ntfs", files=windows_files("10")), "there are several (partitions 2, 3)"),
        (Part(size=8 * MIB, type="83", kind="ext4", uuid="11111111-2222-4333-8444-555555555555"), "is of a Linux"),
        (Part(size=8 * MIB, type="7", raw=BITLOCKER), "encrypted by BitLocker"),
        (Part(size=8 * MIB, type="42", raw=b"LDM"), "Windows dynamic disk"),
    ],
)
def test_what_else_is_on_the_disk_is_refused(tmp_path: Path, third: Part, words: str) -> None:
    assert words in refused(tmp_path, make_windows(tmp_path / "source", third=third, size=20 * MIB)).message


def test_a_volume_that_was_not_closed_is_refused(tmp_path: Path) -> None:
    disk = make_windows(tmp_path / "source", size=20 * MIB)
    mark_dirty(disk, WINDOWS, 20 * MIB)
    assert "was not closed" in refused(tmp_path, disk).message


@pytest.mark.slow
def test_a_windows_on_another_disk_of_the_image_is_refused(tmp_path: Path) -> None:
    other = Part(size=16 * MIB, type="7", kind="ntfs", files=windows_files("10"))
    build_system_disk(tmp_path / "other", "dos", "0x0badcafe", [other])
    repository, manifest = saved(tmp_path, make_windows(tmp_path / "source", size=20 * MIB), tmp_path / "other")
    with pytest.raises(MachineRefusal, match="may be on disk 2 of this image"):
        restore(repository, manifest, tmp_path / "target", options=RestoreOptions(convert=WISH))
    assert not (tmp_path / "target").exists()


@pytest.mark.slow
def test_boot_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    large = {"Windows/Boot/Fonts/large.ttf": bytes(58 * MIB)}
    error = refused(tmp_path, make_windows(tmp_path / "source", large, size=80 * MIB))
    assert "the new EFI system partition has room for" in error.message


@pytest.mark.slow
def test_when_the_preparation_fails_the_target_has_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DiskFormatError("Windows is not made to start by UEFI: a reason", hint="A step.")

    monkeypatch.setattr("stillframe.jobs.conversions.windows_starts_uefi.prepare_windows_uefi", fail)
    repository, manifest = saved(tmp_path, make_windows(tmp_path / "source", size=20 * MIB))
    target = used_file(tmp_path / "target", 160 * MIB)
    with pytest.raises(DiskFormatError, match="a reason"):
        restore(repository, manifest, target, options=RestoreOptions(convert=WISH))
    assert layout_of(target).scheme == "none"


def test_the_command_line_asks_for_the_word_experimental(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    make_windows(tmp_path / "disk.img")
    call("init", tmp_path / "repo", "--encryption", "none")
    assert call("backup", tmp_path / "disk.img").exit_code == 0
    target = tmp_path / "out.img"
    words = ("restore", "latest", target, "--convert", "uefi=64M", "--dry-run")
    without = call(*words)
    assert without.exit_code == MachineRefusal.exit_code
    for said in ("never proven on a real one", "--convert uefi --experimental", "keep the old disk"):
        assert said in without.errors
    by_bios = call("restore", "latest", target, "--convert", "bios", "--experimental", "--dry-run")
    assert "a Windows is not converted to start by BIOS" in by_bios.errors
    assert call("restore", "latest", target, "--experimental", "--dry-run").exit_code == UsageError.exit_code
    shown = call(*words, "--experimental", "--explain").output
    assert "make partition 4, new: EFI system partition, 67.1 MB" in shown
    assert "make partition 5, new: Microsoft reserved partition, 16.8 MB" in shown
    assert "make Windows 10 Pro start by UEFI, which is experimental" in shown
    assert "write a new partition table: GPT" in shown
    fields = call(*words, "--experimental", "--json").result
    assert [(one["partition"], one["type"]) for one in fields["new_partitions"]] == [
        (4, "EFI system"), (5, "Microsoft reserved")
    ]  # fmt: skip
    assert "convert-not-proven" in {notice["code"] for notice in fields["notices"]}
    assert not target.exists()
