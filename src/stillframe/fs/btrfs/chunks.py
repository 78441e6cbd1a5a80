"""Chunks: where the logical addresses of Btrfs lie on the device.

Answers: "which bytes of the device are these bytes of the address space, in how many copies?" Only chunks in one piece
are mapped: SINGLE, and DUP, which is the same twice on one device. It reads no tree.

Sources: Linux ``include/uapi/linux/btrfs_tree.h`` (``struct btrfs_chunk``, ``struct btrfs_stripe``, block group
flags), ``fs/btrfs/tree-checker.c`` (``btrfs_check_chunk_valid``), ``fs/btrfs/volumes.c`` (``btrfs_read_sys_array``).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DiskFormatError
from stillframe.extents import ExtentSet
from stillframe.fs.btrfs.superblock import ADDRESS_MAX, DeviceItem, Superblock

CHECK_HINT: Final = "Let 'btrfs check --readonly' examine the unmounted volume; until then it is stored whole."
CHUNK_ITEM_KEY: Final = 228  # BTRFS_CHUNK_ITEM_KEY
COPIES_MAX: Final = 2

_CHUNK: Final = struct.Struct("<QQQQIIIHH")  # struct btrfs_chunk without its stripes
_STRIPE: Final = struct.Struct("<QQ16s")
_KEY: Final = struct.Struct("<QBQ")  # struct btrfs_disk_key
_NOWHERE: Final = -1

Offsets = NDArray[np.int64]


class ChunkType(IntFlag):
    """``type`` of a chunk and ``flags`` of a block group: BTRFS_BLOCK_GROUP_*."""

    DATA = 1 << 0
    SYSTEM = 1 << 1
    METADATA = 1 << 2
    RAID0 = 1 << 3
    RAID1 = 1 << 4
    DUP = 1 << 5
    RAID10 = 1 << 6
    RAID5 = 1 << 7
    RAID6 = 1 << 8
    RAID1C3 = 1 << 9
    RAID1C4 = 1 << 10


CONTENTS: Final = ChunkType.DATA | ChunkType.SYSTEM | ChunkType.METADATA
"""BTRFS_BLOCK_GROUP_TYPE_MASK; the other bits are the profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One range of the address space.

    Attributes:
        start, size: Logical, in bytes.
        type: What it holds, and its profile.
        stripes: For each copy or piece the number and the UUID of the device, and the byte it begins at there.
    """

    start: int
    size: int
    type: ChunkType
    stripes: tuple[tuple[int, bytes, int], ...]

    @property
    def profile(self) -> ChunkType:
        """How it is laid out; bits without a name count."""
        return ChunkType(int(self.type) & ~int(CONTENTS))

    @property
    def is_mapped_here(self) -> bool:
        """Whether it is SINGLE or DUP; anything else is laid out in ways that are not read here."""
        return self.profile in (ChunkType(0), ChunkType.DUP)


def parse_chunk(raw: bytes, *, start: int) -> Chunk:
    """Parse one ``struct btrfs_chunk`` with its stripes.

    Args:
        raw: The item, and nothing after it.
        start: The offset of its key.

    Raises:
        DiskFormatError: A size cannot be.
    """
    if len(raw) < _CHUNK.size + _STRIPE.size:
        raise _broken(start, f"it has {len(raw)} bytes")
    size, _, _, kind, _, _, _, stripes_count, _ = _CHUNK.unpack_from(raw)
    if stripes_count == 0 or len(raw) != _CHUNK.size + stripes_count * _STRIPE.size:
        raise _broken(start, f"{stripes_count} stripes in {len(raw)} bytes")
    if not 0 < size <= ADDRESS_MAX or not 0 <= start <= ADDRESS_MAX:
        raise _broken(start, f"its size is {size}")
    stripes = tuple((number, owner, place) for number, place, owner in _STRIPE.iter_unpack(raw[_CHUNK.size :]))
    return Chunk(start=start, size=size, type=ChunkType(kind), stripes=stripes)


def parse_system_chunks(superblock: Superblock) -> tuple[Chunk, ...]:
    """The chunks named in the superblock, from which the chunk tree can be read.

    Raises:
        DiskFormatError: The list is cut off, or names anything else.
    """
    raw, found = superblock.system_chunks, []
    at = 0
    while at < len(raw):
        if at + _KEY.size + _CHUNK.size > len(raw):
            raise DiskFormatError(f"Btrfs superblock: the list of system chunks is cut off at {at}", hint=CHECK_HINT)
        _, kind, start = _KEY.unpack_from(raw, at)
        if kind != CHUNK_ITEM_KEY:
            raise DiskFormatError(f"Btrfs superblock: a system chunk has a key of type {kind}", hint=CHECK_HINT)
        at += _KEY.size
        (stripes_count,) = struct.unpack_from("<H", raw, at + _CHUNK.size - 4)
        end = at + _CHUNK.size + stripes_count * _STRIPE.size
        found.append(parse_chunk(raw[at:end], start=start))
        at = end
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMap:
    """Chunks in the order of their logical addresses, one element each.

    Attributes:
        starts, sizes: Logical ranges, in bytes; they do not overlap.
        types: ``ChunkType`` of each.
        places: Where each copy begins on the device; ``-1`` where there is no second copy (n x 2).
    """

    starts: Offsets
    sizes: Offsets
    types: Offsets
    places: Offsets

    @classmethod
    def of(cls, chunks: Iterable[Chunk], device: DeviceItem, *, sector_size: int) -> Self:
        """Arrange chunks that are all ``is_mapped_here``.

        Raises:
            DiskFormatError: One lies on another device, outside the device, over another one, or between sectors.
        """
        ordered = sorted(chunks, key=lambda chunk: chunk.start)
        rows = [_row_of(chunk, device, sector_size) for chunk in ordered]
        table = np.array(rows, np.int64).reshape(-1, 3 + COPIES_MAX)
        made = cls(starts=table[:, 0], sizes=table[:, 1], types=table[:, 2], places=table[:, 3:])
        ends = made.starts + made.sizes
        if np.any(ends[:-1] > made.starts[1:]):
            raise DiskFormatError("Btrfs chunks: two share a logical address", hint=CHECK_HINT)
        places, sizes, _ = made.stripes()
        order = np.argsort(places)
        if np.any((places + sizes)[order][:-1] > places[order][1:]):
            raise DiskFormatError("Btrfs chunks: two share a place on the device", hint=CHECK_HINT)
        return made

    def stripes(self) -> tuple[Offsets, Offsets, Offsets]:
        """Of each copy of each chunk: where it lies, its size, and the chunk's logical start."""
        there = self.places != _NOWHERE
        repeated = [np.broadcast_to(field[:, None], there.shape)[there] for field in (self.sizes, self.starts)]
        return self.places[there], repeated[0], repeated[1]

    def find(self, starts: Offsets, sizes: Offsets) -> NDArray[np.intp]:
        """The chunk that each logical range lies in.

        Raises:
            DiskFormatError: One lies in no chunk, or not in one alone.
        """
        index = np.searchsorted(self.starts, starts, side="right") - 1
        safe = np.maximum(index, 0)
        if len(self.starts) == 0:
            inside = np.zeros(len(starts), np.bool_)
        else:
            into = starts - self.starts[safe]
            inside = (index >= 0) & (sizes > 0) & (into < self.sizes[safe]) & (sizes <= self.sizes[safe] - into)
        if not inside.all():
            first = int(np.flatnonzero(~inside)[0])
            raise DiskFormatError(
                f"Btrfs: {int(sizes[first])} bytes at logical address {int(starts[first])} are not inside one chunk",
                hint=CHECK_HINT,
            )
        return safe

    def copies(self, starts: Offsets, sizes: Offsets) -> Iterator[Offsets]:
        """Where each range lies on the device, copy by copy; ``-1`` for a range that has no such copy."""
        index = self.find(starts, sizes)
        into = starts - self.starts[index]
        for copy in range(COPIES_MAX):
            places = self.places[index, copy]
            yield np.where(places == _NOWHERE, _NOWHERE, places + into)

    def to_device(self, starts: Offsets, sizes: Offsets) -> ExtentSet:
        """Every copy of logical ranges, as bytes of the device. Raises as ``find``."""
        there = [(places[places != _NOWHERE], sizes[places != _NOWHERE]) for places in self.copies(starts, sizes)]
        places = np.concatenate([pair[0] for pair in there])
        return ExtentSet.from_arrays(places, places + np.concatenate([pair[1] for pair in there]))


