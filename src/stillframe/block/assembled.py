"""A reader put together from several: a disk of which some ranges are shown by other readers.

Answers: "what does the whole disk look like, when its volumes are read elsewhere?" Such as from snapshots, while the
table and the gaps come from the disk itself.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stillframe.block.base import BlockReader, Buffer, KnownExtent, ReadFault, check_range, read_filled
from stillframe.extents import Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A reader, and where its byte 0 stands in the whole; it fills as many bytes as it has."""

    start: int
    reader: BlockReader

    @property
    def extent(self) -> Extent:
        """The bytes of the whole that it shows."""
        return Extent(self.start, self.start + self.reader.size)


class AssembledReader:
    """``base`` with pieces in place of some ranges.

    Args:
        base: What is seen between the pieces.
        pieces: In any order; they neither overlap nor leave ``base``.

    Raises:
        ValueError: They do: a bug of the caller.
    """

    def __init__(self, base: BlockReader, pieces: Iterable[Piece]) -> None:
        self._base = base
        self._pieces = sorted(pieces, key=lambda piece: piece.start)
        self._starts = [piece.start for piece in self._pieces]
        before = 0
        for piece in self._pieces:
            if piece.start < before or piece.extent.end > base.size:
                raise ValueError(f"a piece at {piece.extent} does not fit: {before} to {base.size} is free")
            before = piece.extent.end

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._base.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector of the base."""
        return self._base.sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; a fault names the range of the whole."""
        check_range(self.size, offset, length)
        parts = list(self._parts(Extent(offset, offset + length)))
        if len(parts) != 1:
            return read_filled(self, offset, length)
        piece = parts[0][1]
        if piece is None:
            return self._base.read_at(offset, length)
        try:
            return piece.reader.read_at(offset - piece.start, length)  # as it comes: nothing is copied
        except ReadFault as fault:
            raise _moved(fault, piece) from fault

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; a fault names the range of the whole."""
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        for here, piece in self._parts(Extent(offset, offset + len(view))):
            part = view[here.start - offset : here.end - offset]
            if piece is None:
                self._base.read_into(here.start, part)
                continue
            try:
                piece.reader.read_into(here.start - piece.start, part)
            except ReadFault as fault:
                raise _moved(fault, piece) from fault

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What each reader knows of its part."""
        check_range(self.size, within.start, within.size)
        for here, piece in self._parts(within):
            if piece is None:
                yield from self._base.known_extents(here)
                continue
            for known in piece.reader.known_extents(here.shifted(-piece.start)):
                yield KnownExtent(known.extent.shifted(piece.start), known.kind)

    def _parts(self, within: Extent) -> Iterator[tuple[Extent, Piece | None]]:
        """A range cut where another reader begins, in order; ``None`` is the base."""
        position = within.start
        number = max(bisect_right(self._starts, position) - 1, 0)
        for piece in self._pieces[number:]:
            if piece.start >= within.end:
                break
            here = piece.extent.clipped(Extent(position, within.end)) if position < within.end else None
            if here is None:
                continue
            if position < here.start:
                yield Extent(position, here.start), None
            yield here, piece
            position = here.end
        if position < within.end:
            yield Extent(position, within.end), None


def _moved(fault: ReadFault, piece: Piece) -> ReadFault:
    """A fault of a piece, with the range of the whole."""
    return ReadFault(fault.message, extent=fault.extent.shifted(piece.start), hint=fault.hint)
