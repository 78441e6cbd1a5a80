"""The one Windows of a stored disk that UEFI could start, or the reason why it is not made to.

Answers: "is there a Windows on this disk, and would all that it needs to start by UEFI be there?" Looks at the image:
what would be refused on the target is refused before the target is touched.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from stillframe.errors import Cancelled, MachineRefusal, StillframeError
from stillframe.fs.ext import EXT_NAMES
from stillframe.fs.files.lookup import FileLookup, open_lookup
from stillframe.fs.ntfs import explain_unclean, is_hibernated
from stillframe.fs.registry import identify
from stillframe.host.apart import call_apart
from stillframe.host.new_fat import PROGRAMS
from stillframe.host.run import find_program
from stillframe.jobs.conversions.conversion import ConvertWish, WindowsOnDisk
from stillframe.jobs.conversions.windows_uefi import measure_windows_uefi
from stillframe.jobs.exposing import ExposedDisk, ExposedPartition
from stillframe.jobs.inside.catalogue import find_traces
from stillframe.repo.records import StoredDisk
from stillframe.systems.windows import SHUT_DOWN, find_windows_folder

_NTFS, _BITLOCKER = "ntfs", "BitLocker"
_LINUX: Final = EXT_NAMES | {"xfs", "btrfs", "swap", "LVM2_member", "crypto_LUKS", "linux_raid_member"}
_LOOK_S: Final = 300.0
_WITHOUT: Final = "Leave '--convert' out."
_DECRYPT: Final = "Switch BitLocker off in that Windows ('manage-bde -off C:'), and begin again with its disk."
_HOW: Final = (
    "'--convert uefi --experimental' does it all the same: keep the old disk as it is. Windows' own 'mbr2gpt' converts "
    "it on a computer that it starts on."
)


def find_windows(disk: ExposedDisk) -> tuple[ExposedPartition, ...]:
    """The partitions of a disk with a Windows on them, and those of BitLocker, which may hold one.

    Raises:
        MachineRefusal: One cannot be looked at.
    """
    parts = [part for part in disk.partitions if not part.stored.is_left_out]
    return tuple(
        part
        for part in parts
        if part.stored.filesystem == _BITLOCKER or (part.stored.filesystem == _NTFS and _is_windows(part))
    )


def choose_windows(
    disk: ExposedDisk, places: Sequence[ExposedPartition], others: Iterable[StoredDisk], wish: ConvertWish
) -> WindowsOnDisk:
    """The Windows of a disk that is to start by UEFI.

    Args:
        disk: In the image.
        places: By ``find_windows``, at least one.
        others: The other disks of the image.
        wish: What was asked for.

    Raises:
        MachineRefusal: It is not made to start so, and why.
    """
    where = f"there is a Windows on partition {places[0].stored.number}"
    locked = [part.stored.number for part in places if part.stored.filesystem == _BITLOCKER]
    if locked:
        raise MachineRefusal(
            f"partition {locked[0]} is encrypted by BitLocker: what is in it cannot be made to start", hint=_DECRYPT
        )
    if wish.starts_by != "uefi":
        raise MachineRefusal(
            f"{where}, which would not start afterwards: a Windows is not converted to start by BIOS",
            hint=_WITHOUT,
        )
    if not wish.is_experimental:
        raise MachineRefusal(
            f"{where}: that a Windows starts by UEFI afterwards was never proven on a real one, so it is only done on "
            "request",
            hint=_HOW,
        )
    reason = next(iter(_doubts(disk, places, others)), None)
    if reason is not None:
        raise MachineRefusal(f"the Windows on this disk is not made to start by UEFI: {reason}", hint=_WITHOUT)
    for program in (*PROGRAMS, "ntfs-3g"):
        find_program(program)
    return _look_into(disk, places[0])


def _doubts(
    disk: ExposedDisk, places: Sequence[ExposedPartition], others: Iterable[StoredDisk]
) -> Iterable[str]:  # fmt: skip
    """Why a disk as a whole is not certain."""
    if disk.stored.scheme != "mbr":
        yield "the disk has a GPT, which no BIOS starts a Windows from: it lacks what it was started from"
    if len(places) > 1:
        numbers = ", ".join(str(part.stored.number) for part in places)
        yield f"there are several (partitions {numbers}), and nobody can tell which is to start the others"
    for part in disk.partitions:
        if part.stored.filesystem in _LINUX:
            yield (
                f"partition {part.stored.number} is of a Linux ({part.stored.filesystem}), and what starts both is not "
                "converted"
            )
    for other in others:
        for stored in other.partitions:
            if stored.filesystem == _BITLOCKER or (stored.installed and stored.installed.family == "windows"):
                yield f"another Windows may be on disk {other.number} of this image, and its start is not followed"


def _is_windows(part: ExposedPartition) -> bool:
    if part.stored.installed is not None:
        return part.stored.installed.family == "windows"

    def look() -> bool:
        traces = find_traces(part.reader, identify(part.reader).volume)
        return traces is not None and traces.windows is not None

    return call_apart(look, what=f"looking for a Windows on partition {part.stored.number}", timeout_s=_LOOK_S)


def _look_into(disk: ExposedDisk, part: ExposedPartition) -> WindowsOnDisk:
    """In a process of its own, whose answer is the Windows, or why not and what to do."""
    found = call_apart(
        lambda: _read(disk, part), what=f"looking at the Windows on partition {part.stored.number}", timeout_s=_LOOK_S
    )
    if isinstance(found, WindowsOnDisk):
        return found
    raise MachineRefusal(found[0], hint=found[1])


def _read(disk: ExposedDisk, part: ExposedPartition) -> WindowsOnDisk | tuple[str, str]:
    name = f"partition {part.stored.number}"
    try:
        asleep = [one.stored.number for one in disk.partitions if _is_asleep(one)]
        if asleep:
            return (
                f"partition {asleep[0]}: a Windows is hibernated in it, or was shut down with fast startup",
                SHUT_DOWN,
            )
        doubt = explain_unclean(part.reader)
        if doubt is not None:
            return f"{name}: the volume of Windows was not closed ({doubt.message})", SHUT_DOWN
        files = open_lookup(part.reader, identify(part.reader).volume)
        if files is None:
            return f"{name}: the files of Windows cannot be read", _WITHOUT
        kind, used = measure_windows_uefi(_Sized(files), find_windows_folder(files).strip("/"))
    except Cancelled:
        raise
    except StillframeError as error:
        return f"{name}: {error.message}", error.hint
    words = part.stored.installed.name if part.stored.installed else "Windows"
    return WindowsOnDisk(name=words, number=part.stored.number, version=kind.version, esp_used=used)


def _is_asleep(part: ExposedPartition) -> bool:
    return part.stored.filesystem == _NTFS and not part.stored.is_left_out and is_hibernated(part.reader)


class _Sized:
    """The files of a volume of an image, with their sizes."""

    def __init__(self, files: FileLookup) -> None:
        self._files = files

    def list_names(self, path: str) -> tuple[str, ...]:
        """As ``FileLookup``."""
        return self._files.list_names(path)

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        """As ``FileLookup``."""
        return self._files.read_file(path, offset, size)

    def file_size(self, path: str) -> int | None:
        """Bytes of a regular file; ``None`` when there is no such file."""
        entry = self._files.find(path)
        return entry.size if entry is not None and entry.is_file else None
