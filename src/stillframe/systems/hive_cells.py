r"""The cells of a file of the Windows registry, and more of them.

Answers: "is this cell in use, what is in it, and where is room for another?" In memory only. What is new goes into bins
behind the last one, as Windows itself does it, so nothing that is there moves. Every bin and cell is walked first, and
only cells in use are followed: a damaged hive costs an error, and never a change to the wrong bytes.

Places of cells are told by where their contents begin in the file, four bytes behind the cell; what a hive notes is the
offset of the cell behind the base block (``offset_of``).

Source: "Windows registry file format specification", github.com/msuhanov/regf, sections "Base block" to "Cell".
"""

import struct
from collections.abc import Iterator
from typing import Final, Self

from stillframe.errors import DiskFormatError
from stillframe.systems.hive import Hive
from stillframe.units import align_up

HIVE_SIZE_MAX: Final = 1 << 30
NO_CELL: Final = 0xFFFFFFFF
LATIN: Final = {b"nk": 0x20, b"vk": 0x01}
"""The flag of a key's or value's name that is written in single bytes."""
_BASE_SIZE: Final = 4096
CELL_DATA_AT: Final = _BASE_SIZE + 4
_BIN_HEAD: Final = 32
_BIN_STEP: Final = 4096
_NAME_AT: Final = {b"nk": 76, b"vk": 20}
_LEAST: Final = {b"nk": 76, b"vk": 20, b"sk": 20, b"": 4}
_HINT: Final = "Start that Windows once and shut it down; it repairs its registry itself."


class HiveCells:
    """The bytes of a hive, cell by cell. ``open`` makes it."""

    def __init__(self, raw: bytearray, cells: set[int], *, bins_size: int) -> None:
        self.raw: Final = raw
        self._cells = cells
        self._end = _BASE_SIZE + bins_size
        self._room = (0, 0)  # where in the last new bin there is room, and how much

    @classmethod
    def open(cls, contents: bytes) -> Self:
        """A hive that may be changed.

        Raises:
            DiskFormatError: It is none, was not closed, or its cells do not fit.
        """
        hive = Hive.open(lambda offset, size: contents[offset : offset + size])
        if hive is None or len(contents) > HIVE_SIZE_MAX:
            raise broken("these bytes are no hive")
        if hive.is_dirty:
            raise broken("it was not closed: changes to it wait in its log")
        size = u32(contents, 40)
        if size % _BIN_STEP or not size or _BASE_SIZE + size > len(contents):
            raise broken(f"its bins have {size} bytes, and the file has {len(contents)}")
        return cls(bytearray(contents), set(_walk(contents, size)), bins_size=size)

    def close(self) -> bytes:
        """The hive as it is now, closed."""
        self._close_bin()
        number = (u32(self.raw, 4) + 1) & 0xFFFFFFFF
        struct.pack_into("<II", self.raw, 4, number, number)
        struct.pack_into("<I", self.raw, 40, self._end - _BASE_SIZE)
        return bytes(seal_base(self.raw))

    def at(self, offset: int, signature: bytes = b"") -> int:
        """Where the data of a cell in use begins.

        Raises:
            DiskFormatError: There is no such cell in use, or it is too small for its kind.
        """
        if offset not in self._cells:
            raise broken(f"a cell at {offset:#x} is named, and none in use is there")
        data = offset + CELL_DATA_AT
        if signature and bytes(self.raw[data : data + 2]) != signature:
            raise broken(f"the cell at {offset:#x} is no {signature.decode()!r}")
        self.require(data, _LEAST[signature])
        return data

    def require(self, data: int, size: int) -> None:
        """Make sure that a cell holds so many bytes.

        Raises:
            DiskFormatError: It does not.
        """
        if self.held(data) < size:
            raise broken(f"the cell at {data - CELL_DATA_AT:#x} is too small for what is in it")

    def held(self, data: int) -> int:
        """Bytes that a cell holds."""
        return -int.from_bytes(self.raw[data - 4 : data], "little", signed=True) - 4

    def name(self, data: int, signature: bytes) -> str:
        """The name of a key (``nk``) or value (``vk``)."""
        size_at, flags_at = (72, 2) if signature == b"nk" else (2, 16)
        size, flags = u16(self.raw, data + size_at), u16(self.raw, data + flags_at)
        start = data + _NAME_AT[signature]
        self.require(data, _NAME_AT[signature] + size)
        raw = bytes(self.raw[start : start + size])
        return raw.decode("latin-1") if flags & LATIN[signature] else raw.decode("utf-16-le", errors="replace")

    def write(self, cell: int, data: bytes) -> int:
        """Put other bytes into a cell, or into a new one when it is too small; the cell."""
        if len(data) > self.held(cell):
            self.free(cell)
            cell = self.allocate(data)
        else:
            self.raw[cell : cell + len(data)] = data
        return cell

    def allocate(self, data: bytes) -> int:
        """A new cell that holds these bytes."""
        need = align_up(len(data) + 4, 8)
        if self._room[1] < need:
            self._open_bin(need)
        at, room = self._room
        self._room = (at + need, room - need)
        self.raw[at : at + need] = struct.pack("<i", -need) + data.ljust(need - 4, b"\0")
        self._cells.add(at - _BASE_SIZE)
        return at + 4

    def _open_bin(self, need: int) -> None:
        self._close_bin()
        size = align_up(need + _BIN_HEAD, _BIN_STEP)
        head = struct.pack("<4sII", b"hbin", self._end - _BASE_SIZE, size).ljust(_BIN_HEAD, b"\0")
        self.raw[self._end : self._end + size] = head.ljust(size, b"\0")
        self._room = (self._end + _BIN_HEAD, size - _BIN_HEAD)
        self._end += size

    def _close_bin(self) -> None:
        at, room = self._room
        if room:
            struct.pack_into("<i", self.raw, at, room)
        self._room = (0, 0)

    def free(self, data: int) -> None:
        """Give a cell up.

        Raises:
            DiskFormatError: It is not in use: two things name it.
        """
        offset = data - CELL_DATA_AT
        if offset not in self._cells:
            raise broken(f"the cell at {offset:#x} is named twice")
        self._cells.remove(offset)
        struct.pack_into("<i", self.raw, data - 4, self.held(data) + 4)

    def raise_to(self, at: int, least: int, *, bits: int = 32) -> None:
        """Make the number at a byte of the file no smaller than this."""
        mask = (1 << bits) - 1
        known = u32(self.raw, at)
        struct.pack_into("<I", self.raw, at, (known & ~mask) | max(known & mask, least))


