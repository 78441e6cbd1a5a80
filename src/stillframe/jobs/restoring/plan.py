"""What a restore is asked to do, what it is going to do, and what it did: records.

Answers: "what goes where?" Planned in ``planning``, carried out in ``restore``, said in ``words``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stillframe.disk import Layout, Partition, Placement, Wish, read_layout
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.host.target import TargetIdentity
from stillframe.jobs.conversions.conversion import Conversion, ConvertWish
from stillframe.jobs.restoring.staying import LeftPlace
from stillframe.jobs.starts.windows_adapting import WindowsHardware
from stillframe.repo.losses import LostPart
from stillframe.repo.map_reader import MapReader
from stillframe.repo.reading import Origin
from stillframe.repo.records import Manifest, StoredDisk, StoredPartition


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskInImage:
    """One disk of an image, and where the image is."""

    origin: Origin
    manifest: Manifest
    disk: StoredDisk

    def outside(self) -> MapReader:
        """The stored bytes outside all partitions, as a disk whose partitions read as zeros."""
        return outside_reader(self.origin, self.manifest, self.disk)

    def layout(self) -> Layout:
        """Its layout, read from its stored bytes."""
        return stored_layout(self.disk, self.outside())


Start = int | Literal["keep"]
"""Where a person wants a partition to begin: at this byte, or where it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What a person asked for.

    Attributes:
        partition: Only this partition of the image.
        onto: Into this partition of the target disk; else onto the whole target.
        delta: Read the target and write only what differs; also goes on with a restore that was killed.
        wipe: Make what nobody uses zeros too.
        new_identity: Give the disk new ids, so that it can stay beside its original.
        salvage: Of a damaged image restore what can be had; the rest becomes zeros.
        fit: Make partitions smaller or larger, so that they fill the target.
        wishes: What single partitions are to be then, by their numbers.
        moves: At which byte single partitions are to begin, by their numbers.
        leave_out: Partitions of the image that are not restored; they are not in the new table.
        added: Only these partitions of the image, as new ones in free space of the target; its own are not touched.
        adapt: Make the systems start in another computer.
        hardware: What a Windows finds there.
        convert: Make the disk start in another way, under another table where it takes one.
    """

    partition: int | None = None
    onto: int | None = None
    delta: bool = False
    wipe: bool = False
    new_identity: bool = False
    salvage: bool = False
    fit: bool = False
    wishes: Mapping[int, Wish] = field(default_factory=dict)
    moves: Mapping[int, Start] = field(default_factory=dict)
    leave_out: frozenset[int] = frozenset()
    added: tuple[int, ...] = ()
    adapt: bool = False
    hardware: WindowsHardware = field(default_factory=WindowsHardware)
    convert: ConvertWish | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why something is as it is in a plan, in a sentence; ``partition`` is ``None`` for what is about the disk."""

    partition: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The table of a target to which partitions are added.

    Attributes:
        layout: As it was when the plan was made.
        added: The new partitions, as they will be in it.
        contents: What is on the target, in words; all of it stays.
        notices: What a person should know.
    """

    layout: Layout
    added: tuple[Partition, ...]
    contents: tuple[str, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """What a restore is going to do. ``target`` is ``None`` when ``target_path`` is a file to be made.

    Attributes:
        source_disk: The disk in the image, without partitions that are left out on request, or because nothing but
            the old way to start needs them.
        place: Bytes of the target that the image, or the partition, will occupy.
        steps: What will be done, in words.
        lost: What is on the target now and will be overwritten, in words.
        placements: Where each partition goes; empty where all stay as they were.
        left_places: Places of partitions that the image does not hold, and whether they stay as they are.
        left_out: Partitions that are not restored on request.
        reasons: Why the plan is as it is.
        beside: Where partitions become new ones on the target: its own table.
        sector_size: Bytes of the target's logical sectors.
        made_anew: Numbers of partitions that get a new file system, into which their files are copied.
        conversion: What becomes of a disk that is to start in another way.
        verb: Whether the disk is restored from its image, or copied as the image of itself.
    """

    manifest: Manifest
    source_disk: StoredDisk
    partition: StoredPartition | None
    target: TargetIdentity | None
    target_path: str
    target_size: int
    place: Extent
    options: RestoreOptions
    bytes_to_write: int
    steps: tuple[str, ...]
    lost: tuple[str, ...]
    notices: tuple[Notice, ...]
    placements: tuple[Placement, ...] = ()
    left_places: tuple[LeftPlace, ...] = ()
    left_out: tuple[StoredPartition, ...] = ()
    reasons: tuple[Reason, ...] = ()
    beside: Beside | None = None
    sector_size: int = 512
    made_anew: tuple[int, ...] = ()
    conversion: Conversion | None = None
    verb: Literal["restore", "clone"] = "restore"

    @property
    def chosen(self) -> tuple[StoredPartition, ...]:
        """The partitions that are restored."""
        return self.source_disk.partitions if self.partition is None else (self.partition,)

    @property
    def starts_by_uefi(self) -> bool:
        """Whether it becomes a whole disk that UEFI firmware of this computer may be told of."""
        is_for_bios = self.conversion is not None and self.conversion.starts_by != "uefi"
        return self.partition is None and self.beside is None and not is_for_bios

    @property
    def added(self) -> tuple[Partition, ...]:
        """Partitions that the target's disk has and the image has not."""
        return self.conversion.added if self.conversion else ()

    @property
    def was_there(self) -> tuple[str, ...]:
        """What is on the target before anything is written, lost or not, in words."""
        return self.beside.contents if self.beside else self.lost

    def place_of(self, part: StoredPartition) -> Extent:
        """Where a partition goes on the target."""
        if self.partition is not None:
            return self.place
        found = (one.place for one in self.placements if one.partition.number == part.number)
        return next(found, Extent(part.start, part.start + part.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What a restore did.

    Attributes:
        bytes_written: Bytes written to the target.
        bytes_skipped: Bytes left as they were.
        seconds: How long it took.
        changes: What is different from the source, in words.
        lost: What a salvage could not have of the image, and where it now is zeros.
        may_not_start: A system on it had to be made ready to start, and was not.
    """

    bytes_written: int
    bytes_skipped: int
    seconds: float
    changes: tuple[str, ...]
    lost: tuple[LostPart, ...] = ()
    may_not_start: bool = False


def manifest_bytes(disk: StoredDisk) -> int:
    """Bytes of a disk that an image keeps, without what lies outside partitions."""
    return sum(part.bytes_used for part in disk.partitions)


def outside_reader(origin: Origin, manifest: Manifest, disk: StoredDisk) -> MapReader:
    """The stored bytes outside all partitions, as a disk whose partitions read as zeros."""
    return MapReader(disk.outside.root(), origin.reader(), chunk_size=manifest.chunk_size, sector_size=disk.sector_size)


def stored_layout(disk: StoredDisk, outside: MapReader) -> Layout:
    """The layout of a stored disk, read from its stored bytes; a disk without a usable table is one volume."""
    if disk.scheme == "none":
        return Layout(
            scheme="none", disk_id="", size=disk.size, sector_size=disk.sector_size, partitions=(), notices=(),
            table=ExtentSet.empty(),
        )  # fmt: skip
    return read_layout(outside)
