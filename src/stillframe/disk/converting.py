"""A disk under another kind of table, and with the partition that other firmware starts from.

Answers: "which partitions does this disk have as GPT for UEFI, as GPT for a BIOS, or as MBR for a BIOS, and where may
they lie?" Pure: a layout in, a layout out. Where partitions go and which shrink is for ``fitting``: it is given the
draft's layout and room; ``finish_conversion`` puts the new partition behind what came out. What is in partitions, and
whether a system starts, is for the callers.

Partitions keep their numbers where the other table has such numbers: a Linux may call them by these. New partitions are
numbered behind all others.

Sources: UEFI Specification 2.10, sections 5.2 and 5.3; GNU GRUB manual 2.06, section 3.4 "BIOS installation" (the gap
behind an MBR, and the BIOS boot partition).
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from stillframe.disk import mbr
from stillframe.disk.fitting import ALIGNMENT
from stillframe.disk.layout import Layout, Partition
from stillframe.disk.new_table import build_table, gpt_sectors
from stillframe.disk.other_scheme import (
    ACTIVE,
    BIOS_BOOT_GUID,
    ESP_CODE,
    ESP_GUID,
    RESERVED_GUID,
    type_for_gpt,
    type_for_mbr,
)
from stillframe.disk.types import name_type
from stillframe.errors import TargetError
from stillframe.extents import Extent, ExtentSet
from stillframe.units import MIB, align_down, align_up, format_size

StartsBy = Literal["uefi", "bios", "bios-mbr"]
"""GPT with an EFI system partition; GPT with a BIOS boot partition; MBR with GRUB behind its first sector."""

ESP_SIZE: Final = 256 * MIB
"""Room for a loader and some kernels. FAT32 with clusters of 4 KiB begins at 256 MiB, so larger sectors get more."""
ESP_SIZE_4K: Final = 320 * MIB
ESP_SIZE_MIN: Final = 64 * MIB
"""FAT32 needs 65,525 clusters: Microsoft FAT specification (2005), section 3.5."""
_BIOS_BOOT_SIZE: Final = MIB
_BIOS_BOOT_LEAST: Final = MIB // 4
"""What the core of GRUB needs with a file system and a search in it: 30 to 130 KiB."""
_PAGE: Final = 4096
_SLOTS: Final = 128  # of a new GPT: disk.gpt
_PRIMARY: Final = 4
_ESP_NAME: Final = "EFI system partition"
_BIOS_BOOT_NAME: Final = "BIOS boot partition"
_RESERVED_NAME: Final = "Microsoft reserved partition"
_RESERVED_SIZE: Final = 16 * MIB
"""Microsoft, "UEFI/GPT-based hard drive partitions": each disk of Windows has one, of 16 MB."""
_WITHOUT: Final = "Leave '--convert' out."


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPartition:
    """A partition that the source has not. ``size`` is 0 where it takes the gap before the first partition."""

    number: int
    type: str
    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A disk under its new table, before it is known where partitions go.

    Attributes:
        starts_by: What it is for.
        layout: The partitions that are taken over, with their new numbers and types, at their old places.
        numbers: Of those that are taken over, the old number and the new.
        dropped: Numbers of those that only the old table needs.
        new: What is added.
        notes: What a person should know, in sentences.
    """

    starts_by: StartsBy
    layout: Layout
    numbers: Mapping[int, int]
    dropped: tuple[int, ...]
    new: tuple[NewPartition, ...]
    notes: tuple[str, ...]


def draft_conversion(
    layout: Layout, starts_by: StartsBy, *, esp_size: int | None = None, boot: int | None = None,
    has_reserved: bool = False,
) -> Draft:  # fmt: skip
    """Decide which partitions there will be.

    Args:
        layout: Of the source.
        starts_by: What is to start it.
        esp_size: Bytes of a new EFI system partition, whole MiB.
        boot: The number of the partition with the boot menu: it becomes the active one of an MBR where that can be.
        has_reserved: Whether Microsoft's reserved partition is made behind the new EFI system partition.

    Raises:
        TargetError: The disk is like that already, or cannot be so, and why.
    """
    _refuse_needless(layout, starts_by)
    parts = sorted(layout.partitions, key=lambda part: part.extent.start)
    useless = _useless_types(layout, starts_by)
    kept = [part for part in parts if part.type not in useless]
    if starts_by == "bios-mbr":
        made, notes = _as_mbr(kept, boot)
    else:
        made, notes = _as_gpt(kept, layout)
    scheme: Literal["gpt", "mbr"] = "mbr" if starts_by == "bios-mbr" else "gpt"
    numbers = {part.number: after.number for part, after in zip(kept, made, strict=True)}
    drafted = replace(
        layout, scheme=scheme, partitions=tuple(sorted(made, key=lambda part: part.number)), notices=(),
        disk_id=layout.disk_id if layout.scheme == scheme else "", table=ExtentSet.empty(),
    )  # fmt: skip
    new = _new_partitions(layout, drafted, starts_by, esp_size)
    return Draft(
        starts_by=starts_by, layout=drafted, numbers=numbers, notes=tuple(notes),
        dropped=tuple(part.number for part in parts if part.type in useless),
        new=(*new, *([_reserved(new)] if has_reserved and new else [])),
    )  # fmt: skip


