"""Why a plan of a restore is as it is: a sentence for every decision.

Answers: "why does this partition lie there, why is it so large, and what becomes of it?" Pure: it looks at what was
decided and at what was known then, and decides nothing.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from stillframe.disk import Flexibility, Placement
from stillframe.disk.fitting import ALIGNMENT
from stillframe.jobs.restoring.fitted import Fitted
from stillframe.jobs.restoring.plan import Beside, Reason, RestorePlan
from stillframe.jobs.restoring.remaking import RESERVE_SHARE
from stillframe.repo.records import StoredPartition
from stillframe.units import format_size

TOOLS: Final = {
    "ext2": "resize2fs", "ext3": "resize2fs", "ext4": "resize2fs", "ntfs": "ntfsresize", "btrfs": "btrfs",
    "xfs": "xfs_growfs",
}  # fmt: skip
"""Who resizes what: by the names of file systems in ``host.resizing``."""


def plan_reasons(plan: RestorePlan, fitted: Fitted | None) -> Iterator[Reason]:
    """Every decision of a plan, in a sentence; partitions in the order of their numbers, the disk last.

    Args:
        plan: What was decided.
        fitted: What was known when places and sizes were decided; ``None`` where nothing was to decide.
    """
    if plan.partition is not None:
        yield from _single_reasons(plan, plan.partition)
        return
    stays = {place.partition.number: place for place in plan.left_places}
    lines = {one.partition.number: list(_part_lines(plan, fitted, one)) for one in fitted.placements} if fitted else {}
    for part in sorted([*plan.source_disk.partitions, *plan.left_out], key=lambda part: part.number):
        if part.number in plan.options.leave_out:
            yield Reason(
                partition=part.number,
                text="It is left out, as '--leave-out' asks: it is neither written nor in the table. The others keep "
                "their numbers.",
            )
            continue
        if part.number in stays:
            place = stays[part.number]
            kept = "so nothing is written there: it may be the only copy" if place.stays else "and '--wipe' clears it"
            yield Reason(partition=part.number, text=f"It is not in this image, {kept}.")
        unchanged = ["It keeps its place and its size: without '--fit' nothing is moved or resized."]
        for text in lines.get(part.number, unchanged):
            yield Reason(partition=part.number, text=text)
    yield from (Reason(partition=None, text=text) for text in _disk_lines(plan, fitted))


def beside_reasons(plan: RestorePlan, beside: Beside) -> Iterator[Reason]:
    """Every decision of a plan that adds partitions to those of a target."""
    for part, added in zip(plan.source_disk.partitions, beside.added, strict=True):
        lines = []
        if added.extent.start == part.start:
            lines.append(f"It begins at byte {part.start}, as in the image: that place is free on the target.")
        elif part.number in plan.options.moves:
            lines.append(f"It begins at byte {added.extent.start}, as '--move' asks.")
        else:
            lines.append(f"It begins at byte {added.extent.start}, a multiple of 1 MiB in room that is free there.")
        if added.extent.size == part.size:
            lines.append(f"It keeps its size, {format_size(part.size)}.")
        else:
            asked = "--resize" if part.number in plan.options.wishes else "--fit"
            lines += [f"It is made {format_size(added.extent.size)}, as '{asked}' asks.", _tool_line(plan, part)]
        if added.number != part.number:
            lines.append(f"It becomes partition {added.number}: the target has a partition {part.number} of its own.")
        if added.guid != part.guid and part.guid:
            why = "'--new-identity' asks for it" if plan.options.new_identity else "the target has one of that id"
            lines.append(f"It gets an id of its own: {why}.")
        yield from (Reason(partition=part.number, text=text) for text in lines)
    yield Reason(
        partition=None,
        text="The partitions of the target stay as they are, and its table is good at any time: the new ones are "
        "written first, and named last.",
    )


def _single_reasons(plan: RestorePlan, part: StoredPartition) -> Iterator[Reason]:
    size = plan.place.size
    if plan.options.onto is None:
        yield Reason(partition=part.number, text="It is written to the beginning of the target, which holds it alone.")
    else:
        words = f"It is written where partition {plan.options.onto} of the target lies; the table there is not changed."
        yield Reason(partition=part.number, text=words)
    if size == part.size:
        yield Reason(partition=part.number, text="It keeps its size: what is behind it in that place is not touched.")
        if part.number in plan.made_anew:
            yield Reason(partition=part.number, text=_tool_line(plan, part))
        return
    kind = "larger" if size > part.size else "smaller"
    yield Reason(
        partition=part.number, text=f"It is made {kind}, {format_size(size)}, to fill that place, as '--fit' asks."
    )
    yield Reason(partition=part.number, text=_tool_line(plan, part))


def _part_lines(plan: RestorePlan, fitted: Fitted, one: Placement) -> Iterator[str]:
    """One partition: its place, its size, and how its file system is changed."""
    part = next(found for found in plan.source_disk.partitions if found.number == one.partition.number)
    may = fitted.flexibility[part.number]
    yield _place_line(plan, fitted, one, may)
    yield _size_line(plan, fitted, one, may)
    if one.is_resized:
        yield _tool_line(plan, part)


def _place_line(plan: RestorePlan, fitted: Fitted, one: Placement, may: Flexibility) -> str:
    number, start = one.partition.number, one.place.start
    asked = plan.options.moves.get(number)
    if asked is not None:
        rounded = f", rounded up to a multiple of {format_size(ALIGNMENT)}" if asked not in ("keep", start) else ""
        return f"It begins at byte {start}, as '--move' asks{rounded}."
    if not one.is_moved:
        why = ": boot code knows it by its place" if not may.can_move and plan.options.fit else ""
        return f"It begins where it did, at byte {start}{why}."
    before = next((a for a, b in pairwise(fitted.placements) if b is one), None)
    behind = f"the end of partition {before.partition.number}" if before else "where partitions may begin"
    record = ", with room for the record of its chain" if one.partition.logical else ""
    is_later = start > one.partition.extent.start
    why = "later than before, to make room" if is_later else "earlier than before, to close a gap"
    return f"It begins at byte {start}, {why}: the next multiple of 1 MiB behind {behind}{record}."


def _size_line(plan: RestorePlan, fitted: Fitted, one: Placement, may: Flexibility) -> str:
    number, size, before = one.partition.number, one.place.size, one.partition.extent.size
    wish = plan.options.wishes.get(number)
    if isinstance(wish, int):
        return f"It is {format_size(size)}, as '--resize' asks."
    if wish == "keep":
        return f"It stays {format_size(size)}, as '--resize {number}=keep' asks."
    if size > before:
        why = f"as '--resize {number}=max' asks" if wish == "max" else "because it is the largest one that can grow"
        return f"It is larger by {format_size(size - before)}: it takes what is left of the target, {why}."
    if size < before:
        least = f"It needs {format_size(may.smallest)}, a reserve of {100 // RESERVE_SHARE} % included."
        if _shrinks_alone(fitted, one):
            return (
                f"It is smaller by {format_size(before - size)}: as the last one it makes room alone, so that nothing "
                f"else is moved. {least}"
            )
        return (
            f"It is smaller by {format_size(before - size)}: all that can shrink give the same share of what they can "
            f"spare. {least}"
        )
    if wish == "max":
        return f"It stays {format_size(size)}: there is no room left for '--resize {number}=max'."
    if not plan.options.fit:
        return f"It stays {format_size(size)}: sizes are changed with '--fit' or '--resize' only."
    if any(other.place.size < other.partition.extent.size for other in fitted.placements):
        return f"It stays {format_size(size)}: {may.reason or 'nothing more was missing'}."
    return f"It stays {format_size(size)}: there is room for it as it is."


def _shrinks_alone(fitted: Fitted, one: Placement) -> bool:
    others = [other for other in fitted.placements if other is not one]
    return one is fitted.placements[-1] and not any(other.is_resized or other.is_moved for other in others)


def _tool_line(plan: RestorePlan, part: StoredPartition) -> str:
    if part.number in plan.made_anew:
        return (
            f"It gets a new {part.filesystem} like the old one, because no tool changes that one so; its files are "
            "copied and all of them compared, before the target is touched."
        )
    tool = TOOLS.get(part.filesystem, "its own tool")
    words = f"Its file system is resized by {tool}, on a copy, before the target is touched."
    return f"{words} Windows checks it at its next start." if part.filesystem == "ntfs" else words


def _disk_lines(plan: RestorePlan, fitted: Fitted | None) -> Iterator[str]:
    """What is true of the whole disk: the table, ids, and what a system needs to start."""
    disk = plan.source_disk
    moved = [one for one in plan.placements if one.is_moved]
    if disk.scheme == "none":
        yield "There is no partition table: the disk is one volume."
        return
    if plan.conversion is not None:
        yield "The table is written last: until then no half-written disk can be taken for a whole one."
        return
    if disk.scheme == "gpt" and plan.target_size != disk.size:
        yield "The second copy of the partition table goes to the end of the target, where it belongs."
    if disk.scheme == "mbr" and any(part.logical for part in disk.partitions) and (moved or plan.left_out):
        yield "The chain of logical partitions is made anew for their places; the extended partition spans them."
    if fitted is None and plan.target_size > disk.size:
        yield f"{format_size(plan.target_size - disk.size)} at the end of the target stay free; '--fit' uses them."
    yield "The table is written last: until then no half-written disk can be taken for a whole one."
    if plan.options.new_identity:
        yield "The disk and its partitions get new ids, as '--new-identity' asks. What a Windows notes of them follows."
    elif moved and any(part.filesystem == "ntfs" for part in disk.partitions):
        yield "The ids stay those of the source. What a Windows notes of the places of its partitions follows."
    else:
        yield "The ids stay those of the source, so that what starts from it finds its partitions."
