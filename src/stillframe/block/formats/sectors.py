"""Bitmaps that say for each sector of a block whether its bytes are in this file.

Answers: "which runs of sectors are here?"
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


def blocks_of(within: Extent, block_size: int) -> Iterator[tuple[int, Extent, Extent]]:
    """The blocks that a range touches: number, the block, and what of it is asked for."""
    for number in range(within.start // block_size, -(-within.end // block_size)):
        block = Extent(number * block_size, (number + 1) * block_size)
        part = block.clipped(within)
        if part is not None:
            yield number, block, part
