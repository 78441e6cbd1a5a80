r"""A source on a running Windows: what it looks like now, before it is held still.

Answers: "what is ``C:`` or disk 0, and about how much will an image of it hold?" What is seen here changes while it is
looked at, so it is an estimate. ``holding`` makes the shadow when the copy begins.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType

from stillframe.block import AssembledReader, BlockReader, Piece, WindowReader
from stillframe.capture.offline import OpenSource
from stillframe.capture.source import CapturedDisk, SaidUsed, Selection, capture_disk
from stillframe.capture.windows.parts import Part, open_parts, require_placed
from stillframe.clock import Clock, SystemClock
from stillframe.errors import Disturbed, SourceInUse, UsageError
from stillframe.events import Notice
from stillframe.host.windows.asking import ask_used
from stillframe.host.windows.calls import WindowsCalls
from stillframe.host.windows.naming import NamedSource, find_named, is_called, volume_of_folder
from stillframe.host.windows.reader import open_handle_reader
from stillframe.host.windows.volumes import DiskSeen, DisksSeen, look_at_disks


@dataclass(slots=True)
class Proof:
    """Whether a source was held still, from before the first byte was read until after the last."""

    is_given: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsSource(OpenSource):
    """A disk or a volume of a running Windows. ``reader`` is the whole disk, as it lies there.

    Attributes:
        calls: Windows.
        clock: For the time limits of VSS.
        named: Which disk, and which partition of it.
        parts: Its partitions.
        opened: Closes everything that is open.
        proof: ``hold`` gives it.
    """

    calls: WindowsCalls
    clock: Clock
    named: NamedSource
    parts: tuple[Part, ...]
    opened: ExitStack
    proof: Proof = field(default_factory=Proof)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.opened.close()

    @property
    def base(self) -> BlockReader:
        """The bytes of the source as they lie on the disk."""
        return WindowReader(self.reader, self.named.place)

    def capture(self, selection: Selection) -> CapturedDisk:
        """What it looks like at this moment: an estimate, since nothing stands still.

        Files to be left out by ``exclude`` are not looked for: the library that finds them is not given what changes.
        """
        pieces = [Piece(start=part.place.start, reader=part.live) for part in self.parts if part.live is not None]
        said = [
            SaidUsed(place=part.place, used=used)
            for part in self.parts
            if part.way == "shadow" and part.live is not None
            if (used := ask_used(self.calls, part.live.path)) is not None
        ]
        held = frozenset(part.place for part in self.parts if part.way == "shadow")
        wanted = replace(
            selection, exclude=(), held=held, held_by="snapshot", said_used=tuple(said), consistency="offline"
        )
        return capture_disk(AssembledReader(self.base, pieces), self.facts, wanted)

    @property
    def announcement(self) -> Notice:
        """How it is going to be held still, for the plan."""
        shadowed = ", ".join(part.name for part in self.parts if part.way == "shadow")
        way = f"Windows makes a shadow of {shadowed} when the copy begins" if shadowed else "nothing of it has shadows"
        agreed = ", ".join(part.name for part in self.parts if part.way == "agreed")
        more = f"; {agreed} is read until two passes agree" if agreed else ""
        return Notice(code="in-use", message=f"{self.facts.path} is in use: {way}{more}")

    def stayed_still(self) -> bool:
        """It never does. What was read is of one moment only when it was read while ``hold`` lasted, to its end."""
        return self.proof.is_given

    def require_unchanged(self, seen: DisksSeen) -> None:
        """Refuse when the disk is arranged otherwise than when it was opened. Only names of volumes may have changed.

        Raises:
            Disturbed: Partitions or volumes came, went, or moved.
        """
        now = next((disk for disk in seen.disks if disk.number == self.named.disk.number), None)
        if now is None or _shape(now) != _shape(self.named.disk):
            raise Disturbed(
                f"the partitions of {self.named.disk.path} are not what they were when it was looked at",
                hint="A partitioning tool may be at work, or a disk was unplugged. Run the backup again.",
            )

    def require_elsewhere(self, folder: str) -> None:
        """Refuse a repository that lies on one of the volumes that are saved: the image would fill its own shadow.

        Args:
            folder: The repository.

        Raises:
            SourceInUse: It does.
        """
        found = volume_of_folder(look_at_disks(self.calls), os.path.realpath(folder))
        if found is not None and any(is_called(found, part.volume_name.lower()) for part in self.parts):
            raise SourceInUse(
                f"the repository {folder} lies on {found.paths[0]}, which is to be saved",
                hint="Use a repository on another disk, such as an external one.",
            )


def open_windows_source(
    calls: WindowsCalls, name: str, *, allow_torn: bool = False, may_be_live: bool = True, clock: Clock | None = None
) -> WindowsSource:
    r"""Open a disk or volume of a running Windows for reading.

    Args:
        calls: Windows.
        name: As ``find_named`` takes it: ``C:``, ``0``, ``\\.\PhysicalDrive0``, ``\\?\Volume{GUID}\``.
        allow_torn: Copy it as it changes; that is not possible here.
        may_be_live: Hold it still while it is in use.
        clock: For the time limits of VSS.

    Raises:
        UsageError: There is no such disk or volume, or it shall be torn.
        SourceInUse: It cannot be held still.
        MachineRefusal: This user may not read it.
        DeviceError: It fails.
    """
    if allow_torn:
        raise UsageError("'--allow-torn' is not possible on Windows", hint="Leave it out: a shadow is made.")
    seen = look_at_disks(calls)
    named = find_named(seen, name)
    if not may_be_live:
        raise SourceInUse(
            f"{named.path} is in use; it cannot be held still for this in this version",
            hint="Start the computer from the Linux rescue system.",
        )
    require_placed(calls, seen, named)
    with ExitStack() as stack:
        reader = stack.enter_context(open_handle_reader(calls, named.disk.path, sector_size=named.disk.sector_size))
        parts = open_parts(calls, named, WindowReader(reader, named.place), stack)
        return WindowsSource(
            facts=named.facts, reader=reader, consistency="snapshot", stamp=None,
            notices=tuple(notice for part in parts for notice in part.notices), calls=calls,
            clock=clock or SystemClock(), named=named, parts=parts, opened=stack.pop_all(),
        )  # fmt: skip


def _shape(disk: DiskSeen) -> tuple[object, ...]:
    """What of a disk must not change while it is copied."""
    partitions = tuple((partition.entry, partition.volume is not None) for partition in disk.partitions)
    return disk.size, disk.sector_size, disk.serial, disk.scheme, disk.disk_id, partitions
