"""Readers put together: one behind the other, or in stripes.

Answers: "what does a volume look like whose bytes lie in several places?" A logical volume of LVM is windows of its
physical volumes, one behind the other; where it is striped, a piece of each in turn.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from stillframe.block.base import BlockReader, Buffer, ExtentKind, KnownExtent, ReadFault, check_range, read_filled
from stillframe.extents import Extent


class _PiecedReader:
    """A reader of which every byte is a byte of another one; ``pieces`` says of which."""

    def __init__(self, readers: Sequence[BlockReader], *, size: int) -> None:
        if not readers or not all(reader.size for reader in readers):
            raise ValueError("there is nothing to join, or a part of it is empty")
        self._readers: Final = tuple(readers)
        self._size = size

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector: the largest of its parts'."""
        return max(reader.sector_size for reader in self._readers)

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; a fault names the range of the whole."""
        return read_filled(self, offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; a fault names the range of the whole."""
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        for here, reader, start in self.pieces(Extent(offset, offset + len(view))):
            try:
                reader.read_into(start, view[here.start - offset : here.end - offset])
            except ReadFault as fault:
                extent = fault.extent.shifted(here.start).shifted(-start)
                raise ReadFault(fault.message, extent=extent, hint=fault.hint) from fault

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What the reader of each piece knows; neighbours of one kind are told as one."""
        check_range(self.size, within.start, within.size)
        start, end, last = within.start, within.start, ExtentKind.DATA
        for here, reader, place in self.pieces(within):
            for known in reader.known_extents(Extent(place, place + here.size)):
                if known.kind is not last and start < end:
                    yield KnownExtent(Extent(start, end), last)
                    start = end
                end, last = end + known.extent.size, known.kind
        if start < end:
            yield KnownExtent(Extent(start, end), last)

    def pieces(self, within: Extent) -> Iterator[tuple[Extent, BlockReader, int]]:
        """A range cut where another reader goes on, in order, and where in that reader each cut begins."""
        raise NotImplementedError


class JoinedReader(_PiecedReader):
    """Readers one behind the other.

    Raises:
        ValueError: There is none, or one of them is empty: a bug of the caller.
    """

    def __init__(self, readers: Sequence[BlockReader]) -> None:
        self._starts = [0, *accumulate(reader.size for reader in readers)]
        super().__init__(readers, size=self._starts[-1])

    def pieces(self, within: Extent) -> Iterator[tuple[Extent, BlockReader, int]]:
        """A range cut where another reader goes on, and where in that reader each cut begins."""
        position, number = within.start, bisect_right(self._starts, within.start) - 1
        while position < within.end:
            end = min(within.end, self._starts[number + 1])
            yield Extent(position, end), self._readers[number], position - self._starts[number]
            position, number = end, number + 1


class StripedReader(_PiecedReader):
    """Readers of equal size, ``stripe_size`` bytes of each in turn.

    Raises:
        ValueError: They are not of equal size, or that is no multiple of ``stripe_size``: a bug of the caller.
    """

    def __init__(self, readers: Sequence[BlockReader], *, stripe_size: int) -> None:
        if stripe_size <= 0 or {reader.size % stripe_size for reader in readers} != {0}:
            raise ValueError(f"no stripes of {stripe_size} bytes can be made of these")
        if len({reader.size for reader in readers}) != 1:
            raise ValueError("stripes need readers of equal size")
        self._stripe_size = stripe_size
        super().__init__(readers, size=sum(reader.size for reader in readers))

    def pieces(self, within: Extent) -> Iterator[tuple[Extent, BlockReader, int]]:
        """A range cut where another reader goes on, and where in that reader each cut begins."""
        position = within.start
        while position < within.end:
            stripe, inside = divmod(position, self._stripe_size)
            row, column = divmod(stripe, len(self._readers))
            end = min(within.end, position - inside + self._stripe_size)
            yield Extent(position, end), self._readers[column], row * self._stripe_size + inside
            position = end
