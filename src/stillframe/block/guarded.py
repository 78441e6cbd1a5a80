"""A reader with ranges that must not be taken for contents.

Answers: "are these bytes what was on the disk?" Where an image left something out, or the source could not be read,
the stored map reads as zeros. Whoever reads files must get an error there, never zeros.
"""

from collections.abc import Iterator

from stillframe.block.base import BlockReader, Buffer, ExtentKind, KnownExtent, ReadFault, WrappedReader, check_range
from stillframe.extents import Extent, ExtentSet


class GuardedReader(WrappedReader):
    """``inner``, of which some bytes cannot be read.

    Args:
        inner: What is read.
        forbidden: Bytes that raise ``ReadFault``.
        words: Why, such as "was left out of the image"; it goes on from "byte 4096 ".
        hint: What a person can do.
    """

    def __init__(self, inner: BlockReader, forbidden: ExtentSet, *, words: str, hint: str = "") -> None:
        super().__init__(inner)
        self._forbidden = forbidden
        self._words = words
        self._hint = hint

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; a fault where a byte of the range is forbidden."""
        check_range(self.size, offset, length)
        self._check(Extent(offset, offset + length))
        return self._inner.read_at(offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; errors as ``read_at``."""
        check_range(self.size, offset, len(buffer))
        self._check(Extent(offset, offset + len(buffer)))
        self._inner.read_into(offset, buffer)

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What the inner reader knows; forbidden bytes are data, so that nobody takes them for zeros unread."""
        for known in self._inner.known_extents(within):
            position = known.extent.start
            for bad in self._forbidden.clipped(known.extent) if known.kind is not ExtentKind.DATA else ():
                if position < bad.start:
                    yield KnownExtent(Extent(position, bad.start), known.kind)
                yield KnownExtent(bad, ExtentKind.DATA)
                position = bad.end
            if position < known.extent.end:
                yield KnownExtent(Extent(position, known.extent.end), known.kind)

    def _check(self, asked: Extent) -> None:
        found = self._forbidden.clipped(asked)
        if len(found):
            first = next(iter(found))
            raise ReadFault(f"byte {first.start} {self._words}", extent=first, hint=self._hint)