def room_of(draft: Draft, target_size: int) -> Extent:
    """Where the partitions that are taken over may lie on a target: what is new has its place behind them."""
    layout, step = draft.layout, draft.layout.sector_size
    count = target_size // step
    first = min((part.extent.start for part in layout.partitions), default=MIB)
    start = max(first, _usable(layout))
    end = min(count, mbr.LBA_MAX) * step if layout.scheme == "mbr" else (count - gpt_sectors(step)[1]) * step
    new = sum(part.size for part in draft.new)
    return Extent(start, max(start, align_down(end - new, ALIGNMENT) if new else end))


def finish_conversion(
    draft: Draft, places: Mapping[int, Extent], target_size: int, *, next_uuid: Callable[[], uuid.UUID]
) -> Layout:
    """The layout of the target.

    Args:
        draft: By ``draft_conversion``.
        places: Where each partition that is taken over goes, by its new number; inside ``room_of``.
        target_size: Bytes of the target.
        next_uuid: Gives random UUIDs, for what has none yet.

    Raises:
        DiskFormatError: There is no room for a record of the table.
    """
    parts = [replace(part, extent=places[part.number]) for part in draft.layout.partitions]
    parts += _placed(draft, parts)
    is_gpt = draft.layout.scheme == "gpt"
    if is_gpt:
        parts = [replace(part, guid=part.guid or str(next_uuid()).upper()) for part in parts]
    fresh = str(next_uuid()).upper() if is_gpt else f"{next_uuid().int & 0xFFFFFFFF or 1:08X}"
    made = replace(
        draft.layout, partitions=tuple(sorted(parts, key=lambda part: part.number)), size=target_size,
        disk_id=draft.layout.disk_id or fresh,
    )  # fmt: skip
    return replace(made, table=ExtentSet.from_extents(patch.extent for patch in build_table(made)))


def place_for_grub(layout: Layout) -> Extent:
    """Where the core of GRUB for a BIOS goes: the BIOS boot partition, or the gap behind an MBR.

    Raises:
        TargetError: There is none.
    """
    if layout.scheme == "gpt":
        found = next((part.extent for part in layout.partitions if part.type == BIOS_BOOT_GUID), None)
    else:
        first = min((part.extent.start for part in layout.partitions), default=MIB)
        records = [extent.start for extent in layout.table if extent.start > 0]
        found = Extent(layout.sector_size, min([first, *records, MIB]))
    if found is None or found.size < _BIOS_BOOT_LEAST:
        raise TargetError("there is no place for GRUB before the first partition", hint=_WITHOUT)
    return found


def _refuse_needless(layout: Layout, starts_by: StartsBy) -> None:
    if layout.scheme == "none":
        raise TargetError("the disk has no partition table, so there is none to convert", hint=_WITHOUT)
    esp = [part.number for part in layout.partitions if part.type in (ESP_GUID, ESP_CODE)]
    if starts_by == "uefi" and esp:
        raise TargetError(
            f"partition {esp[0]} is an EFI system partition: this disk is made to start by UEFI already", hint=_WITHOUT
        )
    if starts_by == "bios-mbr" and layout.scheme == "mbr":
        raise TargetError("the disk has an MBR already", hint="'--convert uefi' or '--convert bios' give it a GPT.")
    if starts_by != "uefi" and layout.sector_size != mbr.RECORD_SIZE:
        raise TargetError(
            f"a BIOS starts disks with sectors of {mbr.RECORD_SIZE} bytes, and these are {layout.sector_size} bytes",
            hint="Such a disk starts by UEFI only.",
        )


def _useless_types(layout: Layout, starts_by: StartsBy) -> frozenset[str]:
    """Types of partitions with nothing in them that is of use under the new table."""
    if layout.scheme != "gpt":
        return frozenset()
    return {
        "uefi": frozenset({BIOS_BOOT_GUID}),
        "bios": frozenset[str](),
        "bios-mbr": frozenset({BIOS_BOOT_GUID, RESERVED_GUID}),
    }[starts_by]


