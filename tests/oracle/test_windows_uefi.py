"""A Windows that started by BIOS gets boot files and a boot configuration for UEFI: judged by bytes and other programs.

No real Windows was started. The BCD is read by hivexml, the ESP by mtools, The Sleuth Kit and fsck.fat.
"""

import hashlib
import shutil
import uuid
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader, open_file_writer
from stillframe.disk import read_layout
from stillframe.errors import DiskFormatError
from stillframe.events import NoEvents, Notice
from stillframe.host.esp_files import FatVolume, write_file
from stillframe.jobs.conversions.windows_uefi import prepare_windows_uefi
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.starts.workbench import Workbench, work_on
from stillframe.systems.hive import Hive
from stillframe.systems.windows_disks import PartitionRecord, parse_boot_device
from stillframe.testing.hive_builder import build_hive
from stillframe.testing.hive_dump import dump_hive
from stillframe.testing.system_disks import GPT_DISK, TYPES, Part, build_system_disk
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import hash_tree, mounted_ntfs
from stillframe.testing.windows_adaptable import (
    ESP_GUID,
    MIB,
    WINDOWS_GUID,
    build_program,
    software_tree,
    system_tree,
    windows_files,
)
from stillframe.testing.windows_backup import gpt_device, mounted_mbr

pytestmark = pytest.mark.root
LOADER = uuid.UUID("733b62e5-f608-11eb-825c-c112f60133ab")
BOOTMGR, MEMORY = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}", "{b2721d73-1db4-4c62-bf78-c548a880142d}"
SETTINGS = "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"
MEMORY_LIST = f"{MEMORY}\0\0".encode("utf-16-le")
TEMPLATE = build_hive({
    "Description": {"KeyName": "BCD00000001"},
    "Objects": {
        BOOTMGR: {"Description": {"Type": 0x10100002},
                  "Elements": {"12000004": {"Element": "Windows Boot Manager"}, "24000010": {"Element": MEMORY_LIST}}},
        MEMORY: {"Description": {"Type": 0x10200005}, "Elements": {"1600000b": {"Element": b"\1"}}},
        SETTINGS: {"Description": {"Type": 0x20200003}},
    },
})  # fmt: skip
BOOT_FILES = {
    "EFI/bootmgfw.efi": build_program("amd64", size=90_000), "EFI/memtest.efi": build_program("amd64", size=20_000),
    "EFI/de-DE/bootmgfw.efi.mui": b"Windows-Start-Manager", "Fonts/wgl4_boot.ttf": b"font" * 3000,
    "Resources/bootres.dll": b"picture" * 4000,
}  # fmt: skip
WINDOWS_START = 37 * MIB
OLD = PartitionRecord(scheme="mbr", disk="5EADBEEF", start=WINDOWS_START)
NEW = PartitionRecord(scheme="gpt", disk="", guid=WINDOWS_GUID)
MOUNTED = {"\\DosDevices\\C:": mounted_mbr(0x5EADBEEF, WINDOWS_START), "\\DosDevices\\E:": mounted_mbr(7, MIB)}


def build(folder: Path, **changes: bytes | None) -> Path:
    """The disk after its table was converted: an empty ESP, and Windows."""
    system = build_hive(system_tree("10") | {"MountedDevices": MOUNTED})  # type: ignore[operator]
    files: dict[str, bytes | None] = dict(windows_files("10", system=system))
    files |= {f"Windows/Boot/{name}": contents for name, contents in BOOT_FILES.items()}
    files |= {"Windows/system32/winload.efi": build_program("amd64"), "Windows/system32/config/BCD-Template": TEMPLATE}
    files |= {name.replace("|", "/"): contents for name, contents in changes.items()}
    path = folder / "disk"
    parts = [
        Part(size=36 * MIB, type=TYPES["esp"], kind="vfat", guid=ESP_GUID),
        Part(size=20 * MIB, type=TYPES["basic"], kind="ntfs", guid=WINDOWS_GUID,
             files={name: contents for name, contents in files.items() if contents is not None}),
    ]  # fmt: skip
    build_system_disk(path, "gpt", GPT_DISK, parts)
    return path


