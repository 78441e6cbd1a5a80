"""Disks with systems on them, as installers lay them out, in files.

Answers: "which partitions would a computer with this system have, and what tells them apart?" Tables are made by
sfdisk, volumes by mkntfs, ntfs-3g, mkfs.fat, mtools, mke2fs and mkswap. The Windows on them are a few files and
registries made from what is published; none of them was made by Windows, and none of the disks starts.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stillframe.testing.hive_builder import build_hive
from stillframe.testing.real_disks import copy_into
from stillframe.testing.tools import run_tool
from stillframe.testing.windows_backup import (
    MadeVolume,
    boot_store,
    gpt_device,
    make_volume,
    mbr_device,
    system_hive,
)

MIB: Final = 1 << 20
TYPES: Final = {
    "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "msr": "E3C9E316-0B5C-4DB8-817D-F92DF00215AE",
    "basic": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "recovery": "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC",
    "linux": "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "swap": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
    "bios": "21686148-6449-6E6F-744E-656564454649",
}  # fmt: skip
GPT_DISK: Final = "5A1B0C2D-1111-4222-8333-0A0B0C0D0E0F"
SIGNATURE: Final = 0x5EADBEEF


@dataclass(frozen=True, kw_only=True)
class Part:
    """A partition to be made.

    Attributes:
        size: Bytes.
        type: As sfdisk takes it.
        kind: ``ntfs``, ``vfat``, ``ext4``, ``swap``, or empty for ``raw`` bytes.
        guid: Of the partition.
        uuid: Of the file system, for ext4 and swap.
        label: Of the file system.
        files: What is in it.
        raw: Its first bytes, where there is no file system.
        active: Whether a BIOS starts it.
    """

    size: int
    type: str
    kind: str = ""
    guid: str = ""
    uuid: str = ""
    label: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    raw: bytes = b""
    active: bool = False


def build_system_disk(path: Path, label: str, disk_id: str, parts: Sequence[Part]) -> list[int]:
    """Make a disk; the partitions follow one another from the first MiB on. Returns where each begins."""
    starts = [MIB + sum(part.size for part in parts[:number]) for number in range(len(parts))]
    with path.open("wb") as file:
        file.truncate(starts[-1] + parts[-1].size + MIB)
    lines = [f"label: {label}", f"label-id: {disk_id}"]
    for start, part in zip(starts, parts, strict=True):
        words = f"start={start // 512}, size={part.size // 512}, type={part.type}"
        words += f", uuid={part.guid}" if part.guid else ""
        lines.append(words + (", bootable" if part.active else ""))
    script = path.with_suffix(".sfdisk")
    script.write_text("\n".join(lines) + "\n")
    run_tool("sh", "-c", f"sfdisk -q '{path}' < '{script}'")
    script.unlink()
    for number, (start, part) in enumerate(zip(starts, parts, strict=True), 1):
        volume = path.with_suffix(f".{number}")
        _make(part, volume, start)
        copy_into(volume, path, start)
        volume.unlink()
    return starts


def _make(part: Part, volume: Path, start: int) -> None:
    if part.kind in {"ntfs", "vfat"}:
        made = MadeVolume("", volume, start, part.size, part.kind, part.label, part.files)
        make_volume(made)
        volume.with_suffix(".given").unlink(missing_ok=True)
        return
    with volume.open("wb") as file:
        file.write(part.raw)
        file.truncate(part.size)
    name = ["-L", part.label] if part.label else []
    if part.kind == "swap":
        run_tool("mkswap", "-q", "-U", part.uuid, *name, str(volume))
    elif part.kind == "ext4":
        tree = volume.with_suffix(".tree")
        for where, contents in {"lost": b"", **part.files}.items():
            (tree / where).parent.mkdir(parents=True, exist_ok=True)
            (tree / where).write_bytes(contents)
        run_tool("mke2fs", "-q", "-t", "ext4", "-U", part.uuid, *name, "-d", str(tree), str(volume))
        shutil.rmtree(tree)


def windows_files(product: str = "Windows 10 Pro", build: str = "22631") -> dict[str, bytes]:
    """What makes a volume a Windows."""
    version = {"ProductName": product, "CurrentBuild": build}
    return {
        "Windows/System32/config/SYSTEM": system_hive({}),
        "Windows/System32/config/SOFTWARE": build_hive({"Microsoft": {"Windows NT": {"CurrentVersion": version}}}),
        "Windows/notepad.exe": bytes(range(256)) * 400,
    }


def windows_gpt(*, data: Mapping[str, bytes], labels: Sequence[str] = ("", "", "")) -> list[Part]:
    """ESP, MSR, Windows, recovery, data: as Windows 10 and 11 lay a disk out, and a volume of a person's own."""
    guids = [f"D0C1B2A{number}-9999-4999-9999-665544332211" for number in range(1, 6)]
    esp, _, windows, recovery, _ = (gpt_device(GPT_DISK, guid) for guid in guids)
    store = boot_store(esp, windows, recovery=recovery)
    return [
        Part(size=36 * MIB, type=TYPES["esp"], kind="vfat", guid=guids[0],
             files={"EFI/Microsoft/Boot/BCD": store, "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"}),
        Part(size=16 * MIB, type=TYPES["msr"], guid=guids[1]),
        Part(size=24 * MIB, type=TYPES["basic"], kind="ntfs", guid=guids[2], label=labels[0], files=windows_files()),
        Part(size=8 * MIB, type=TYPES["basic"], kind="ntfs", guid=guids[3], label=labels[1],
             files={"Recovery/WindowsRE/Winre.wim": b"MSWIM"}),
        Part(size=16 * MIB, type=TYPES["basic"], kind="ntfs", guid=guids[4], label=labels[2], files=data),
    ]  # fmt: skip


