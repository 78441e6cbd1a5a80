"""A stored disk, or one partition of it, on a target of another size.

Answers: "which partitions become smaller or larger, and how far can they?" Asks the file systems' own tools only when
something has to shrink; what they need is in the plan, so that it holds.
"""

from collections.abc import Iterator, Mapping

from stillframe.disk import Flexibility, Placement, Wish, fit_partitions, fit_table, moved_layout, room_for_partitions
from stillframe.errors import TargetError
from stillframe.events import NoEvents
from stillframe.jobs.resizing import find_flexibility
from stillframe.jobs.restore_plan import DiskInImage, RestorePlan
from stillframe.repo.records import StoredPartition
from stillframe.units import MIB, align_down, format_size


def fit_disk(stored: DiskInImage, target_size: int, wishes: Mapping[int, Wish]) -> tuple[Placement, ...]:
    """Where the partitions of a disk go on a target.

    Raises:
        UsageError: A wish cannot be.
        TargetError: They do not fit, by how much; or the disk has no table.
    """
    layout = stored.layout()
    if layout.scheme == "none":
        raise TargetError(
            "a disk without a partition table is not made to fit as a whole",
            hint="Its only volume is partition 1: '--partition 1 --fit' does it.",
        )
    if any(notice.code == "mbr-hybrid" for notice in layout.notices):
        raise TargetError(
            "a disk with a hybrid MBR is not made to fit: some partitions are in both tables",
            hint="Restore it as it is, or single partitions with '--partition N:M --fit'.",
        )
    room = room_for_partitions(layout, stored.outside(), target_size)
    may_shrink = max((part.extent.end for part in layout.partitions), default=0) > room.end
    found = fit_partitions(layout, room, _flexibility(stored, wishes, may_shrink=may_shrink), wishes)
    moved = moved_layout(layout, {one.partition.number: one.place for one in found})
    fit_table(layout, stored.outside(), target_size, moved=moved)  # what it would refuse is refused now
    return found


def fit_partition(stored: DiskInImage, part: StoredPartition, room_size: int) -> int:
    """The size of a partition in a place of another size.

    Raises:
        TargetError: It cannot be made so small.
    """
    size = align_down(room_size, MIB) if room_size < part.size else align_down(room_size, stored.disk.sector_size)
    if size == part.size:
        return size
    may = find_flexibility(stored.repository, stored.manifest, part, NoEvents(), may_shrink=size < part.size)
    if size < may.smallest:
        reason = f" ({may.reason})" if may.reason else ""
        raise TargetError(
            f"the place is too small: it has {format_size(room_size)}, and partition {part.number} needs "
            f"{format_size(may.smallest)}{reason}",
            hint="Choose a larger one.",
        )
    return size if size < part.size or may.can_grow else part.size


def resized_parts(plan: RestorePlan) -> Iterator[StoredPartition]:
    """Partitions whose file systems are resized."""
    parts = plan.source_disk.partitions if plan.partition is None else (plan.partition,)
    yield from (part for part in parts if plan.place_of(part).size != part.size)


def _flexibility(stored: DiskInImage, wishes: Mapping[int, Wish], *, may_shrink: bool) -> dict[int, Flexibility]:
    """Of each partition of a disk."""
    found = {}
    for part in stored.disk.partitions:
        wish = wishes.get(part.number)
        shrinks = wish < part.size if isinstance(wish, int) else may_shrink and wish != "keep"
        found[part.number] = find_flexibility(stored.repository, stored.manifest, part, NoEvents(), may_shrink=shrinks)
    return found
