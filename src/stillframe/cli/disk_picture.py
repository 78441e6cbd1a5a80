"""Disks as pictures of characters, to scale.

Answers: "how do the partitions of the image lie on the target?" Pure: lines out. Every partition is wide enough for its
number, so that small ones are wider than their share.
"""

from collections.abc import Sequence
from typing import Final

from stillframe.extents import Extent
from stillframe.jobs.restoring.plan import RestorePlan
from stillframe.units import format_size

_WIDTH: Final = 72
_FREE: Final = "."


def fit_picture(plan: RestorePlan) -> list[str]:
    """Source and target, both in the scale of the larger one."""
    disk = plan.source_disk
    names = {part.number: part.label or part.filesystem or part.type_name for part in disk.partitions}
    stored = [*disk.partitions, *plan.left_out]
    names |= {part.number: part.label or part.filesystem or part.type_name for part in plan.left_out}
    before = [(str(part.number), names[part.number], Extent(part.start, part.start + part.size)) for part in stored]
    after = [(str(part.number), names[part.number], plan.place_of(part)) for part in disk.partitions]
    if plan.conversion is not None:
        numbers = plan.conversion.draft.numbers
        after = [(str(numbers[part.number]), names[part.number], plan.place_of(part)) for part in disk.partitions]
        after += [(str(part.number), f"new: {part.type_name}", part.extent) for part in plan.added]
    if plan.beside is not None:
        there = [(str(part.number), part.name or part.type_name, part.extent) for part in plan.beside.layout.partitions]
        new = zip(disk.partitions, plan.beside.added, strict=True)
        after = [*there, *((str(added.number), names[part.number], added.extent) for part, added in new)]
    scale = max(disk.size, plan.target_size)
    return [
        "",
        f"{'In the image' if plan.verb == 'restore' else 'On the source'}, {format_size(disk.size)}:",
        f"  {draw(before, disk.size, scale)}",
        f"On the target, {format_size(plan.target_size)}:",
        f"  {draw(after, plan.target_size, scale)}",
    ]


def draw(parts: Sequence[tuple[str, str, Extent]], size: int, scale: int) -> str:
    """One disk.

    Args:
        parts: Number, name and place of each partition, in any order.
        size: Bytes of the disk.
        scale: Bytes that are as wide as the whole line.
    """
    line, end = "", 0
    for number, name, place in sorted(parts, key=lambda one: one[2].start):
        line += _FREE * _columns(place.start - end, scale)
        room = max(_columns(place.size, scale), len(number) + 2)
        words = f"{number} {name} {format_size(place.size)}"
        shown = next((text for text in (words, f"{number} {format_size(place.size)}") if len(text) <= room - 2), number)
        line += f"[{shown.ljust(room - 2)}]"
        end = place.end
    return line + _FREE * _columns(size - end, scale)


def _columns(size: int, scale: int) -> int:
    return round(size * _WIDTH / scale) if scale else 0
