"""A logical volume in use, saved from a snapshot that LVM makes of it.

Answers: "what does this volume look like at one moment?" The snapshot is made when the image is, not when it is
planned; it is read, watched and removed. LVM freezes the file system while it makes it, so ext4 looks unmounted in it,
and the maps of XFS are current. Btrfs need not be frozen with its device: it is current at any moment, and its own log
says what else the next mount needs.

A snapshot that fills up answers with read errors. These are no bytes that a disk has lost: they end the run.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import BlockReader, KnownExtent
from stillframe.block.base import Buffer, WrappedReader
from stillframe.block.file import open_file_reader
from stillframe.capture.offline import Holding, OpenSource, Still
from stillframe.capture.repeating import repeating
from stillframe.capture.source import CapturedDisk, Selection, capture_disk
from stillframe.errors import DeviceError, Disturbed, MachineRefusal
from stillframe.events import Notice
from stillframe.extents import Extent
from stillframe.host.blocks import BlockNode
from stillframe.host.disks import DiskFacts
from stillframe.host.live.freezing import open_mounted, settle
from stillframe.host.live.volumes import find_used_volumes
from stillframe.host.lvm import (
    Filling,
    Snapshot,
    find_leftovers,
    make_snapshot,
    new_name,
    plan_snapshot,
    read_filling,
    read_volumes,
    remove_leftovers,
    remove_own,
    require_makeable,
)
from stillframe.host.mounts import Users
from stillframe.units import format_size

POLL_S: Final = 2.0
POOL_PERCENT_LIMIT: Final = 95.0
"""A pool that is fuller than this is left alone: when it is full, the volumes that people work with stop."""
_VOUCHED: Final = frozenset({"xfs"})
"""File systems that leave no sign on the disk that they were frozen, and were. The others tell by themselves."""


class SnapshotWatch:
    """Whether a snapshot is still good. For several threads.

    Args:
        snapshot: What is watched.
        read: Asks the kernel.
    """

    def __init__(self, snapshot: Snapshot, read: Callable[[], Filling]) -> None:
        self._snapshot = snapshot
        self._read = read
        self._lost = ""

    def look(self) -> None:
        """Ask the kernel now.

        Raises:
            Disturbed: The snapshot is lost, or has to be given up.
            MachineRefusal: The kernel does not say.
        """
        self.require_good()
        reason = _reason(self._snapshot, self._read())
        if reason:
            self._lost = reason
        self.require_good()

    def require_good(self) -> None:
        """Raise when the snapshot was seen to be lost.

        Raises:
            Disturbed: It was.
        """
        if self._lost:
            hint = f"'vgs {self._snapshot.origin.group}' shows it. Make more room, or back up at a quieter time."
            raise Disturbed(self._lost, hint=hint)

    @contextmanager
    def polling(self, period_s: float) -> Iterator[None]:
        """Look every so many seconds while the block runs."""

        def look() -> None:
            with contextlib.suppress(MachineRefusal):  # whoever has to know asks; it is remembered, or asked once more
                self.look()

        with repeating(look, period_s):
            yield


class WatchedReader(WrappedReader):
    """A snapshot's bytes. An error of the device counts as one only while the snapshot is good."""

    def __init__(self, inner: BlockReader, watching: SnapshotWatch) -> None:
        super().__init__(inner)
        self._watching = watching

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; errors as ``read_at``."""
        self._watching.require_good()
        try:
            self._inner.read_into(offset, buffer)
        except DeviceError:
            self._watching.look()
            raise

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What the inner reader knows."""
        return self._inner.known_extents(within)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSnapshot(OpenSource):
    """A snapshot that was made. ``facts`` are those of its origin: the image is one of that volume.

    Attributes:
        watching: Whether it is still good.
        filesystem: What is mounted from the origin, as the kernel calls it.
    """

    watching: SnapshotWatch
    filesystem: str

    def capture(self, selection: Selection) -> CapturedDisk:
        """What is in it."""
        reader = WatchedReader(self.reader, self.watching)
        return capture_disk(reader, self.facts, _held(selection, self.reader, self.filesystem))

    def stayed_still(self) -> bool:
        """It did, or it is lost."""
        self.watching.look()
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSource(OpenSource):
    """A logical volume in use, of which a snapshot can be made. ``reader`` shows the volume as it changes.

    Attributes:
        node: Its device.
        name: As people know it: group and volume.
        where: Where it is mounted.
        filesystem: What is mounted there, as the kernel calls it.
    """

    node: BlockNode
    name: str
    where: str
    filesystem: str

    def capture(self, selection: Selection) -> CapturedDisk:
        """What it looks like at this moment: an estimate."""
        return capture_disk(self.reader, self.facts, _held(selection, self.reader, self.filesystem))

    @property
    def announcement(self) -> Notice:
        """How it is going to be held still, for the plan."""
        return Notice(
            code="in-use",
            message=f"{self.facts.path} is in use: {self.where} is saved from an LVM snapshot of {self.name}",
        )

    @contextmanager
    def hold(self, disk: CapturedDisk, holding: Holding) -> Iterator[Still]:  # noqa: ARG002 that was an estimate
        """Make the snapshot, and remove it when the block ends.

        Raises:
            MachineRefusal: LVM does not make it.
            Disturbed: It filled up.
        """
        with ExitStack() as stack:
            snapshot = self._make(holding, stack)
            reader = open_file_reader(snapshot.device)
            stack.callback(reader.close)
            watching = SnapshotWatch(snapshot, lambda: read_filling(snapshot.watched))
            source = HeldSnapshot(
                facts=self.facts, reader=reader, consistency="snapshot", notices=(), watching=watching,
                filesystem=self.filesystem,
            )  # fmt: skip
            captured = source.capture(holding.selection)  # before there is a second thread: it may look at files apart
            with watching.polling(POLL_S):
                yield Still(source=source, disk=captured)

    def stayed_still(self) -> bool:
        """It does not; its snapshot does."""
        return False

    def _make(self, holding: Holding, stack: ExitStack) -> Snapshot:
        """Make the snapshot; ``stack`` removes it."""
        self._clean_up(holding)
        volumes = read_volumes()
        plan, name = plan_snapshot(volumes, self.node, ()), new_name()

        def remove() -> None:
            try:
                remove_own(plan.origin, name)
            except MachineRefusal as error:
                holding.note(Notice(code="snapshot-left", message=error.message, hint=error.hint))

        self._write_out()
        stack.callback(remove)
        with holding.around():
            return make_snapshot(plan, name)

    def _write_out(self) -> None:
        """Let the file system write what it holds back: LVM stops it the shorter."""
        mounted = open_mounted(self.where)
        try:
            settle([mounted])
        finally:
            os.close(mounted.descriptor)

    def _clean_up(self, holding: Holding) -> None:
        """Remove snapshots that runs of ours have left which died."""
        for volume, reason in remove_leftovers(read_volumes()):
            message = f"the LVM snapshot {volume.full_name} was left by a run that died"
            if reason:
                hint = f"Remove it: lvremove {volume.full_name}"
                holding.note(Notice(code="snapshot-left", message=f"{message} and stays: {reason}", hint=hint))
            else:
                holding.note(Notice(code="snapshot-removed", message=f"{message}, and was removed"))