def prepare(disk: Path, target: Path) -> tuple[tuple[str, ...], tuple[Notice, ...]]:
    notices = list[Notice]()

    def work(bench: Workbench) -> tuple[str, ...]:
        done, told = prepare_windows_uefi(bench, 2, 1, renamed={OLD: NEW}, new_id=LOADER)
        notices.extend(told)
        return done

    shutil.copyfile(disk, target)
    with open_file_reader(str(disk)) as reader, open_file_writer(str(target)) as writer:
        layout = read_layout(reader)
        table = TableWriter(writer, layout, reader, ())
        table.clear()
        try:
            done = work_on(writer, table, layout, NoEvents(), work)
        finally:
            table.write()
    return done, tuple(notices)


def cut(disk: Path, start: int, size: int, name: str) -> Path:
    volume = disk.with_name(f"{disk.name}.{name}")
    with disk.open("rb") as file:
        file.seek(start)
        volume.write_bytes(file.read(size))
    return volume


def esp_files(esp: Path, folder: Path) -> dict[str, str]:
    folder.mkdir()
    run_tool("mcopy", "-s", "-n", "-i", str(esp), "::/EFI", str(folder))
    return hash_tree(folder)


def test_the_esp_has_what_bcdboot_would_put_there(tmp_path: Path) -> None:
    disk, target = build(tmp_path), tmp_path / "target"
    done, notices = prepare(disk, target)
    esp = cut(target, MIB, 36 * MIB, "esp")
    run_tool("fsck.fat", "-n", str(esp))
    expected = {f"EFI/Microsoft/Boot/{name.removeprefix('EFI/')}": contents for name, contents in BOOT_FILES.items()}
    expected["EFI/Boot/bootx64.efi"] = BOOT_FILES["EFI/bootmgfw.efi"]
    found = esp_files(esp, tmp_path / "look")
    found.pop("EFI/Microsoft/Boot/BCD")
    assert found == {name: hashlib.sha256(contents).hexdigest() for name, contents in expected.items()}
    assert {notice.code for notice in notices} == {"windows-uefi-experimental", "windows-recovery-left-out"}
    assert len(done) == 2
    assert "drive letters" in done[1]


def test_the_boot_configuration_says_what_that_of_a_real_windows_says(tmp_path: Path) -> None:
    """Types and forms of values are those read in the BCD of a Windows 10."""
    disk, target = build(tmp_path), tmp_path / "target"
    prepare(disk, target)
    esp_files(cut(target, MIB, 36 * MIB, "esp"), tmp_path / "look")
    store = tmp_path / "look" / "EFI" / "Microsoft" / "Boot" / "BCD"
    template = tmp_path / "template"
    template.write_bytes(TEMPLATE)
    before, after = dict(dump_hive(template)), dict(dump_hive(store))
    esp, windows = (f"binary:{gpt_device(GPT_DISK, guid).hex()}" for guid in (ESP_GUID, WINDOWS_GUID))
    loader = f"{{{LOADER}}}"
    expected = {"\\Description:KeyName": "string:BCD00000000", "\\Description:System": "int32:1",
                "\\Description:TreatAsSystem": "int32:1", rf"\Objects\{loader}": "",
                rf"\Objects\{loader}\Description": "", rf"\Objects\{loader}\Description:Type": f"int32:{0x10200003}",
                rf"\Objects\{loader}\Elements": ""}  # fmt: skip
    for name, elements in {
        BOOTMGR: {
            "11000001": esp, "12000002": r"string:\EFI\Microsoft\Boot\bootmgfw.efi", "12000005": "string:en-US",
            "23000003": f"string:{loader}", "24000001": f"string-list:{loader}", "25000004": f"binary:1e{'00' * 7}",
            "24000010": f"string-list:{MEMORY}",
        },
        MEMORY: {"11000001": esp, "12000002": r"string:\EFI\Microsoft\Boot\memtest.efi"},
        loader: {
            "11000001": windows, "12000002": r"string:\Windows\system32\winload.efi", "12000004": "string:Windows",
            "12000005": "string:en-US", "14000006": f"string-list:{SETTINGS}", "21000001": windows,
            "22000002": r"string:\Windows", "25000020": f"binary:{'00' * 8}", "250000c2": f"binary:01{'00' * 7}",
        },
    }.items():  # fmt: skip
        for element, value in elements.items():
            path = rf"\Objects\{name}\Elements\{element}"
            expected |= {path: "", f"{path}:Element": value}
    assert after == before | expected
    raw = store.read_bytes()
    hive = Hive.open(lambda at, size: raw[at : at + size])
    assert hive is not None
    key = hive.find_key(rf"Objects\{loader}\Elements\21000001")
    assert key is not None
    device = hive.read_value(key, "Element")
    assert isinstance(device, bytes)
    assert parse_boot_device(device) == (PartitionRecord(scheme="gpt", disk=GPT_DISK, guid=WINDOWS_GUID),)


