r"""Disks with a Windows on them, and the same volumes on another disk.

Answers: "what does a restore leave when this disk was put elsewhere, before anything is repaired?" Tables are made by
sfdisk, volumes by mkntfs, mkfs.fat, mkfs.exfat, ntfs-3g and mtools. Records of partitions are packed here and in
``windows_backup`` after the published descriptions, not with the code that is tested. None of it was made by Windows.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from stillframe.testing.disks_partitioned import make_disk
from stillframe.testing.hive_builder import build_hive
from stillframe.testing.volumes_windows import make_exfat
from stillframe.testing.windows_backup import (
    BOOTMGR,
    LOADER,
    RECOVERY_LOADER,
    MadeVolume,
    gpt_device,
    make_volume,
    mbr_device,
    mounted_gpt,
    mounted_mbr,
    ramdisk_device,
)

MIB: Final = 1 << 20
FOREIGN: Final = "{b5f2f1a2-0000-4000-8000-0123456789ab}"
FOREIGN_DISK, FOREIGN_PARTITION = "0A0A0A0A-0000-4000-8000-00000000000A", "0B0B0B0B-0000-4000-8000-00000000000B"
_ESP_TYPE: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_DATA_TYPE: Final = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
_RECOVERY_TYPE: Final = "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A partition of a made disk: which volume is in it, where, as what."""

    number: int
    volume: str
    start: int
    type: str
    guid: str = ""
    is_active: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDisk:
    """A disk to be made.

    Attributes:
        scheme, disk_id: Of its table; the id is spelt as ``Layout.disk_id``.
        size: Bytes.
        places: Its partitions.
        container: Where the extended partition of an MBR disk lies, in bytes; it ends with the disk.
    """

    scheme: str
    disk_id: str
    size: int
    places: tuple[Place, ...]
    container: int = 0

    def device(self, volume: str) -> bytes:
        """The element of a BCD that names one of its partitions."""
        place = self.find(volume)
        if self.scheme == "gpt":
            return gpt_device(self.disk_id, place.guid)
        return mbr_device(int(self.disk_id, 16), place.start)

    def mounted(self, volume: str) -> bytes:
        """The value of ``MountedDevices`` that names one of its partitions."""
        place = self.find(volume)
        return mounted_gpt(place.guid) if self.scheme == "gpt" else mounted_mbr(int(self.disk_id, 16), place.start)

    def winre(self, volume: str) -> bytes:
        """``ReAgent.xml`` that names one of its partitions, in the form of public copies of it."""
        disk = f"{{{self.disk_id.lower()}}}" if self.scheme == "gpt" else "{00000000-0000-0000-0000-000000000000}"
        number = 0 if self.scheme == "gpt" else int(self.disk_id, 16)
        none = 'path="" id="0" offset="0" guid="{00000000-0000-0000-0000-000000000000}"'
        return (
            "<?xml version='1.0' encoding='utf-8'?>\r\n\r\n<WindowsRE version=\"2.0\">\r\n"
            f'  <WinreBCD id="{RECOVERY_LOADER}"/>\r\n'
            f'  <WinreLocation path="\\Recovery\\WindowsRE" id="{number}" offset="{self.find(volume).start}" '
            f'guid="{disk}"/>\r\n  <ImageLocation {none}/>\r\n  <InstallState state="1"/>\r\n</WindowsRE>\r\n'
        ).encode()

    def find(self, volume: str) -> Place:
        """The partition that holds a volume."""
        return next(place for place in self.places if place.volume == volume)

    def moved(
        self, *, disk_id: str = "", size: int = 0, places: Sequence[Place] = (), container: int = 0
    ) -> "MadeDisk":
        """Another disk for the same volumes."""
        return replace(
            self, disk_id=disk_id or self.disk_id, size=size or self.size, places=tuple(places) or self.places,
            container=container or self.container,
        )  # fmt: skip


