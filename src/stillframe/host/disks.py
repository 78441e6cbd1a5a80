"""The disks of this machine, and the facts that people know them by.

Answers: "which disks are there, how large, which model?" and "what is this path?" Who uses them is in ``host.mounts``;
what is on them is not asked here: ``disk`` and ``fs`` read bytes.

Source: Linux Documentation/ABI/{stable,testing}/sysfs-block and sysfs-class-nvme; SPC-4, vital product data page 80h;
udev's database as written by systemd (src/libsystemd/sd-device/sd-device.c, ``E:`` lines).
"""

import os
import re
import stat
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import MachineRefusal, UsageError
from stillframe.host.blocks import (
    THIS_MACHINE,
    BlockNode,
    BlockTree,
    KernelPaths,
    read_block_tree,
    read_number,
    read_text,
)
from stillframe.host.linux import DeviceNumber, require_linux, thing_at

# Not disks a person keeps data on: memory, optical and floppy drives, pieces of device-mapper, boot areas of eMMC.
_NOT_DISKS: Final = re.compile(r"ram\d+|zram\d+|sr\d+|fd\d+|dm-\d+|mtdblock\d+|mmcblk\d+(boot\d+|rpmb)")
_LOOP: Final = re.compile(r"loop\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """What is known of a disk, a partition or a disk file without reading it.

    Attributes:
        path: Where it is, symbolic links resolved.
        kind: What it is.
        size: Bytes.
        sector_size: Logical sector, bytes; 512 for files.
        physical_sector_size: What the disk writes at once, bytes.
        model: What it says on the box; empty when not known.
        serial: Serial number; empty when not known.
        wwn: World-wide name; empty when not known.
        diskseq: The kernel's number of this very appearance of the disk; ``None`` for files and before Linux 5.15.
        removable: The medium can be taken out.
        rotational: It turns.
        read_only: It cannot be written.
        parent: The whole disk of a partition, else empty.
        backing: The file or device that a loop device rests on, else empty.
        is_hardware: A drive that firmware may see: no loop device, RAID, mapping or network block device.
    """

    path: str
    kind: Literal["disk", "partition", "file"]
    size: int
    sector_size: int = 512
    physical_sector_size: int = 512
    model: str = ""
    serial: str = ""
    wwn: str = ""
    diskseq: int | None = None
    removable: bool = False
    rotational: bool = False
    read_only: bool = False
    parent: str = ""
    backing: str = ""
    is_hardware: bool = False


def list_disks(*, loops: bool = False, kernel: KernelPaths = THIS_MACHINE) -> tuple[DiskFacts, ...]:
    """The disks of this machine, by name.

    Args:
        loops: Also loop devices that have something behind them.
        kernel: Whose disks.
    """
    tree = read_block_tree(kernel)
    found = [n for n in tree.nodes.values() if n.partition is None and _is_disk(n, loops=loops)]
    found.sort(key=lambda node: (node.name[:2], _natural(node.name)))  # the first two letters are the kind of bus
    return tuple(_device_facts(node, tree, kernel) for node in found)


def describe(path: str, *, kernel: KernelPaths = THIS_MACHINE) -> DiskFacts:
    """The facts of one device, partition or regular file.

    Raises:
        UsageError: There is nothing there, or it is neither.
        MachineRefusal: The kernel knows nothing of that device, or another system.
    """
    require_linux("looking at disks")
    real = os.path.realpath(path)
    try:
        found = os.stat(real)
    except OSError as error:
        raise UsageError(
            f"there is no {path} ({error.strerror})", hint="`stillframe disks` lists the disks of this machine."
        ) from error
    if stat.S_ISREG(found.st_mode):
        return DiskFacts(path=real, kind="file", size=found.st_size, read_only=not os.access(real, os.W_OK))
    number = thing_at(real)
    if not isinstance(number, DeviceNumber):
        raise UsageError(
            f"{path} is neither a disk nor a disk file",
            hint="Name a device such as /dev/sdb, or a file; `stillframe disks` lists the disks.",
        )
    tree = read_block_tree(kernel)
    node = tree.nodes.get(number)
    if node is None:
        raise MachineRefusal(
            f"{path} is a device that the kernel does not know",
            hint="It was unplugged and its name is left over; plug it in again and run `stillframe disks`.",
        )
    return _device_facts(node, tree, kernel)


def parse_udev_properties(text: str) -> dict[str, str]:
    """The properties of a device in udev's database: lines ``E:NAME=value``. Lines that are not are ignored."""
    pairs = (line[2:].partition("=") for line in text.splitlines() if line.startswith("E:"))
    return {name: value for name, equals, value in pairs if equals}


def _is_disk(node: BlockNode, *, loops: bool) -> bool:
    if node.size == 0 or read_number(f"{node.folder}/hidden") == 1:
        return False
    if _LOOP.fullmatch(node.name):
        return loops and bool(node.backing_path)
    return _NOT_DISKS.fullmatch(node.name) is None


def _device_facts(node: BlockNode, tree: BlockTree, kernel: KernelPaths) -> DiskFacts:
    disk = tree.disk_of(node)
    folder, queue = disk.folder, f"{disk.folder}/queue"
    sector_size = read_number(f"{queue}/logical_block_size") or 512
    properties = parse_udev_properties(read_text(f"{kernel.udev}/b{disk.number}"))
    return DiskFacts(
        path=node.path,
        kind="disk" if node.partition is None else "partition",
        size=node.size,
        sector_size=sector_size,
        physical_sector_size=read_number(f"{queue}/physical_block_size") or sector_size,
        model=_read_model(disk) or properties.get("ID_MODEL", "").replace("_", " ").strip(),
        serial=_read_serial(disk) or properties.get("ID_SERIAL_SHORT", ""),
        wwn=read_text(f"{folder}/wwid") or read_text(f"{folder}/device/wwid") or properties.get("ID_WWN", ""),
        diskseq=read_number(f"{folder}/diskseq"),
        removable=read_number(f"{folder}/removable") == 1,
        rotational=read_number(f"{queue}/rotational") == 1,
        read_only=node.read_only,
        parent="" if node.partition is None else disk.path,
        backing=disk.backing_path,
        is_hardware=os.path.exists(f"{folder}/device"),  # what the kernel makes up has no such link
    )


def _read_model(disk: BlockNode) -> str:
    """Model as the device says it: NVMe and SCSI ``model`` (with the vendor, unless that is only ATA), MMC ``name``."""
    device = f"{disk.folder}/device"
    model = read_text(f"{device}/model") or read_text(f"{device}/name")
    vendor = read_text(f"{device}/vendor")
    if model and vendor and vendor != "ATA" and not vendor.startswith("0x"):
        model = f"{vendor} {model}"
    return " ".join(model.split())


def _read_serial(disk: BlockNode) -> str:
    """Serial number: virtio and NVMe say it in plain, SCSI and ATA in page 80h, a USB stick at the plug above it."""
    plain = read_text(f"{disk.folder}/serial") or read_text(f"{disk.folder}/device/serial")
    return plain or _parse_page_80(f"{disk.folder}/device/vpd_pg80") or _usb_serial(disk)


def _parse_page_80(path: str) -> str:
    """The unit serial number page: four bytes of header, then ASCII. Source: SPC-4, 7.8.15."""
    try:
        with open(path, "rb") as file:
            page = file.read(4 + 0xFFFF)
    except OSError:
        return ""
    if len(page) < 4 or page[1] != 0x80:
        return ""
    size = int.from_bytes(page[2:4], "big")
    return page[4 : 4 + size].decode("ascii", "replace").strip().strip("\0").strip()


def _usb_serial(disk: BlockNode) -> str:
    folder = os.path.realpath(f"{disk.folder}/device")
    while len(folder) > 1 and not os.path.exists(f"{folder}/idVendor"):
        folder = os.path.dirname(folder)
    return read_text(f"{folder}/serial") if len(folder) > 1 else ""


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sort ``sda10`` after ``sda2``, and ``sdaa`` after ``sdz``."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((int(part), "") if part.isdecimal() else (len(part), part) for part in parts)
