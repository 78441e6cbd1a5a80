"""Tables and bitmaps that say what of a disk is in this file.

Answers: "which blocks are here, and which sectors of a block?"
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stillframe.extents import Extent

Bits = npt.NDArray[np.uint8]


def sector_runs(bits: Bits, block: Extent, within: Extent, sector_size: int) -> Iterator[tuple[Extent, bool]]:
    """A range of one block cut where sectors begin and end to be here.

    Args:
        bits: One for each sector of the block.
        block: The block, in bytes of the disk.
        within: What is asked for; inside of the block.
        sector_size: Bytes of a sector.

    Yields:
        Ranges that cover ``within`` in order, and whether their bytes are here.
    """
    first = (within.start - block.start) // sector_size
    last = -(-(within.end - block.start) // sector_size)
    here = bits[first:last]
    edges = [0, *(np.flatnonzero(np.diff(here)) + 1).tolist(), len(here)]
    for start, end in pairwise(edges):
        run = Extent(block.start + (first + start) * sector_size, block.start + (first + end) * sector_size)
        part = run.clipped(within)
        if part is not None:
            yield part, bool(here[start])


def iter_present(
    is_missing: npt.NDArray[np.bool_], unit: int, within: Extent
) -> Iterator[tuple[int | None, Extent, Extent]]:
    """A range cut into the units of a table, the missing ones joined: a large disk is mostly those.

    Args:
        is_missing: For every unit of the disk.
        unit: Bytes of one.
        within: What is asked for.

    Yields:
        The number of a unit that is there, or ``None`` for missing ones; what it covers; what of it is asked for.
    """
    first, last = within.start // unit, -(-within.end // unit)
    missing = is_missing[first:last]
    edges = [0, *(np.flatnonzero(np.diff(missing)) + 1).tolist(), len(missing)]
    for start, end in pairwise(edges):
        steps = [(start, end)] if missing[start] else [(number, number + 1) for number in range(start, end)]
        for low, high in steps:
            whole = Extent((first + low) * unit, (first + high) * unit)
            part = whole.clipped(within)
            if part is not None:
                yield None if missing[start] else first + low, whole, part
