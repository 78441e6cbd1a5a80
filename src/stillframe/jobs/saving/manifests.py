"""From what was captured and stored to the manifest that describes it.

Answers: "how is this disk written down?" The only place where captured records become stored ones.
"""

from collections.abc import Iterable, Iterator

from stillframe.capture import CapturedDisk, CapturedVolume
from stillframe.extents import ExtentSet
from stillframe.fs import LeftOutFile
from stillframe.jobs.saving.storing import StoredRange
from stillframe.repo.blockmap import MapRoot
from stillframe.repo.records import (
    LEFT_OUT_MAX,
    PATH_MAX,
    Consistency,
    StoredDisk,
    StoredFile,
    StoredMap,
    StoredPartition,
    stored_map,
    stored_notice,
)


def describe_disk(number: int, disk: CapturedDisk, ranges: list[StoredRange] | None, *, torn: bool) -> StoredDisk:
    """A disk as its manifest says it.

    Args:
        number: Of the disk in the image, from 1.
        disk: As it was captured.
        ranges: What was stored: outside first, then each volume in order. ``None`` describes a disk that was only
            looked at.
        torn: Whether it changed while it was copied.
    """
    layout, facts = disk.layout, disk.facts
    outside, *volumes = ranges or [_nothing(disk.reader.size), *(_nothing(v.reader.size) for v in disk.volumes)]
    return StoredDisk(
        number=number, path=facts.path, model=facts.model[:200], serial=facts.serial[:200], size=layout.size,
        sector_size=layout.sector_size, scheme=layout.scheme, disk_id=layout.disk_id,
        outside=stored_map(outside.root), unreadable=as_ranges(outside.unreadable),
        partitions=tuple(_partition(v, stored, torn=torn) for v, stored in zip(disk.volumes, volumes, strict=True)),
    )  # fmt: skip


def as_ranges(extents: ExtentSet) -> tuple[tuple[int, int], ...]:
    """Extents as they are kept: pairs of start and end."""
    return tuple(zip(extents.starts.tolist(), extents.ends.tolist(), strict=True))


def _largest(files: Iterable[LeftOutFile]) -> Iterator[StoredFile]:
    """The largest of the files that were left out; of very many, the rest as one line."""
    ordered = sorted(files, key=lambda file: file.size, reverse=True)
    shown, rest = ordered[:LEFT_OUT_MAX], ordered[LEFT_OUT_MAX - 1 :]
    if len(rest) > 1:
        shown = shown[:-1]
    for file in shown:
        yield StoredFile(path=file.path[:PATH_MAX], size=file.size, kind=file.kind)
    if len(rest) > 1:
        yield StoredFile(path=f"{len(rest)} more files", size=sum(file.size for file in rest), kind="excluded")


def _partition(captured: CapturedVolume, stored: StoredRange, *, torn: bool) -> StoredPartition:
    partition, volume = captured.partition, captured.volume
    consistency: Consistency = "torn" if torn else captured.consistency
    return StoredPartition(
        number=partition.number, index=partition.index, start=partition.extent.start, size=partition.extent.size,
        type=partition.type, type_name=partition.type_name, name=partition.name, guid=partition.guid,
        attributes=f"{partition.attributes:x}", logical=partition.logical, filesystem=volume.filesystem,
        label=volume.label[:200], uuid=volume.uuid[:200], block_size=volume.block_size,
        bytes_used=captured.kept.size, consistency=consistency, map=captured.used.kind, blocks=stored_map(stored.root),
        excluded=as_ranges(captured.excluded), unreadable=as_ranges(stored.unreadable),
        left_out=tuple(_largest(captured.left_out)),
        notices=tuple(stored_notice(notice) for notice in captured.notices),
    )  # fmt: skip


def _nothing(size: int) -> StoredRange:
    empty = StoredMap(size=size, kind=0).root()
    return StoredRange(root=MapRoot(size, empty.root), unreadable=ExtentSet.empty())
