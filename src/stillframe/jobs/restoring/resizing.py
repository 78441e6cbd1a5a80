"""Partitions of an image at another size: their file systems are resized on a throw-away copy, never on a disk.

Answers: "how small can this partition be made, and what does it look like at that size?" The image shows through
a copy-on-write overlay; the file system's own tools work on a file that shows this overlay; what comes out is read like
any other volume and written to the target. So a target is not touched before everything is known to fit, and no tool of
others ever sees it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.block import AssembledReader, BlockReader, Piece, WindowReader
from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.block.formats.mapped import MappedDisk, ZeroMap
from stillframe.disk import Flexibility
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.events import EventSink
from stillframe.extents import Extent
from stillframe.fs import ntfs
from stillframe.fs.xfs.making import SIZE_MIN
from stillframe.host.attaching import Keeper, require_unknown_btrfs
from stillframe.host.linux import is_root
from stillframe.host.resizing import RESIZERS, Resizer, VolumeFile
from stillframe.host.run import find_program
from stillframe.jobs.restoring.plan import DiskInImage
from stillframe.jobs.restoring.remaking import BYTES_MISSING, WITHOUT_TOOLS, NewPlace, reserve_of, smallest_anew
from stillframe.repo.map_reader import MapReader
from stillframe.repo.reading import Origin
from stillframe.repo.records import Manifest, StoredPartition
from stillframe.serve.folder import DiskFile, Reported, serve_hidden
from stillframe.units import MIB, align_up, format_size

_FIXED_TYPES: Final = frozenset({"BIOS boot"})
"""Names by ``disk.types`` of partitions that boot code knows by their place."""
_KEPT_TYPES: Final = frozenset({"Windows recovery"})
"""Of partitions that Windows keeps as large as it made them."""
_ENCRYPTED: Final = {
    "crypto_LUKS": "an encrypted volume (LUKS)",
    "BitLocker": "an encrypted volume (BitLocker)",
}
"""What is in them would have to be resized first, which takes their key."""
_NAMED_ONLY: Final = frozenset({"EFI system"})
"""Of partitions that are small, and that a computer starts from: resized only where a person says so."""


def is_fixed(part: StoredPartition) -> bool:
    """Whether a partition must begin where it did."""
    return part.type_name in _FIXED_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a partition.

    Attributes:
        may_shrink: Whether its smallest size is wanted, which takes seconds.
        is_named: Whether a person named this partition, or chose it alone.
        sector_size: Bytes of the target's logical sectors.
        is_anew: Whether it is made anew at every size, for sectors of another size.
    """

    may_shrink: bool
    is_named: bool
    sector_size: int
    is_anew: bool = False


def find_flexibility(stored: DiskInImage, part: StoredPartition, asked: Asked, events: EventSink) -> Flexibility:
    """How far a partition may be changed. It is asked of the file system's own tools only where it may have to shrink.

    Args:
        stored: The disk in its image.
        part: The partition.
        asked: What is wanted.
        events: Is told of reads that fail.
    """
    can_move = not is_fixed(part)
    kept = ""
    if part.is_left_out:
        kept = "it is not in this image"
    elif part.type_name in _KEPT_TYPES:
        kept = "a recovery partition is kept at its size"
    elif part.type_name in _NAMED_ONLY and not asked.is_named:
        kept = "an EFI system partition is kept at its size unless '--resize' names it"
    if kept:
        return Flexibility(smallest=part.size, can_move=can_move, reason=kept)
    try:
        least = _find_smallest(stored, part, asked, events)
    except StillframeError as error:
        return Flexibility(smallest=part.size, can_move=can_move, reason=error.message)
    is_limit = part.filesystem == "xfs" and least == SIZE_MIN < part.size
    reason = f"mkfs.xfs makes no volume below {format_size(SIZE_MIN)}" if is_limit else ""
    return Flexibility(smallest=least, can_grow=True, can_move=can_move, reason=reason)


def _find_smallest(stored: DiskInImage, part: StoredPartition, asked: Asked, events: EventSink) -> int:
    """Bytes that a partition needs; its size where that is not wanted.

    Raises:
        StillframeError: It cannot be resized at all.
    """
    origin, manifest = stored.origin, stored.manifest
    if part.filesystem in WITHOUT_TOOLS or asked.is_anew or (part.filesystem == "xfs" and asked.may_shrink):
        # That of FAT and exFAT is asked always: whether their files can be read decides whether they may grow.
        place = NewPlace(size=part.size, sector_size=asked.sector_size)
        needed = align_up(smallest_anew(origin, manifest, part, place, events), MIB)
        return needed if asked.is_anew else min(part.size, needed)
    resizer = _resizer(part)
    _require_clean_ntfs(origin, manifest, part)
    if not (asked.may_shrink and resizer.smallest):
        return part.size
    with changeable(origin, manifest, part, part.size, events) as volume:
        used = resizer.smallest(volume)
    return min(part.size, align_up(used + reserve_of(used), MIB))


