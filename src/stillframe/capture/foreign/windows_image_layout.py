"""Where the volumes of a backup that Windows made lay on their disks.

Answers: "what did the table of each disk say, as far as that can still be told?" Windows keeps no table in such
a backup. Its own records (``systems.windows_disks``) count first, then what each boot sector says of its place; what
neither tells is put in the order in which Windows itself sets up a disk, and every guess is said. Pure: records in,
layouts out.

Sources: Microsoft, "UEFI/GPT-based hard drive partitions" and "BIOS/MBR-based hard drive partitions" (order, the 16 MiB
that are reserved, types and attributes of the recovery partition); alignment of 1 MiB: Windows since Vista.
"""

import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from stillframe.disk.layout import Layout, Partition, Scheme
from stillframe.disk.mbr import LBA_MAX
from stillframe.disk.new_table import gpt_sectors
from stillframe.disk.types import name_type
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.systems.windows_disks import PartitionRecord
from stillframe.units import MIB

Role = Literal["esp", "boot", "windows", "recovery", "data"]
"""What a volume is for: boot files for UEFI; the boot manager for BIOS alone; a Windows; its recovery; all else."""

ROLES: Final[tuple[Role, ...]] = ("esp", "boot", "windows", "recovery", "data")
"""In the order in which Windows sets them up."""

