r"""Folders as Windows' own backup leaves them, made from what is published about them.

Answers: "what would ``WindowsImageBackup`` hold for this disk?" Volumes are made by mkntfs, mkfs.fat, ntfs-3g and
mtools, the tables in the VHD files by sfdisk, the files by qemu-img; nothing here shares code with ``capture``. None of
it was made by Windows.

Sources: as ``capture.windows_image_folder`` and ``systems.windows_disks``.
"""

import os
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stillframe.testing.hive_builder import build_hive
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import make_fat, make_ntfs, mounted_ntfs

MIB: Final = 1 << 20
PLACE_IN_FILE: Final = 128 * 512
BOOTMGR: Final = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
LOADER: Final = "{b5f2f1a0-0000-4000-8000-0123456789ab}"
RECOVERY_LOADER: Final = "{b5f2f1a1-0000-4000-8000-0123456789ab}"


@dataclass
class MadeVolume:
    """A volume as it was on its disk.

    Attributes:
        guid: By which Windows names it.
        image: Its bytes, in a file.
        start: Where it was on the disk; 0 leaves the boot sector without a place.
        letter: Such as ``C:``.
        files: What is put into it, by path.
    """

    guid: str
    image: Path
    start: int
    size: int
    filesystem: str = "ntfs"
    letter: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


def make_volume(volume: MadeVolume) -> MadeVolume:
    """Format it, fill it, and write its place into its boot sectors."""
    if volume.filesystem == "ntfs":
        make_ntfs(volume.image, size=volume.size, label=volume.letter.strip(":"))
        place = volume.image.with_suffix(".mounted")
        with mounted_ntfs(volume.image, place):
            for path, contents in volume.files.items():
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(contents)
    else:
        make_fat(volume.image, size=volume.size, bits=32)
        _fill_fat(volume)
    copies = (0, volume.size - 512) if volume.filesystem == "ntfs" else (0, 6 * 512)
    with volume.image.open("r+b") as file:
        for copy in copies:
            file.seek(copy + 0x1C)
            file.write(struct.pack("<I", volume.start // 512))
    return volume


def _fill_fat(volume: MadeVolume) -> None:
    for path, contents in volume.files.items():
        folders = Path(path).parent.parts
        for depth in range(1, len(folders) + 1):
            target = "::" + "/".join(folders[:depth])
            run_tool("mmd", "-D", "s", "-i", str(volume.image), target, accept=(0, 1))
        given = volume.image.with_suffix(".given")
        given.write_bytes(contents)
        run_tool("mcopy", "-o", "-i", str(volume.image), str(given), f"::{path}")


def gpt_device(disk: str, partition: str) -> bytes:
    """A device element of a BCD that names a partition of a GPT disk."""
    body = uuid.UUID(partition).bytes_le + struct.pack("<II", 0, 0) + uuid.UUID(disk).bytes_le
    return _device(body)


def mbr_device(signature: int, start: int) -> bytes:
    """A device element of a BCD that names a partition of an MBR disk."""
    return _device(struct.pack("<QQIII", start, 0, 0, 1, signature))


def ramdisk_device(device: bytes) -> bytes:
    """A device element of a BCD that names a file on the partition of another one."""
    path = "\\Recovery\\WindowsRE\\Winre.wim\0".encode("utf-16-le")
    inner = device[16:]
    return uuid.uuid4().bytes_le + struct.pack("<IIII", 0, 0, 52 + len(inner) + len(path), 0) + bytes(36) + inner + path


def _device(body: bytes) -> bytes:
    return bytes(16) + (struct.pack("<IIII", 6, 0, 0x48, 0) + body).ljust(0x48, b"\0")


def boot_store(loader: bytes, system: bytes, recovery: bytes = b"") -> bytes:
    """A BCD: the boot manager, one Windows, and its recovery environment."""

    def has(name: str, element: bytes) -> dict[str, dict[str, dict[str, bytes]]]:
        return {"Elements": {name: {"Element": element}}}

    objects = {BOOTMGR: has("11000001", loader), LOADER: has("21000001", system)}
    if recovery:
        objects[RECOVERY_LOADER] = has("21000001", ramdisk_device(recovery))
    return build_hive({"Description": {"KeyName": "BCD00000000"}, "Objects": objects})


def system_hive(devices: Mapping[str, bytes]) -> bytes:
    """A ``SYSTEM`` with these values in ``MountedDevices``."""
    return build_hive({"MountedDevices": dict(devices), "Select": {"Current": 1}})


def mounted_gpt(partition: str) -> bytes:
    """A value of ``MountedDevices`` for GPT."""
    return b"DMIO:ID:" + uuid.UUID(partition).bytes_le


def mounted_mbr(signature: int, start: int) -> bytes:
    """A value of ``MountedDevices`` for MBR."""
    return struct.pack("<IQ", signature, start)


def write_backup(
    folder: Path,
    volumes: Sequence[MadeVolume],
    *,
    ending: str,
    padding: int = 0,
    names: Mapping[str, str] | None = None,
) -> Path:
    """The folder of one backup, with its list.

    Args:
        folder: Such as ``.../WindowsImageBackup/PC/Backup 2026-05-04 031500``; made here.
        volumes: What is in it.
        ending: ``vhd`` or ``vhdx``.
        padding: Bytes by which the partition in each file is larger than the volume.
        names: Of files, by the GUID of the volume, where they are not called after it.
    """
    folder.mkdir(parents=True)
    for volume in volumes:
        name = (names or {}).get(volume.guid, f"{volume.guid}.{ending}")
        wrap_volume(volume.image, folder / name, ending=ending, padding=padding)
    (folder / "BackupSpecs.xml").write_bytes(specs(volumes).encode("utf-16-le"))
    return folder


def wrap_volume(image: Path, target: Path, *, ending: str, padding: int = 0) -> None:
    """A disk file with one partition that holds a volume."""
    disk, size = target.with_suffix(".raw"), image.stat().st_size
    with disk.open("wb") as file:
        file.truncate(PLACE_IN_FILE + size + padding)
    script = disk.with_suffix(".sfdisk")
    script.write_text(f"label: dos\nstart=128, size={(size + padding) // 512}, type=7\n")
    run_tool("sh", "-c", f"sfdisk -q '{disk}' < '{script}'")
    run_tool(
        "dd", f"if={image}", f"of={disk}", "bs=64K", f"seek={PLACE_IN_FILE >> 16}", "conv=notrunc,sparse", "status=none"
    )
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vpc" if ending == "vhd" else ending, str(disk), str(target))
    os.unlink(disk)
    os.unlink(script)


def specs(volumes: Sequence[MadeVolume]) -> str:
    """The text of ``BackupSpecs.xml``."""
    listed = "".join(
        f'<Volume Name="\\\\?\\Volume{{{one.guid}}}\\" AccessPath="{one.letter}" OriginalAccessPath="{one.letter}" '
        f'Label="" OriginalLabel="" ><FileSpec FilePath="\\\\?\\Volume{{{one.guid}}}\\" FileName="*" '
        'IsRecursive="true" IsInclude="true" /></Volume>'
        for one in volumes
    )
    return (
        f"<BackupSpecs><FileSpecs>{listed}</FileSpecs>"
        '<SystemState IsPresent="false" /><AllCritical IsPresent="false" /></BackupSpecs>'
    )
