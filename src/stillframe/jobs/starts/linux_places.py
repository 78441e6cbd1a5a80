"""What a Linux notes by the place of blocks, after its file system was resized or moved: put right, or said.

Answers: "does its boot loader still find itself?" extlinux is installed anew by its own program; for the rest there is
a notice. Looked at on ext2/3/4, the one file system that is resized block by block here and started by such loaders.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from stillframe.block.window import WindowReader
from stillframe.errors import DeviceError, MachineRefusal, StillframeError
from stillframe.events import Notice
from stillframe.extents import Extent
from stillframe.fs.ext import EXT_NAMES
from stillframe.fs.files.lookup import open_lookup
from stillframe.host.apart import call_apart
from stillframe.host.root_files import RootFiles
from stillframe.host.run import run
from stillframe.jobs.inside.replayed import replayed_view
from stillframe.jobs.starts.linux_parts import DiskPart
from stillframe.jobs.starts.start_failures import NOT_REPAIRED
from stillframe.jobs.starts.workbench import Workbench, work_on
from stillframe.systems.grub_image import has_grub
from stillframe.systems.linux_places import PlaceNotes, find_place_notes

if TYPE_CHECKING:
    from stillframe.jobs.context import JobContext
    from stillframe.jobs.starts.making_ready import WrittenDisk

_TIMEOUT_S: Final = 300.0
_HINT: Final = "Start it from its own medium and install its boot loader anew."


def repair_places(disk: "WrittenDisk", parts: Sequence[DiskPart], context: "JobContext") -> tuple[str, ...]:
    """Put right what counts blocks; what was done, in words. What cannot be is a notice."""
    old = {part.number: part.extent for part in disk.before.partitions}
    changed = [
        part
        for part in parts
        if part.volume.filesystem in EXT_NAMES
        and part.partition is not None
        and (part.number in disk.resized or part.partition.extent != old.get(part.number))
    ]
    found = [(part, _look(disk, part)) for part in changed]
    for part, notes in found:
        for notice in _notices(disk, part, notes):
            context.events.emit(notice)
    wanted = [(part, folder) for part, notes in found for folder in notes.extlinux]
    if not wanted:
        return ()

    def work(bench: Workbench) -> tuple[str, ...]:
        return tuple(_install_extlinux(bench, part, folder) for part, folder in wanted)

    try:
        return work_on(disk.target, disk.table, disk.after, context.events, work)
    except (MachineRefusal, DeviceError) as error:
        message = f"the Linux on it may not start, extlinux was not installed anew: {error.message}"
        context.events.emit(Notice(code=NOT_REPAIRED, message=message, hint=error.hint))
        return ()


def _place(part: DiskPart) -> Extent:
    assert part.partition is not None, "only partitions are looked at"
    return part.partition.extent


def _look(disk: "WrittenDisk", part: DiskPart) -> PlaceNotes:
    reader = WindowReader(disk.target, _place(part))

    def look() -> PlaceNotes:
        view, _ = replayed_view(reader, part.volume)
        files = open_lookup(view, part.volume)
        return find_place_notes(files) if files is not None else PlaceNotes()

    try:
        return call_apart(look, what=f"looking for boot loaders on partition {part.number}", timeout_s=_TIMEOUT_S)
    except StillframeError:  # a volume whose files are not read is as it was, and says so elsewhere
        return PlaceNotes()


def _notices(disk: "WrittenDisk", part: DiskPart, notes: PlaceNotes) -> Iterator[Notice]:
    place = f"partition {part.number}"
    if notes.lilo:
        yield Notice(code=NOT_REPAIRED, message=f"LILO on {place} counts blocks that lie elsewhere now", hint=_HINT)
    if has_grub(disk.target.read_at(_place(part).start, 512)):
        yield Notice(
            code=NOT_REPAIRED, message=f"a GRUB in the boot sector of {place} counts blocks that lie elsewhere now",
            hint=_HINT,
        )  # fmt: skip
    if notes.offsets and part.number in disk.resized:
        yield Notice(
            code="hibernation-place",
            message=f"{', '.join(notes.offsets)} on {place} says where a swap file begins (resume_offset=), and that "
            "may be elsewhere now: hibernation does not come back, everything else does",
            hint="In that Linux, 'filefrag -v' of the swap file says where it begins.",
        )


def _install_extlinux(bench: Workbench, part: DiskPart, folder: str) -> str:
    place = bench.mount(part.number, part.volume.filesystem)
    run(["extlinux", "--install", RootFiles(place).place(folder)]).require_success(
        hint="On Debian or Ubuntu: sudo apt install extlinux"
    )
    return f"extlinux in {folder} of partition {part.number} was installed anew, as its blocks lie elsewhere now"
