"""A restored disk is made ready to start, when it lies elsewhere, is another one, or goes into another computer.

Answers: "what must be changed in the systems on this target so that they start?" The partitions have been written, the
table has not: a run that ends here leaves no disk that starts. Each kind of system has a module of its own; this one
says in which order they come.
"""

from dataclasses import dataclass, field
from typing import Final

from stillframe.block import BlockWriter, WindowReader
from stillframe.disk import Layout
from stillframe.errors import MachineRefusal
from stillframe.events import Notice
from stillframe.fs.registry import identify
from stillframe.jobs.context import JobContext
from stillframe.jobs.conversions.conversion import Conversion, WindowsOnDisk
from stillframe.jobs.conversions.grub_starts import start_converted
from stillframe.jobs.conversions.windows_starts_uefi import start_windows_by_uefi
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.starts.linux_starts import repair_linux
from stillframe.jobs.starts.start_failures import NOT_ADAPTED
from stillframe.jobs.starts.windows_adapting import WindowsHardware, adapt_windows
from stillframe.jobs.starts.windows_starts import repair_windows
from stillframe.jobs.starts.workbench import Workbench, work_on

_HOLDS_WINDOWS: Final = frozenset({"ntfs", "vfat"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenDisk:
    """A target between its partitions and its table.

    Attributes:
        target: The disk.
        table: What will be its table.
        before: The layout of the source.
        after: That of the target.
        written: Numbers of partitions that came from the image; others are not looked into.
        resized: Of those, whose file systems were resized.
    """

    target: BlockWriter
    table: TableWriter
    before: Layout
    after: Layout
    written: tuple[int, ...]
    resized: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWishes:
    """What the systems have to get along with.

    Attributes:
        new_identity: The disk and its partitions have new ids.
        adapt: The disk goes into another computer.
        hardware: What a Windows finds there.
        conversion: The disk is to start in another way.
    """

    new_identity: bool = False
    adapt: bool = False
    hardware: WindowsHardware = field(default_factory=WindowsHardware)
    conversion: Conversion | None = None


def make_ready(disk: WrittenDisk, wishes: StartWishes, context: JobContext) -> tuple[str, ...]:
    """Change what the systems on a disk need changed; what was done, in sentences. What cannot be done is a notice.

    Raises:
        MachineRefusal, DiskFormatError: The disk was to start in another way, and that could not be done: it would
            not start at all.
    """
    if disk.before.scheme == "none":
        return ()
    if wishes.conversion is not None and isinstance(wishes.conversion.system, WindowsOnDisk):
        return start_windows_by_uefi(
            disk.target, disk.table, disk.before, wishes.conversion, context, resized=disk.resized
        )
    if wishes.conversion is not None:
        return start_converted(disk.target, disk.table, disk.before, wishes.conversion, context)
    adapted = _adapt(disk, wishes, context) if wishes.adapt else ()
    done = repair_windows(
        disk.target, disk.before, disk.after, context, written=disk.written, resized=disk.resized
    )  # fmt: skip
    return (*adapted, *done, *repair_linux(disk, wishes, context))


def _adapt(disk: WrittenDisk, wishes: StartWishes, context: JobContext) -> tuple[str, ...]:
    """Make a Windows start in another computer; before its notes of partitions are repaired, which finds it so."""
    parts = [part for part in disk.after.partitions if part.number in disk.written]
    if not any(identify(WindowReader(disk.target, part.extent)).volume.filesystem in _HOLDS_WINDOWS for part in parts):
        return ()

    def work(bench: Workbench) -> tuple[str, ...]:
        return adapt_windows(
            bench, wishes.hardware, context.events, written=disk.written, resized=disk.resized
        )  # fmt: skip

    try:
        return work_on(disk.target, disk.table, disk.after, context.events, work)
    except MachineRefusal as error:
        message = f"nothing was adapted for another computer: {error.message}"
        context.events.emit(Notice(code=NOT_ADAPTED, message=message, hint=error.hint))
        return ()
