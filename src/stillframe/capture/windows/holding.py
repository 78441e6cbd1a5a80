"""Sources of a running Windows, held still for the time of a ``with``.

Answers: "give me these disks as they were at one moment." One shadow set holds all their NTFS and ReFS volumes. What
has no shadow is small and is read until two passes agree. Tables, gaps, and what nobody has in use come from the disk;
afterwards the table must be what it was, and the shadows must still be there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import AssembledReader, BlockReader, Piece
from stillframe.capture.agreeing import read_until_agreed
from stillframe.capture.source import CapturedDisk, SaidUsed, Selection, capture_disk
from stillframe.capture.windows.parts import Part, open_fitting
from stillframe.capture.windows.source import WindowsSource
from stillframe.disk.layout import read_layout
from stillframe.errors import DiskFormatError, Disturbed, MachineRefusal, SourceInUse
from stillframe.events import EventSink, Notice, PhaseStarted
from stillframe.extents import Extent
from stillframe.host.windows import codes
from stillframe.host.windows.asking import ask_used
from stillframe.host.windows.calls import Win32Failure, WindowsCalls
from stillframe.host.windows.exclusions import exclusions
from stillframe.host.windows.reader import HandleReader, ntfs_size
from stillframe.host.windows.volumes import look_at_disks
from stillframe.host.windows.vss import ShadowVolume, open_shadow_set
from stillframe.host.windows.vss_session import SnapshotFailed
from stillframe.units import GIB

PAUSE_S: Final = 5.0
"""Between two passes over a volume without a shadow: time for the system to write what it holds back."""
AGREED_SIZE_MAX: Final = GIB
"""Of a volume without a shadow: it is kept in memory until it is stored."""
_OWNERS_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDisks:
    """Sources at one moment, in the order they were given, and what a person should know of that."""

    disks: tuple[CapturedDisk, ...]
    notices: tuple[Notice, ...]


@contextmanager
def hold(
    sources: Sequence[WindowsSource], selection: Selection, *, sink: EventSink, check: Callable[[], None],
    around: AbstractContextManager[None] | None = None,
) -> Iterator[HeldDisks]:  # fmt: skip
    """Hold sources still. Enter and leave it in the same thread; read in any.

    Args:
        sources: At least one; all of the same machine.
        selection: Which bytes the person wants.
        sink: Takes phases, and notices of the end.
        check: Called now and then while it is waited; raises when the person has given up.
        around: Entered before the shadow is made and left when it exists: programs of the person's.

    Raises:
        SnapshotFailed: Windows could not make the shadow; nothing is left behind.
        SourceInUse: What has no shadow does not settle, or is too large to be read twice.
        Disturbed: Partitions changed meanwhile, or a shadow is not what it was. Raised at the end too.
        DeviceError: A shadow went away while it was read, or a disk fails.
    """
    calls = sources[0].calls
    for source in sources:
        source.proof.is_given = False
    _require_unchanged(sources)
    with ExitStack() as stack:
        sink.emit(PhaseStarted(name="holding still"))
        with around or nullcontext():
            shadows = _ShadowSet(stack, sources, sink)
        check()

        def pause() -> None:
            check()
            calls.pause(PAUSE_S)

        held = [_HeldSource(source, shadows.by_volume, stack, pause) for source in sources]
        disks = tuple(one.capture(selection) for one in held)
        notices = (*shadows.notices, *(notice for one in held for notice in one.notices))
        yield HeldDisks(disks=disks, notices=notices)
        for one in held:
            one.require_still()
        _require_unchanged(sources)
        for source in sources:
            source.proof.is_given = True


class _ShadowSet:
    """One set of all volumes that have shadows, for as long as ``stack`` lasts."""

    def __init__(self, stack: ExitStack, sources: Sequence[WindowsSource], sink: EventSink) -> None:
        self.by_volume: Mapping[str, ShadowVolume] = {}
        self.notices: tuple[Notice, ...] = ()
        parts = {part.volume_name: part for source in sources for part in source.parts if part.way == "shadow"}
        if not parts:
            return
        mounted = tuple(name for name, part in parts.items() if part.is_mounted)
        try:
            self._enter(stack, sources[0], tuple(parts), sink)
        except SnapshotFailed as failure:
            left = [part.name for part in parts.values() if not part.is_mounted]
            if failure.hresult != codes.VSS_E_INSUFFICIENT_STORAGE or not mounted or not left:
                raise
            self._enter(stack, sources[0], mounted, sink)
            notice = Notice(
                code="no-room-for-shadow",
                message=f"there is no room for a shadow of {', '.join(left)}: read until two passes agree",
            )
            self.notices = (notice, *self.notices)

    def _enter(self, stack: ExitStack, source: WindowsSource, volumes: Sequence[str], sink: EventSink) -> None:
        made = stack.enter_context(open_shadow_set(source.calls, volumes, clock=source.clock, sink=sink))
        self.by_volume = {volume.volume: volume for volume in made.volumes}
        moments = {volume.created for volume in made.volumes}
        when = max((f" of {moment:%Y-%m-%d %H:%M:%S} UTC" for moment in moments if moment is not None), default="")
        shadow = Notice(code="shadow", message=f"copied from a Windows shadow{when} while in use")
        self.notices = (shadow, *made.notices, *_not_in_shadows(source.calls))


class _HeldSource:
    """One source while it is held still."""

    def __init__(
        self, source: WindowsSource, shadows: Mapping[str, ShadowVolume], stack: ExitStack, pause: Callable[[], None]
    ) -> None:
        self._source = source
        self._pause = pause
        self._pieces: list[Piece] = []
        self._said: list[SaidUsed] = []
        self._shadowed: set[Extent] = set()
        self._agreed: set[Extent] = set()
        self._first: list[tuple[HandleReader, bytes]] = []
        self.notices: tuple[Notice, ...] = ()
        self._table = _read_table(source.base)
        for part in source.parts:
            shadow = shadows.get(part.volume_name) if part.way == "shadow" else None
            if shadow is not None:
                self._take_shadow(part, shadow, stack)
        for part in source.parts:
            if part.live is not None and part.volume_name not in shadows:
                self._take_agreed(part, part.live.path, stack)

    def capture(self, selection: Selection) -> CapturedDisk:
        """What it looked like at that moment.

        Raises:
            MachineRefusal: Windows and the table on the disk speak of different partitions.
        """
        wanted = replace(
            selection, held=frozenset(self._shadowed), held_by="snapshot", said_used=tuple(self._said),
            consistency="offline",
        )  # fmt: skip
        reader = AssembledReader(self._source.base, self._pieces)
        disk = capture_disk(reader, self._source.facts, wanted)
        self._require_same_partitions(disk)
        volumes = tuple(
            replace(volume, consistency="frozen") if volume.partition.extent in self._agreed else volume
            for volume in disk.volumes
        )
        return replace(disk, volumes=volumes)

    def require_still(self) -> None:
        """Refuse what was copied when a shadow is gone or the table has changed.

        Raises:
            Disturbed: It was changed.
            DeviceError: A shadow went away.
        """
        for reader, sector in self._first:
            if reader.read_at(0, len(sector)) != sector:
                raise Disturbed(f"{reader.path} is not the shadow that it was", hint="Run the backup again.")
        if _read_table(self._source.base) != self._table:
            raise Disturbed(
                f"the partition table of {self._source.facts.path} was written while the disk was copied",
                hint="A partitioning tool may be at work. Run the backup again when it has ended.",
            )

    def _require_same_partitions(self, disk: CapturedDisk) -> None:
        """What only one of the two knows would be taken as used by nobody, or not be taken at all."""
        for_windows = {part.place for part in self._source.parts}
        by_table = {volume.partition.extent for volume in disk.volumes}
        if disk.layout.scheme == "none" and not for_windows:
            return  # a disk without a table is one volume to us, and nothing to Windows
        for place in (*sorted(for_windows - by_table), *sorted(by_table - for_windows)):
            where = f"bytes {place.start} to {place.end} of {self._source.facts.path}"
            found = "a partition for Windows, and none by the table on the disk"
            if place in by_table:
                found = "a partition by the table on the disk, and none for Windows"
            raise MachineRefusal(
                f"{where} are {found}", hint="Save this disk from the Linux rescue system, while Windows is shut down."
            )

    def _open(self, device: str, part: Part) -> HandleReader:
        source = self._source
        return open_fitting(source.calls, device, sector_size=source.named.disk.sector_size, place=part.place)

    def _take_shadow(self, part: Part, shadow: ShadowVolume, stack: ExitStack) -> None:
        reader = stack.enter_context(self._open(shadow.device, part))
        first = reader.read_at(0, reader.sector_size)
        self._pieces.append(Piece(start=part.place.start, reader=reader))
        self._shadowed.add(part.place)
        self._first.append((reader, first))
        self.notices += reader.notices
        used = ask_used(self._source.calls, shadow.device)
        if used is not None:
            self._said.append(SaidUsed(place=part.place, used=used))
        elif ntfs_size(first) is not None:
            message = f"Windows does not say which clusters are in use in the shadow of {part.name}"
            self.notices += (Notice(code="shadow-map-unknown", message=message),)

    def _take_agreed(self, part: Part, device: str, stack: ExitStack) -> None:
        # Opened anew: FAT writes itself out when a handle of the whole volume is read for the first time.
        # Source: fastfat of the Windows driver samples, read.c, FatCommonRead, CCB_FLAG_DASD_FLUSH_DONE.
        live = stack.enter_context(self._open(device, part))
        try:
            agreed = read_until_agreed(live, [Extent(0, live.size)], pause=self._pause, size_max=AGREED_SIZE_MAX)
        except SourceInUse as error:
            raise SourceInUse(
                f"{part.name} of {self._source.facts.path} has no shadow: {error.message}", hint=error.hint
            ) from error
        self._pieces.append(Piece(start=part.place.start, reader=agreed.reader))
        self._agreed.add(part.place)
        message = f"{part.name} has no shadow: it was read {agreed.passes} times, until two passes were the same"
        self.notices += (*live.notices, Notice(code="agreed-copy", message=message))


def _require_unchanged(sources: Sequence[WindowsSource]) -> None:
    seen = look_at_disks(sources[0].calls)
    for source in sources:
        source.require_unchanged(seen)


def _read_table(base: BlockReader) -> tuple[object, ...]:
    """The sectors of the partition table; the complaint about one that cannot be read."""
    try:
        return tuple((extent, base.read_at(extent.start, extent.size)) for extent in read_layout(base).table)
    except DiskFormatError as error:
        return (error.message,)


def _not_in_shadows(calls: WindowsCalls) -> tuple[Notice, ...]:
    """What programs keep out of every shadow, as far as Windows says."""
    try:
        found = exclusions(calls)
    except Win32Failure:
        return ()
    owners = dict.fromkeys(f"{pattern.owner} ({pattern.path})" for pattern in found)
    if not owners:
        return ()
    shown = ", ".join(list(owners)[:_OWNERS_MAX])
    more = f", and {len(owners) - _OWNERS_MAX} more" if len(owners) > _OWNERS_MAX else ""
    return (
        Notice(
            code="not-in-shadow",
            message=f"programs asked Windows to leave files out of shadows, so this image lacks them: {shown}{more}",
            hint="They come again by themselves, such as Outlook's copy of a mailbox on a server.",
        ),
    )
