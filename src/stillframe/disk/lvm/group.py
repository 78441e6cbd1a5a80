"""A volume group of LVM2, by its metadata.

Answers: "which logical volumes are there, and where do their bytes lie?" Linear and striped volumes lie on physical
volumes directly and are described; of all others (thin, cache, RAID, mirror, snapshot, VDO) the name and the type.

Source: LVM2 ``lib/format_text/import_vsn1.c`` (what is read of the text), ``lib/striped/striped.c``
(``_striped_text_import``), ``lib/snapshot/snapshot.c`` (``cow_store``, ``merging_store``), ``lib/format_text/flags.c``.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from stillframe.disk.lvm.text import Scalar, Section, parse_text
from stillframe.errors import DiskFormatError

_SECTOR: Final = 512
_EXTENT_SECTORS_MAX: Final = 1 << 32
_COUNT_MAX: Final = 1 << 40
_STRIPE_SECTORS_MIN: Final = 8  # STRIPE_SIZE_MIN, lib/metadata/metadata-exported.h: a page
_NAME: Final = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+-]{0,127}")  # lvm(8) "Valid names"
_READ: Final = frozenset({"striped", "linear"})
_HINT: Final = "'vgck' of LVM tells more, on a restored copy."


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalPlace:
    """A physical volume of a group.

    Attributes:
        name: As the text calls it: ``pv0``.
        uuid: Without hyphens.
        start: Its first extent, in bytes of the physical volume.
        size: Bytes of all its extents.
        is_missing: LVM noted that it was lost; what it holds may be old.
        flags: All that LVM noted of it.
    """

    name: str
    uuid: str
    start: int
    size: int
    is_missing: bool
    flags: frozenset[str] = frozenset()


Places = dict[Scalar, PhysicalPlace]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of a logical volume.

    Attributes:
        size: Bytes of it.
        stripes: The physical volume of each stripe, and where in it the stripe begins, in bytes. One for linear.
        stripe_size: Bytes that are taken of each stripe in turn; for one stripe ``size``.
    """

    size: int
    stripes: tuple[tuple[PhysicalPlace, int], ...]
    stripe_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalVolume:
    """A logical volume. ``segments`` are there for ``type`` ``linear`` and ``striped`` only; other types are named."""

    name: str
    uuid: str
    size: int
    type: str
    is_visible: bool
    segments: tuple[Segment, ...]
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeGroup:
    """A volume group as one copy of its metadata has it; the copy with the highest ``seqno`` is the newest."""

    name: str
    uuid: str
    seqno: int
    extent_size: int
    physical: tuple[PhysicalPlace, ...]
    logical: tuple[LogicalVolume, ...]
    flags: frozenset[str] = frozenset()


def parse_group(raw: bytes) -> VolumeGroup:
    """Read the metadata of a volume group.

    Raises:
        DiskFormatError: It is not of the format, or contradicts itself.
    """
    root = parse_text(raw)
    if len(root.sections) != 1 or root.number("version", least=1, most=1) != 1:
        raise DiskFormatError(f"LVM metadata: expected one volume group, found {len(root.sections)}", hint=_HINT)
    name, group = next(iter(root.sections.items()))
    extent_size = group.number("extent_size", least=1, most=_EXTENT_SECTORS_MAX) * _SECTOR
    physical = tuple(_iter_physical(group, extent_size))
    for field in ("name", "uuid"):
        twice = [one for one, count in Counter(getattr(place, field) for place in physical).items() if count > 1]
        if twice:
            raise DiskFormatError(f"LVM group {name}: physical volume {twice[0]} is named twice", hint=_HINT)
    volumes = group.sections.get("logical_volumes", Section("/logical_volumes")).sections
    places: Places = {place.name: place for place in physical}
    found = tuple(_parse_volume(one, inner, places, extent_size) for one, inner in volumes.items())
    return VolumeGroup(
        name=_checked_name(name), uuid=_bare(group.word("id")), seqno=group.number("seqno"), extent_size=extent_size,
        physical=physical, logical=tuple(_marked(found, volumes)),
        flags=_flags(group) | ({"SHARED"} if "lock_type" in group.values else set()),
    )  # fmt: skip


def _iter_physical(group: Section, extent_size: int) -> Iterator[PhysicalPlace]:
    for name, one in group.section("physical_volumes").sections.items():
        yield PhysicalPlace(
            name=name, uuid=_bare(one.word("id")), start=one.number("pe_start", most=_COUNT_MAX) * _SECTOR,
            size=one.number("pe_count", most=_COUNT_MAX) * extent_size,
            is_missing="MISSING" in _flags(one), flags=_flags(one),
        )  # fmt: skip