def _row_of(chunk: Chunk, device: DeviceItem, sector_size: int) -> list[int]:
    expected = COPIES_MAX if chunk.type & ChunkType.DUP else 1
    if not chunk.is_mapped_here or len(chunk.stripes) != expected:
        raise _broken(chunk.start, f"{len(chunk.stripes)} stripes for type {chunk.type:#x}")
    if not chunk.type & CONTENTS:
        raise _broken(chunk.start, "it is for nothing")
    places = []
    for number, owner, place in chunk.stripes:
        if (number, owner) != (device.number, device.uuid):
            raise _broken(chunk.start, f"it lies on device {number}, not on {device.number}")
        if place > device.size - chunk.size or place % sector_size:
            raise _broken(chunk.start, f"it lies at {place} of a device of {device.size} bytes")
        places.append(place)
    if chunk.start % sector_size or chunk.size % sector_size:
        raise _broken(chunk.start, f"its {chunk.size} bytes are not whole sectors")
    return [chunk.start, chunk.size, int(chunk.type), *places, *[_NOWHERE] * (COPIES_MAX - len(places))]


def unmapped_types(chunks: Sequence[Chunk]) -> str:
    """The names of the profiles that are not read here; empty when all chunks are SINGLE or DUP."""
    kinds = {chunk.profile for chunk in chunks if not chunk.is_mapped_here}
    return ", ".join(sorted(kind.name or hex(kind) for kind in kinds))


def _broken(start: int, why: str) -> DiskFormatError:
    return DiskFormatError(f"Btrfs chunk at logical address {start}: {why}", hint=CHECK_HINT)
