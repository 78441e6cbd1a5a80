"""Partitions of an image in free space of a disk that is in use already: its own partitions stay as they are.

Answers: "where is room for them, and what do they become in the table that is there?" (``plan_beside``: looks only);
``write_beside`` writes them, and then the table, of which one copy is good at any time. A run that is killed leaves the
disk as it was: the bytes that it wrote belong to no partition.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader, BlockWriter, WindowReader
from stillframe.block.file import open_file_reader
from stillframe.disk import Layout, Partition, Placement, add_partitions, find_room, free_number, name_type, read_layout
from stillframe.errors import DiskFormatError, TargetError, UsageError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.registry import identify
from stillframe.host.disks import describe
from stillframe.jobs.restoring.fitting import Flexibilities, fit_partition
from stillframe.jobs.restoring.plan import Beside, DiskInImage, RestoreOptions
from stillframe.jobs.restoring.targets import describe_contents
from stillframe.repo.records import StoredPartition
from stillframe.units import MIB, align_down, align_up, format_size

_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("ext2", "ext3", "ext4", "xfs", "btrfs"), ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83")),
    "swap": ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "82"),
    "ntfs": ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "07"),
    "exfat": ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "07"),
    "vfat": ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "0C"),
}
"""By file system, the type in a GPT and in an MBR; sources as for ``disk.types``."""
_PLAIN: Final = frozenset({"", "Linux", "Linux swap", "Linux home", "Windows data", "FAT"})
"""Types that say no more than what file system is there, so that they can be written in another table."""
_HINT: Final = "Make room on the target first, or restore onto another disk."


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRoom:
    """What was decided: where each partition goes, and the target's table with it."""

    placements: tuple[Placement, ...]
    beside: Beside


def plan_beside(stored: DiskInImage, path: str, options: RestoreOptions, asked: Flexibilities) -> FoundRoom:
    """Find room on a target for partitions of an image.

    Args:
        stored: The image; its disk holds only the partitions that are to be added.
        path: The target.
        options: Which, how large and where.
        asked: What is known of their file systems.

    Raises:
        TargetError: There is no room, no free number, or a table that must not be added to.
        UsageError: A wish cannot be.
    """
    if describe(path).kind == "partition":
        raise TargetError(f"{path} is a partition: new ones are made on a whole disk", hint="Name the disk.")
    with open_file_reader(path) as reader:
        layout = read_layout(reader)
        room = find_room(layout, reader)
        if layout.sector_size != stored.disk.sector_size:
            raise TargetError(
                f"the table of {path} counts sectors of {layout.sector_size} bytes, the saved disk of "
                f"{stored.disk.sector_size}",
                hint="Use a disk with the same sector size.",
            )
        if options.fit and len(options.added) > 1:
            raise UsageError("'--fit' cannot let several new partitions fill one room", hint="Use '--resize' for each.")
        placements, added = list[Placement](), list[Partition]()
        numbers = _numbers([part.number for part in stored.disk.partitions], layout, reader)
        for part in stored.disk.partitions:
            place = _place(stored, part, room, options, asked)
            room -= ExtentSet.of(place)
            added.append(_entry(stored, part, place, numbers[part.number], layout, fresh=options.new_identity))
            placements.append(Placement(partition=_as_stored(part), place=place))
        add_partitions(layout, reader, added)  # what it would refuse is refused now
        notices = tuple(_notices(stored.disk.partitions, layout, reader))
    beside = Beside(layout=layout, added=tuple(added), contents=tuple(describe_contents(path)), notices=notices)
    return FoundRoom(placements=tuple(placements), beside=beside)


def write_table(target: BlockWriter, beside: Beside, path: str) -> int:
    """Put the new partitions into the table of a target; the bytes that were written.

    Raises:
        TargetError: The table is not what it was when the plan was made.
    """
    require_same_table(target, beside, path)
    patches = add_partitions(beside.layout, target, beside.added)
    for patch in patches:
        target.write_at(patch.offset, patch.data)
        target.flush()
    return sum(len(patch.data) for patch in patches)


def require_same_table(target: BlockReader, beside: Beside, path: str) -> None:
    """Refuse a target whose partitions are not those that were shown.

    Raises:
        TargetError: They are others.
    """
    try:
        found = read_layout(target)
    except DiskFormatError as error:
        raise TargetError(f"the table of {path} cannot be read any more: {error.message}", hint=error.hint) from error
    if found != beside.layout:
        raise TargetError(f"the partitions of {path} were changed since they were shown", hint="Run it again.")


def _numbers(wanted: Sequence[int], layout: Layout, reader: BlockReader) -> dict[int, int]:
    """The number of each in the target's table: its own where that is free."""
    found = {number: number for number in wanted if free_number(layout, reader, number) == number}
    for number in wanted:
        if number not in found:
            found[number] = free_number(layout, reader, number, list(found.values()))
    return found


