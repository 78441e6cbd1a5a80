"""What became of the partitions of a disk: where they were and are, and what they were and are called.

Answers: "this record of a Windows named a partition as it was; what must it say now?" Pure: it reads no disk.
``boot.ini`` counts partitions its own way: those in use of the table in its order, then logical ones, from 1; extended
ones are not counted.

Source: Microsoft, KB 102873, "BOOT.INI and ARC path naming conventions and usage".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from stillframe.block.edits import Edit
from stillframe.disk import Layout, Partition
from stillframe.events import Notice
from stillframe.systems.windows_disks import PartitionRecord

_LAYOUT_HINT: Final = "Start the recovery environment of that Windows and run 'bootrec /rebuildbcd' or 'bcdboot'."


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlace:
    """A partition on one of the two disks.

    Attributes:
        start: Its first byte on the disk.
        guid: Its GUID in upper case; empty on an MBR disk.
        arc_number: What ``boot.ini`` calls it; 0 when it has none.
    """

    start: int
    guid: str = ""
    arc_number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedPartition:
    """One partition, before and after."""

    old: PartitionPlace
    new: PartitionPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What became of a disk. Partitions that were left out, and those that the target had already, are not in it.

    Attributes:
        scheme: Of both disks: a change of it is not followed here.
        old_disk, new_disk: Disk GUID or signature, spelt as ``Layout.disk_id``.
        partitions: Those that were taken over, also when nothing of them changed.
    """

    scheme: Literal["gpt", "mbr"]
    old_disk: str
    new_disk: str
    partitions: tuple[MovedPartition, ...]
    _places: Mapping[str | int, PartitionPlace | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = dict[str | int, PartitionPlace | None]()
        for moved in self.partitions:
            key = moved.old.guid if self.scheme == "gpt" else moved.old.start
            places[key] = None if key in places else moved.new
        object.__setattr__(self, "_places", places)

    @property
    def is_nothing(self) -> bool:
        """Whether everything is where it was, under its own name."""
        return self.old_disk == self.new_disk and all(moved.old == moved.new for moved in self.partitions)

    @property
    def inverse(self) -> "Moves":
        """The way back."""
        back = tuple(MovedPartition(old=moved.new, new=moved.old) for moved in self.partitions)
        return Moves(scheme=self.scheme, old_disk=self.new_disk, new_disk=self.old_disk, partitions=back)

    @property
    def ambiguous(self) -> tuple[str, ...]:
        """GUIDs that several partitions of the old disk had: no record of them can be followed."""
        return tuple(str(key) for key, place in self._places.items() if place is None)

    def is_of_disk(self, record: PartitionRecord) -> bool:
        """Whether a record names a partition of the old disk, one that was left out too."""
        return record.scheme == self.scheme and record.disk == self.old_disk

    def follow(self, record: PartitionRecord) -> PartitionRecord | None:
        """The record as it must be now; ``None`` when it names no partition that was taken over."""
        if record.scheme != self.scheme or record.disk not in ("", self.old_disk):
            return None
        if record.scheme == "mbr":
            place = None if record.start is None else self._places.get(record.start)
            return None if place is None else replace(record, disk=self.new_disk, start=place.start)
        place = self._places.get(record.guid)
        return None if place is None else replace(record, disk=record.disk and self.new_disk, guid=place.guid)

    def find_start(self, start: int) -> int | None:
        """Where the partition begins now that began there; ``None`` when none did that was taken over."""
        return next((moved.new.start for moved in self.partitions if moved.old.start == start), None)

    def find_arc_number(self, number: int) -> int:
        """What ``boot.ini`` must call a partition now; 0 when it is not among them, or has no number there."""
        return next((moved.new.arc_number for moved in self.partitions if moved.old.arc_number == number), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """How the bytes of one file or volume must change.

    Attributes:
        edits: In bytes of it.
        done: What they do, in sentences without the name of the thing.
        notices: What is not done, likewise.
    """

    edits: tuple[Edit, ...] = ()
    done: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


def build_moves(old: Layout, new: Layout, kept: Mapping[int, int]) -> Moves:
    """Compare two layouts.

    Args:
        old: Of the disk that the bytes come from.
        new: Of the disk that they are on.
        kept: The number of each partition that was taken over, with its number on the new disk.

    Raises:
        ValueError: The schemes differ, there is no table, or a number is not there: a bug of the caller.
    """
    if old.scheme != new.scheme or old.scheme == "none":
        raise ValueError(f"a {old.scheme} disk does not become a {new.scheme} disk here")
    before, after = dict(_iter_places(old)), dict(_iter_places(new))
    missing = [number for pair in kept.items() for number, known in zip(pair, (before, after), strict=True)
               if number not in known]  # fmt: skip
    if missing:
        raise ValueError(f"there is no partition {missing[0]}")
    moved = tuple(MovedPartition(old=before[one], new=after[other]) for one, other in sorted(kept.items()))
    return Moves(scheme=old.scheme, old_disk=old.disk_id, new_disk=new.disk_id, partitions=moved)


def _iter_places(layout: Layout) -> Iterator[tuple[int, PartitionPlace]]:
    ordered: list[Partition] = sorted(layout.partitions, key=lambda partition: partition.number)
    for rank, partition in enumerate(ordered, 1):
        arc = rank if layout.scheme == "mbr" else 0
        yield partition.number, PartitionPlace(start=partition.extent.start, guid=partition.guid, arc_number=arc)


def left_out(what: str) -> Notice:
    """A record of a partition that was not taken over, or cannot be told from another."""
    return Notice(code="partition-not-followed", message=what, hint=_LAYOUT_HINT)
