"""What the numbers of a manifest must agree on, beyond the limits of each field.

Answers: "does this description of a disk make sense?" Normative: ``docs/format/v1.md``, section 10. Whoever has
passed here may use offsets and sizes without checking them again.
"""

from collections.abc import Iterator
from itertools import pairwise

from stillframe.errors import DamagedError
from stillframe.repo.format import CHECK_HINT
from stillframe.repo.records import Manifest, Ranges, StoredDisk, StoredPartition, parse_record


def parse_manifest(raw: bytes, *, thing: str) -> Manifest:
    """Parse a manifest and check that its parts agree.

    Raises:
        DamagedError: It is not what the format says; the field or the place is named.
    """
    manifest = parse_record(raw, Manifest, thing=thing)
    wrong = next(_contradictions(manifest), None)
    if wrong is not None:
        raise DamagedError(f"{thing}: {wrong}", hint=CHECK_HINT)
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    numbers = [disk.number for disk in manifest.disks]
    if len(set(numbers)) < len(numbers):
        yield f"its disks are numbered {numbers}"
    for disk in manifest.disks:
        yield from _of_disk(disk)


def _of_disk(disk: StoredDisk) -> Iterator[str]:
    if disk.outside.size != disk.size:
        yield f"disk {disk.number} has {disk.size} bytes, the map of what is outside its partitions {disk.outside.size}"
    if not _are_sorted(disk.unreadable, disk.size):
        yield f"the unreadable ranges of disk {disk.number} are not sorted ranges inside it"
    numbers = [part.number for part in disk.partitions]
    if len(set(numbers)) < len(numbers):
        yield f"partitions of disk {disk.number} are numbered {numbers}"
    places = sorted((part.start, part.start + part.size, part.number) for part in disk.partitions)
    if places and places[-1][1] > disk.size:
        yield f"partition {places[-1][2]} of disk {disk.number} ends behind the disk"
    for (_, end, number), (start, _, other) in pairwise(places):
        if end > start:
            yield f"partitions {number} and {other} of disk {disk.number} overlap"
    for part in disk.partitions:
        yield from _of_partition(part)


def _of_partition(part: StoredPartition) -> Iterator[str]:
    if part.blocks.size != part.size:
        yield f"partition {part.number} has {part.size} bytes, its block map {part.blocks.size}"
    for name, ranges in (("excluded", part.excluded), ("unreadable", part.unreadable)):
        if not _are_sorted(ranges, part.size):
            yield f"the {name} ranges of partition {part.number} are not sorted ranges inside it"


def _are_sorted(ranges: Ranges, size: int) -> bool:
    """Whether ranges are not empty, ascend without overlap, and end inside ``size`` bytes."""
    if any(start >= end for start, end in ranges) or (ranges and ranges[-1][1] > size):
        return False
    return all(before[1] <= after[0] for before, after in pairwise(ranges))
