"""A stored disk, or one partition of it, on a target of another size.

Answers: "which partitions become smaller or larger, and how far can they?" Asks the file systems' own tools only when
something has to shrink; what they need is in the plan, so that it holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from stillframe.disk import (
    Flexibility,
    Layout,
    fit_partitions,
    fit_table,
    moved_layout,
    room_for_partitions,
)
from stillframe.errors import TargetError
from stillframe.events import NoEvents, Notice
from stillframe.jobs.restoring.fitted import Fitted
from stillframe.jobs.restoring.plan import DiskInImage, RestoreOptions, RestorePlan, Start
from stillframe.jobs.restoring.remaking import WITHOUT_TOOLS, NewPlace, notices_anew
from stillframe.jobs.restoring.resizing import Asked, find_flexibility, is_fixed
from stillframe.jobs.restoring.sectors import needs_new
from stillframe.repo.records import StoredPartition
from stillframe.units import MIB, align_down, format_size


class Flexibilities:
    """What was found out about partitions, so that changing a plan does not ask the tools again."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Asked], Flexibility] = {}

    def of(self, stored: DiskInImage, part: StoredPartition, asked: Asked) -> Flexibility:
        """How far a partition of the disk may be changed; of one disk only."""
        key = (part.number, asked)
        if key not in self._known:
            self._known[key] = find_flexibility(stored, part, asked, NoEvents())
        return self._known[key]


def fit_disk(stored: DiskInImage, target_size: int, options: RestoreOptions, asked: Flexibilities) -> Fitted:
    """Where the partitions of a disk go on a target that they are to fill.

    Raises:
        UsageError: A wish cannot be.
        TargetError: They do not fit, by how much; or the disk has no table.
    """
    layout = _movable_layout(stored)
    room = room_for_partitions(stored.layout(), stored.outside(), target_size)
    before = {part.number: part.extent.size for part in layout.partitions}
    grows = any(isinstance(wish, int) and wish > before.get(number, wish) for number, wish in options.wishes.items())
    end = max((part.extent.end for part in layout.partitions), default=0)
    may_shrink = end > room.end or grows or bool(options.moves)
    may = {}
    for part in stored.disk.partitions:
        wish = options.wishes.get(part.number)
        shrinks = wish < part.size if isinstance(wish, int) else may_shrink and wish != "keep"
        named = wish is not None and wish != "keep"
        question = Asked(may_shrink=shrinks, is_named=named, sector_size=stored.disk.sector_size)
        may[part.number] = asked.of(stored, part, question)
    moves = _starts(layout, options.moves)
    found = fit_partitions(layout, room, may, options.wishes, moves)
    return _checked(stored, Fitted(placements=found, layout=layout, room=room, flexibility=may), target_size)


def place_disk(stored: DiskInImage, target_size: int, options: RestoreOptions) -> Fitted:
    """Where the partitions of a disk go when they keep their sizes, and only what was named moves.

    Raises:
        UsageError: A wish cannot be.
        TargetError: They do not fit, or two are in each other's way.
    """
    layout = _movable_layout(stored)
    room = room_for_partitions(stored.layout(), stored.outside(), target_size)
    may = {
        part.number: Flexibility(
            smallest=part.size, can_move=part.number in options.moves and not is_fixed(part),
            reason="it was not asked for another size",
        )
        for part in stored.disk.partitions
    }  # fmt: skip
    keep = dict.fromkeys(may, "keep")
    found = fit_partitions(layout, room, may, keep, _starts(layout, options.moves))  # type: ignore[arg-type]
    return _checked(stored, Fitted(placements=found, layout=layout, room=room, flexibility=may), target_size)


