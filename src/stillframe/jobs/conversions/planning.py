"""A stored disk under another partition table, for other firmware: looked at, and decided.

Answers: "which partitions will there be on the target, where, and what starts them?" Writes nothing. What cannot be is
refused here, before a target is touched.
"""

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from stillframe.disk import Flexibility, Layout, Placement, fit_partitions
from stillframe.disk.converting import Draft, draft_conversion, finish_conversion, place_for_grub, room_of
from stillframe.disk.other_scheme import BIOS_BOOT_GUID
from stillframe.errors import MachineRefusal, TargetError, UsageError
from stillframe.events import NoEvents
from stillframe.extents import Extent
from stillframe.host.linux import is_root
from stillframe.jobs.conversions.conversion import Conversion, ConvertWish, LinuxOnDisk, WindowsOnDisk
from stillframe.jobs.conversions.found_linux import find_linux
from stillframe.jobs.conversions.found_windows import choose_windows, find_windows
from stillframe.jobs.exposing import ExposedDisk, expose
from stillframe.jobs.restoring.fitted import Fitted
from stillframe.jobs.restoring.fitting import Flexibilities
from stillframe.jobs.restoring.plan import DiskInImage, RestoreOptions
from stillframe.jobs.restoring.resizing import Asked
from stillframe.units import MIB, format_size

_FAT_SIZE: Final = 8 * MIB
"""More than the tables of a FAT32, and folders, take in an EFI system partition."""


def plan_conversion(
    stored: DiskInImage, target_size: int, wish: ConvertWish, options: RestoreOptions, asked: Flexibilities
) -> Conversion:
    """What becomes of a disk, and where its partitions go.

    Args:
        stored: The disk, without partitions that are left out on request.
        target_size: Bytes of the target.
        wish: What is to start it.
        options: What else was asked for: sizes of single partitions.
        asked: What is known of partitions already.

    Raises:
        UsageError: A wish cannot be.
        TargetError: The disk is like that already, cannot be, or does not fit.
        MachineRefusal: What is on it could not be made to start, or not on this machine.
    """
    have, layout = {part.number for part in stored.disk.partitions}, stored.layout()
    layout = replace(layout, partitions=tuple(part for part in layout.partitions if part.number in have))
    draft_conversion(layout, wish.starts_by, esp_size=wish.esp_size)  # what it would refuse is refused at once
    if not is_root():
        raise MachineRefusal("a disk is made to start in another way only by root", hint="Run it again with sudo.")
    exposed = expose(stored.origin, stored.manifest).disk(stored.disk.number)
    exposed = replace(exposed, partitions=tuple(part for part in exposed.partitions if part.stored.number in have))
    system, draft = _draft(exposed, stored, layout, wish)
    fitted = _fit(stored, layout, draft, target_size, _Wanted(options=options, asked=asked))
    places = {draft.numbers[one.partition.number]: one.place for one in fitted.placements}
    made = finish_conversion(draft, places, target_size, next_uuid=uuid.uuid4)
    if wish.starts_by != "uefi":
        place_for_grub(made)
    return Conversion(draft=draft, layout=made, system=system, esp_id=secrets.token_hex(4).upper(), fitted=fitted)


def _draft(
    exposed: ExposedDisk, stored: DiskInImage, layout: Layout, wish: ConvertWish
) -> tuple[LinuxOnDisk | WindowsOnDisk, Draft]:
    """What is to start, and the partitions under the new table."""
    places = find_windows(exposed)
    if not places:
        linux = find_linux(exposed, wish.starts_by, NoEvents())
        return linux, draft_conversion(layout, wish.starts_by, esp_size=wish.esp_size, boot=linux.boot)
    others = [disk for disk in stored.manifest.disks if disk.number != stored.disk.number]
    windows = choose_windows(exposed, places, others, wish)
    draft = draft_conversion(layout, wish.starts_by, esp_size=wish.esp_size, has_reserved=True)
    room = draft.new[0].size - _FAT_SIZE
    if windows.esp_used > room:
        raise TargetError(
            f"Windows' boot files take {format_size(windows.esp_used)}, and the new EFI system partition has room for "
            f"{format_size(room)}",
            hint="'--convert uefi=SIZE' makes it larger.",
        )
    return windows, draft


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    options: RestoreOptions
    asked: Flexibilities


def _fit(stored: DiskInImage, layout: Layout, draft: Draft, target_size: int, wanted: _Wanted) -> Fitted:
    """Where partitions go. On a target of the same size nothing grows, and what need not shrink does not."""
    wishes, room = wanted.options.wishes, room_of(draft, target_size)
    unknown = sorted(set(wishes) & set(draft.dropped))
    if unknown:
        raise UsageError(
            f"partition {unknown[0]} is not taken over: nothing but the old way to start needs it",
            hint=f"Leave out '--resize {unknown[0]}=...'.",
        )
    asked = {draft.numbers[number]: wish for number, wish in wishes.items()}
    may: Mapping[int, Flexibility] = {
        part.number: Flexibility(smallest=part.extent.size, can_move=part.type != BIOS_BOOT_GUID)
        for part in draft.layout.partitions
    }
    may_shrink, found = False, tuple[Placement, ...]()
    try:
        found = fit_partitions(draft.layout, room, may, {})
    except TargetError:
        may_shrink = True
    if may_shrink or asked or wanted.options.fit or target_size != stored.disk.size:
        may = _flexibility(stored, draft, wanted, may_shrink=may_shrink or bool(asked))
        found = fit_partitions(draft.layout, room, may, asked)
    places = {one.partition.number: one.place for one in found}
    is_logical = {part.number: part.logical for part in draft.layout.partitions}
    before = {part.number: part for part in layout.partitions}
    pairs = sorted(draft.numbers.items(), key=lambda pair: places[pair[1]].start)
    return Fitted(
        placements=tuple(
            Placement(partition=replace(before[old], logical=is_logical[new]), place=places[new]) for old, new in pairs
        ),
        layout=replace(layout, partitions=tuple(before[old] for old in sorted(draft.numbers))), room=room,
        flexibility={old: may[new] for old, new in draft.numbers.items()},
    )  # fmt: skip


def _flexibility(stored: DiskInImage, draft: Draft, wanted: _Wanted, *, may_shrink: bool) -> dict[int, Flexibility]:
    """By the new numbers."""
    found = {}
    for part in stored.disk.partitions:
        number, wish = draft.numbers.get(part.number), wanted.options.wishes.get(part.number)
        if number is not None:
            shrinks = wish < part.size if isinstance(wish, int) else may_shrink and wish != "keep"
            named = wish is not None and wish != "keep"
            question = Asked(may_shrink=shrinks, is_named=named, sector_size=stored.disk.sector_size)
            found[number] = wanted.asked.of(stored, part, question)
    return found


def front_of(layout: Layout) -> Extent:
    """What lies before the first partition of a converted disk: its table, and GRUB behind an MBR."""
    return Extent(0, min([part.extent.start for part in layout.partitions], default=layout.size))
