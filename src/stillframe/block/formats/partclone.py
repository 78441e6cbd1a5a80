"""Images that partclone makes of one volume: a header, a bitmap of used blocks, then these blocks with checksums.

Answers: "which volume is this an image of, and what are its bytes?" It is a stream, often compressed, and cannot be
read at random: it is expanded once, and every checksum on the way is compared. Version 0002, which partclone writes
since 0.3; an older one is refused by name.

Source of every constant: partclone, ``IMAGE_FORMATS.md``, "Format 0002". Numbers are little-endian.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet
from stillframe.units import MIB

MAGIC: Final = b"partclone-image"
_HEAD: Final = struct.Struct("<15sx14s4sH16sQQQQIIHHHHIBB")
_CHECKSUM: Final = struct.Struct("<I")
_LITTLE_ENDIAN: Final = 0xC0DE
_NO_CHECKSUM: Final = 0
_CRC32: Final = 0x20
_BITMAP_NONE, _BITMAP_BITS, _BITMAP_BYTES = 0, 1, 8
_BITMAP_SIZE_MAX: Final = 1 << 30
_BLOCK_SIZE_MAX: Final = 16 * MIB
_SIZE_MAX: Final = 1 << 60
_STEP: Final = 4 * MIB
_AGAIN: Final = "The file was damaged or cut short. Copy it again, or use an older one; 'partclone.chkimg' looks too."

Write = Callable[[int, bytes], None]
"""Takes bytes for a place of the volume."""


class Stream(Protocol):
    """Bytes in order."""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, none at the end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PartcloneHead:
    """What an image says of its volume.

    Attributes:
        filesystem: partclone's name of it, such as ``EXTFS``.
        size: Bytes of the volume.
        blocks: How many blocks it has.
        used_blocks: How many of them are in the image.
        block_size: Bytes of a block.
        blocks_per_checksum: After so many blocks a checksum follows; 0 without checksums.
        reseeds: Whether each checksum begins anew.
        bitmap_mode: How used blocks are written down.
    """

    filesystem: str
    size: int
    blocks: int
    used_blocks: int
    block_size: int
    blocks_per_checksum: int
    reseeds: bool
    bitmap_mode: int


class PartcloneStream:
    """One image, read from its beginning to its end.

    Args:
        stream: The image, expanded; the magic is still to be read.
        name: What it is called in messages.
    """

    def __init__(self, stream: Stream, *, name: str) -> None:
        self._stream = stream
        self._name = name

    def read_head(self) -> PartcloneHead:
        """The header.

        Raises:
            DiskFormatError: It is damaged, or of a version that is not read.
        """
        raw = self._exactly(_HEAD.size, "the header")
        if raw[30:34] == b"0001":
            raise self._refusal("its format is version 0001 of partclone before 0.3, which is not read")
        fields = _HEAD.unpack(raw)
        magic, version, endianness = fields[0], fields[2], fields[3]
        if magic != MAGIC or version != b"0002" or endianness != _LITTLE_ENDIAN:
            raise self._refusal(f"its format is version {version.decode('latin-1')!r}, and 0002 is read")
        self._compare(_crc(raw), self._exactly(_CHECKSUM.size, "the header's checksum"), "the header")
        return self._checked(fields)

    def expand(self, head: PartcloneHead, write: Write) -> None:
        """Read the rest, and hand over every used block in order of its place.

        Raises:
            DiskFormatError: A checksum is wrong or the image ends too early; the block is named.
        """
        used = self._read_used(head)
        per, crc, in_group, done = head.blocks_per_checksum, _SEED, 0, 0
        for extent in used:
            position = extent.start
            while position < extent.end:
                step = min(extent.end - position, max(_STEP // head.block_size, 1) * head.block_size)
                step = min(step, (per - in_group) * head.block_size) if per else step
                where = f"block {position // head.block_size} ({done} of {head.used_blocks} blocks were read)"
                data = self._exactly(step, where)
                write(position, data[: max(head.size - position, 0)])
                count = step // head.block_size
                position, done = position + step, done + count
                if per:
                    crc, in_group = _crc(data, crc), in_group + count
                    if in_group == per or done == head.used_blocks:
                        words = f"the {in_group} used blocks up to block {position // head.block_size - 1}"
                        self._compare(crc, self._exactly(_CHECKSUM.size, f"the checksum of {words}"), words)
                        crc, in_group = (_SEED if head.reseeds else crc), 0

    def _checked(self, fields: tuple[bytes | int, ...]) -> PartcloneHead:
        numbers = [field for field in fields if isinstance(field, int)]
        _, size, blocks, _, used, block_size, _, _, _, mode, width, per, reseed, bitmap = numbers
        filesystem = fields[4].split(b"\0")[0].decode("latin-1") if isinstance(fields[4], bytes) else ""
        is_sound = (
            0 < block_size <= _BLOCK_SIZE_MAX
            and 0 < size <= _SIZE_MAX
            and 0 <= used <= blocks
            and (blocks - 1) * block_size < size
            and blocks <= _BITMAP_SIZE_MAX * (1 if bitmap == _BITMAP_BYTES else 8)
            and bitmap in {_BITMAP_NONE, _BITMAP_BITS, _BITMAP_BYTES}
        )
        if not is_sound:
            raise DiskFormatError(
                f"{self._name}: the header says {blocks} blocks of {block_size} bytes, {used} of them used, on {size} "
                "bytes, which cannot be",
                hint=_AGAIN,
            )
        if mode not in {_NO_CHECKSUM, _CRC32} or (mode == _CRC32 and (width != _CHECKSUM.size or per < 1)):
            raise self._refusal(f"its checksums are of kind {mode}, which is not read")
        return PartcloneHead(
            filesystem=filesystem, size=size, blocks=blocks, used_blocks=used, block_size=block_size,
            blocks_per_checksum=per if mode == _CRC32 else 0, reseeds=bool(reseed), bitmap_mode=bitmap,
        )  # fmt: skip

    def _read_used(self, head: PartcloneHead) -> ExtentSet:
        unit = head.block_size
        if head.bitmap_mode == _BITMAP_NONE:
            return ExtentSet.of(Extent(0, head.blocks * unit))
        as_bits = head.bitmap_mode == _BITMAP_BITS
        raw = self._exactly(-(-head.blocks // 8) if as_bits else head.blocks, "the bitmap of used blocks")
        self._compare(_crc(raw), self._exactly(_CHECKSUM.size, "the bitmap's checksum"), "the bitmap of used blocks")
        if as_bits:
            used = ExtentSet.from_bitmap(raw, count=head.blocks, unit=unit)
        else:
            used = ExtentSet.from_mask(np.frombuffer(raw, np.uint8) != 0, unit=unit)
        if used.size != head.used_blocks * unit:
            raise DiskFormatError(
                f"{self._name}: the bitmap says {used.size // unit} used blocks, the header {head.used_blocks}",
                hint=_AGAIN,
            )
        return used

    def _exactly(self, size: int, what: str) -> bytes:
        pieces, left = [], size
        while left:
            piece = self._stream.read(min(left, _STEP))
            if not piece:
                raise DiskFormatError(
                    f"{self._name} ends at {what}: {size - left} of {size} bytes are there",
                    hint="Is every part there (.aa, .ab, ...), and the whole of it? Copy it again.",
                )
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _compare(self, found: int, stored: bytes, what: str) -> None:
        (expected,) = _CHECKSUM.unpack(stored)
        if found != expected:
            raise DiskFormatError(
                f"{self._name}: {what} should have the checksum {expected:08x}, and has {found:08x}", hint=_AGAIN
            )

    def _refusal(self, words: str) -> DiskFormatError:
        return DiskFormatError(
            f"{self._name} is an image of partclone, and {words}",
            hint="Restore it onto a disk or into a file with 'partclone.restore', and import that.",
        )


_SEED: Final = 0xFFFF_FFFF


def _crc(data: bytes, crc: int = _SEED) -> int:
    """Partclone's CRC-32: that of zlib without the last inversion."""
    return zlib.crc32(data, crc ^ _SEED) ^ _SEED
