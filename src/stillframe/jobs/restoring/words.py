"""What a restore will do, in words.

Answers: "what happens to the target, step by step, and what should be known before?" Pure: lines and notices out.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.disk import Placement
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.ext import EXT_NAMES
from stillframe.host.linux import is_root
from stillframe.jobs.conversions.words import conversion_notices, conversion_steps, renumbered_words
from stillframe.jobs.restoring.plan import Beside, RestoreOptions, RestorePlan
from stillframe.jobs.starts.efi_start import told_steps
from stillframe.repo.records import StoredPartition
from stillframe.units import format_size

_LINUX: Final = EXT_NAMES | {"xfs", "btrfs", "LVM2_member", "crypto_LUKS", "linux_raid_member"}
_PARTUUIDS_CHANGED: Final = Notice(
    code="partuuids-changed",
    message="partitions get new PARTUUIDs: a Linux whose fstab or boot menu names them so does not start before they "
    "are written there, which only root can do; file systems keep their UUIDs and labels",
    hint="Run it again with sudo; or 'grep -r PARTUUID /etc/fstab /boot' in that Linux tells whether it does.",
)


def placement_words(one: Placement) -> str:
    """What becomes of a partition that does not stay as it was; empty when it does."""
    before, after = one.partition.extent, one.place
    words = []
    if one.is_resized:
        kind = "larger" if after.size > before.size else "smaller"
        words.append(f"made {kind}, from {format_size(before.size)} to {format_size(after.size)}")
    if one.is_moved:
        words.append(f"moved from byte {before.start} to {after.start}")
    return f"partition {one.partition.number} was {' and '.join(words)}" if words else ""


def part_words(part: StoredPartition) -> str:
    """What is in a partition: its file system, or its type, and its label."""
    return f"{part.filesystem or part.type_name or 'unknown'}{', ' + repr(part.label) if part.label else ''}"


def _size_words(plan: RestorePlan, part: StoredPartition) -> str:
    size = plan.place_of(part).size
    if part.number in plan.made_anew:
        return f", made anew and its files copied: {format_size(size)}"
    if size == part.size:
        return ""
    return f", made {'larger' if size > part.size else 'smaller'}: {format_size(size)}"


_ADAPT_NOT_PROVEN: Final = Notice(
    code="adapt-not-proven",
    message="no real Windows was started after it was adapted: its registry is changed as is known from others",
    hint="Keep the image, or the old disk, with the registry as it was. If it does not start, try its start-up repair.",
)


def _adapting_words(options: RestoreOptions) -> str:
    """What is done so that a Windows starts in another computer."""
    named = ", ".join(one.name for one in options.hardware.controllers)
    words = "make the disk drivers of Windows start with it, where there is one, for " + (
        f"the disk controller {named}" if named else "any computer"
    )
    packages = ", ".join(one.name for one in options.hardware.packages)
    return f"{words}, with a driver from {packages}" if packages else words


def _missing_notices(chosen: Sequence[StoredPartition]) -> Iterator[Notice]:
    """What the image does not hold."""
    gone = [str(found.number) for found in chosen if found.is_left_out]
    if gone:
        yield Notice(
            code="partition-not-kept", message=f"not in this image: partition {', '.join(gone)}, left out as a whole",
            hint="'stillframe show' tells why; an image of the whole disk has it.",
        )  # fmt: skip
    left_out = [f"{file.path} ({format_size(file.size)})" for found in chosen for file in found.left_out]
    if left_out:
        yield Notice(
            code="left-out", message=f"come back empty, because their contents are left out: {', '.join(left_out[:6])}"
        )


def restore_notices(plan: RestorePlan) -> Iterator[Notice]:
    """What a person should know before he says yes."""
    manifest, disk, part, place = plan.manifest, plan.source_disk, plan.partition, plan.place
    chosen = disk.partitions if part is None else (part,)
    if manifest.is_torn:
        yield Notice(
            code="image-torn", message="the source changed while this image was made: it may be unusable",
            hint="Choose another image if there is one.",
        )  # fmt: skip
    ranges = [*(disk.unreadable if part is None else ()), *(pair for found in chosen for pair in found.unreadable)]
    lost = sum(end - start for start, end in ranges)
    if lost:
        yield Notice(
            code="unreadable", message=f"{format_size(lost)} could not be read from the source and come back as zeros",
            hint="'stillframe show' lists the ranges.",
        )  # fmt: skip
    if plan.target is None and plan.options.fit and plan.conversion is None:
        yield Notice(
            code="fit-new-file",
            message=f"{plan.target_path} does not exist and is made as large as the source: '--fit' has nothing to do",
            hint=f"Make it first in the size that you want, such as: truncate --size=100G {plan.target_path}",
        )
    if plan.beside is not None or plan.conversion is not None:
        yield from _other_notices(plan)
    elif part is None and _renames_linux(plan) and not is_root():
        yield _PARTUUIDS_CHANGED
    if plan.options.adapt and any(one.filesystem == "ntfs" for one in chosen):
        yield _ADAPT_NOT_PROVEN
    yield from _missing_notices(chosen)
    if part is not None and part.start != place.start and part.filesystem == "ntfs":
        yield Notice(
            code="boot-sector-moved",
            message="this Windows volume goes to another place than it came from: its data is right, but if Windows "
            "starts from it, its boot data must be repaired",
            hint="Start Windows' own repair, or restore the whole disk.",
        )


def _holds_linux(plan: RestorePlan) -> bool:
    found = plan.source_disk.partitions
    return plan.source_disk.scheme != "none" and any(one.filesystem in _LINUX and not one.is_left_out for one in found)


def _renames_linux(plan: RestorePlan) -> bool:
    return plan.options.new_identity and _holds_linux(plan)


def _linux_steps(plan: RestorePlan) -> Iterator[str]:
    """What is done to a Linux after its bytes are there; where there is none, nothing of it is."""
    if _renames_linux(plan) and is_root():
        yield (
            "give file systems of Linux, and FAT and swap beside them, new UUIDs, and write all new ids where a Linux "
            "on it notes them: fstab, boot menus, boot loaders, initramfs"
        )
    if plan.options.adapt and _holds_linux(plan):
        yield (
            "make the Linux on it ready for another computer: its initramfs anew with all drivers, network settings "
            "for any wired card, names such as /dev/sda1 in fstab by UUID"
        )


def _other_notices(plan: RestorePlan) -> Iterator[Notice]:
    if plan.beside is not None:
        yield from plan.beside.notices
    if plan.conversion is not None:
        yield from conversion_notices(plan.conversion)


def _left_out_steps(plan: RestorePlan) -> Iterator[str]:
    """What becomes of the places of partitions that are left out on request."""
    written = ExtentSet.from_extents(plan.place_of(found) for found in plan.source_disk.partitions)
    for gone in plan.left_out:
        place = Extent(gone.start, gone.start + gone.size)
        is_lost = plan.options.wipe or written.clipped(place)
        then = "is lost" if is_lost else "stays, and no table names it"
        yield f"leave out partition {gone.number}, {part_words(gone)}: what lies in its place on the target {then}"


def restore_steps(plan: RestorePlan) -> Iterator[str]:
    """What will be done, a line for each step."""
    part = plan.partition
    if plan.target is None:
        yield f"make {plan.target_path}, a sparse file of {format_size(plan.target_size)}"
    if part is not None:
        yield (
            f"write partition {part.number} ({part.filesystem or part.type_name or 'unknown'}"
            f"{', ' + repr(part.label) if part.label else ''}, {format_size(part.bytes_used)} in use"
            f"{_size_words(plan, part)}) to bytes {plan.place.start} to {plan.place.end}"
        )
        return
    yield "clear the partition table that is there, so that a half-done disk is never taken for a whole one"
    places = {place.partition.number: place for place in plan.left_places}
    for found in plan.source_disk.partitions:
        if found.number in places:
            yield places[found.number].step
            continue
        yield (
            f"write partition {found.number}: {part_words(found)}, {format_size(found.bytes_used)} of "
            f"{format_size(found.size)}{_size_words(plan, found)}"
            f"{', moved' if plan.place_of(found).start != found.start else ''}"
            f"{renumbered_words(plan.conversion, found)}"
        )
    yield from _left_out_steps(plan)
    if plan.conversion is not None:
        yield from conversion_steps(plan.conversion)
        types = [one.type for one in plan.conversion.layout.partitions]
    else:
        yield from _table_steps(plan)
        types = [one.type for one in plan.source_disk.partitions]
    if plan.starts_by_uefi:
        yield from told_steps(plan.target, types, is_copy=plan.options.new_identity)


def _table_steps(plan: RestorePlan) -> Iterator[str]:
    """What comes after the partitions."""
    is_moved = any(plan.place_of(found).start != found.start for found in plan.source_disk.partitions)
    if (is_moved or plan.options.new_identity) and any(one.filesystem == "ntfs" for one in plan.source_disk.partitions):
        yield "change what Windows notes of its partitions, where there is one"
    if plan.options.adapt and any(one.filesystem == "ntfs" for one in plan.source_disk.partitions):
        yield _adapting_words(plan.options)
    yield "write boot code and what lies between partitions"
    yield from _linux_steps(plan)
    if plan.source_disk.scheme == "gpt" and plan.target_size != plan.source_disk.size:
        yield "write the partition table, its second copy at the end of the target"
    elif plan.source_disk.scheme != "none":
        yield "write the partition table"


def beside_steps(plan: RestorePlan, beside: Beside) -> Iterator[str]:
    """What will be done where partitions are added to those of the target, a line for each step."""
    there = ", ".join(str(part.number) for part in beside.layout.partitions)
    if there:
        yield f"leave partition {there} of the target, as it is"
    for part, added in zip(plan.source_disk.partitions, beside.added, strict=True):
        yield (
            f"write partition {part.number} of the image: {part_words(part)}, {format_size(part.bytes_used)} of "
            f"{format_size(part.size)}{_size_words(plan, part)}, to bytes {added.extent.start} to "
            f"{added.extent.end}, which are in no partition"
        )
    new = ", ".join(f"{added.number}" for added in beside.added)
    yield f"write the partition table, with what is in it and the new partition {new}"
