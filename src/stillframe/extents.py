"""Byte ranges: one, and sorted sets of them, with arithmetic on whole arrays.

Answers: "which bytes?" An extent is half-open, ``[start, end)``, in bytes. This type and ``BlockReader`` are all that
``disk``, ``fs``, ``host`` and ``repo`` have in common. No loop here runs once per block of a volume.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """The bytes from ``start`` up to and not including ``end``."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not an extent: [{self.start}, {self.end})")

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start

    def shifted(self, distance: int) -> "Extent":
        """The same range, ``distance`` bytes further on."""
        return Extent(self.start + distance, self.end + distance)

    def clipped(self, within: "Extent") -> "Extent | None":
        """The part that lies inside ``within``; ``None`` when nothing does."""
        start, end = max(self.start, within.start), min(self.end, within.end)
        return Extent(start, end) if start < end else None


class ExtentSet:
    """A set of bytes as sorted extents that neither overlap nor touch. Immutable; equal when the bytes are equal."""

    __slots__ = ("ends", "starts")

    def __init__(self, starts: Offsets, ends: Offsets) -> None:
        """Use the ``from_`` constructors: this one trusts its arrays to be sorted, disjoint and not touching."""
        self.starts: Final = starts
        self.ends: Final = ends

    @classmethod
    def empty(cls) -> Self:
        """No bytes at all."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64))

    @classmethod
    def of(cls, *extents: Extent) -> Self:
        """The union of a few extents, in any order."""
        return cls.from_extents(extents)

    @classmethod
    def from_extents(cls, extents: Iterable[Extent]) -> Self:
        """The union of extents in any order."""
        pairs = np.array([(e.start, e.end) for e in extents], np.int64).reshape(-1, 2)
        return cls.from_arrays(pairs[:, 0], pairs[:, 1])

    @classmethod
    def from_arrays(cls, starts: Offsets, ends: Offsets) -> Self:
        """The union of ranges given as two arrays of bytes, in any order, overlapping or not, empty ones ignored."""
        kept = starts < ends
        starts, ends = starts[kept], ends[kept]
        if len(starts) == 0:
            return cls.empty()
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
        reach = np.maximum.accumulate(ends)
        first = np.concatenate(([True], starts[1:] > reach[:-1]))
        last = np.concatenate((first[1:], [True]))
        return cls(starts[first].astype(np.int64), reach[last].astype(np.int64))

    @classmethod
    def from_bitmap(cls, bitmap: bytes | memoryview, *, count: int, unit: int, base: int = 0) -> Self:
        """The units whose bit is set, least significant bit of each byte first.

        Args:
            bitmap: At least ``count`` bits.
            count: Number of bits that mean something; the rest is ignored.
            unit: Bytes that one bit stands for.
            base: Byte offset of the unit of bit 0.
        """
        if len(bitmap) * 8 < count:
            raise ValueError(f"bitmap of {len(bitmap)} bytes is too short for {count} units")
        raw = np.frombuffer(bitmap, np.uint8, (count + 7) // 8)
        bits = np.unpackbits(raw, count=count, bitorder="little")
        return cls.from_mask(bits.astype(bool), unit=unit, base=base)

    @classmethod
    def from_mask(cls, mask: NDArray[np.bool_], *, unit: int, base: int = 0) -> Self:
        """The units whose element is true; arguments as in ``from_bitmap``."""
        if not len(mask):
            return cls.empty()
        inner = np.flatnonzero(mask[1:] != mask[:-1]) + 1
        outer = ([0] if mask[0] else [], [len(mask)] if mask[-1] else [])
        edges = np.concatenate((outer[0], inner, outer[1])).astype(np.int64)
        return cls(base + edges[0::2] * unit, base + edges[1::2] * unit)

    @property
    def size(self) -> int:
        """Number of bytes in all."""
        return int((self.ends - self.starts).sum()) if len(self.starts) else 0

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Extent]:
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield Extent(start, end)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExtentSet):
            return NotImplemented
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.ends, other.ends)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"[{e.start}, {e.end})" for e in list(self)[:4])
        return f"ExtentSet({shown}{', ...' if len(self) > 4 else ''}; {self.size} bytes)"

    def __or__(self, other: "ExtentSet") -> "ExtentSet":
        if not len(self.starts) or not len(other.starts):
            return other if len(other.starts) else self
        return ExtentSet.from_arrays(
            np.concatenate((self.starts, other.starts)), np.concatenate((self.ends, other.ends))
        )

    def __and__(self, other: "ExtentSet") -> "ExtentSet":
        if not len(self.starts) or not len(other.starts):
            return ExtentSet.empty()
        whole = Extent(0, int(max(self.ends.max(initial=0), other.ends.max(initial=0))))
        return (self.complement(whole) | other.complement(whole)).complement(whole)

    def __sub__(self, other: "ExtentSet") -> "ExtentSet":
        if not len(self.starts) or not len(other.starts):
            return self
        whole = Extent(0, int(max(self.ends.max(initial=0), other.ends.max(initial=0))))
        return (self.complement(whole) | other).complement(whole)

    def complement(self, within: Extent) -> "ExtentSet":
        """The bytes of ``within`` that are not in this set."""
        starts = np.concatenate(([within.start], np.clip(self.ends, within.start, within.end)))
        ends = np.concatenate((np.clip(self.starts, within.start, within.end), [within.end]))
        kept = starts < ends
        return ExtentSet(starts[kept].astype(np.int64), ends[kept].astype(np.int64))

    def clipped(self, within: Extent) -> "ExtentSet":
        """The bytes that lie inside ``within``; found by bisection, so a small window of a large set is cheap."""
        first = int(np.searchsorted(self.ends, within.start, side="right"))
        last = int(np.searchsorted(self.starts, within.end, side="left"))
        if first >= last or within.size == 0:  # an empty window inside an extent must not leave an empty extent
            return ExtentSet.empty()
        starts, ends = self.starts[first:last].copy(), self.ends[first:last].copy()
        starts[0], ends[-1] = max(int(starts[0]), within.start), min(int(ends[-1]), within.end)
        return ExtentSet(starts, ends)

    def shifted(self, distance: int) -> "ExtentSet":
        """The same bytes, ``distance`` further on."""
        return ExtentSet(self.starts + distance, self.ends + distance)

    def rounded_out(self, step: int) -> "ExtentSet":
        """Every block of ``step`` bytes that holds at least one byte of this set."""
        return ExtentSet.from_arrays(self.starts // step * step, -(-self.ends // step) * step)

    def contains(self, extent: Extent) -> bool:
        """Whether every byte of ``extent`` is in the set."""
        return self.clipped(extent).size == extent.size