GPT: Final = MadeDisk(
    scheme="gpt",
    disk_id="11111111-AAAA-4AAA-8AAA-000000000001",
    size=60 * MIB,
    places=(
        Place(number=1, volume="esp", start=MIB, type=_ESP_TYPE, guid="11111111-AAAA-4AAA-8AAA-0000000000E1"),
        Place(number=2, volume="windows", start=38 * MIB, type=_DATA_TYPE, guid="11111111-AAAA-4AAA-8AAA-0000000000E2"),
        Place(
            number=3, volume="winre", start=47 * MIB, type=_RECOVERY_TYPE, guid="11111111-AAAA-4AAA-8AAA-0000000000E3"
        ),
        Place(number=4, volume="data", start=54 * MIB, type=_DATA_TYPE, guid="11111111-AAAA-4AAA-8AAA-0000000000E4"),
    ),
)
MBR: Final = MadeDisk(
    scheme="mbr",
    disk_id="8B467C12",
    size=32 * MIB,
    places=(
        Place(number=1, volume="reserved", start=MIB, type="7", is_active=True),
        Place(number=2, volume="windows", start=8 * MIB, type="7"),
        Place(number=3, volume="winre", start=17 * MIB, type="27"),
        Place(number=5, volume="data", start=25 * MIB, type="7"),
    ),
    container=24 * MIB,
)
BOOT_INI: Final = (
    b"[boot loader]\r\ntimeout=30\r\ndefault=multi(0)disk(0)rdisk(0)partition(2)\\WINDOWS\r\n[operating systems]\r\n"
    b'multi(0)disk(0)rdisk(0)partition(2)\\WINDOWS="Windows XP" /fastdetect\r\n'
    b'signature(8b467c12)disk(0)rdisk(0)partition(3)\\WINDOWS="Windows XP by signature"\r\n'
    b'multi(0)disk(0)rdisk(1)partition(2)\\WINDOWS="Windows on another disk"\r\n'
)


def make_volumes(disk: MadeDisk, folder: Path) -> dict[str, bytes]:
    """The volumes of a disk, as its Windows left them when it was shut down."""
    contents, sizes = _contents(disk), {"esp": 36, "windows": 8, "winre": 6, "reserved": 6, "data": 4}
    made = dict[str, bytes]()
    for place in disk.places:
        image, size = folder / place.volume, sizes[place.volume] * MIB
        if disk.scheme == "gpt" and place.volume == "data":
            make_exfat(image, size=size)
            made[place.volume] = with_exfat_place(image.read_bytes(), place.start)
            continue
        kind = "vfat" if place.volume == "esp" else "ntfs"
        files = contents.get(place.volume, {"file": b"data"})
        make_volume(
            MadeVolume(guid="", image=image, start=place.start, size=size, filesystem=kind, files=files)
        )  # fmt: skip
        made[place.volume] = image.read_bytes()
    return made


def _contents(disk: MadeDisk) -> dict[str, Mapping[str, bytes]]:
    loader = "esp" if disk.scheme == "gpt" else "reserved"
    windows = {
        "Windows/System32/config/SYSTEM": system_hive(disk),
        "Windows/System32/config/SOFTWARE": build_hive({"Microsoft": {"x": 1}}),
        "Windows/System32/Recovery/ReAgent.xml": disk.winre("winre"),
        "Windows/notepad.exe": bytes(range(256)) * 300,
    }
    store = "EFI/Microsoft/Boot/BCD" if disk.scheme == "gpt" else "Boot/BCD"
    boot = {store: boot_store(disk, loader), "bootmgr": b"boot" * 2000}
    if disk.scheme == "gpt":
        boot["EFI/Microsoft/Boot/bootmgfw.efi"] = b"MZ" * 5000
    else:
        boot["boot.ini"] = BOOT_INI
    return {loader: boot, "windows": windows, "winre": {"Recovery/WindowsRE/ReAgent.xml": disk.winre("winre")}}