def windows_mbr(*, data: Mapping[str, bytes], labels: Sequence[str] = ("", "", "")) -> list[Part]:
    """The active partition with the boot manager, Windows, data: as Windows 7 lays a disk out."""
    store = boot_store(mbr_device(SIGNATURE, MIB), mbr_device(SIGNATURE, 9 * MIB))
    boot = {"bootmgr": b"code", "Boot/BCD": store}
    return [
        Part(size=8 * MIB, type="7", kind="ntfs", label=labels[0], files=boot, active=True),
        Part(size=24 * MIB, type="7", kind="ntfs", label=labels[1], files=windows_files("Windows 7 Home", "7601")),
        Part(size=16 * MIB, type="7", kind="ntfs", label=labels[2], files=data),
    ]


BOOT, ROOT, SWAP, HOME = (f"{number}1112222-3333-4444-8555-666677778888" for number in range(1, 5))
DEBIAN: Final = b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'


def debian_gpt(*, data: Mapping[str, bytes], options: str = "defaults") -> list[Part]:
    """ESP, /boot, /, swap, /home: as Debian's installer lays a disk out when asked for partitions of their own."""
    fstab = (
        f"UUID={ROOT} / ext4 errors=remount-ro 0 1\nUUID={BOOT} /boot ext4 defaults 0 2\n"
        f"UUID={SWAP} none swap sw 0 0\n/dev/disk/by-uuid/{HOME} /home ext4 {options} 0 2\n"
        "/dev/sr0 /media/cdrom udf,iso9660 user,noauto 0 0\n"
    )
    early = f"search.fs_uuid {BOOT} root hd0,gpt2\nset prefix=($root)'/grub'\nconfigfile $prefix/grub.cfg\n"
    search = f"search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2 {BOOT}\n"
    kernel = f"linux\t/vmlinuz-6.1.0-18-amd64 root=UUID={ROOT} ro  quiet\n"
    menu = f"{search}menuentry 'Debian GNU/Linux' --class debian {{\n\t{search}\t{kernel}}}\n"
    loaders = dict.fromkeys(("EFI/debian/grubx64.efi", "EFI/BOOT/BOOTX64.EFI"), b"MZ")
    return [
        Part(size=36 * MIB, type=TYPES["esp"], kind="vfat", files={**loaders, "EFI/debian/grub.cfg": early.encode()}),
        Part(size=8 * MIB, type=TYPES["linux"], kind="ext4", uuid=BOOT,
             files={"vmlinuz-6.1.0-18-amd64": b"kernel" * 1000, "grub/grub.cfg": menu.encode()}),
        Part(size=16 * MIB, type=TYPES["linux"], kind="ext4", uuid=ROOT,
             files={"etc/os-release": DEBIAN, "etc/fstab": fstab.encode(), "usr/bin/true": b"\x7fELF" * 5000}),
        Part(size=8 * MIB, type=TYPES["swap"], kind="swap", uuid=SWAP),
        Part(size=16 * MIB, type=TYPES["linux"], kind="ext4", uuid=HOME, label="home", files=data),
    ]  # fmt: skip
