"""What is different between a disk and a view of it on which work was done.

Answers: "which bytes would be written, and where are they?" Blocks that were written with what they held already do
not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.block.changed_blocks import ChangedBlocks
from stillframe.disk import Layout
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.mending.seen import SeenDisk
from stillframe.units import format_size

_STEP: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceChange:
    """What is different in one partition, or outside of all.

    Attributes:
        number: Of the partition; ``None`` outside of all.
        filesystem: What is in it, as ``blkid`` says.
        size: Bytes that are different.
        count: In how many places.
    """

    number: int | None
    filesystem: str
    size: int
    count: int

    @property
    def words(self) -> str:
        """For people."""
        name = "outside of partitions" if self.number is None else f"partition {self.number}"
        kind = f" ({self.filesystem})" if self.filesystem else ""
        places = "1 place" if self.count == 1 else f"{self.count} places"
        return f"{name}{kind}: {format_size(self.size)} in {places}"


def find_differences(disk: BlockReader, view: ChangedBlocks, *, unit: int) -> ExtentSet:
    """The ranges in which a view is different from its disk, in whole units.

    Args:
        disk: As it is.
        view: A view of it.
        unit: Bytes of a sector.

    Raises:
        DeviceError: The disk cannot be read.
    """
    return ExtentSet.from_extents(_differences(disk, view, unit))


def _differences(disk: BlockReader, view: ChangedBlocks, unit: int) -> Iterator[Extent]:
    for extent in view.changed.clipped(Extent(0, disk.size)):
        for start in range(extent.start, extent.end, _STEP):
            size = min(_STEP, extent.end - start)
            yield from different_units(disk.read_at(start, size), view.read_at(start, size), unit=unit, at=start)


def different_units(one: bytes, other: bytes, *, unit: int, at: int) -> Iterator[Extent]:
    """The ranges in which two contents of one size differ, in whole units, the last of which may be short.

    Args:
        one: Contents.
        other: Others.
        unit: Bytes of a unit.
        at: Where the first byte lies.
    """
    size = len(one)
    differs = np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)
    padded = np.zeros(-(-size // unit) * unit, np.bool_)
    padded[:size] = differs
    mask: NDArray[np.bool_] = np.any(padded.reshape(-1, unit), axis=1)
    for extent in ExtentSet.from_mask(mask, unit=unit):
        yield Extent(at + extent.start, at + min(extent.end, size))


def by_place(differences: ExtentSet, layout: Layout, seen: SeenDisk) -> tuple[PlaceChange, ...]:
    """What is different, by partition, what is outside of all first."""
    kinds = {one.partition.number: one.volume.filesystem for one in seen.volumes if not one.inner}
    places: list[tuple[int | None, str, ExtentSet]] = [(None, "", differences & layout.outside)]
    places += [
        (part.number, kinds.get(part.number, ""), differences.clipped(part.extent)) for part in layout.partitions
    ]
    return tuple(
        PlaceChange(number=number, filesystem=kind, size=found.size, count=len(found))
        for number, kind, found in places
        if len(found)
    )