def seal_base(raw: bytearray) -> bytearray:
    """Write the checksum of a base block into it. Source: as above, "Base block", note 2."""
    found = 0
    for word in struct.unpack_from("<127I", raw):
        found ^= word
    struct.pack_into("<I", raw, 508, {0xFFFFFFFF: 0xFFFFFFFE, 0: 1}.get(found, found))
    return raw


def _walk(contents: bytes, bins_size: int) -> Iterator[int]:
    """The offsets of all cells in use.

    Raises:
        DiskFormatError: Bins or cells do not lie one behind the other.
    """
    start = 0
    while start < bins_size:
        signature, offset, size = struct.unpack_from("<4sII", contents, _BASE_SIZE + start)
        if signature != b"hbin" or offset != start or size % _BIN_STEP or not 0 < size <= bins_size - start:
            raise broken(f"there is no bin at {start:#x}")
        at = start + _BIN_HEAD
        while at < start + size:
            length = struct.unpack_from("<i", contents, _BASE_SIZE + at)[0]
            if not length or length % 8 or abs(length) > start + size - at:
                raise broken(f"the cell at {at:#x} does not fit into its bin")
            if length < 0:
                yield at
            at += abs(length)
        start += size


def offset_of(data: int) -> int:
    """What a hive notes of a cell."""
    return data - CELL_DATA_AT


def u16(raw: bytes | bytearray, at: int) -> int:
    """A number of 16 bits."""
    return int.from_bytes(raw[at : at + 2], "little")


def u32(raw: bytes | bytearray, at: int) -> int:
    """A number of 32 bits."""
    return int.from_bytes(raw[at : at + 4], "little")


def broken(what: str) -> DiskFormatError:
    """A hive that is not changed."""
    return DiskFormatError(f"Windows registry: {what}", hint=_HINT)
