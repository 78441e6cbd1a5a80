"""A disk that was just restored, as a device that programs may change, before any of it is true.

Answers: "let the tools of the restored system work on the disk as it will be." They work on a copy-on-write view of the
target: the partitions that were written, with the table that is written last already in its place. No tool sees the
target. When all of them have done their work, what they changed is written to it; when one fails, nothing is, and the
target is what it would have been without them.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockWriter
from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.disk import Layout
from stillframe.errors import DeviceError
from stillframe.events import EventSink
from stillframe.extents import Extent
from stillframe.host.attaching import Keeper
from stillframe.host.plugging import PluggedDisk, mount_changeable, plug
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.serve.folder import DiskFile, Reported, serve_hidden

_STEP: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The disk as it will be.

    Attributes:
        view: Its bytes; what is written here goes to the target at the end.
        layout: Its partitions.
        file: It, as a file.
        disk: It, and its partitions, as devices.
        folder: A hidden folder of ours, for mounts and files that are gone afterwards.
        keeper: Undoes mounts.
    """

    view: CopyOnWrite
    layout: Layout
    file: str
    disk: PluggedDisk
    folder: str
    keeper: Keeper

    def mount(self, number: int, filesystem: str, options: str = "rw") -> str:
        """Mount a partition in a folder of its own; the folder.

        Raises:
            MachineRefusal: It cannot be mounted here.
        """
        place = self.keeper.make_folder(f"{self.folder}/partition{number}")
        mount_changeable(self.keeper, self.disk.node(number), filesystem, place, options)
        return place


def work_on(
    target: BlockWriter, table: TableWriter, layout: Layout, events: EventSink,
    work: Callable[[Workbench], tuple[str, ...]],
) -> tuple[str, ...]:  # fmt: skip
    """Let work be done on the disk as it will be, and write what it changed. Call it with one thread.

    Args:
        target: The disk; its partitions are written, its table is not.
        table: What will be its table; afterwards, with what was changed in its sectors.
        layout: What the table says.
        events: Is told of reads that fail.
        work: What is done; its answer says what was changed.

    Returns:
        The answer.

    Raises:
        MachineRefusal: There is no such device here, or the work was not possible; then nothing was changed.
        DeviceError: The target could not be read meanwhile; then nothing was changed.
    """
    target.flush()
    with open_scratch(tempfile.gettempdir(), target.size) as changes:
        view = CopyOnWrite(target, changes)
        table.lay(view)
        with _plugged(view, layout, events) as bench:
            done = work(bench)
        table.take(view)
        for extent in view.changed.clipped(Extent(0, target.size)) - table.held:  # blocks may reach beyond its end
            _copy(view, extent, target)
    return done


@contextmanager
def _plugged(view: CopyOnWrite, layout: Layout, events: EventSink) -> Iterator[Workbench]:
    shown, reported = DiskFile(name="disk", reader=view, writer=view), Reported(events)
    with Keeper() as keeper, serve_hidden([shown], keeper, reported, name="stillframe-workbench") as hidden:
        file = f"{hidden}/disks/{shown.name}"
        places = {part.number: part.extent for part in layout.partitions}
        disk = plug(keeper, file, places, sector_size=layout.sector_size)
        yield Workbench(view=view, layout=layout, file=file, disk=disk, folder=hidden, keeper=keeper)
    if reported.count:
        raise DeviceError(
            "the target could not be read back while it was made ready to start",
            hint="Check its cable and its health; what was copied is on it, the repair is not.",
        )


def _copy(view: CopyOnWrite, extent: Extent, target: BlockWriter) -> None:
    for start in range(extent.start, extent.end, _STEP):
        size = min(_STEP, extent.end - start)
        target.write_at(start, view.read_at(start, size))