def test_drive_letters_follow_and_nothing_else_in_windows_changes(tmp_path: Path) -> None:
    disk, target = build(tmp_path), tmp_path / "target"
    prepare(disk, target)
    trees, hives = list[dict[str, str]](), list[dict[str, str]]()
    for path in (disk, target):
        with mounted_ntfs(cut(path, WINDOWS_START, 20 * MIB, "windows"), tmp_path / "mounted", "ro") as place:
            trees.append(hash_tree(place))
            system = tmp_path / f"{path.name}.SYSTEM"
            system.write_bytes((place / "Windows/system32/config/SYSTEM").read_bytes())
            hives.append(dict(dump_hive(system)))
    changed = {name for name in trees[0].keys() | trees[1].keys() if trees[0].get(name) != trees[1].get(name)}
    assert changed == {"Windows/system32/config/SYSTEM"}
    letter = "\\MountedDevices:\\DosDevices\\C:"
    now = "binary:" + (b"DMIO:ID:" + uuid.UUID(WINDOWS_GUID).bytes_le).hex()
    assert hives[1] == hives[0] | {letter: now}


@pytest.mark.variants(3)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Windows|system32|config|BCD-Template": None}, "no System32/config/BCD-Template"),
        ({"Windows|system32|config|BCD-Template": build_hive({"Objects": {BOOTMGR: {"x": 1}}})}, "lacks its object"),
        ({"Windows|system32|winload.efi": None}, "no System32/winload.efi"),
        ({"Windows|Boot|EFI|bootmgfw.efi": build_program("x86")}, "no loader for 64 bits"),
        ({"Windows|system32|cmd.exe": build_program("x86")}, "only a 64-bit Windows 7 or later"),
        ({"Windows|system32|config|SOFTWARE": build_hive(software_tree("xp"))}, "only a 64-bit Windows 7 or later"),
        ({"hiberfil.sys": b"hibr" + bytes(8000)}, "hibernated"),
        ({"Windows|system32|config|SYSTEM": build_hive(system_tree("10"), dirty=True)}, "not closed"),
    ],
)
def test_what_cannot_start_by_uefi_is_refused_and_nothing_is_changed(
    tmp_path: Path, changes: dict[str, bytes | None], words: str
) -> None:
    disk, target = build(tmp_path, **changes), tmp_path / "target"
    with pytest.raises(DiskFormatError, match=words) as refused:
        prepare(disk, target)
    assert refused.value.hint
    assert target.read_bytes() == disk.read_bytes()


def test_another_windows_on_the_esp_is_not_overwritten(tmp_path: Path) -> None:
    disk, target = build(tmp_path), tmp_path / "target"
    write_file(FatVolume(path=str(disk), offset=MIB), "/EFI/Microsoft/Boot/BCD", b"regf")
    with pytest.raises(DiskFormatError, match="has a boot configuration"):
        prepare(disk, target)
    assert target.read_bytes() == disk.read_bytes()
