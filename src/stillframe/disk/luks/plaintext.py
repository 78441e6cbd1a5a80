"""What an encrypted volume holds, as the kernel would show it.

Answers: "what is in it, and which encrypted bytes are these?" The reader writes nothing; the writer is for views that
are changed.
"""

import threading
from collections.abc import Iterator
from typing import Final

from stillframe.block import BlockReader, BlockWriter, ExtentKind, KnownExtent, WindowReader, WindowWriter
from stillframe.block.base import Buffer, check_range, read_filled
from stillframe.disk.luks.ciphers import SectorCipher
from stillframe.disk.luks.records import SECTOR, Segment
from stillframe.extents import Extent

_PIECE_SIZE: Final = 1 << 20


class PlaintextReader:
    """The segment of a volume, decrypted.

    Args:
        volume: The encrypted volume, from its header on.
        segment: What of it is encrypted.
        key: The volume's key, which was proven by its digest.
    """

    def __init__(self, volume: BlockReader, segment: Segment, key: bytes) -> None:
        self._inner = WindowReader(volume, segment.extent)
        self._segment = segment
        self._cipher = SectorCipher(segment.cipher, key, segment.sector_size)

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._inner.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector, as dm-crypt shows them: never smaller than what is encrypted in one go."""
        return 4096 if self._segment.sector_size == 4096 else self._inner.sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; errors as ``read_into``."""
        return read_filled(self, offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; a fault names the range inside the segment, widened to whole sectors."""
        view, step = memoryview(buffer).cast("B"), self._segment.sector_size
        check_range(self.size, offset, len(view))
        end, position = offset + len(view), offset
        while position < end:
            first = position // step * step
            last = min(-(-end // step) * step, first + _PIECE_SIZE)
            plain = self._cipher.decrypt(
                self._inner.read_at(first, last - first), self._segment.first_iv + first // SECTOR
            )
            stop = min(end, last)
            view[position - offset : stop - offset] = plain[position - first : stop - first]
            position = stop

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Nothing: encrypted zeros are data."""
        check_range(self.size, within.start, within.size)
        if within.size:
            yield KnownExtent(within, ExtentKind.DATA)


class PlaintextWriter(PlaintextReader):
    """The same, to be written as well: whole sectors are encrypted; others are read first. For several threads.

    Args:
        volume: The encrypted volume, from its header on.
        segment: What of it is encrypted.
        key: The volume's key, which was proven by its digest.
    """

    def __init__(self, volume: BlockWriter, segment: Segment, key: bytes) -> None:
        super().__init__(volume, segment, key)
        self._encrypted = WindowWriter(volume, segment.extent)
        self._lock = threading.Lock()

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data``, encrypted."""
        view, step = memoryview(data).cast("B"), self._segment.sector_size
        end, position = offset + len(view), offset
        check_range(self.size, offset, len(view))
        while position < end:
            first = position // step * step
            last = min(-(-end // step) * step, first + _PIECE_SIZE)
            stop = min(end, last)
            with self._lock:
                is_whole = (position, stop) == (first, last)
                plain = bytearray(last - first) if is_whole else bytearray(self.read_at(first, last - first))
                plain[position - first : stop - first] = view[position - offset : stop - offset]
                sealed = self._cipher.encrypt(bytes(plain), self._segment.first_iv + first // SECTOR)
                self._encrypted.write_at(first, sealed)
            position = stop

    def zero(self, extent: Extent) -> None:
        """Make a range read as zeros, which are encrypted like all else."""
        check_range(self.size, extent.start, extent.size)
        for start in range(extent.start, extent.end, _PIECE_SIZE):
            self.write_at(start, bytes(min(_PIECE_SIZE, extent.end - start)))

    def flush(self) -> None:
        """Return when what was written would survive a power cut."""
        self._encrypted.flush()