def _place(
    stored: DiskInImage, part: StoredPartition, room: ExtentSet, options: RestoreOptions, asked: Flexibilities
) -> Extent:
    """Where one partition goes, and how large it is there."""
    step = stored.disk.sector_size
    gaps = [Extent(align_up(gap.start, MIB), align_down(gap.end, step)) for gap in room
            if align_up(gap.start, MIB) < align_down(gap.end, step)]  # fmt: skip
    wish, start = options.wishes.get(part.number, "keep"), options.moves.get(part.number)
    fills = wish == "max" or (options.fit and part.number not in options.wishes)
    wanted = align_down(wish, step) if isinstance(wish, int) else part.size
    if start is not None:
        at = part.start if start == "keep" else align_up(start, MIB)
        gaps = [Extent(at, gap.end) for gap in room if gap.start <= at < gap.end]
        if not gaps:
            raise TargetError(f"byte {at} of the target is not free for partition {part.number}", hint=_HINT)
    elif not fills and room.contains(Extent(part.start, part.start + wanted)):
        gaps = [Extent(part.start, part.start + wanted)]
    if fills and gaps:
        largest = max(gaps, key=lambda gap: gap.size)
        size = fit_partition(stored, part, largest.size, asked)
        return Extent(largest.start, largest.start + size)
    fitting = next((gap for gap in gaps if gap.size >= wanted), None)
    if fitting is None:
        largest_size = max((gap.size for gap in gaps), default=0)
        raise TargetError(
            f"there is no free room for partition {part.number} on the target: it needs {format_size(wanted)}, and the "
            f"largest room there is {format_size(largest_size)}",
            hint=f"'--resize {part.number}=max' makes it fit where that is possible; or make room first.",
        )
    if wanted != part.size and fit_partition(stored, part, wanted, asked) != wanted:
        raise UsageError(f"partition {part.number} cannot be made {format_size(wanted)}", hint="Try another size.")
    return Extent(fitting.start, fitting.start + wanted)


def _entry(
    stored: DiskInImage, part: StoredPartition, place: Extent, number: int, layout: Layout, *, fresh: bool
) -> Partition:
    """What a partition is in the table of the target."""
    kind = part.type
    if layout.scheme != stored.disk.scheme:
        found = _TYPES.get(part.filesystem)
        if found is None or (stored.disk.scheme != "none" and part.type_name not in _PLAIN):
            raise TargetError(
                f"partition {part.number} ({part.type_name or 'unknown'}) has no type that is certain in a table of "
                f"{layout.scheme.upper()}",
                hint="Make a partition for it on the target, and restore into that: '--partition N:M'.",
            )
        kind = found[0 if layout.scheme == "gpt" else 1]
    guid = ""
    if layout.scheme == "gpt":
        taken = {other.guid for other in layout.partitions}
        guid = part.guid if part.guid and part.guid not in taken and not fresh else str(uuid.uuid4()).upper()
    attributes = int(part.attributes, 16) if layout.scheme == stored.disk.scheme == "gpt" else 0
    return Partition(
        number=number, extent=place, type=kind, type_name=name_type(kind), name=part.name if guid else "", guid=guid,
        attributes=attributes, index=number - 1, logical=False,
    )  # fmt: skip


def _as_stored(part: StoredPartition) -> Partition:
    return Partition(
        number=part.number, extent=Extent(part.start, part.start + part.size), type=part.type,
        type_name=part.type_name, name=part.name, guid=part.guid, attributes=int(part.attributes, 16),
        index=part.index, logical=part.logical,
    )  # fmt: skip


def _notices(parts: Sequence[StoredPartition], layout: Layout, reader: BlockReader) -> Iterable[Notice]:
    """Volumes that would be there twice, under one id."""
    for there in layout.partitions:
        volume = identify(WindowReader(reader, there.extent)).volume
        for part in parts:
            if part.uuid and (volume.filesystem, volume.uuid) == (part.filesystem, part.uuid):
                yield Notice(
                    code="volume-twice",
                    message=f"partition {there.number} of the target and partition {part.number} of the image are one "
                    f"volume under one id ({part.uuid}): a system may mount the wrong one of them",
                    hint="Remove one of them before you start a system from that disk.",
                )  # fmt: skip
    if any(part.filesystem == "ntfs" for part in parts):
        yield Notice(
            code="boot-sector-moved",
            message="a Windows volume goes to another place than it came from: its data is right, but if Windows "
            "starts from it, its boot data must be repaired",
            hint="Start Windows' own repair, or restore the whole disk.",
        )
