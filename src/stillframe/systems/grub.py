"""GRUB on an installed Linux: its menu, and what in its texts names the old disk.

Answers: "where is this Linux's boot menu, can another GRUB read it, and what must its tables say on a disk with another
partition table?" Pure: texts in, texts out. Programs, and files on a target, are for ``jobs``.

Sources: GNU GRUB manual 2.06, sections 5 "Configuration", 13.1 "How to specify devices" and 16.3.67 "search";
fstab(5), crypttab(5); Linux ``Documentation/arch/x86/boot.rst`` (the header of a kernel).
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stillframe.disk.layout import Layout, Partition
from stillframe.systems.fstab import LINES_MAX
from stillframe.systems.records import SystemFiles

MENU: Final = "grub.cfg"
TEXT_MAX: Final = 4 << 20
"""Bytes of a menu or table that are read; those of distributions have some 10 KB."""
_FOLDERS: Final = ("grub", "grub2")
KERNEL_HEAD: Final = 0x238
"""How many bytes of a kernel ``kernel_bits`` looks at."""
_HEADER_AT: Final = 0x202  # boot.rst: "header", magic signature "HdrS"
_VERSION_AT: Final = 0x206
_XLOADFLAGS_AT: Final = 0x236
_XLF_KERNEL_64: Final = 1 << 0
_XLOADFLAGS_SINCE: Final = 0x020C
_FOREIGN: Final = re.compile(r"^\s*(blscfg|linuxefi|linux16)\b", re.MULTILINE)
"""Commands of a menu that only the GRUB of some distributions, or of some firmware, has."""
_HINT: Final = re.compile(r"(?<=[a-z0-9]),(?:msdos|gpt)([0-9]{1,3})\b")
_DEVICE: Final = re.compile(r"(/dev/(?:(?:[hsv]|xv)d[a-z]{1,3}|(?:nvme\d+n\d+|mmcblk\d+)p))([0-9]{1,3})\b")
_TAG: Final = re.compile(r"\b(PARTUUID|PARTLABEL)=(\"[^\"\s]*\"|[^\s\",;)]+)", re.IGNORECASE)
_LINK: Final = re.compile(r"/dev/disk/by-(partuuid|partlabel)/([^\s\",;)]+)")
_VENDOR: Final = re.compile(rb"[\0)]/EFI/([A-Za-z0-9_-]{1,32})\0")
ESP_PLACE: Final = "/boot/efi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renaming:
    """What the names of partitions became.

    Attributes:
        names: Such as ``PARTUUID=0a1b2c3d-01``, in small letters, to its new ``PARTUUID=...``.
        numbers: Of all partitions, the old number and the new.
        scheme: Of the new table.
    """

    names: Mapping[str, str]
    numbers: Mapping[int, int]
    scheme: str

    @property
    def is_renumbered(self) -> bool:
        """Whether some partition has another number."""
        return any(old != new for old, new in self.numbers.items())


def rename_partitions(before: Layout, after: Layout, numbers: Mapping[int, int]) -> Renaming:
    """What the names of partitions became.

    Args:
        before: The layout of the source.
        after: That of the target.
        numbers: Of partitions that were taken over, the old number and the new.
    """
    names, there = dict[str, str](), {part.number: part for part in after.partitions}
    for part in before.partitions:
        if part.number not in numbers:
            continue
        new = there[numbers[part.number]]
        names[f"PARTUUID={_partuuid(before, part)}".casefold()] = f"PARTUUID={_partuuid(after, new)}"
        if part.name and part.name != new.name:
            names[f"PARTLABEL={part.name}".casefold()] = f"PARTUUID={_partuuid(after, new)}"
    return Renaming(names=names, numbers=dict(numbers), scheme=after.scheme)


def find_menu(files: SystemFiles, top: str) -> str | None:
    """The folder with GRUB's menu, as a path in the volume; ``None`` where there is none.

    Args:
        files: Of the volume that holds ``/boot``.
        top: What is ``/boot`` in it: ``/boot``, or nothing where it is a volume of its own.
    """
    for name in _FOLDERS:
        if MENU in files.list_names(f"{top}/{name}"):
            return f"{top}/{name}"
    return None


def explain_foreign(menu: str) -> str:
    """Why another GRUB than its own cannot read a menu; empty when it can."""
    found = _FOREIGN.search(menu)
    return f"its boot menu uses the command '{found[1]}', which only its own GRUB has" if found else ""


def kernel_bits(kernel: bytes) -> int | None:
    """For which processors this is a kernel: 32, 64, or ``None`` when it is none for a PC.

    Args:
        kernel: Its first ``KERNEL_HEAD`` bytes.
    """
    if len(kernel) < KERNEL_HEAD or kernel[_HEADER_AT : _HEADER_AT + 4] != b"HdrS":
        return None
    (version,) = struct.unpack_from("<H", kernel, _VERSION_AT)
    (flags,) = struct.unpack_from("<H", kernel, _XLOADFLAGS_AT)
    return 64 if version >= _XLOADFLAGS_SINCE and flags & _XLF_KERNEL_64 else 32


def find_vendor(program: bytes) -> str | None:
    """The folder below ``EFI`` that a signed GRUB looks for its configuration in; ``None`` when it does not say."""
    found = _VENDOR.search(program)
    return found[1].decode() if found else None


def loader_text(uuid: str, folder: str) -> str:
    """What a GRUB is told first: find the volume with the menu, wherever it is, and go on there.

    Args:
        uuid: Of the file system that holds the menu.
        folder: Of the menu in it.
    """
    return f"search --no-floppy --fs-uuid --set=root {uuid}\nset prefix=($root){folder}\nconfigfile $prefix/{MENU}\n"


def renamed_menu(text: str, renaming: Renaming) -> str:
    """A boot menu whose hints and names mean the new partitions."""

    def hint(found: re.Match[str]) -> str:
        number = renaming.numbers.get(int(found[1]))
        kind = "gpt" if renaming.scheme == "gpt" else "msdos"
        return found[0] if number is None else f",{kind}{number}"

    return _HINT.sub(hint, renamed_text(text, renaming))


def renamed_text(text: str, renaming: Renaming) -> str:
    """A table or a boot menu in which old names of partitions are replaced by what means the same now."""

    def tag(found: re.Match[str]) -> str:
        value = found[2].strip('"')
        return renaming.names.get(f"{found[1]}={value}".casefold(), found[0])

    def link(found: re.Match[str]) -> str:
        new = renaming.names.get(f"{found[1]}={found[2]}".casefold())
        return f"/dev/disk/by-partuuid/{new.partition('=')[2]}" if new else found[0]

    return _LINK.sub(link, _TAG.sub(tag, text))


def renumbered_fstab(text: str, renaming: Renaming) -> str:
    """An ``fstab`` in which partitions of the root's disk that are called by number have their new numbers.

    What is called by another disk's name stays: nobody can tell which disk that was.
    """
    disk = next((found[1] for line in _lines(text) if (found := _DEVICE.match(line)) and _is_root(line)), None)
    if disk is None or not renaming.is_renumbered:
        return text

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{renaming.numbers.get(int(found[2]), int(found[2]))}" if found[1] == disk else found[0]

    return "".join(_DEVICE.sub(number, line) for line in text.splitlines(keepends=True))


def with_esp(text: str, uuid: str) -> str:
    """An ``fstab`` that mounts this EFI system partition. A line for another one is kept as a comment.

    Args:
        text: The ``fstab``.
        uuid: As ``blkid`` writes that of FAT: ``0A1B-2C3D``.
    """
    lines = []
    for line in text.splitlines():
        words = line.split()
        is_other = len(words) > 1 and not line.startswith("#") and words[1].rstrip("/") == ESP_PLACE
        lines.append(f"# {line}" if is_other else line)
    return "\n".join([*lines, f"UUID={uuid} {ESP_PLACE} vfat umask=0077,nofail 0 1", ""])


def _partuuid(layout: Layout, part: Partition) -> str:
    """As Linux calls a partition: its GUID, or the disk's signature and its number (``block/partitions/msdos.c``)."""
    return part.guid.lower() if layout.scheme == "gpt" else f"{layout.disk_id.lower()}-{part.number:02x}"


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines()[:LINES_MAX])
    return [line for line in lines if line and not line.startswith("#")]


def _is_root(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[1] == "/"
