"""What happens to a disk that is to start in another way, in words.

Answers: "what is new on the target, what is left out, and what starts it?" Pure: lines out.
"""

from collections.abc import Iterator
from typing import Final

from stillframe.disk.other_scheme import RESERVED_GUID
from stillframe.events import Notice
from stillframe.jobs.conversions.conversion import Conversion, LinuxOnDisk, WindowsOnDisk
from stillframe.jobs.restoring.plan import Reason
from stillframe.repo.records import StoredPartition
from stillframe.units import format_size

NOT_PROVEN: Final = Notice(
    code="convert-not-proven",
    message="that a Windows starts by UEFI after this was never proven on a real Windows: it is experimental",
    hint="Keep the old disk as it is, and the image, until this one has started.",
)
_WINDOWS_8: Final = (6, 2, 0)
_OLD_FIRMWARE: Final = Notice(
    code="windows-7-firmware",
    message="Windows 7 starts by UEFI only with Secure Boot switched off, and where the firmware has a compatibility "
    "module (CSM) for its graphics",
    hint="Look into the firmware of the computer first: most of today's have no CSM.",
)


def renumbered_words(conversion: Conversion | None, part: StoredPartition) -> str:
    """What a partition is called afterwards; empty when that is as before."""
    number = conversion.draft.numbers[part.number] if conversion else part.number
    return "" if number == part.number else f", as partition {number}"


def conversion_steps(conversion: Conversion) -> Iterator[str]:
    """What will be done beside writing partitions, a line for each step."""
    draft = conversion.draft
    for number in draft.dropped:
        yield f"leave out partition {number}: nothing but the old way to start needs it"
    for part in conversion.added:
        yield f"make partition {part.number}, new: {part.name}, {format_size(part.extent.size)}"
    if isinstance(conversion.system, WindowsOnDisk):
        yield from _windows_steps(conversion, conversion.system)
    else:
        yield from _linux_steps(conversion, conversion.system)
    yield f"write a new partition table: {conversion.layout.scheme.upper()}"


def _windows_steps(conversion: Conversion, windows: WindowsOnDisk) -> Iterator[str]:
    number, esp = conversion.draft.numbers[windows.number], conversion.added[0].number
    yield (
        f"make {windows.name} start by UEFI, which is experimental: boot files out of its own folder in partition "
        f"{number}, and a new boot configuration, both in partition {esp}"
    )
    yield "change the records of drive letters in the registry of that Windows to the new ids of its partitions"


def _linux_steps(conversion: Conversion, linux: LinuxOnDisk) -> Iterator[str]:
    menu = conversion.draft.numbers[linux.boot]
    if conversion.starts_by == "uefi":
        whose = "its own signed GRUB" if linux.loader == "signed" else "a GRUB made here"
        yield f"make {linux.name} start by UEFI: {whose}, which goes on with the boot menu in partition {menu}"
    else:
        yield f"make {linux.name} start by BIOS: GRUB, which goes on with the boot menu in partition {menu}"
    yield "change the tables and the boot menu of that Linux where they name partitions in the old way"


def conversion_notices(conversion: Conversion) -> Iterator[Notice]:
    """What a person should know before he says yes."""
    yield from (Notice(code="converted", message=words) for words in conversion.draft.notes)
    if isinstance(conversion.system, WindowsOnDisk):
        yield NOT_PROVEN
        if conversion.system.version < _WINDOWS_8:
            yield _OLD_FIRMWARE


def conversion_reasons(conversion: Conversion) -> Iterator[Reason]:
    """Why the disk is to be so."""
    draft = conversion.draft
    for number in draft.dropped:
        yield Reason(partition=number, text="It is left out: nothing but the old way to start needs it.")
    for part in conversion.added:
        if part.type == RESERVED_GUID:
            why = "Windows wants one on each GPT disk; nothing is in it."
        elif conversion.starts_by == "uefi":
            why = "UEFI starts a loader from such a partition, and there was none."
        else:
            why = "A BIOS finds GRUB there: a GPT leaves no room for it behind the first sector."
        yield Reason(partition=part.number, text=f"It is new. {why}")
    yield from (Reason(partition=None, text=f"{words[0].upper()}{words[1:]}.") for words in draft.notes)
    if isinstance(conversion.system, WindowsOnDisk):
        yield Reason(
            partition=None,
            text=f"The Windows on partition {conversion.system.number} is made to start by UEFI with the boot files in "
            "its own folder, as Windows' own tools do it. That was never proven on a real one.",
        )
        return
    yield Reason(
        partition=None,
        text="What a Linux on it notes of ids and numbers that change is changed: its tables, and its boot menu.",
    )


def conversion_changes(conversion: Conversion, scheme: str) -> Iterator[str]:
    """What is different on a converted disk, before its system is made to start; ``scheme`` is that of the source."""
    layout = conversion.layout
    if layout.scheme != scheme:
        words = {"gpt": "a GPT", "mbr": "an MBR"}
        yield f"the partition table is {words[layout.scheme]} now, and was {words[scheme]}; its id is {layout.disk_id}"
    yield from (f"partition {number} was left out" for number in conversion.draft.dropped)
    yield from conversion.draft.notes
