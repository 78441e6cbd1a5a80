"""Which bytes of one device are which bytes of another.

Answers: "a change here is a change where there?" A map is pieces, each a run of bytes of the upper device and the place
of the lower one that holds them. Partitions, linear tables, encryption, mirrors and stripes are all of this form.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from stillframe.extents import ExtentSet, Offsets

PIECES_MAX: Final = 8 << 20


@dataclass(frozen=True, slots=True, eq=False)
class ByteMap:
    """Pieces of an upper device on one lower device, in bytes; a piece of the upper one is in one place at most.

    Attributes:
        uppers: Where each piece begins in the upper device.
        lowers: Where it begins in the lower device.
        sizes: How long it is.
    """

    uppers: Offsets
    lowers: Offsets
    sizes: Offsets

    @classmethod
    def of(cls, *pieces: tuple[int, int, int]) -> Self:
        """From (upper, lower, size), in any order."""
        rows = np.array(sorted(piece for piece in pieces if piece[2] > 0), np.int64).reshape(-1, 3)
        return cls(rows[:, 0], rows[:, 1], rows[:, 2])

    def down(self, extents: ExtentSet) -> ExtentSet:
        """Bytes of the upper device, as bytes of the lower one."""
        return ExtentSet.from_arrays(*_moved(extents.starts, extents.ends, self.uppers, self.lowers, self.sizes))

    def up(self, extents: ExtentSet) -> ExtentSet:
        """Bytes of the lower device, as bytes of the upper one; what belongs to others is left out."""
        order = np.argsort(self.lowers, kind="stable")
        pieces = (self.lowers[order], self.uppers[order], self.sizes[order])
        return ExtentSet.from_arrays(*_moved(extents.starts, extents.ends, *pieces))

    def onto(self, below: Self) -> "ByteMap":
        """The map through a further device: ``self`` leads to the device that ``below`` begins with."""
        uppers, lowers = self.lowers, self.lowers + self.sizes
        order = np.argsort(uppers, kind="stable")
        index, piece = _overlaps(uppers[order], lowers[order], below.uppers, below.sizes)
        index = order[index]
        starts = np.maximum(self.lowers[index], below.uppers[piece])
        ends = np.minimum(self.lowers[index] + self.sizes[index], below.uppers[piece] + below.sizes[piece])
        found = ByteMap(
            self.uppers[index] + starts - self.lowers[index], below.lowers[piece] + starts - below.uppers[piece],
            ends - starts,
        )  # fmt: skip
        by_upper = np.argsort(found.uppers, kind="stable")
        return ByteMap(found.uppers[by_upper], found.lowers[by_upper], found.sizes[by_upper])

    def joined(self, other: Self) -> "ByteMap":
        """The pieces of both; they must not overlap in the upper device."""
        uppers = np.concatenate((self.uppers, other.uppers))
        order = np.argsort(uppers, kind="stable")
        lowers, sizes = np.concatenate((self.lowers, other.lowers)), np.concatenate((self.sizes, other.sizes))
        return ByteMap(uppers[order], lowers[order], sizes[order])

    @property
    def covered(self) -> ExtentSet:
        """The bytes of the upper device that lie on this lower one."""
        return ExtentSet.from_arrays(self.uppers, self.uppers + self.sizes)

    @property
    def token(self) -> bytes:
        """The same for equal maps only."""
        return b"".join(array.tobytes() for array in (self.uppers, self.lowers, self.sizes))


def _overlaps(starts: Offsets, ends: Offsets, begins: Offsets, sizes: Offsets) -> tuple[Offsets, Offsets]:
    """Every pair of a range and a piece that share bytes, as two arrays of positions; all four arrays ascend."""
    first = np.searchsorted(begins + sizes, starts, side="right")
    last = np.searchsorted(begins, ends, side="left")
    counts = np.maximum(last - first, 0)
    index = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return index, within + np.repeat(first, counts)


def _moved(
    starts: Offsets, ends: Offsets, begins: Offsets, targets: Offsets, sizes: Offsets
) -> tuple[Offsets, Offsets]:
    index, piece = _overlaps(starts, ends, begins, sizes)
    low = np.maximum(starts[index], begins[piece])
    high = np.minimum(ends[index], begins[piece] + sizes[piece])
    distance = targets[piece] - begins[piece]
    return low + distance, high + distance