def boot_store(disk: MadeDisk, loader: str) -> bytes:
    """A BCD with the boot manager, a Windows, its recovery environment with its options, and a Windows elsewhere."""

    def has(**elements: bytes) -> dict[str, dict[str, dict[str, bytes]]]:
        return {"Elements": {name.strip("_"): {"Element": value} for name, value in elements.items()}}

    options = RECOVERY_LOADER.replace("a1-", "af-")
    return build_hive({
        "Description": {"KeyName": "BCD00000000"},
        "Objects": {
            BOOTMGR: has(_11000001=disk.device(loader), _12000002="\\bootmgfw.efi".encode("utf-16-le")),
            LOADER: has(_11000001=disk.device("windows"), _21000001=disk.device("windows")),
            RECOVERY_LOADER: has(_21000001=_ramdisk(disk), _22000002=disk.device("windows")),
            options: has(_31000003=disk.device("winre")),
            FOREIGN: has(_21000001=gpt_device(FOREIGN_DISK, FOREIGN_PARTITION)),
        },
    })  # fmt: skip


def _ramdisk(disk: MadeDisk) -> bytes:
    """With a GUID that does not change from call to call."""
    return bytes(range(16)) + ramdisk_device(disk.device("winre"))[16:]


def ramdisk_of(disk: MadeDisk) -> bytes:
    """The element that ``boot_store`` has for the recovery environment."""
    return _ramdisk(disk)


def system_hive(disk: MadeDisk) -> bytes:
    r"""A ``SYSTEM``; ``\DosDevices\Z:`` was on a disk that is long gone, ``\DosDevices\D:`` is no basic disk."""
    return build_hive({
        "MountedDevices": {
            "\\DosDevices\\C:": disk.mounted("windows"),
            "\\DosDevices\\E:": disk.mounted("data"),
            "\\DosDevices\\D:": "\\??\\SCSI#CdRom".encode("utf-16-le"),
            "\\DosDevices\\Z:": mounted_mbr(0x01020304, disk.find("windows").start),
        },
        "Select": {"Current": 1},
    })  # fmt: skip


def with_exfat_place(volume: bytes, start: int) -> bytes:
    """An exFAT volume that says where it begins, with both of its checksums made right.

    Source: Microsoft exFAT specification, sections 3.1.5 and 3.4.
    """
    changed = bytearray(volume)
    for region in (0, 12 * 512):
        struct.pack_into("<Q", changed, region + 64, start // 512)
        total = 0
        for index, byte in enumerate(changed[region : region + 11 * 512]):
            if index not in (106, 107, 112):
                total = ((total >> 1) + (0x80000000 if total & 1 else 0) + byte) % (1 << 32)
        changed[region + 11 * 512 : region + 12 * 512] = struct.pack("<I", total) * 128
    return bytes(changed)


def build_disk(disk: MadeDisk, volumes: Mapping[str, bytes]) -> bytearray:
    """Its table, and its volumes where it says."""
    lines = [f"label: {'gpt' if disk.scheme == 'gpt' else 'dos'}"]
    lines.append(f"label-id: {disk.disk_id if disk.scheme == 'gpt' else '0x' + disk.disk_id}")
    if disk.container:
        lines.append(f"4 : start={disk.container // 512}, type=5")
    for place in disk.places:
        line = f"{place.number} : start={place.start // 512}, size={len(volumes[place.volume]) // 512}, "
        line += f"type={place.type}" + (f", uuid={place.guid}" if place.guid else "")
        lines.append(line + (", bootable" if place.is_active else ""))
    made = bytearray(make_disk(disk.size, sfdisk="\n".join(lines) + "\n"))
    for place in disk.places:
        made[place.start : place.start + len(volumes[place.volume])] = volumes[place.volume]
    return made


def cut_volumes(disk: MadeDisk, contents: bytes | bytearray, volumes: Mapping[str, bytes]) -> dict[str, bytes]:
    """The volumes of a disk, as they are on it now."""
    starts = {place.volume: place.start for place in disk.places}
    return {name: bytes(contents[starts[name] : starts[name] + len(one)]) for name, one in volumes.items()}
