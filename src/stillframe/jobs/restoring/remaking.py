"""Partitions of an image whose file systems are made anew, and their files copied: what no tool resizes.

Answers: "how small can a new one be, and what does it look like?" Of FAT and exFAT only tables and folders are written,
to a file that is thrown away; contents show through from the image. XFS is made by its own tools, in such a file, and
the kernel copies. Before a byte of it is used, every file is compared with the image by a reader that did not make it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.block.formats.mapped import MappedDisk, ZeroMap
from stillframe.errors import DiskFormatError, MachineRefusal, TargetError
from stillframe.events import EventSink
from stillframe.fs.boot_place import read_boot_place
from stillframe.fs.files.comparing import State, compare_trees
from stillframe.fs.registry import identify
from stillframe.fs.remade import RemadeExfat, RemadeFat, read_exfat, read_fat, show_moved
from stillframe.fs.xfs.making import SIZE_MIN, has_quotas, making_options
from stillframe.host.apart import call_apart
from stillframe.host.attaching import Keeper
from stillframe.host.linux import is_root
from stillframe.host.remaking import PROGRAMS, TwoVolumes, first_size, measure_overhead, measure_xfs, remake_xfs
from stillframe.host.run import find_program
from stillframe.repo.chunk_cache import ChunkCache
from stillframe.repo.map_reader import MapReader
from stillframe.repo.reading import Origin
from stillframe.repo.records import Manifest, StoredPartition
from stillframe.serve.folder import DiskFile, Reported, serve_hidden
from stillframe.units import MIB, format_size

WITHOUT_TOOLS: Final = frozenset({"vfat", "exfat"})
"""File systems that are made anew at any other size."""
RESERVE_SHARE: Final = 20
"""A shrunk volume keeps at least one part in so many free, so that its system can still work on it."""
RESERVE_MIN: Final = 16 * MIB
_HEAD: Final = 512
_COMPARE_S: Final = 24 * 3600.0
_NEXT: Final = "Let it keep its size ('--resize N=keep'); an older image may have what cannot be read."
BYTES_MISSING: Final = (
    "'stillframe verify' tells what of an image is damaged; of a disk, save what can be read: 'stillframe backup'."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPlace:
    """What a partition is made anew for.

    Attributes:
        size: Bytes.
        sector_size: Bytes of the target's logical sectors.
        start: Where it begins on its disk; ``None`` where boot sectors are told afterwards.
    """

    size: int
    sector_size: int
    start: int | None = None


def smallest_anew(origin: Origin, manifest: Manifest, part: StoredPartition, place: NewPlace, events: EventSink) -> int:
    """Bytes of the smallest new volume with the files of this one, a share of them free. ``place.size`` does not count.

    Raises:
        StillframeError: It is not made anew, and why.
    """
    require_makeable(part)
    reader = read_stored(origin, manifest, part)
    if part.filesystem in WITHOUT_TOOLS:
        return _read(reader, part, place, manifest).smallest(reserve_of(part.bytes_used))
    options = making_options(reader.read_at(0, _HEAD), sector_size=place.sector_size)
    with _two_volumes(reader, part, reader.size, events) as volumes:
        needed = measure_xfs(volumes)
    needed += reserve_of(needed)
    with _two_volumes(reader, part, first_size(needed, SIZE_MIN), events) as volumes:
        return max(SIZE_MIN, needed + measure_overhead(volumes, options))


def notices_anew(origin: Origin, manifest: Manifest, part: StoredPartition, place: NewPlace) -> tuple[str, ...]:
    """What does not come along when a volume is made anew, in words."""
    reader = read_stored(origin, manifest, part)
    if part.filesystem in WITHOUT_TOOLS:
        return _read(reader, part, place, manifest).notices
    words = ["numbers of inodes, times at which they were changed, and what files shared of each other's blocks"]
    if has_quotas(reader.read_at(0, _HEAD)):
        words.append("quota limits")
    return tuple(words)


@contextmanager
def remade(
    origin: Origin, manifest: Manifest, part: StoredPartition, place: NewPlace, events: EventSink
) -> Iterator[BlockReader]:
    """A partition with a new file system and the same files, all of them compared. Call it with one thread.

    Raises:
        MachineRefusal: A tool is missing or refuses; a file cannot be read, or is not the same, by name.
        DiskFormatError: The old file system is broken.
        TargetError: There is no room for it.
    """
    require_makeable(part)
    reader = read_stored(origin, manifest, part)
    if part.filesystem in WITHOUT_TOOLS:
        with open_scratch(tempfile.gettempdir(), place.size) as written:
            moved = _read(reader, part, place, manifest).write(written, start=_start(reader, part, place))
            view = show_moved(reader, written, moved, sector_size=place.sector_size)
            _require_same_files(reader, view, part)
            yield view
        return
    options = making_options(reader.read_at(0, _HEAD), sector_size=place.sector_size)
    _require_room(part)
    with open_scratch(tempfile.gettempdir(), place.size) as changes:
        view = CopyOnWrite(MappedDisk(ZeroMap(), size=place.size, sector_size=place.sector_size), changes)
        with _served(reader, part, view, events) as volumes:
            remake_xfs(volumes, options)
        yield view


def require_makeable(part: StoredPartition) -> None:
    """Refuse what is not made anew here.

    Raises:
        MachineRefusal: Why.
    """
    name = part.filesystem
    if part.consistency == "torn":
        raise MachineRefusal(f"the {name} volume changed while the image was made", hint="Make another image.")
    if part.unreadable:
        raise MachineRefusal(f"bytes of the {name} volume could not be read when the image was made", hint="")
    if name in WITHOUT_TOOLS:
        return
    if not is_root():
        raise MachineRefusal(f"{name} is made anew by the kernel, which asks for root", hint="Run it with sudo.")
    for program in PROGRAMS:
        find_program(program)


def reserve_of(used: int) -> int:
    """Bytes that stay free in a volume that was made smaller, so that its system can still work on it."""
    return max(RESERVE_MIN, used // RESERVE_SHARE)


def read_stored(origin: Origin, manifest: Manifest, part: StoredPartition) -> BlockReader:
    """The stored partition, for reading here and there. What was left out of the image is zeros."""
    chunks = origin.reader()
    return MapReader(part.blocks.root(), chunks, chunk_size=manifest.chunk_size, cache=ChunkCache(chunks))


def _read(reader: BlockReader, part: StoredPartition, place: NewPlace, manifest: Manifest) -> RemadeFat | RemadeExfat:
    """The files of a FAT or exFAT volume. Its sectors stay as they are on a disk with sectors like its own."""
    disk = next(disk for disk in manifest.disks if part in disk.partitions)
    changed = place.sector_size if place.sector_size != disk.sector_size else None
    return (read_fat if part.filesystem == "vfat" else read_exfat)(reader, sector_size=changed)


def _start(reader: BlockReader, part: StoredPartition, place: NewPlace) -> int | None:
    """What the new boot sector says of its place: the truth, if the old one did."""
    said = read_boot_place(reader, part.filesystem)
    return place.start if said is not None and said.start == part.start else None


def _require_same_files(old: BlockReader, new: BlockReader, part: StoredPartition) -> None:
    """Compare every file by a reader that made neither.

    Raises:
        MachineRefusal: One differs, or cannot be read, by name.
    """
    what = f"comparing the files of partition {part.number}"

    def compare() -> str:
        states = [State(reader=reader, volume=identify(reader).volume) for reader in (old, new)]
        if (states[0].volume.label, states[0].volume.uuid) != (states[1].volume.label, states[1].volume.uuid):
            return "the label or the id"
        found = compare_trees(states[0], states[1], differing=None)
        if found is None:
            return "the volume, which cannot be read back here,"
        if not found.is_complete:
            raise DiskFormatError(found.notices[0].message, hint=_NEXT)
        return found.records[0].path if found.records else ""

    wrong = call_apart(compare, what=what, timeout_s=_COMPARE_S)
    if wrong:
        raise MachineRefusal(f"partition {part.number} was not made anew: {wrong} came out different", hint=_NEXT)


def _require_room(part: StoredPartition) -> None:
    """Refuse to begin where the copies of all files do not fit.

    Raises:
        TargetError: By how much.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < part.bytes_used:
        raise TargetError(
            f"{folder} has {format_size(free)} free, and the files of partition {part.number} take "
            f"{format_size(part.bytes_used)}",
            hint="Set TMPDIR to a folder with more room: XFS is made anew there before the target is touched.",
        )