@contextmanager
def resized(
    origin: Origin, manifest: Manifest, part: StoredPartition, size: int, events: EventSink
) -> Iterator[BlockReader]:
    """A partition at another size, its file system resized. Call it with one thread.

    Raises:
        MachineRefusal: Its tool is missing, or refuses.
        TargetError: There is no room for the changes.
    """
    whole = _shown(origin, manifest, part, max(size, part.size))
    with open_scratch(tempfile.gettempdir(), whole.size) as changes:
        overlay = CopyOnWrite(whole, changes)
        with _served(part, overlay, events) as volume:
            _resizer(part).resize(volume, size)
        yield WindowReader(overlay, Extent(0, size))


@contextmanager
def changeable(
    origin: Origin, manifest: Manifest, part: StoredPartition, size: int, events: EventSink
) -> Iterator[VolumeFile]:
    """A file that shows a partition, and whose changes are thrown away. Call it with one thread."""
    whole = _shown(origin, manifest, part, size)
    with (
        open_scratch(tempfile.gettempdir(), whole.size) as changes,
        _served(part, CopyOnWrite(whole, changes), events) as volume,
    ):
        yield volume


def _resizer(part: StoredPartition) -> Resizer:
    """How a partition is resized.

    Raises:
        MachineRefusal: It is not, here.
    """
    resizer = RESIZERS.get(part.filesystem)
    name = _ENCRYPTED.get(part.filesystem) or part.filesystem or part.type_name or "unknown contents"
    if resizer is None:
        raise MachineRefusal(f"{name} is kept at its size", hint="Its own system may resize it afterwards.")
    if part.consistency == "torn":
        raise MachineRefusal(f"the {name} volume changed while the image was made", hint="Make another image.")
    if part.unreadable:
        raise MachineRefusal(f"bytes of the {name} volume could not be read when the image was made", hint="")
    if resizer.needs_root and not is_root():
        raise MachineRefusal(f"{name} is resized by the kernel, which asks for root", hint="Run it again with sudo.")
    for program in resizer.programs:
        find_program(program)
    if part.filesystem == "btrfs":
        require_unknown_btrfs(part.uuid)
    return resizer


def _require_clean_ntfs(origin: Origin, manifest: Manifest, part: StoredPartition) -> None:
    """Refuse an NTFS that its own Windows would not leave alone.

    Raises:
        MachineRefusal: It was not closed, or a Windows is hibernated in it.
    """
    if part.filesystem != "ntfs":
        return
    reader = _shown(origin, manifest, part, part.size)
    doubt = ntfs.explain_unclean(reader)
    if doubt is not None or ntfs.is_hibernated(reader):
        reason = "Windows is hibernated in it" if doubt is None else "it was not closed"
        raise MachineRefusal(
            f"an NTFS volume keeps its size when {reason}",
            hint="Start that Windows, shut it down with 'shutdown /s /t 0', and begin again with its disk.",
        )


def _shown(origin: Origin, manifest: Manifest, part: StoredPartition, size: int) -> BlockReader:
    """The stored partition, with zeros behind it up to a size."""
    stored = MapReader(part.blocks.root(), origin.reader(), chunk_size=manifest.chunk_size)
    if size == stored.size:
        return stored
    return AssembledReader(MappedDisk(ZeroMap(), size=size, sector_size=512), [Piece(start=0, reader=stored)])


@contextmanager
def _served(part: StoredPartition, overlay: CopyOnWrite, events: EventSink) -> Iterator[VolumeFile]:
    """An overlay as a file in a folder that nobody else sees."""
    file, reported = DiskFile(name="volume", reader=overlay, writer=overlay), Reported(events)
    with Keeper() as keeper, serve_hidden([file], keeper, reported, name="stillframe-resizing") as hidden:
        place = keeper.make_folder(f"{hidden}/mounted")
        yield VolumeFile(path=f"{hidden}/disks/{file.name}", folder=place, keeper=keeper)
        if reported.count:
            raise MachineRefusal(
                f"partition {part.number}: bytes of it could not be read while it was resized",
                hint=BYTES_MISSING,
            )