def open_snapshot_source(facts: DiskFacts, users: Users, node: BlockNode) -> SnapshotSource:
    """Open a logical volume in use that can be saved from a snapshot. Makes none.

    Raises:
        SourceInUse: Something on it cannot be held still.
        MachineRefusal: No snapshot can be made of it, or one would not hold everything still.
    """
    found = find_used_volumes(users, node)
    other = next((one for one in found if one.device != node.path or one.way == "swap"), None)
    if other is not None:
        what = "it is swapped to" if other.way == "swap" else f"{other.where}, which lies on it, would not stand still"
        raise MachineRefusal(what, hint="")
    volumes = read_volumes()
    plan = plan_snapshot(volumes, node, find_leftovers(volumes))
    if plan.size <= plan.origin.group_free:  # else there is no room until leftovers are removed
        require_makeable(plan)
    (used,) = found
    reader = open_file_reader(facts.path)
    return SnapshotSource(
        facts=facts, reader=reader, consistency="snapshot", notices=(), node=node, name=plan.origin.full_name,
        where=used.where, filesystem=used.filesystem,
    )  # fmt: skip


def _reason(snapshot: Snapshot, filling: Filling) -> str:
    """Why a snapshot cannot be read any more; empty when it can."""
    origin = snapshot.origin
    if snapshot.is_thin and (filling.fault or filling.percent >= POOL_PERCENT_LIMIT):
        state = f" ({filling.fault})" if filling.fault else ""
        return (
            f"the pool {origin.group}/{origin.pool} became {filling.percent:.0f} % full{state} while the snapshot of "
            f"{origin.full_name} was read: it was given up, so that nothing that lies in the pool has to stop"
        )
    if filling.fault:
        return (
            f"the LVM snapshot of {origin.full_name} was lost ({filling.fault}): it had room for "
            f"{format_size(snapshot.volume.size)}, and more was written to the volume while it was read"
        )
    return ""


def _held(selection: Selection, reader: BlockReader, filesystem: str) -> Selection:
    places = frozenset({Extent(0, reader.size)}) if filesystem in _VOUCHED else frozenset[Extent]()
    return replace(selection, held=places, held_by="snapshot", stacked=(), consistency="snapshot")
