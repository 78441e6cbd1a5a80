"""A disk that was just restored, as a device that programs may change, before any of it is true.

Answers: "let the tools of the restored system work on the disk as it will be." They work on a copy-on-write view of the
target: the partitions that were written, with the table that is written last already in its place. No tool sees the
target. When all of them have done their work, what they changed is written to it; when one fails, nothing is, and the
target is what it would have been without them.

Volumes inside of partitions (``volume_stack``) are files of their own, over the same view. The kernel is never told of
partitions in which LVM or RAID lies: a machine that starts such things by itself would start them.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from stillframe.block import BlockWriter, WindowReader
from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.disk import Layout
from stillframe.errors import DeviceError
from stillframe.events import EventSink
from stillframe.extents import Extent
from stillframe.fs.registry import identify
from stillframe.host.attaching import Keeper
from stillframe.host.plugging import PluggedDisk, forget_cached, mount_changeable, plug, plug_volume
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.starts.volume_stack import LVM, RAID, VolumeStack
from stillframe.serve.folder import DiskFile, Reported, serve_hidden

_STEP: Final = 4 << 20

Look = Callable[[CopyOnWrite], VolumeStack]
"""Opens what lies inside of the partitions of a view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The disk as it will be.

    Attributes:
        view: Its bytes; what is written here goes to the target at the end.
        layout: Its partitions.
        file: It, as a file.
        disk: It, and its partitions, as devices.
        stack: What lies inside of its partitions; empty when nobody asked for it.
        inner: The devices of volumes inside, by their keys.
        folder: A hidden folder of ours, for mounts and files that are gone afterwards.
        keeper: Undoes mounts.
    """

    view: CopyOnWrite
    layout: Layout
    file: str
    disk: PluggedDisk
    folder: str
    keeper: Keeper
    stack: VolumeStack = field(default_factory=VolumeStack)
    inner: Mapping[str, str] = field(default_factory=dict)

    def node(self, key: str) -> str:
        """The device of a volume, by its key."""
        return self.inner.get(key) or self.disk.node(int(key.removeprefix("partition")))

    def forget_cached(self) -> None:
        """Let the kernel read the disk and its partitions anew: the view was changed below it."""
        forget_cached([self.disk.device, *map(self.disk.node, self.disk.numbers), *self.inner.values()])

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
    work: Callable[[Workbench], tuple[str, ...]], *, look: Look | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Let work be done on the disk as it will be, and write what it changed. Call it with one thread.

    Args:
        target: The disk; its partitions are written, its table is not.
        table: What will be its table; afterwards, with what was changed in its sectors.
        layout: What the table says.
        events: Is told of reads that fail.
        work: What is done; its answer says what was changed.
        look: Opens what lies inside of partitions; nothing is opened without it.

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
        with _plugged(view, layout, events, look) as bench:
            done = work(bench)
        table.take(view)
        for extent in view.changed.clipped(Extent(0, target.size)) - table.held:  # blocks may reach beyond its end
            _copy(view, extent, target)
    return done


@contextmanager
def _plugged(view: CopyOnWrite, layout: Layout, events: EventSink, look: Look | None) -> Iterator[Workbench]:
    stack = look(view) if look is not None else VolumeStack()
    shown = [DiskFile(name="disk", reader=view, writer=view)]
    inside = [*stack.volumes, *stack.sealed]
    shown += [DiskFile(name=volume.key, reader=volume.writer, writer=volume.writer) for volume in inside]
    reported = Reported(events)
    with Keeper() as keeper, serve_hidden(shown, keeper, reported, name="stillframe-workbench") as hidden:
        file = f"{hidden}/disks/disk"
        disk = plug(keeper, file, _places(view, layout, stack), sector_size=layout.sector_size)
        inner = {
            volume.key: plug_volume(keeper, f"{hidden}/disks/{volume.key}", sector_size=volume.writer.sector_size)
            for volume in inside
        }
        yield Workbench(
            view=view, layout=layout, file=file, disk=disk, folder=hidden, keeper=keeper, stack=stack, inner=inner
        )
    if reported.count:
        raise DeviceError(
            "the target could not be read back while it was made ready to start",
            hint="Check its cable and its health; what was copied is on it, the repair is not.",
        )


def _places(view: CopyOnWrite, layout: Layout, stack: VolumeStack) -> dict[int, Extent]:
    """The partitions that the kernel is told of."""
    kinds = {part.number: identify(WindowReader(view, part.extent)).volume.filesystem for part in layout.partitions}
    kinds |= stack.carriers
    return {part.number: part.extent for part in layout.partitions if kinds[part.number] not in (LVM, RAID)}


def _copy(view: CopyOnWrite, extent: Extent, target: BlockWriter) -> None:
    for start in range(extent.start, extent.end, _STEP):
        size = min(_STEP, extent.end - start)
        target.write_at(start, view.read_at(start, size))
