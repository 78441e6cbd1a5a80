"""A source as a view that holds still: per volume a reader, its consistency, and the bytes that are kept.

Answers: "what exactly will an image of this disk hold, and why?" How it holds still is for ``opening``: it is not
mounted (``offline``), a ``snapshot`` of it is read, it is ``frozen`` for a moment; ``torn`` when the person insists.
"""

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from stillframe.block import BlockReader, CachedReader, ReadFault, WindowReader
from stillframe.capture.stacking import StackedVolume
from stillframe.capture.unlocking import OpenedVolume, VolumeKey, explain_locked, open_volumes
from stillframe.capture.unopened import find_unopened
from stillframe.disk.layout import Layout, Partition, read_layout
from stillframe.errors import DiskFormatError, MachineRefusal
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs import Filesystem, LeftOutFile, UsedMap, Volume
from stillframe.fs.files import Found, Pattern, open_files
from stillframe.fs.registry import Identified, identify, read_used_map
from stillframe.host.apart import call_apart
from stillframe.host.disks import DiskFacts
from stillframe.units import format_size

TABLE_BROKEN: Final = "table-broken"
"""The notice that a partition table was not used, so that the disk is kept as one piece."""

NOT_KEPT: Final = "partition-not-kept"
"""The notice that a partition was left out as a whole."""

