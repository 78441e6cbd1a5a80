"""The seam for random-access bytes.

Answers: "how are bytes of a disk, a partition, a file or a stored image read and written?" There is no cursor. A read
is full or it raises. Wrappers take the inner object first. ``testing.block_contract`` holds what every one obeys.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from stillframe.errors import DeviceError
from stillframe.extents import Extent

Buffer = bytearray | memoryview


class ExtentKind(Enum):
    """What is known of a range without reading it."""

    DATA = "data"
    """Bytes that must be read; the answer of whoever does not know."""
    ZERO = "zero"
    """Reads as zeros, and takes room."""
    HOLE = "hole"
    """Reads as zeros, and takes no room."""


@dataclass(frozen=True, slots=True)
class KnownExtent:
    """A range and what is known of it."""

    extent: Extent
    kind: ExtentKind


class ReadFault(DeviceError):
    """Some bytes could not be read. ``extent`` is the range asked for, not necessarily all of it bad."""

    code = "read-fault"

    def __init__(self, message: str, *, extent: Extent, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.extent = extent


class BlockReader(Protocol):
    """Bytes that can be read at any offset, from several threads at once."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        ...

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector: 512 or 4096; 512 where there is no device behind it."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes.

        Raises:
            ValueError: The range does not lie inside ``[0, size)``: a bug of the caller, who checks foreign numbers.
            ReadFault: The device failed.
        """
        ...

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; errors as ``read_at``."""
        ...

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What is known of a range without reading it: extents that cover it in order, without gap or overlap."""
        ...


class BlockWriter(BlockReader, Protocol):
    """Bytes that can be written too. Not safe for two threads on overlapping ranges."""

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data``. Raises as ``read_at``, with ``DeviceError`` for the device."""
        ...

    def zero(self, extent: Extent) -> None:
        """Make a range read as zeros. A discard is not enough: it promises nothing."""
        ...

    def flush(self) -> None:
        """Return when what was written would survive a power cut."""
        ...


class WrappedReader:
    """A reader over another one, which it is like in everything that a subclass does not say: usually ``read_into``."""

    def __init__(self, inner: BlockReader) -> None:
        self._inner = inner

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._inner.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector."""
        return self._inner.sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; errors as ``read_into``."""
        return read_filled(self, offset, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; errors of the inner reader."""
        self._inner.read_into(offset, buffer)

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What the inner reader knows."""
        return self._inner.known_extents(within)


def read_filled(reader: BlockReader, offset: int, length: int) -> bytes:
    """``read_at`` for readers that have only ``read_into``; the range is checked before room is made for it."""
    check_range(reader.size, offset, length)
    buffer = bytearray(length)
    reader.read_into(offset, buffer)
    return bytes(buffer)


def check_range(size: int, offset: int, length: int) -> None:
    """Raise ``ValueError`` unless ``[offset, offset + length)`` lies inside ``[0, size)``."""
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"range [{offset}, {offset + length}) is outside [0, {size})")
