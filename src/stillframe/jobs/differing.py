"""The verb ``diff``: what changed between two images.

Answers: "which files were added, changed, removed?" Volumes are matched, their block maps compared, and only what the
maps do not tell is read. A volume whose maps are equal is equal, and nothing of it is read. The files are read in a
process of its own, as a damaged volume may crash the library that reads them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from stillframe.block import CachedReader
from stillframe.errors import MachineRefusal, UsageError
from stillframe.events import EventSink, Notice, PhaseStarted
from stillframe.extents import ExtentSet
from stillframe.fs.base import Volume
from stillframe.fs.files.comparing import Difference, State, compare_trees
from stillframe.fs.files.walk import Found
from stillframe.host.apart import call_apart
from stillframe.jobs.exposing import ExposedImage, ExposedPartition, expose_from
from stillframe.jobs.inside.replayed import STALE, replayed_view
from stillframe.jobs.inside.volumes import look_inside
from stillframe.repo.map_difference import differing_bytes
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest, extents_of
from stillframe.repo.repository import Repository

_TIMEOUT_S: Final = 86_400.0
"""A day for one volume: a limit against a program that hangs, not against large files that are compared."""
_NO_FILES: Final = frozenset({"", "swap"})
_NOT_READ_HINT: Final = "Restore both to disk files and compare them with the tools of their own system."

Status = Literal["equal", "compared", "not-read", "failed", "only-older", "only-newer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A partition of an image, by the numbers people see, or a volume inside of it by its name."""

    disk: int
    partition: int
    volume: str | None = None

    @property
    def word(self) -> str:
        """As it is written behind the number of the disk: ``3`` or ``3@root``."""
        return f"{self.partition}" + ("" if self.volume is None else f"@{self.volume}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeComparison:
    """One volume in two images.

    Attributes:
        older, newer: Where it is; ``None`` in an image that does not have it.
        filesystem: As ``blkid`` names it.
        status: ``equal`` by its block maps; ``compared`` file by file; ``not-read`` where files are not read and the
            maps differ; ``failed``; or in one image only.
        changes: What is not the same.
        is_complete: Whether everything was compared.
    """

    older: Place | None
    newer: Place | None
    filesystem: str
    status: Status
    changes: tuple[Difference, ...] = ()
    is_complete: bool = True
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageComparison:
    """Two images."""

    older: Manifest
    newer: Manifest
    volumes: tuple[VolumeComparison, ...]
    notices: tuple[Notice, ...] = field(default=())

    @property
    def is_complete(self) -> bool:
        """Whether everything was compared that has files."""
        return all(volume.is_complete for volume in self.volumes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be compared: everything, or one disk, one partition (of the newer image), one folder or file."""

    disk: int | None = None
    partition: int | None = None
    path: str = ""


Located = tuple[Place, ExposedPartition]


def compare_images(
    repository: Repository, older: Manifest, newer: Manifest, wanted: Wanted, *, events: EventSink
) -> ImageComparison:
    """Compare two images. Call it while no other thread is at work.

    Raises:
        UsageError: The disk, the partition or the path that is wanted is in neither image.
        UnsupportedFormat, DamagedError: An image cannot be read.
    """
    chunks = repository.reader()
    images = expose_from(chunks, older), expose_from(chunks, newer)
    volumes = list[VolumeComparison]()
    missing: UsageError | None = None
    chunk_size = newer.chunk_size if newer.chunk_size == older.chunk_size else None
    for before, after in match_volumes(_located(images[0]), _located(images[1])):
        place = after or before
        assert place is not None
        if not _is_wanted(place[0], wanted):
            continue
        events.emit(PhaseStarted(name=f"comparing disk {place[0].disk}, partition {place[0].word}"))
        try:
            volumes.append(_Pair(chunks, before, after, chunk_size).compare(wanted.path))
        except UsageError as error:
            missing = error
    if not volumes:
        raise missing or UsageError(
            "neither image has such a partition", hint="'stillframe show IMAGE' lists disks and partitions."
        )
    notices: tuple[Notice, ...] = ()
    if older.machine.id != newer.machine.id:
        words = f"the images are of two machines, {older.machine.name} and {newer.machine.name}"
        notices = (Notice(code="two-machines", message=words),)
    return ImageComparison(older=older, newer=newer, volumes=tuple(volumes), notices=notices)


def match_volumes(
    older: Sequence[Located], newer: Sequence[Located]
) -> Iterator[tuple[Located | None, Located | None]]:
    """The same volume in both images: by its file system's own id, else by disk, partition and file system."""
    left = list(older)
    ids = [_ids(side) for side in (older, newer)]
    matches: dict[Place, Located] = {}
    for place, part in newer:
        stored = part.stored
        unique = stored.uuid and all(one.count((stored.filesystem, stored.uuid)) == 1 for one in ids)
        for other in left:
            if unique and (other[1].stored.filesystem, other[1].stored.uuid) == (stored.filesystem, stored.uuid):
                matches[place] = other
                left.remove(other)
                break
    for place, part in newer:
        for other in left if place not in matches else ():
            if other[0] == place and other[1].stored.filesystem == part.stored.filesystem:
                matches[place] = other
                left.remove(other)
                break
    yield from ((matches.get(one[0]), one) for one in newer)
    yield from ((one, None) for one in left)


def _located(image: ExposedImage) -> list[Located]:
    insides = look_inside(image)
    opened = {place for one in insides.volumes for place in one.places}
    found = list[Located]()
    for disk in image.disks:
        for part in disk.partitions:
            if part.stored.is_left_out:
                continue
            number, partition = disk.stored.number, part.stored.number
            below = insides.below(number, partition)
            # What is not read is compared by the bytes of the partition that holds it.
            if (number, partition) not in opened or any(one.part is None for one in below):
                found.append((Place(disk=number, partition=partition), part))
            found += [(Place(disk=number, partition=partition, volume=one.name), one.part) for one in below if one.part]
    return found


def _ids(side: Iterable[Located]) -> list[tuple[str, str]]:
    return [(part.stored.filesystem, part.stored.uuid) for _, part in side]


def _is_wanted(place: Place, wanted: Wanted) -> bool:
    return wanted.disk in (None, place.disk) and wanted.partition in (None, place.partition)


class _Pair:
    """One volume in both images, or in one of them."""

    def __init__(
        self, chunks: ChunkReader, before: Located | None, after: Located | None, chunk_size: int | None
    ) -> None:
        self._chunks = chunks
        self._chunk_size = chunk_size
        self._before = before
        self._after = after

    def compare(self, path: str) -> VolumeComparison:
        """What is not the same; ``UsageError`` when neither has ``path``."""
        if self._before is None or self._after is None:
            return self._answer("only-newer" if self._before is None else "only-older")
        stored = self._before[1].stored, self._after[1].stored
        maps = [[one.blocks for one in part.beneath or (part.stored,)] for _, part in (self._before, self._after)]
        if maps[0] == maps[1]:
            return self._answer("equal")
        if stored[1].filesystem in _NO_FILES:
            return self._answer("not-read")
        differing = self._differing()
        parts = self._before[1], self._after[1]
        where = f"disk {self._after[0].disk}, partition {self._after[0].word}"
        try:
            found = call_apart(
                lambda: _compare(parts, differing, path), what=f"comparing {where}", timeout_s=_TIMEOUT_S
            )
        except MachineRefusal as error:
            notice = Notice(code="not-compared", message=error.message, hint=error.hint)
            return self._answer("failed", is_complete=False, notices=(notice,))
        if isinstance(found, str):
            raise UsageError(found, hint="'stillframe show IMAGE' lists partitions; a path begins at the root of one.")
        if found is None:
            words = f"{where}: the files of {stored[1].filesystem} are not read in this version, and it has changed"
            notice = Notice(code="not-compared", message=words, hint=_NOT_READ_HINT)
            return self._answer("not-read", is_complete=False, notices=(notice,))
        return self._answer("compared", found.records, is_complete=found.is_complete, notices=found.notices)

    def _answer(
        self, status: Status, changes: tuple[Difference, ...] = (), *, is_complete: bool = True,
        notices: tuple[Notice, ...] = (),
    ) -> VolumeComparison:  # fmt: skip
        one = self._after or self._before
        assert one is not None
        return VolumeComparison(
            older=self._before[0] if self._before else None, newer=self._after[0] if self._after else None,
            filesystem=one[1].stored.filesystem, status=status, changes=changes, is_complete=is_complete,
            notices=notices,
        )  # fmt: skip

    def _differing(self) -> ExtentSet | None:
        """Where the volume may differ: chunks that are not the same, and what an image does not hold."""
        assert self._before is not None
        assert self._after is not None
        older, newer = self._before[1].stored, self._after[1].stored
        sizes = {part.reader.size for _, part in (self._before, self._after)}
        if len(sizes) > 1 or self._chunk_size is None or self._before[1].beneath or self._after[1].beneath:
            return None
        found = differing_bytes(older.blocks.root(), newer.blocks.root(), self._chunks, chunk_size=self._chunk_size)
        return found | extents_of(older.excluded, older.unreadable, newer.excluded, newer.unreadable)


def _compare(
    parts: tuple[ExposedPartition, ExposedPartition], differing: ExtentSet | None, path: str
) -> Found[Difference] | str | None:
    """The comparison, in a process of its own; the words of an error that the person made."""
    states, doubts = list[State](), list[Notice]()
    for part in parts:
        stored = part.stored
        volume = Volume(
            filesystem=stored.filesystem, label=stored.label, uuid=stored.uuid, block_size=stored.block_size
        )
        view, notices = replayed_view(part.reader, volume)
        doubts += [notice for notice in notices if notice.code == STALE]
        if view is not part.reader:
            differing = None  # a journal lies over the blocks
        skipped = frozenset(file.path for file in stored.left_out)
        lost = extents_of(stored.excluded)
        states.append(State(reader=CachedReader(view), volume=volume, skipped=skipped, lost=lost))
    try:
        found = compare_trees(states[0], states[1], differing=differing, below=path)
    except UsageError as error:
        return error.message
    if found is None or not doubts:
        return found
    return replace(found, is_complete=False, notices=(*dict.fromkeys(doubts), *found.notices))
