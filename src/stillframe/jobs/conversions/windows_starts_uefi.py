"""A Windows on a target whose MBR became a GPT: what it needs to start by UEFI is put there. Experimental.

Answers: "what must be written so that UEFI finds this Windows?" Boot sectors follow their partitions on the target, as
after any move; the rest is done on the workbench, all of it or nothing.
"""

from collections.abc import Iterator
from typing import Final

from stillframe.block import BlockWriter, WindowReader
from stillframe.block.edits import build_sectors, order_edits
from stillframe.disk import Layout, Partition
from stillframe.disk.other_scheme import ESP_GUID
from stillframe.errors import Cancelled, StillframeError
from stillframe.events import EventSink, Notice, PhaseStarted
from stillframe.fs.boot_moved import move_boot_sectors
from stillframe.fs.ntfs import explain_unclean
from stillframe.fs.registry import identify
from stillframe.host.new_fat import make_fat
from stillframe.jobs.context import JobContext
from stillframe.jobs.conversions.conversion import Conversion, WindowsOnDisk
from stillframe.jobs.conversions.windows_uefi import prepare_windows_uefi
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.starts.workbench import Workbench, work_on
from stillframe.systems.windows_disks import PartitionRecord

_LABEL: Final = "SYSTEM"
"""As Windows' own setup names it: Microsoft, "UEFI/GPT-based hard drive partitions"."""
_MARKED: Final = "ntfs-dirty"


def start_windows_by_uefi(
    target: BlockWriter, table: TableWriter, before: Layout, conversion: Conversion, context: JobContext, *,
    resized: frozenset[int],
) -> tuple[str, ...]:  # fmt: skip
    """Make a converted disk with a Windows start by UEFI; what was done, in sentences.

    Args:
        target: The disk, its partitions written.
        table: What will be its table.
        before: The layout of the source.
        conversion: What was decided, about a Windows.
        context: Who asks.
        resized: Numbers in the image of partitions whose file systems were resized.

    Raises:
        MachineRefusal, DiskFormatError, DeviceError: It was not possible: the disk would not start.
        TypeError: It is about a Linux: a bug of the caller.
    """
    windows, numbers = conversion.system, conversion.draft.numbers
    if not isinstance(windows, WindowsOnDisk):
        raise TypeError(f"{windows.name} is no Windows")
    context.events.emit(PhaseStarted(name=f"making {windows.name} start by UEFI"))
    esp = next(part.number for part in conversion.added if part.type == ESP_GUID)
    notices = list[Notice]()

    def work(bench: Workbench) -> tuple[str, ...]:
        make_fat(bench.disk.node(esp), label=_LABEL, volume_id=conversion.esp_id)
        done, known = prepare_windows_uefi(
            bench, numbers[windows.number], esp, renamed=_renamed(before, conversion),
            resized=frozenset(numbers[number] for number in resized if number in numbers),
        )  # fmt: skip
        notices.extend(known)
        return (f"partition {esp} is a new EFI system partition", *done)

    moved = tuple(_move_boot_sectors(target, before, conversion, context.events, resized))
    done = work_on(target, table, conversion.layout, context.events, work)
    for notice in notices:
        context.events.emit(notice)
    return (*moved, *done)


def _renamed(before: Layout, conversion: Conversion) -> dict[PartitionRecord, PartitionRecord]:
    """What records of drive letters called the partitions of the MBR, and call them in the GPT."""
    return {
        PartitionRecord(scheme="mbr", disk=before.disk_id, start=old.extent.start): PartitionRecord(
            scheme="gpt", disk="", guid=new.guid
        )
        for old, new in _pairs(before, conversion)
    }


def _pairs(before: Layout, conversion: Conversion) -> Iterator[tuple[Partition, Partition]]:
    """The partitions that were taken over, before and after."""
    after = {part.number: part for part in conversion.layout.partitions}
    for part in before.partitions:
        number = conversion.draft.numbers.get(part.number)
        if number is not None:
            yield part, after[number]


def _move_boot_sectors(
    target: BlockWriter, before: Layout, conversion: Conversion, events: EventSink, resized: frozenset[int]
) -> Iterator[str]:
    """The numbers in boot sectors that say where their partition begins; the rules are those of ``windows_repair``."""
    for old, new in _pairs(before, conversion):
        if old.extent.start == new.extent.start:
            continue
        window, start = WindowReader(target, new.extent), new.extent.start
        try:
            filesystem = identify(window).volume.filesystem
            doubt = explain_unclean(window) if filesystem == "ntfs" else None
            if doubt is not None and not (doubt.code == _MARKED and old.number in resized):
                events.emit(_not_moved(new.number, doubt.message))
                continue
            found = move_boot_sectors(window, filesystem, old_start=old.extent.start, new_start=start)
        except Cancelled:
            raise
        except StillframeError as error:
            events.emit(_not_moved(new.number, error.message))
            continue
        for notice in () if old.logical else found.notices:
            events.emit(notice)
        edits = order_edits(found.edits, what=f"partition {new.number}")
        for offset, data in build_sectors(window, edits, sector_size=before.sector_size):
            target.write_at(start + offset, data)
        if edits:
            place = f"byte {start}, not {old.extent.start}"
            yield f"partition {new.number}: its boot sectors say where it begins now: {place}"


def _not_moved(number: int, why: str) -> Notice:
    message = f"partition {number}: its boot sectors still say where it began before ({why})"
    return Notice(code="windows-not-repaired", message=message, hint="Run chkdsk on it in Windows.")