@contextmanager
def _two_volumes(reader: BlockReader, part: StoredPartition, size: int, events: EventSink) -> Iterator[TwoVolumes]:
    """The old volume, and an empty new one that is thrown away."""
    with open_scratch(tempfile.gettempdir(), size) as changes:
        new = CopyOnWrite(MappedDisk(ZeroMap(), size=size, sector_size=512), changes)
        with _served(reader, part, new, events) as volumes:
            yield volumes


@contextmanager
def _served(reader: BlockReader, part: StoredPartition, new: CopyOnWrite, events: EventSink) -> Iterator[TwoVolumes]:
    """Both volumes as files in a folder that nobody else sees. The old one's changes, of its log, are thrown away."""
    with Keeper() as keeper, open_scratch(tempfile.gettempdir(), reader.size) as changes:
        old, reported = CopyOnWrite(reader, changes), Reported(events)
        files = [DiskFile(name=name, reader=one, writer=one) for name, one in (("old", old), ("new", new))]
        with serve_hidden(files, keeper, reported, name="stillframe-remaking") as hidden:
            old_folder, new_folder = (keeper.make_folder(f"{hidden}/{name}") for name in ("old", "new"))
            disks = f"{hidden}/disks"
            yield TwoVolumes(
                old=f"{disks}/old", new=f"{disks}/new", old_folder=old_folder, new_folder=new_folder, keeper=keeper
            )
        if reported.count:
            raise MachineRefusal(
                f"partition {part.number}: bytes of it could not be read while it was made anew",
                hint=BYTES_MISSING,
            )