Consistency = Literal["offline", "snapshot", "frozen", "torn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidUsed:
    """What a running system says is in use of a shadow that it made: ``place`` on the disk, ``used`` inside of it."""

    place: Extent
    used: ExtentSet


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutPart:
    """A partition of which nothing is kept: on which disk, where, and why, in words."""

    disk: str
    place: Extent
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which bytes a person wants.

    Attributes:
        all_sectors: Keep every byte, in use or not.
        include_paging: Keep the contents of paging, hibernation and swap.
        exclude: Files whose contents are left out, where the used map is proven.
        without: Partitions that are left out as a whole.
        held: Partitions that are mounted, and whose file systems stand still while they are looked at.
        held_by: What holds those still.
        said_used: What the running system says of shadows; counts for NTFS only.
        stacked: Volumes that rest on partitions.
        free: Bytes of the disk that belong to a container and to none of its volumes.
        is_unused: Nobody uses the disk, so its containers may be looked into (``unopened``, ``unlocking``).
        keys: Of encrypted partitions that may be looked into.
        opened: Those whose key was among them.
        consistency: ``torn`` when the source is in use and the person insists.
    """

    all_sectors: bool = False
    include_paging: bool = False
    exclude: tuple[Pattern, ...] = ()
    without: tuple[LeftOutPart, ...] = ()
    held: frozenset[Extent] = frozenset()
    held_by: Consistency = "frozen"
    said_used: tuple[SaidUsed, ...] = ()
    stacked: tuple[StackedVolume, ...] = ()
    free: ExtentSet = field(default_factory=ExtentSet.empty)
    is_unused: bool = False
    keys: tuple[VolumeKey, ...] = ()
    opened: tuple[OpenedVolume, ...] = ()
    consistency: Consistency = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedVolume:
    """One partition, held still.

    Attributes:
        partition: Where it is, by the table.
        reader: Its bytes, from 0.
        volume: What is in it.
        used: Bytes in use, by the file system's own map, or all.
        kept: Bytes that go into the image: ``used`` without what is left out.
        excluded: Bytes that are left out though they are in use.
        left_out: The files they belong to.
        consistency: How they held still.
        notices: What a person should know of it.
    """

    partition: Partition
    reader: BlockReader
    volume: Volume
    used: UsedMap
    kept: ExtentSet
    excluded: ExtentSet
    left_out: tuple[LeftOutFile, ...]
    consistency: Consistency
    notices: tuple[Notice, ...]

    @property
    def is_left_out(self) -> bool:
        """Whether it is left out as a whole."""
        return 0 < self.excluded.size == self.reader.size


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedDisk:
    """A whole disk, held still. ``outside`` are the bytes in no partition; all of them are kept."""

    facts: DiskFacts
    reader: BlockReader
    layout: Layout
    outside: ExtentSet
    volumes: tuple[CapturedVolume, ...]
    notices: tuple[Notice, ...]

    @property
    def bytes_used(self) -> int:
        """Bytes that the image will keep, zeros and holes included."""
        return self.outside.size + sum(volume.kept.size for volume in self.volumes)


def capture_disk(reader: BlockReader, facts: DiskFacts, selection: Selection) -> CapturedDisk:
    """Look at a disk, a partition or a disk file, and decide which of its bytes matter.

    A disk without a table, or whose table contradicts itself, is one volume that begins at byte 0.
    """
    layout, notices = _read_layout(reader)
    partitions = _partitions(layout)
    if not layout.partitions and (layout.scheme == "gpt" or any(notice.code == TABLE_BROKEN for notice in notices)):
        selection = replace(selection, all_sectors=True)  # an old file system may show through: its map means nothing
    layout = replace(layout, partitions=partitions)
    if selection.is_unused and selection.consistency == "offline" and not selection.all_sectors:
        selection = _look_inside(reader, layout, selection)
    omitted = {part.place: part.reason for part in selection.without if part.disk == facts.path}
    volumes = tuple(
        _left_out_volume(reader, one, selection, omitted[one.extent])
        if one.extent in omitted
        else _capture_volume(reader, one, selection)
        for one in partitions
    )
    return CapturedDisk(
        facts=facts, reader=reader, layout=layout, outside=layout.outside, volumes=volumes, notices=notices
    )


def find_partitions(reader: BlockReader) -> Layout:
    """The partitions that ``capture_disk`` would find; a disk without a table, or with a broken one, is one of them."""
    layout = _read_layout(reader)[0]
    return replace(layout, partitions=_partitions(layout))


def _look_inside(reader: BlockReader, layout: Layout, selection: Selection) -> Selection:
    """The volumes inside of containers, for a disk that nobody uses."""
    opened = open_volumes(reader, layout, selection.keys)
    unopened = find_unopened(opened.reader, opened.layout)
    return replace(
        selection, stacked=(*opened.volumes, *unopened.volumes), free=unopened.free, opened=opened.places
    )  # fmt: skip


def _read_layout(reader: BlockReader) -> tuple[Layout, tuple[Notice, ...]]:
    try:
        layout = read_layout(reader)
    except (DiskFormatError, ReadFault) as error:
        layout = Layout(
            scheme="none", disk_id="", size=reader.size, sector_size=reader.sector_size, partitions=(), notices=(),
            table=ExtentSet.empty(),
        )  # fmt: skip
        notice = Notice(
            code=TABLE_BROKEN, message=f"{error.message}: the whole disk is kept, byte for byte", hint=error.hint
        )
        return layout, (notice,)
    return layout, layout.notices


def _partitions(layout: Layout) -> tuple[Partition, ...]:
    """A disk without a table is one volume."""
    whole = Partition(
        number=1, extent=Extent(0, layout.size), type="", type_name="whole disk", name="", guid="", attributes=0,
        index=0, logical=False,
    )  # fmt: skip
    return layout.partitions or (whole,)


def _left_out_volume(disk: BlockReader, partition: Partition, selection: Selection, reason: str) -> CapturedVolume:
    """A partition of which only is noted where it is and what is in it, so that it is known again."""
    reader = WindowReader(disk, partition.extent)
    volume, everything = identify(reader).volume, ExtentSet.of(Extent(0, reader.size))
    words = [volume.filesystem or partition.type_name, f"'{volume.label}'" if volume.label else ""]
    notice = Notice(
        code=NOT_KEPT,
        message=f"partition {partition.number} ({' '.join(word for word in words if word)}, "
        f"{format_size(reader.size)}) is not in this image; {reason}",
        hint="An image of the whole disk has it: leave '--system' out.",
    )
    return CapturedVolume(
        partition=partition, reader=reader, volume=volume, used=UsedMap(extents=everything, kind="raw"),
        kept=ExtentSet.empty(), excluded=everything, left_out=(), consistency=selection.consistency, notices=(notice,),
    )  # fmt: skip


def _capture_volume(disk: BlockReader, partition: Partition, selection: Selection) -> CapturedVolume:
    reader = WindowReader(disk, partition.extent)
    identified = identify(reader)
    is_held = partition.extent in selection.held
    said_used = next((said.used for said in selection.said_used if said.place == partition.extent), None)
    used = read_used_map(reader, identified, is_frozen=is_held, said_used=said_used)
    locked = explain_locked(partition, reader, identified.volume) if identified.filesystem is not None else None
    if locked is not None:
        used = replace(used, notices=(locked,))
    everything = ExtentSet.of(Extent(0, reader.size))
    notices = [*used.notices]
    left_out: list[LeftOutFile] = []
    if selection.consistency == "torn" or selection.all_sectors:
        used = UsedMap(extents=everything, kind="raw")
    elif used.kind == "used" and identified.filesystem is not None:
        left_out = _left_out(reader, identified, selection, notices)
    elif selection.stacked or len(selection.free) or selection.opened:
        used, left_out = _used_above(partition.extent, used, selection, notices)
    excluded = ExtentSet.empty()
    for file in left_out:
        excluded |= file.extents & used.extents
    return CapturedVolume(
        partition=partition, reader=reader, volume=identified.volume, used=used, kept=used.extents - excluded,
        excluded=excluded, left_out=tuple(left_out),
        consistency=selection.held_by if is_held else selection.consistency, notices=tuple(notices),
    )  # fmt: skip


def _left_out(
    reader: BlockReader, identified: Identified, selection: Selection, notices: list[Notice]
) -> list[LeftOutFile]:
    found: list[LeftOutFile] = []
    if identified.filesystem is not None and not selection.include_paging:
        found += _find_paging(reader, identified.filesystem, notices)
    if selection.exclude:
        found += _find_excluded(reader, identified.volume, selection.exclude, notices)
    return found


def _used_above(
    place: Extent, raw: UsedMap, selection: Selection, notices: list[Notice]
) -> tuple[UsedMap, list[LeftOutFile]]:
    """Of a container kept whole, what the volumes that rest on it prove to be unused or left out."""
    unused, left_out = _inside(place, selection.free), list[LeftOutFile]()
    opened = next((one for one in selection.opened if one.place == place), None)
    for stacked in selection.stacked:
        if not _rests_on(stacked, place):
            continue
        identified = identify(stacked.reader)
        used = read_used_map(stacked.reader, identified, is_frozen=stacked.is_held)
        notices += used.notices
        if used.kind != "used":
            continue
        for pieces in stacked.pieces:
            unused |= _inside(place, pieces.down(used.extents.complement(Extent(0, stacked.reader.size))))
        if any(_rests_on(stacked, one.place) for one in selection.opened):
            continue  # zeros in place of what is left out would be read as noise, not as zeros
        for file in _left_out(stacked.reader, identified, selection, notices):
            for pieces in stacked.pieces:
                here = _inside(place, pieces.down(file.extents))
                left_out += [replace(file, extents=here)] if len(here) else []
    if opened is not None:
        unused = opened.whole_sectors(unused)
    elif not len(unused) and not left_out:
        return raw, []
    for notice in raw.notices:  # that it is kept whole is no longer true, or has another reason
        notices.remove(notice)
    if opened is not None:
        notices += opened.notices(is_whole=not len(unused), exclude=bool(selection.exclude))
        if not len(unused):
            return replace(raw, notices=()), []
    return UsedMap(extents=raw.extents - unused, kind="used"), left_out


def _rests_on(stacked: StackedVolume, place: Extent) -> bool:
    return any(len(pieces.down(pieces.covered).clipped(place)) for pieces in stacked.pieces)


def _inside(place: Extent, extents: ExtentSet) -> ExtentSet:
    """Bytes of a disk as bytes of one of its partitions."""
    return extents.clipped(place).shifted(-place.start)


def _find_paging(reader: BlockReader, filesystem: Filesystem, notices: list[Notice]) -> tuple[LeftOutFile, ...]:
    try:
        return filesystem.left_out(reader)
    except (DiskFormatError, ReadFault) as error:
        notices.append(Notice(code="paging-kept", message=error.message, hint=error.hint))
        return ()


def _find_excluded(
    reader: BlockReader, volume: Volume, patterns: tuple[Pattern, ...], notices: list[Notice]
) -> tuple[LeftOutFile, ...]:
    """The files that a person excluded. Whatever cannot be told for certain is kept, with a notice."""

    def find() -> Found[LeftOutFile] | None:
        files = open_files(CachedReader(reader), volume)
        return files.find_excluded(patterns) if files is not None else None

    try:
        found = call_apart(find, what=f"looking for excluded files in the {volume.filesystem} volume")
    except MachineRefusal as error:
        notices.append(Notice(code="exclude-not-possible", message=error.message, hint="Everything of it is kept."))
        return ()
    if found is None:
        if volume.filesystem != "swap":
            message = f"'--exclude' does nothing here: the files of this {volume.filesystem} volume are not read"
            notices.append(Notice(code="exclude-not-possible", message=message, hint="Everything of it is kept."))
        return ()
    notices.extend(found.notices)
    return found.records