def _as_gpt(parts: Sequence[Partition], layout: Layout) -> tuple[list[Partition], list[str]]:
    if any(part.number > _SLOTS for part in parts):
        raise TargetError(f"there are more partitions than the {_SLOTS} that a new GPT has room for", hint=_WITHOUT)
    if layout.scheme == "gpt":
        return list(parts), []
    made, notes = list[Partition](), list[str]()
    for part in parts:
        other = type_for_gpt(part)
        notes += [_guess_words(part)] if other.is_guess else []
        made.append(
            replace(
                part, type=other.type, type_name=name_type(other.type), attributes=other.attributes, logical=False,
                index=part.number - 1,
            )
        )  # fmt: skip
    return made, notes


def _as_mbr(parts: Sequence[Partition], boot: int | None) -> tuple[list[Partition], list[str]]:
    """Up to four are primary; of more, the first three on the disk are, and the rest are logical."""
    count = len(parts) if len(parts) <= _PRIMARY else _PRIMARY - 1
    primary = [part.number for part in parts[:count]]
    free = iter(sorted({1, 2, 3, 4} - set(primary)))
    made, notes = list[Partition](), list[str]()
    active = boot if boot in primary else next(iter(primary), None)
    for index, part in enumerate(parts):
        other = type_for_mbr(part)
        notes += [_guess_words(part)] if other.is_guess else []
        logical = index >= count
        number = 5 + index - count if logical else part.number if part.number <= _PRIMARY else next(free)
        made.append(
            replace(
                part, number=number, index=number - 1, logical=logical, type=other.type,
                type_name=name_type(other.type), name="", guid="", attributes=ACTIVE if part.number == active else 0,
            )
        )  # fmt: skip
        if number != part.number:
            notes.append(f"partition {part.number} is partition {number} afterwards: an MBR has no other number for it")
    return made, notes


def _guess_words(part: Partition) -> str:
    return (
        f"partition {part.number} has a type that the other table does not know ({part.type}), and is called Linux "
        "there; what is in it stays"
    )


def _usable(layout: Layout) -> int:
    """Where the first partition may begin: behind the table, and in an MBR behind the gap that GRUB lies in."""
    return gpt_sectors(layout.sector_size)[0] * layout.sector_size if layout.scheme == "gpt" else MIB


def _new_partitions(
    source: Layout, drafted: Layout, starts_by: StartsBy, esp_size: int | None
) -> Sequence[NewPartition]:
    if starts_by == "bios-mbr":
        return ()
    number = max([part.number for part in (*source.partitions, *drafted.partitions)], default=0) + 1
    if number > _SLOTS:
        raise TargetError(f"no number is free for a new partition: a new GPT has {_SLOTS}", hint=_WITHOUT)
    if starts_by == "uefi":
        usual = ESP_SIZE if source.sector_size < _PAGE else ESP_SIZE_4K
        size = align_up(usual if esp_size is None else esp_size, MIB)
        least = ESP_SIZE_MIN if source.sector_size < _PAGE else ESP_SIZE_4K
        if size < least:
            raise TargetError(
                f"an EFI system partition of {format_size(size)} is too small, it needs {format_size(least)}",
                hint="Write '--convert uefi=SIZE' with another size, or without one.",
            )
        return (NewPartition(number=number, type=ESP_GUID, name=_ESP_NAME, size=size),)
    if any(part.type == BIOS_BOOT_GUID for part in drafted.partitions):
        return ()
    first = min((part.extent.start for part in drafted.partitions), default=0)
    fits = _gap(drafted, first).size >= _BIOS_BOOT_LEAST
    return (
        NewPartition(number=number, type=BIOS_BOOT_GUID, name=_BIOS_BOOT_NAME, size=0 if fits else _BIOS_BOOT_SIZE),
    )


def _reserved(before: Sequence[NewPartition]) -> NewPartition:
    number = before[-1].number + 1
    if number > _SLOTS:
        raise TargetError(f"no number is free for a new partition: a new GPT has {_SLOTS}", hint=_WITHOUT)
    return NewPartition(number=number, type=RESERVED_GUID, name=_RESERVED_NAME, size=_RESERVED_SIZE)


def _gap(layout: Layout, first: int) -> Extent:
    """What is free between the table and the first partition, whole pages, at most a MiB."""
    end = align_down(first, _PAGE)
    start = max(align_up(_usable(layout), _PAGE), end - _BIOS_BOOT_SIZE)
    return Extent(start, max(start, end))


def _placed(draft: Draft, parts: Sequence[Partition]) -> list[Partition]:
    """The new partitions: in the gap before the first, or behind the last."""
    found, end = list[Partition](), max((part.extent.end for part in parts), default=MIB)
    for new in draft.new:
        place = _gap(draft.layout, min((part.extent.start for part in parts), default=2 * MIB))
        if new.size:
            start = align_up(end, ALIGNMENT)
            place, end = Extent(start, start + new.size), start + new.size
        found.append(
            Partition(
                number=new.number, extent=place, type=new.type, type_name=name_type(new.type), name=new.name, guid="",
                attributes=0, index=new.number - 1, logical=False,
            )
        )  # fmt: skip
    return found
