"""Linux swap areas: their header, and what may be left out of a backup.

Answers: "is this a swap area, what is it called, and is a hibernated system asleep in it?" The header page is always
kept, so that a restored area has its label and UUID and needs no ``mkswap``. It does not read what was swapped out.

Sources: Linux ``include/linux/swap.h`` (``union swap_header``), ``kernel/power/swap.c`` (``S1SUSPEND``,
``LINHIB0001``), mkswap(8); names and UUID as util-linux ``libblkid/src/superblocks/swap.c``.
"""

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import LeftOutFile, UsedMap, Volume, raw_map

PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
"""Sizes of a page on the machines Linux runs on; the signature is at the end of the first page."""

_SIGNATURE_SIZE: Final = 10
_SWAP_SIGNATURES: Final = {b"SWAPSPACE2": 1, b"SWAP-SPACE": 0}
_HIBERNATED: Final = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")
_TUX_ON_ICE: Final = bytes.fromhex("edc302e99856e50c")
"""Written over the first bytes of the area by TuxOnIce. Source: libblkid ``swap.c``, ``TOI_MAGIC_STRING``."""
_HEADER_OFFSET: Final = 1024
_HEADER: Final = struct.Struct("III16s16s")  # version, last_page, nr_badpages, uuid, volume name
_HEADER_PLACED: Final = struct.Struct("<" + _HEADER.format)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapHeader:
    """The first page of a swap area.

    Attributes:
        page_size: Bytes of a page of the machine that made it.
        pages_count: Pages of the area with the header page; 0 when the header does not say (version 0).
        hibernated: Whether the memory of a sleeping system lies in it.
        label, uuid: As ``blkid`` writes them.
    """

    page_size: int
    pages_count: int
    hibernated: bool
    label: str
    uuid: str

    @property
    def left_out(self) -> Extent | None:
        """The bytes of the area whose contents mean nothing after a restart; ``None`` when there are none."""
        end = self.pages_count * self.page_size
        return Extent(self.page_size, end) if not self.hibernated and end > self.page_size else None


def parse_swap_header(raw: bytes) -> SwapHeader | None:
    """Parse the start of a swap area.

    Args:
        raw: The first bytes, 64 KiB or as many as there are.

    Returns:
        The header, or ``None`` when this is no swap area.
    """
    tux_on_ice = raw[: len(_TUX_ON_ICE)] == _TUX_ON_ICE
    for page_size in (size for size in PAGE_SIZES if size <= len(raw)):
        signature = raw[page_size - _SIGNATURE_SIZE : page_size]
        hibernated = tux_on_ice or signature.startswith(_HIBERNATED)
        version = 1 if hibernated else _SWAP_SIGNATURES.get(signature)
        if version == 0:
            return SwapHeader(page_size=page_size, pages_count=0, hibernated=False, label="", uuid="")
        if version == 1:
            header = _parse_version_1(raw, page_size, hibernated=hibernated)
            if header is not None:
                return header
    return None


def _parse_version_1(raw: bytes, page_size: int, *, hibernated: bool) -> SwapHeader | None:
    for order in "<>":  # written in the byte order of the machine that made it
        fields = struct.unpack_from(order + _HEADER.format, raw, _HEADER_OFFSET)
        version, last_page, _, identity, name = fields
        if version == 1 and last_page > 0:
            break
    else:
        if not hibernated:
            return None
        last_page, identity, name = 0, bytes(16), b""
    return SwapHeader(
        page_size=page_size,
        pages_count=last_page + 1 if last_page else 0,
        hibernated=hibernated,
        label=name.split(b"\0")[0].decode("utf-8", "replace").rstrip(),
        uuid=str(uuid.UUID(bytes=identity)) if any(identity) else "",
    )


def build_swap_header(size: int, *, identity: uuid.UUID | None, label: str) -> bytes:
    """The first page of an empty swap area with pages of 4096 bytes, as ``mkswap`` writes it.

    Args:
        size: Bytes of the area.
        identity: Its UUID; ``None`` for none.
        label: At most 15 bytes of it are kept.

    Raises:
        ValueError: It is too small: ``mkswap`` wants ten pages.
    """
    page_size = PAGE_SIZES[0]
    if size < 10 * page_size:
        raise ValueError(f"a swap area of {size} bytes")
    page = bytearray(page_size)
    name = label.encode()[:15]
    _HEADER_PLACED.pack_into(
        page, _HEADER_OFFSET, 1, min(size // page_size - 1, 0xFFFFFFFF), 0, identity.bytes if identity else b"", name
    )
    page[page_size - _SIGNATURE_SIZE :] = b"SWAPSPACE2"
    return bytes(page)


class SwapFilesystem:
    """A volume that is a swap area."""

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is; ``swsuspend`` when a system is asleep in it; ``None`` when it is no swap area."""
        header = _read_header(reader)
        if header is None:
            return None
        kind = "swsuspend" if header.hibernated else "swap"
        return Volume(filesystem=kind, label=header.label, uuid=header.uuid, block_size=header.page_size)

    def used_map(self, reader: BlockReader) -> UsedMap:
        """All of it; raw when a system is asleep in it, so that nothing is left out."""
        header = _read_header(reader)
        if header is not None and not header.hibernated:
            return UsedMap(extents=ExtentSet.of(Extent(0, reader.size)), kind="used")
        notice = Notice(
            code="swap-hibernated",
            message="A hibernated system is asleep in this swap area; it is stored whole.",
            hint="Start that system and shut it down, then back up again for a small image.",
        )
        return raw_map(reader, notice)

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:
        """Everything after the header page, up to the size that the header names."""
        header = _read_header(reader)
        extent = header.left_out if header is not None else None
        extent = extent.clipped(Extent(0, reader.size)) if extent is not None else None
        if extent is None:
            return ()
        return (LeftOutFile(path="swap", size=extent.end, extents=ExtentSet.of(extent), kind="swap"),)


def _read_header(reader: BlockReader) -> SwapHeader | None:
    return parse_swap_header(reader.read_at(0, min(reader.size, PAGE_SIZES[-1])))
