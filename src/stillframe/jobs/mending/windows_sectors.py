"""What a BIOS starts a Windows by: the code of the disk, the active partition, and the numbers in boot sectors.

Answers: "does a BIOS find Windows' loader?" A boot sector says how many sectors lie before its partition, and its code
reads by that number. Only volumes that a Windows starts from are looked at, on a disk with an MBR.

Boot code of the disk comes from syslinux, where this machine has it: it starts the active partition, as that of
Windows does, and that of Windows may not be given away.

Sources: as ``fs.boot_moved``; Microsoft, "MBR" (status 0x80); syslinux 6.03 ``mbr/mbr.S`` (440 bytes).
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.block import BlockReader, BlockWriter, WindowReader
from stillframe.block.edits import build_sectors, order_edits
from stillframe.errors import Cancelled, StillframeError
from stillframe.events import Notice
from stillframe.fs.boot_moved import move_boot_sectors
from stillframe.fs.ntfs import explain_unclean
from stillframe.jobs.mending.seen import SeenDisk
from stillframe.systems.boot_code import name_disk_code
from stillframe.systems.evidence import PartEvidence
from stillframe.systems.windows import SHUT_DOWN

_CODES: Final = (
    "/usr/lib/syslinux/mbr/mbr.bin", "/usr/share/syslinux/mbr.bin", "/usr/lib/syslinux/bios/mbr.bin",
    "/usr/lib/EXTLINUX/mbr.bin",
)  # fmt: skip
"""Debian and Ubuntu, Fedora, Arch, older Debian."""
_CODE_SIZE: Final = 440
_HEAD_SIZE: Final = 512
_HIDDEN_AT, _SECTOR_AT = 0x1C, 0x0B
_STATUS_AT, _ENTRY_SIZE, _ACTIVE = 446, 16, 0x80
_KINDS: Final = frozenset({"ntfs", "vfat"})
_NO_CODE: Final = "Start Windows' own medium: 'Repair your computer', 'Command Prompt', 'bootrec /fixmbr'."


@dataclass(frozen=True, slots=True, kw_only=True)
class SectorRepair:
    """What is written and why.

    Attributes:
        patches: Bytes of the disk, with their offsets.
        broken: What is wrong, in sentences.
        done: What the patches do, in sentences.
        notices: What is left as it is.
    """

    patches: tuple[tuple[int, bytes], ...] = ()
    broken: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


def mend_boot_sectors(disk: BlockWriter, seen: SeenDisk) -> SectorRepair:
    """Say what boot sectors of Windows must say. Nothing is written."""
    if seen.layout.scheme != "mbr":
        return SectorRepair()
    found = [_mend_volume(disk, one) for one in seen.volumes if _is_of_windows(one)]
    return SectorRepair(
        patches=tuple(patch for one in found for patch in one.patches),
        broken=tuple(words for one in found for words in one.broken),
        done=tuple(words for one in found for words in one.done),
        notices=tuple(notice for one in found for notice in one.notices),
    )


def said_starts(disk: BlockReader, seen: SeenDisk) -> dict[int, int]:
    """Where primary partitions say that they begin, by their numbers; those that are right are left out."""
    found = dict[int, int]()
    for one in seen.volumes if seen.layout.scheme == "mbr" else ():
        if one.volume.filesystem in _KINDS and not one.partition.logical and not one.inner:
            said, _ = _said(WindowReader(disk, one.partition.extent))
            if said and said != one.partition.extent.start:
                found[one.partition.number] = said
    return found


def mend_disk_code(disk: BlockWriter, seen: SeenDisk) -> SectorRepair:
    """Say what the first sector of a disk must be so that its Windows is started. Nothing is written."""
    starting = [one for one in seen.volumes if _starts(one)]
    if seen.layout.scheme != "mbr" or not starting or seen.is_unknown("bios"):
        return SectorRepair()
    sector = disk.read_at(0, _HEAD_SIZE)
    patches, broken, done, notices = list[tuple[int, bytes]](), list[str](), list[str](), list[Notice]()
    if not any(part.attributes & _ACTIVE for part in seen.layout.partitions if not part.logical):
        if len(starting) > 1:
            return SectorRepair()
        part = starting[0].partition
        patches.append((_STATUS_AT + _ENTRY_SIZE * part.index, bytes([_ACTIVE])))
        broken.append("no partition is active, so the boot code of the disk starts none")
        done.append(f"partition {part.number}, which has Windows' loader, is active")
    if name_disk_code(sector) == "none":
        broken.append("the first sector of the disk has no boot code")
        code = _read_code()
        if code is None:
            message = "the first sector of the disk has no boot code, and this machine has none that could be put there"
            notices.append(Notice(code="boot-code-missing", message=message, hint=_NO_CODE))
        else:
            patches.append((0, code))
            done.append("the boot code of syslinux is in the first sector: it starts the active partition")
    return SectorRepair(patches=tuple(patches), broken=tuple(broken), done=tuple(done), notices=tuple(notices))


def _read_code() -> bytes | None:
    for path in map(Path, _CODES):
        if path.is_file() and 0 < len(code := path.read_bytes()) <= _CODE_SIZE:
            return code
    return None


def _starts(one: PartEvidence) -> bool:
    """Whether a BIOS could start a Windows from a volume."""
    is_primary = not one.inner and not one.partition.logical
    return is_primary and one.files is not None and (one.files.clues.has_bootmgr or one.files.boot.has_ntldr)


def _is_of_windows(one: PartEvidence) -> bool:
    is_ours = _starts(one) or (one.files is not None and one.files.clues.has_windows)
    return is_ours and not one.inner and not one.partition.logical and one.volume.filesystem in _KINDS


def _mend_volume(disk: BlockWriter, one: PartEvidence) -> SectorRepair:
    window, start = WindowReader(disk, one.partition.extent), one.partition.extent.start
    name, kind = f"partition {one.partition.number}", one.volume.filesystem
    try:
        said, size = _said(window)
        if not size or said == start:
            return SectorRepair()
        broken = f"{name}: its boot sector says that it begins at byte {said}, and it begins at byte {start}"
        doubt = explain_unclean(window) if kind == "ntfs" else None
        found = move_boot_sectors(window, kind, old_start=said, new_start=start)
    except Cancelled:
        raise
    except StillframeError as error:
        return SectorRepair(notices=(_left(name, error.message, error.hint),))
    if doubt is not None and found.edits:
        return SectorRepair(broken=(broken,), notices=(_left(name, doubt.message, SHUT_DOWN),))
    edits = order_edits(found.edits, what=name)
    return SectorRepair(
        patches=tuple((start + at, data) for at, data in build_sectors(window, edits, sector_size=size)),
        broken=(broken,), notices=found.notices,
        done=(f"{name}: its boot sectors say where it begins, byte {start}",) if edits else (),
    )  # fmt: skip


def _said(window: WindowReader) -> tuple[int, int]:
    """Where a boot sector says that its volume begins, in bytes of the disk, and the size of its sectors."""
    head = window.read_at(0, _HEAD_SIZE)
    size, sectors = struct.unpack_from("<H", head, _SECTOR_AT)[0], struct.unpack_from("<I", head, _HIDDEN_AT)[0]
    return sectors * size, size


def _left(name: str, why: str, hint: str) -> Notice:
    message = f"{name}: its boot sector still says that it begins elsewhere ({why})"
    return Notice(code="windows-not-repaired", message=message, hint=hint)