def _parse_volume(name: str, volume: Section, places: Places, extent_size: int) -> LogicalVolume:
    count = volume.number("segment_count", least=1, most=_COUNT_MAX)
    inner = volume.sections
    if len(inner) != count:
        raise DiskFormatError(f"LVM volume {name}: expected {count} segments, found {len(inner)}", hint=_HINT)
    ranges = sorted(
        (one.number("start_extent", most=_COUNT_MAX), one.number("extent_count", least=1, most=_COUNT_MAX), key)
        for key, one in inner.items()
    )
    if ranges[0][0] != 0 or any(start + size != after for (start, size, _), (after, _, _) in pairwise(ranges)):
        raise DiskFormatError(f"LVM volume {name}: its segments have gaps or overlap", hint=_HINT)
    segments = [_parse_segment(name, inner[key], places, extent_size) for _, _, key in ranges]
    types = [inner[key].word("type") for _, _, key in ranges]
    unread = next((kind for kind in types if kind not in _READ), "" if all(segments) else "stacked")
    is_linear = all(segment is not None and len(segment.stripes) == 1 for segment in segments)
    return LogicalVolume(
        name=_checked_name(name), uuid=_bare(volume.word("id")), size=sum(size for _, size, _ in ranges) * extent_size,
        type=unread or ("linear" if is_linear else "striped"), is_visible="VISIBLE" in _flags(volume),
        segments=() if unread else tuple(segment for segment in segments if segment is not None),
        flags=_flags(volume),
    )  # fmt: skip


def _parse_segment(volume: str, segment: Section, places: Places, extent_size: int) -> Segment | None:
    """A linear or striped segment; ``None`` for other types, and for one that lies on logical volumes."""
    if segment.word("type") not in _READ:
        return None
    size = segment.number("extent_count") * extent_size
    listed = segment.array("stripes")
    count = segment.number("stripe_count", least=1, most=len(listed) // 2)
    stripe_size = (
        size
        if count == 1
        else segment.number("stripe_size", least=_STRIPE_SECTORS_MIN, most=_EXTENT_SECTORS_MAX) * _SECTOR
    )
    each = size // count
    if size % count or each % extent_size or each % stripe_size or len(listed) != 2 * count:
        raise DiskFormatError(f"LVM volume {volume}: its {count} stripes do not fit {size} bytes", hint=_HINT)
    stripes = list[tuple[PhysicalPlace, int]]()
    for name, first in zip(listed[::2], listed[1::2], strict=True):
        place = places.get(name)
        if place is None:
            return None
        if not isinstance(first, int) or not 0 <= first * extent_size <= place.size - each:
            raise DiskFormatError(f"LVM volume {volume}: expected it inside {name}, found extent {first}", hint=_HINT)
        stripes.append((place, place.start + first * extent_size))
    return Segment(size=size, stripes=tuple(stripes), stripe_size=stripe_size)


def _marked(found: tuple[LogicalVolume, ...], volumes: dict[str, Section]) -> Iterator[LogicalVolume]:
    """The store of a snapshot looks like a volume of its own and is not; nor is what a snapshot is merged into.

    A snapshot goes by the name of its store, whatever is noted of the two: lib/metadata/metadata.c, ``lv_is_visible``.
    """
    snapshots, hidden = set[object](), set[object]()
    for name, volume in volumes.items():
        for segment in volume.sections.values():
            snapshots.add(segment.values.get("cow_store"))
            if "merging_store" in segment.values:
                hidden.add(segment.values["merging_store"])
                snapshots.add(segment.values.get("origin"))
            if segment.values.get("type") == "snapshot":
                hidden.add(name)
    for one in found:
        if one.name in snapshots or one.name in hidden:
            yield replace(one, type="snapshot", segments=(), is_visible=one.name in snapshots)
        else:
            yield one


def _flags(section: Section) -> frozenset[str]:
    """What LVM notes of a thing: ``status``, and ``flags`` for what older versions need not know."""
    return frozenset(str(one) for name in ("status", "flags") for one in section.array(name))


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DiskFormatError(f"LVM metadata: expected a name of LVM, found {name[:60]!r}", hint=_HINT)
    return name


def _bare(uuid: str) -> str:
    return uuid.replace("-", "")