_RESERVED_SIZE: Final = 16 * MIB
_RESERVED_SIZES_BEFORE: Final = (32 * MIB, 128 * MIB)  # of Windows before 10; taken when a gap is exactly so large
_BASIC: Final = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
_GPT_KINDS: Final[dict[str, tuple[str, str, int]]] = {
    "esp": ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI system partition", 0),
    "reserved": ("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "Microsoft reserved partition", 0),
    "recovery": ("DE94BBA4-06D1-4D40-A16A-BFD50179D6AC", "Basic data partition", 0x8000000000000001),
}
_ACTIVE: Final = 0x80
_PRIMARIES_MAX: Final = 4
_GPT_END_MAX: Final = 1 << 48
"""So far a boot sector is believed: 256 TiB, where NTFS ends; all before it becomes part of the disk."""
_ALONE: Final = "Each of its VHD files can be imported by itself, and its volume restored onto a partition."
_NAMES: Final = uuid.UUID("8f5e3b0c-5d0e-4a53-9d4a-1d2f5b8f6a11")
"""Of this program: ids that are made from it are the same each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVolume:
    """A volume of a backup.

    Attributes:
        name: What people call it, such as ``C:``.
        guid: By which Windows names it, in small letters; empty when not known.
        size: Bytes.
        sector_size: Bytes of a sector of the disk that it is made for.
        filesystem: As ``fs`` calls it.
        role: What it is for.
        starts_bios: It holds the boot manager for BIOS.
        record: Where Windows says that it lay.
        doubt: Records of less doubt come first, when two name one place.
        boot_start: Where its own boot sector says that it began.
    """

    name: str
    guid: str
    size: int
    sector_size: int = 512
    filesystem: str = ""
    role: Role = "data"
    starts_bios: bool = False
    record: PartitionRecord | None = None
    doubt: int = 0
    boot_start: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDisk:
    """A disk as it is put together.

    Attributes:
        layout: Its table; ``disk.new_table.build_table`` writes it.
        places: Where each volume begins.
        notices: What of it is guessed, and what it lacks.
    """

    layout: Layout
    places: tuple[tuple[int, FoundVolume], ...]
    notices: tuple[Notice, ...]


_Key = tuple[Scheme, str]


def plan_disks(volumes: Sequence[FoundVolume]) -> tuple[PlannedDisk, ...]:
    """Decide where volumes lie, on as many disks as Windows' records name; the disk that is started first.

    Raises:
        DiskFormatError: They cannot be on one disk: their sectors differ, or its table has no room for them.
    """
    if len(set(volumes)) < len(volumes):
        raise ValueError("a volume is there twice: a bug of the caller")
    ordered = sorted(volumes, key=lambda one: (ROLES.index(one.role), one.guid, one.name))
    records = [one.record for one in ordered if one.record]
    known_gpt = next((record.disk for record in records if record.scheme == "gpt" and record.disk), "")
    groups: dict[_Key, list[FoundVolume]] = {}
    for record in records:
        groups.setdefault((record.scheme, record.disk or known_gpt), [])
    first = next(iter(groups), (_usual_scheme(ordered)[0], ""))
    for volume in ordered:
        own = volume.record
        key: _Key = (own.scheme, own.disk or known_gpt) if own else first
        groups.setdefault(key, []).append(volume)
    is_only = len(groups) == 1
    return tuple(_Planning(key, group, is_only=is_only).plan() for key, group in groups.items())


def _usual_scheme(volumes: Sequence[FoundVolume]) -> tuple[Scheme, str]:
    """The kind of table of a disk of which no record is left, and why."""
    if any(one.role == "esp" for one in volumes):
        return "gpt", "a GPT, as a volume holds boot files for UEFI"
    if sum(one.size + 2 * MIB for one in volumes) > LBA_MAX * min(one.sector_size for one in volumes):
        return "gpt", "a GPT, as an MBR cannot name so much"
    return "mbr", "an MBR, as no volume holds boot files for UEFI"


class _Planning:
    """One disk, while it is decided on. Everything that is not known for certain goes into ``guesses``."""

    def __init__(self, key: _Key, volumes: Sequence[FoundVolume], *, is_only: bool) -> None:
        self._scheme, self._disk_id = key
        self._volumes = volumes
        self._is_only = is_only
        self._places: dict[FoundVolume, int] = {}
        self._taken = list[Extent]()
        self._reserved: Extent | None = None
        self._guesses = list[str]()
        sizes = sorted({volume.sector_size for volume in volumes})
        if len(sizes) > 1:
            words = " and ".join(map(str, sizes))
            raise DiskFormatError(f"the volumes are of disks with sectors of {words} bytes", hint=_ALONE)
        self._step = sizes[0]
        before, after = gpt_sectors(self._step) if self._scheme == "gpt" else (1, 0)
        self._first, self._behind = before * self._step, after * self._step
        self._limit = _GPT_END_MAX if self._scheme == "gpt" else LBA_MAX * self._step

    def plan(self) -> PlannedDisk:
        """The disk."""
        if not any(volume.record for volume in self._volumes):
            self._guesses.append(f"its table was {_usual_scheme(self._volumes)[1]}")
        self._keep_places()
        self._place_rest()
        partitions = self._partitions()
        size = _rounded(_rounded(max(extent.end for extent in self._taken), MIB) + self._behind, MIB)
        self._guesses.append("the disk was no larger than its volumes need")
        notice = Notice(
            code="layout-guessed", message=f"layout guessed: {'; '.join(self._guesses)}",
            hint="Windows keeps no partition table in its backup. Compare with what you know of the old disk.",
        )  # fmt: skip
        layout = Layout(
            scheme=self._scheme, disk_id=self._disk_id, size=size, sector_size=self._step, partitions=partitions,
            notices=(), table=ExtentSet.empty(),
        )  # fmt: skip
        places = tuple((self._places[volume], volume) for volume in self._volumes)
        return PlannedDisk(layout=layout, places=places, notices=(notice, *self._lacks()))

    def _keep_places(self) -> None:
        """Give volumes the places that are known of them: Windows' records first, then their boot sectors."""
        told = list[str]()
        for volume in sorted(self._volumes, key=lambda one: one.doubt):
            if volume.record and volume.record.start is not None:
                self._keep(volume, volume.record.start)
        for volume in self._volumes:
            if volume not in self._places and volume.boot_start is not None and self._keep(volume, volume.boot_start):
                told.append(volume.name)
        if told:
            self._guesses.append(f"{', '.join(told)} lay where the boot sector says")

    def _keep(self, volume: FoundVolume, start: int) -> bool:
        """Take a place, unless something is there."""
        place = Extent(start, start + _rounded(volume.size, self._step))
        is_free = not any(place.clipped(other) for other in self._taken)
        if not is_free or start % self._step or start < self._first or place.end > self._limit:
            reason = "which is taken" if not is_free else "where it cannot be"
            self._guesses.append(f"{volume.name} is said to be at byte {start}, {reason}")
            return False
        self._take(volume, start)
        return True

    def _take(self, volume: FoundVolume, start: int) -> None:
        self._places[volume] = start
        self._taken.append(Extent(start, start + _rounded(volume.size, self._step)))

    def _place_rest(self) -> None:
        """Put what has no place where Windows would put it, into the first gap that is large enough."""
        rest = [volume for volume in self._volumes if volume not in self._places]
        early = [volume for volume in rest if volume.role in {"esp", "boot"}]
        for volume in early:
            self._take(volume, self._first_gap(volume.size))
        if self._scheme == "gpt":
            self._reserve(before_rest=any(volume.role == "windows" for volume in rest))
        for volume in rest:
            if volume not in early:
                self._take(volume, self._first_gap(volume.size))
        if rest:
            names = ", ".join(volume.name for volume in rest)
            self._guesses.append(f"{names} lay in the usual order, as nothing says where")

    def _first_gap(self, size: int) -> int:
        """The first place on a multiple of 1 MiB with room; before a logical partition its record needs some."""
        lead = MIB if self._scheme == "mbr" and len(self._volumes) > _PRIMARIES_MAX else 0
        start, size = MIB + lead, _rounded(size, self._step)
        for extent in sorted(self._taken):
            if start + size <= extent.start:
                break
            start = max(start, _rounded(extent.end, MIB) + lead)
        if start + size > self._limit:
            words = f"a disk with {self._scheme.upper()} ends at byte {self._limit}, its volumes at {start + size}"
            raise DiskFormatError(words, hint=_ALONE)
        return start

    def _reserve(self, *, before_rest: bool) -> None:
        """The partition that Windows reserves: before a Windows that has no place yet, else in a gap."""
        windows = {self._places.get(volume) for volume in self._volumes if volume.role == "windows"}
        gaps = [gap for gap in self._gaps() if gap.size >= _RESERVED_SIZE]
        gaps.sort(key=lambda gap: gap.end not in windows)
        if before_rest:
            start = self._first_gap(_RESERVED_SIZE)
            self._reserved = Extent(start, start + _RESERVED_SIZE)
        elif gaps:
            size = gaps[0].size if gaps[0].size in _RESERVED_SIZES_BEFORE else _RESERVED_SIZE
            self._reserved = Extent(gaps[0].start, gaps[0].start + size)
        if self._reserved:
            self._taken.append(self._reserved)
            self._guesses.append("a Microsoft reserved partition was made anew")

    def _gaps(self) -> Iterator[Extent]:
        """What lies free between volumes, from a multiple of 1 MiB on."""
        start = MIB
        for extent in sorted(self._taken):
            if start < extent.start:
                yield Extent(start, extent.start)
            start = max(start, _rounded(extent.end, MIB))

    def _partitions(self) -> tuple[Partition, ...]:
        """The entries of the table, in the order of the disk."""
        ordered = sorted(self._volumes, key=self._places.__getitem__)
        if self._scheme == "gpt":
            return self._gpt_partitions(ordered)
        if not self._disk_id:
            names = "".join(sorted(f"{one.guid}/{one.name}" for one in self._volumes))
            self._disk_id = f"{zlib.crc32(names.encode()) or 1:08X}"
            self._guesses.append("its disk signature was made anew")
        active = self._active()
        logical = self._logical(ordered, active)
        primaries = [one for one in ordered if one not in logical]
        return tuple(
            _partition(
                self._extent(one), number=index + 1, type_code=_mbr_type(one), is_logical=one in logical,
                attributes=_ACTIVE if one is active else 0,
            )
            for index, one in (*enumerate(primaries), *enumerate(logical, _PRIMARIES_MAX))
        )  # fmt: skip

    def _gpt_partitions(self, ordered: Sequence[FoundVolume]) -> tuple[Partition, ...]:
        names = "".join(sorted(f"{one.guid}/{one.name}" for one in ordered))
        if not self._disk_id:
            self._disk_id = _made_id(f"disk {names}")
            self._guesses.append("its disk GUID was made anew")
        found = list[tuple[Extent, str, str]]()
        guids = {one.record.guid for one in ordered if one.record}
        unsure = [one.name for one in ordered if not one.record]
        for volume in ordered:
            guid = volume.record.guid if volume.record else volume.guid.upper()
            if not guid or (not volume.record and guid in guids) or guid in [known[1] for known in found]:
                guid = _made_id(f"volume {volume.guid}/{volume.name}")
            found.append((self._extent(volume), guid, volume.role))
        if unsure:
            self._guesses.append(f"the partition of {', '.join(unsure)} had the GUID of its volume, if any")
        if self._reserved:
            found.append((self._reserved, _made_id(f"reserved {names}"), "reserved"))
        return tuple(_gpt_partition(index, *one) for index, one in enumerate(sorted(found)))

    def _logical(self, ordered: Sequence[FoundVolume], active: FoundVolume | None) -> list[FoundVolume]:
        """Those of more than four that have to be logical partitions: neighbours, with a free sector before each."""
        count = len(ordered) - _PRIMARIES_MAX + 1
        if count <= 1:
            return []
        for first in range(len(ordered) - count, -1, -1):
            chosen = list(ordered[first : first + count])
            ends = [self._step] + [self._extent(one).end for one in ordered[: first + count - 1]]
            has_room = all(self._places[one] > end for one, end in zip(chosen, ends[first:], strict=True))
            if has_room and active not in chosen:
                return chosen
        raise DiskFormatError(
            f"an MBR has {_PRIMARIES_MAX} entries, and there is no room between its {len(ordered)} volumes for the "
            "records of logical partitions",
            hint=_ALONE,
        )

    def _active(self) -> FoundVolume | None:
        """The volume that a BIOS starts: the first that holds the boot manager, a volume of its own before others."""
        return next((volume for volume in self._volumes if volume.starts_bios), None)

    def _extent(self, volume: FoundVolume) -> Extent:
        start = self._places[volume]
        return Extent(start, start + _rounded(volume.size, self._step))

    def _lacks(self) -> Iterator[Notice]:
        """What is not in such a backup, or was not found in this one."""
        unknown = [volume.name for volume in self._volumes if not volume.record]
        if unknown and not self._is_only:
            words = f"which disk {', '.join(unknown)} was on is not known: it was put on this one"
            yield Notice(code="layout-guessed", message=f"layout guessed: {words}")
        is_system = any(volume.role in {"boot", "windows"} for volume in self._volumes)
        if self._scheme == "gpt" or not is_system:
            return
        yield Notice(
            code="no-boot-code",
            message="Windows' backup does not hold the boot code in the first sector of an MBR disk: a BIOS does not "
            "start this disk until that is written",
            hint="After restoring, start Windows' installation medium, open its command prompt, and run "
            "'bootrec /fixmbr'.",
        )
        if self._active() is None:
            yield Notice(code="no-boot-manager", message="no volume holds 'bootmgr', so that no partition is active")


def _partition(extent: Extent, *, number: int, type_code: str, attributes: int, is_logical: bool) -> Partition:
    return Partition(
        number=number, extent=extent, type=type_code, type_name=name_type(type_code), name="", guid="",
        attributes=attributes, index=number - 1, logical=is_logical,
    )  # fmt: skip


def _gpt_partition(index: int, extent: Extent, guid: str, kind: str) -> Partition:
    type_code, name, attributes = _GPT_KINDS.get(kind, (_BASIC, "Basic data partition", 0))
    found = _partition(extent, number=index + 1, type_code=type_code, attributes=attributes, is_logical=False)
    return replace(found, name=name, guid=guid)


def _mbr_type(volume: FoundVolume) -> str:
    """Source: Andries Brouwer, "Partition types": 27 recovery, 0C FAT by sectors, 07 NTFS, exFAT and others."""
    if volume.role == "recovery":
        return "27"
    return "0C" if volume.filesystem == "vfat" else "07"


def _made_id(words: str) -> str:
    return str(uuid.uuid5(_NAMES, words)).upper()


def _rounded(value: int, step: int) -> int:
    return -(-value // step) * step