def fit_partition(
    stored: DiskInImage, part: StoredPartition, room_size: int, asked: Flexibilities, *, sector_size: int | None = None
) -> int:
    """The size of a partition in a place of another size, or on a disk with sectors of another size.

    Args:
        stored: The disk in its image.
        part: The partition.
        room_size: Bytes of the place.
        asked: What is known of file systems.
        sector_size: Bytes of the target's sectors; by default as they were.

    Raises:
        TargetError: It cannot be made so small, or not for such sectors.
    """
    sector_size = sector_size or stored.disk.sector_size
    size = align_down(room_size, MIB) if room_size < part.size else align_down(room_size, sector_size)
    is_anew = needs_new(stored, part, sector_size)
    if size == part.size and not is_anew:
        return size
    question = Asked(may_shrink=size < part.size, is_named=True, sector_size=sector_size, is_anew=is_anew)
    may = asked.of(stored, part, question)
    reason = f" ({may.reason})" if may.reason else ""
    if is_anew and not may.can_grow:
        raise TargetError(
            f"partition {part.number} is not made anew for sectors of {sector_size} bytes{reason}",
            hint="Use a disk with the same sector size.",
        )
    if size < may.smallest:
        raise TargetError(
            f"the place is too small: it has {format_size(room_size)}, and partition {part.number} needs "
            f"{format_size(may.smallest)}{reason}",
            hint="Choose a larger one.",
        )
    if size < part.size or may.can_grow:
        return size
    if part.size % sector_size:
        raise TargetError(
            f"partition {part.number} has {part.size} bytes, no whole number of sectors of {sector_size} bytes",
            hint="Use a disk with the same sector size.",
        )
    return part.size


def resized_parts(plan: RestorePlan) -> Iterator[StoredPartition]:
    """Partitions whose file systems are resized or made anew."""
    yield from (part for part in plan.chosen if plan.place_of(part).size != part.size or part.number in plan.made_anew)


def parts_made_anew(plan: RestorePlan, stored: DiskInImage) -> tuple[int, ...]:
    """Numbers of partitions that get a new file system: those that no tool resizes so, or not for such sectors."""
    found = list[int]()
    for part in plan.chosen:
        size = plan.place_of(part).size
        if part.is_left_out:
            continue
        if (
            (part.filesystem in WITHOUT_TOOLS and size != part.size)
            or (part.filesystem == "xfs" and size < part.size)
            or needs_new(stored, part, plan.sector_size)
        ):
            found.append(part.number)
    return tuple(found)


def anew_notices(plan: RestorePlan, stored: DiskInImage) -> Iterator[Notice]:
    """What does not come along in partitions that are made anew.

    Raises:
        StillframeError: One of them cannot be read.
    """
    for part in plan.chosen:
        if part.number in plan.made_anew:
            place = NewPlace(size=plan.place_of(part).size, sector_size=plan.sector_size)
            words = "; ".join(notices_anew(stored.origin, stored.manifest, part, place))
            yield Notice(
                code="made-anew",
                message=f"partition {part.number} gets a new {part.filesystem} with the same files; what does not come "
                f"along: {words}",
            )


def _movable_layout(stored: DiskInImage) -> Layout:
    """The layout of a disk without what is left out.

    Raises:
        TargetError: Its table cannot be made anew.
    """
    layout = stored.layout()
    if layout.scheme == "none":
        raise TargetError(
            "a disk without a partition table is not made to fit as a whole",
            hint="Its only volume is partition 1: '--partition 1 --fit' does it.",
        )
    if any(notice.code == "mbr-hybrid" for notice in layout.notices):
        raise TargetError(
            "the table of a disk with a hybrid MBR is not changed: some partitions are in both of its tables",
            hint="Copy it as it is; 'restore --partition N:M --fit' fits single partitions of an image.",
        )
    stay = {part.number for part in stored.disk.partitions}
    return replace(layout, partitions=tuple(part for part in layout.partitions if part.number in stay))


def _starts(layout: Layout, moves: Mapping[int, Start]) -> dict[int, int]:
    before = {part.number: part.extent.start for part in layout.partitions}
    return {number: before[number] if start == "keep" else start for number, start in moves.items()}


def _checked(stored: DiskInImage, fitted: Fitted, target_size: int) -> Fitted:
    """What the table would refuse is refused now."""
    layout = stored.layout()
    moved = moved_layout(layout, {one.partition.number: one.place for one in fitted.placements})
    fit_table(layout, stored.outside(), target_size, moved=moved)
    return fitted
