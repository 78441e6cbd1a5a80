"""A disk in use, and what of it can be held still.

Answers: "which file systems must stand still for it, which disks must be followed, and what does it look like now?"
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType

from stillframe.block.file import FileReader, open_file_reader
from stillframe.capture.offline import OpenSource
from stillframe.capture.source import CapturedDisk, CapturedVolume, Selection, capture_disk
from stillframe.capture.stacking import StackedVolume
from stillframe.errors import Disturbed
from stillframe.events import Notice
from stillframe.extents import ExtentSet
from stillframe.host.blocks import BlockNode
from stillframe.host.disks import DiskFacts
from stillframe.host.linux import DeviceNumber, thing_at
from stillframe.host.live.leaves import LeafShare, find_leaves
from stillframe.host.live.volumes import UsedVolume, find_used_volumes
from stillframe.host.mounts import Users, read_users


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSource(OpenSource):
    """A disk, a partition or a mapped device that is in use, and can be held still.

    Attributes:
        volumes: What of it is in use; first what must be frozen first.
        shares: The disks that the kernel's trace names, and what of the source lies on each.
        stacked: Readers of volumes that rest on it, by their devices.
    """

    volumes: tuple[UsedVolume, ...]
    shares: tuple[LeafShare, ...]
    stacked: dict[str, FileReader]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for reader in (self.reader, *self.stacked.values()):
            reader.close()

    def capture(self, selection: Selection) -> CapturedDisk:
        """What the source looks like at this moment: proven only while it is frozen, else an estimate."""
        stacked = tuple(
            StackedVolume(reader=self.stacked[one.device], pieces=one.pieces, is_held=one.way != "swap")
            for one in self.volumes if one.device in self.stacked
        )  # fmt: skip
        held = [one.bytes_in_source for one in self.volumes if one.way != "swap"]
        places = frozenset(extent for extents in held for extent in extents)
        wanted = replace(selection, held=places, held_by="frozen", stacked=stacked, consistency="offline")
        disk = capture_disk(self.reader, self.facts, wanted)
        guarded = self.guarded
        return replace(disk, volumes=tuple(_named_frozen(volume, guarded) for volume in disk.volumes))

    @property
    def announcement(self) -> Notice:
        """How it is going to be held still, for the plan."""
        held = ", ".join(dict.fromkeys(volume.where for volume in self.volumes if volume.way != "swap"))
        return Notice(
            code="in-use",
            message=f"{self.facts.path} is in use: {held or 'swap'} is held still for a moment at the end",
        )  # fmt: skip

    def stayed_still(self) -> bool:
        """It did not, and was followed instead: ``Watch`` has proven what the image is."""
        return True

    def require_unchanged(self) -> None:
        """Everything must be arranged as it was when the source was opened.

        Raises:
            Disturbed: Something was mounted, unmounted, extended or moved meanwhile.
        """
        users = read_users()
        number = thing_at(self.facts.path)
        node = users.tree.nodes.get(number) if isinstance(number, DeviceNumber) else None
        now = _arrangement(find_used_volumes(users, node), find_leaves(users.tree, node.number)) if node else ()
        if now != _arrangement(self.volumes, self.shares):
            raise Disturbed(
                f"something on {self.facts.path} was mounted, unmounted or moved while it was copied",
                hint="Run the backup again when that has ended.",
            )

    def containers(self, disk: CapturedDisk) -> tuple[CapturedVolume, ...]:
        """The partitions that other volumes rest on: their headers may be written under the freeze."""
        found = _bytes_of(volume for volume in self.volumes if volume.device in self.stacked)
        return tuple(volume for volume in disk.volumes if len(found.clipped(volume.partition.extent)))

    @property
    def guarded(self) -> ExtentSet:
        """Bytes that nothing may write to under the freeze: the file systems that are held."""
        return _bytes_of(volume for volume in self.volumes if volume.way != "swap")

    @property
    def swap(self) -> ExtentSet:
        """Bytes that the system swaps to, freeze or not."""
        return _bytes_of(volume for volume in self.volumes if volume.way == "swap")


def _bytes_of(volumes: Iterable[UsedVolume]) -> ExtentSet:
    found = ExtentSet.empty()
    for volume in volumes:
        found |= volume.bytes_in_source
    return found


def open_live_source(facts: DiskFacts, users: Users, node: BlockNode) -> LiveSource:
    """Open a source in use.

    Raises:
        SourceInUse: Something on it cannot be held still.
        MachineRefusal: The kernel's trace cannot follow its writes.
    """
    volumes = find_used_volumes(users, node)
    shares = find_leaves(users.tree, node.number)
    own = {node.path, *(part.path for part in users.tree.partitions_of(node))}
    with ExitStack() as stack:
        reader = open_file_reader(facts.path)
        stack.callback(reader.close)
        stacked = {}
        for volume in volumes:
            if volume.device not in own and volume.pieces:
                stacked[volume.device] = open_file_reader(volume.device)
                stack.callback(stacked[volume.device].close)
        stack.pop_all()
    return LiveSource(
        facts=facts, reader=reader, consistency="frozen", notices=(), stamp=None, volumes=volumes, shares=shares,
        stacked=stacked,
    )  # fmt: skip


def _arrangement(volumes: Sequence[UsedVolume], shares: Sequence[LeafShare]) -> tuple[object, ...]:
    """What must be the same before and after, in a form that can be compared."""
    return (
        sorted((one.device, one.where, one.way, [pieces.token for pieces in one.pieces]) for one in volumes),
        sorted((str(share.disk.number), share.pieces.token) for share in shares),
    )


def _named_frozen(volume: CapturedVolume, guarded: ExtentSet) -> CapturedVolume:
    """A container whose volumes were frozen was frozen itself."""
    is_frozen = len(guarded.clipped(volume.partition.extent))
    return replace(volume, consistency="frozen") if is_frozen else volume
