r"""``boot.ini``, by which the loader of Windows NT, 2000, XP and 2003 finds its systems.

Answers: "which systems can be chosen, and which partition and folder does each line name?" Which partition of which
disk that is, ``names.find_arc`` says.

Sources: Microsoft, KB 102873, "BOOT.INI and ARC path naming conventions and usage" (``multi``, ``scsi``,
``signature``; partitions are counted from 1), and KB 289022 (the sections, the default, the words behind a title).
"""

import re
from dataclasses import dataclass
from typing import Final

from stillframe.systems.fstab import plain

SIZE_MAX: Final = 64 << 10
_LINES_MAX: Final = 200
_ENTRIES_MAX: Final = 32
_ARC: Final = re.compile(
    r"(?:(multi|scsi)\(\d{1,3}\)|signature\(([0-9a-f]{1,8})\))disk\((\d{1,3})\)rdisk\((\d{1,3})\)"
    r"partition\((\d{1,3})\)(\\[^\s=\"]{0,150})?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArcPath:
    r"""A place as ``boot.ini`` writes it.

    Attributes:
        text: As it is written, ``multi(0)disk(0)rdisk(0)partition(2)\WINDOWS``.
        signature: Of the disk, as 8 upper-case hex digits; empty where disks are counted.
        disk: Which disk, counted from 0 as the firmware shows them.
        partition: Which partition, counted from 1.
        folder: With ``/``, as ``/WINDOWS``; empty when none is written.
    """

    text: str
    signature: str
    disk: int
    partition: int
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IniEntry:
    r"""A line that can be chosen. ``place`` is ``None`` for a file with a boot sector, such as ``C:\CMDCONS\...``."""

    title: str
    text: str
    place: ArcPath | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootIni:
    """A ``boot.ini``. ``default`` is what is started when nobody chooses; it need not be among the entries."""

    default: ArcPath | None
    entries: tuple[IniEntry, ...]

    @property
    def places(self) -> tuple[ArcPath, ...]:
        """Everything that is named, the default first, each once."""
        found = [self.default, *(entry.place for entry in self.entries)]
        return tuple(dict.fromkeys(place for place in found if place is not None))


def parse_boot_ini(raw: bytes) -> BootIni:
    """Read a ``boot.ini``. Lines that are not of the format are passed over.

    Args:
        raw: Of the file, at most ``SIZE_MAX`` bytes; written in an OEM code page.
    """
    default, entries, section = None, list[IniEntry](), ""
    for line in raw[:SIZE_MAX].decode("cp437").splitlines()[:_LINES_MAX]:
        text = line.strip()
        if text.startswith("["):
            section = text.strip("[]").strip().lower()
            continue
        left, equals, right = (word.strip() for word in text.partition("="))
        if not equals or text.startswith(";"):
            continue
        if section == "boot loader" and left.lower() == "default":
            default = parse_arc_path(right)
        elif section == "operating systems" and len(entries) < _ENTRIES_MAX:
            title = right[1:].partition('"')[0] if right.startswith('"') else right
            entries.append(IniEntry(title=plain(title), text=plain(left), place=parse_arc_path(left)))
    return BootIni(default=default, entries=tuple(entries))


def parse_arc_path(text: str) -> ArcPath | None:
    """A place of a ``boot.ini``; ``None`` when it is another thing."""
    found = _ARC.fullmatch(text.strip())
    if found is None:
        return None
    # With "multi" the BIOS counts the disks, in "rdisk"; with "scsi" the driver does, in "disk".
    is_scsi = (found[1] or "").lower() == "scsi"
    return ArcPath(
        text=plain(text), signature=(found[2] or "").upper().zfill(8) if found[2] else "",
        disk=int(found[3] if is_scsi else found[4]), partition=int(found[5]),
        folder=plain((found[6] or "").replace("\\", "/").rstrip("/")),
    )  # fmt: skip
