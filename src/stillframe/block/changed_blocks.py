"""A reader some of whose blocks were changed: which, and where a range must be cut.

Answers: "what of this range still shows through?" Where the changed blocks are is the subclass's: ``copy_on_write``
throws them away, ``kept_overlay`` keeps them.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from stillframe.block.base import BlockReader, WrappedReader, check_range, read_filled
from stillframe.extents import Extent, ExtentSet


class ChangedBlocks(WrappedReader):
    """``inner`` with a note for each block of ``block_size`` bytes whether it was changed."""

    def __init__(self, inner: BlockReader, *, block_size: int) -> None:
        super().__init__(inner)
        self._block_size: Final = block_size
        self._changed = np.zeros(-(-inner.size // block_size), np.bool_)

    @property
    def changed(self) -> ExtentSet:
        """Blocks that were written to."""
        return ExtentSet.from_mask(self._changed, unit=self._block_size)

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; errors as ``read_into``."""
        check_range(self.size, offset, length)
        parts = list(self._parts(Extent(offset, offset + length)))
        if len(parts) == 1 and not parts[0][1]:
            return self._inner.read_at(offset, length)  # as it comes: nothing is copied
        return read_filled(self, offset, length)

    def _parts(self, within: Extent) -> Iterator[tuple[Extent, bool]]:
        """A range cut where changed blocks begin and end."""
        if not within.size:
            return
        size = self._block_size
        first = within.start // size
        flags = self._changed[first : -(-within.end // size)].copy()
        starts = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
        for start, end in pairwise(starts):
            part = Extent((first + start) * size, (first + end) * size).clipped(within)
            if part is not None:
                yield part, bool(flags[start])
