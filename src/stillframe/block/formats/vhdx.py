"""VHDX, the format of Hyper-V: fixed, dynamic and differencing, with sectors of 512 or 4096 bytes.

Answers: "what do the headers, regions and metadata of this file say?" Where its blocks are is for ``vhdx_map``.

Source: [MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format".
"""

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block.base import BlockReader
from stillframe.block.file import FileReader
from stillframe.block.formats.chain import Chain
from stillframe.block.formats.mapped import DiskFile, MappedDisk, broken, read_exactly, unsupported
from stillframe.block.formats.parents import ParentHint, find_parent, require_parent
from stillframe.block.formats.vhdx_log import LOG_SIZE_MAX, replay
from stillframe.block.formats.vhdx_map import VhdxMap, VhdxShape
from stillframe.crc32c import crc32c
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent
from stillframe.units import KIB, MIB, TIB

MAGIC: Final = b"vhdxfile"
_HEADER_PLACES: Final = (64 * KIB, 128 * KIB)
_HEADER_SIZE: Final = 4 * KIB
_REGION_PLACES: Final = (192 * KIB, 256 * KIB)
_TABLE_SIZE: Final = 64 * KIB
_ENTRIES_MAX: Final = 2047
_SIZE_MAX: Final = 64 * TIB
_ITEM_MAX: Final = MIB

_BAT: Final = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")  # 2.2.3.2
_METADATA: Final = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_FILE_PARAMETERS: Final = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")  # 2.6.2
_DISK_SIZE: Final = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_LOGICAL_SECTOR: Final = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PHYSICAL_SECTOR: Final = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
_DISK_ID: Final = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
_PARENT: Final = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_KNOWN_ITEMS: Final = frozenset({_FILE_PARAMETERS, _DISK_SIZE, _LOGICAL_SECTOR, _PHYSICAL_SECTOR, _DISK_ID, _PARENT})
_PARENT_IS_VHDX: Final = uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")  # 2.6.2.6.2
_HAS_PARENT: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdxHeader:
    """The header that counts. ``log`` is where the log is; ``log_guid`` is all zeros when there is nothing in it."""

    sequence: int
    data_guid: uuid.UUID
    log_guid: bytes
    log: Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentLink:
    """What a differencing disk says of the file below: its state, and where it may be."""

    states: tuple[str, ...]
    hints: tuple[ParentHint, ...]


def open_vhdx(file: FileReader, chain: Chain) -> DiskFile | None:
    """The disk in a VHDX file; ``None`` for other files.

    Raises:
        DiskFormatError: It is broken, or the file that it rests on is not there or is another one.
    """
    if file.read_at(0, min(8, file.size)) != MAGIC:
        return None
    path = file.path
    header = read_header(file, path)
    view: BlockReader = file
    if any(header.log_guid):
        view = replay(file, path, header.log, header.log_guid)
    regions = read_regions(view, path)
    items = read_metadata(view, path, regions[_METADATA])
    shape = parse_shape(items, path)
    vhdx_map = VhdxMap(view, shape, table=regions[_BAT], path=path)
    identity, files = str(header.data_guid), [(path, file)]
    if not shape.has_parent:
        disk = MappedDisk(vhdx_map, size=shape.size, sector_size=shape.sector_size)
        return DiskFile(disk, format_name="VHDX", files=files, identity=identity)
    link = parse_parent(_item(items, _PARENT, 20, path, at_most=_ITEM_MAX), path)
    below = find_parent(chain, link.hints)
    with require_parent(below, link.states, path=path):
        disk = MappedDisk(vhdx_map, size=shape.size, sector_size=shape.sector_size, below=below)
    return DiskFile(disk, format_name="VHDX", files=[*files, *below.files], identity=identity)


def read_header(file: BlockReader, path: str) -> VhdxHeader:
    """The sound one of the two headers with the higher number.

    Raises:
        DiskFormatError: None is sound, or it is of another version.
    """
    raws = [file.read_at(place, _HEADER_SIZE) for place in _HEADER_PLACES if place + _HEADER_SIZE <= file.size]
    sound = [raw for raw in raws if raw.startswith(b"head") and _is_sound(raw)]
    if not sound:
        place = _HEADER_PLACES[0]
        raise broken(path, place, "both headers", expected="'head' and the right checksum", found="others")
    raw = max(sound, key=lambda one: int.from_bytes(one[8:16], "little"))
    log_version, version, log_size, log_place = struct.unpack_from("<HHIQ", raw, 64)
    if version != 1 or log_version != 0:
        raise unsupported(path, f"it is VHDX version {version}, log version {log_version}", _CONVERT)
    log_guid = raw[48:64]
    is_log_placed = log_size % MIB == 0 and log_place % MIB == 0 and MIB <= log_size <= LOG_SIZE_MAX
    if any(log_guid) and (not is_log_placed or log_place < MIB or log_place + log_size > file.size):
        expected = f"1 to {LOG_SIZE_MAX // MIB} MiB inside the file"
        raise broken(path, log_place, "the log", expected=expected, found=f"{log_size} bytes")
    return VhdxHeader(
        sequence=int.from_bytes(raw[8:16], "little"), data_guid=uuid.UUID(bytes_le=raw[32:48]), log_guid=log_guid,
        log=Extent(log_place, log_place + log_size) if any(log_guid) else Extent(0, 0),
    )  # fmt: skip


_CONVERT: Final = "Convert it with the program that made it, or attach it to a virtual machine."


def _is_sound(raw: bytes) -> bool:
    """Whether the CRC-32C in bytes 4 to 8 is that of all others with zeros in its place."""
    return crc32c(raw[:4] + bytes(4) + raw[8:]) ^ 0xFFFF_FFFF == int.from_bytes(raw[4:8], "little")


def read_regions(file: BlockReader, path: str) -> dict[uuid.UUID, Extent]:
    """Where the table of blocks and the metadata are, by the first of the two region tables that is sound.

    Raises:
        DiskFormatError: None is sound, one of the two regions is missing or outside, or another one is required.
    """
    for place in _REGION_PLACES:
        if place + _TABLE_SIZE <= file.size:
            raw = file.read_at(place, _TABLE_SIZE)
            if raw.startswith(b"regi") and _is_sound(raw):
                return _parse_regions(raw, path, place, file.size)
    place = _REGION_PLACES[0]
    raise broken(path, place, "both tables of regions", expected="'regi' and the right checksum", found="others")


def _parse_regions(raw: bytes, path: str, place: int, file_size: int) -> dict[uuid.UUID, Extent]:
    count: int = struct.unpack_from("<I", raw, 8)[0]
    if count > _ENTRIES_MAX:
        raise broken(path, place + 8, "the number of regions", expected=f"at most {_ENTRIES_MAX}", found=count)
    found: dict[uuid.UUID, Extent] = {}
    for number in range(count):
        guid, start, size, flags = struct.unpack_from("<16sQII", raw, 16 + 32 * number)
        kind = uuid.UUID(bytes_le=guid)
        if kind not in (_BAT, _METADATA):
            if flags & 1:
                raise unsupported(path, f"it needs the region {kind}", _CONVERT)
            continue
        if start < MIB or start + size > file_size or kind in found:
            expected = f"once, inside the file of {file_size} bytes"
            raise broken(path, place, f"the region {kind}", expected=expected, found=f"{size} bytes at byte {start}")
        found[kind] = Extent(start, start + size)
    missing = [str(kind) for kind in (_BAT, _METADATA) if kind not in found]
    if missing:
        raise broken(path, place, "the table of regions", expected=f"the region {missing[0]}", found="none")
    return found


def read_metadata(file: BlockReader, path: str, region: Extent) -> dict[uuid.UUID, bytes]:
    """The items of the metadata that are known here.

    Raises:
        DiskFormatError: The table is broken, an item lies outside, or an unknown one is required.
    """
    raw = read_exactly(file, path, region.start, min(_TABLE_SIZE, region.size), what="the metadata")
    if len(raw) < _TABLE_SIZE or not raw.startswith(b"metadata"):
        raise broken(path, region.start, "the metadata", expected="'metadata'", found=raw[:8])
    count: int = struct.unpack_from("<H", raw, 10)[0]
    if count > _ENTRIES_MAX:
        raise broken(path, region.start + 10, "the number of items", expected=f"at most {_ENTRIES_MAX}", found=count)
    items: dict[uuid.UUID, bytes] = {}
    for number in range(count):
        guid, start, size, flags = struct.unpack_from("<16sIII", raw, 32 + 32 * number)
        kind = uuid.UUID(bytes_le=guid)
        if kind not in _KNOWN_ITEMS:
            if flags & 4:
                raise unsupported(path, f"it needs the metadata item {kind}", _CONVERT)
            continue
        if size > _ITEM_MAX or start + size > region.size:
            expected = f"at most {_ITEM_MAX} bytes inside the metadata"
            found = f"{size} bytes at byte {start}"
            raise broken(path, region.start + 32 * number, f"the item {kind}", expected=expected, found=found)
        items[kind] = read_exactly(file, path, region.start + start, size, what=f"the item {kind}")
    return items


def _item(items: dict[uuid.UUID, bytes], kind: uuid.UUID, size: int, path: str, *, at_most: int = 0) -> bytes:
    found = items.get(kind, b"")
    if not size <= len(found) <= max(size, at_most):
        raise broken(path, 0, f"the metadata item {kind}", expected=f"{size} bytes", found=len(found))
    return found


def parse_shape(items: dict[uuid.UUID, bytes], path: str) -> VhdxShape:
    """Sizes of the disk, its blocks and its sectors.

    Raises:
        DiskFormatError: An item is missing or outside its limits.
    """
    block_size, flags = struct.unpack("<II", _item(items, _FILE_PARAMETERS, 8, path))
    size: int = struct.unpack("<Q", _item(items, _DISK_SIZE, 8, path))[0]
    sector_size: int = struct.unpack("<I", _item(items, _LOGICAL_SECTOR, 4, path))[0]
    if sector_size not in (512, 4096):
        raise broken(path, 0, "the size of a sector", expected="512 or 4096", found=sector_size)
    if not MIB <= block_size <= 256 * MIB or block_size & (block_size - 1):
        raise broken(path, 0, "the size of a block", expected="a power of two, 1 to 256 MiB", found=block_size)
    if not 0 < size <= _SIZE_MAX or size % sector_size:
        raise broken(path, 0, "the size of the disk", expected="whole sectors, at most 64 TiB", found=size)
    return VhdxShape(size=size, block_size=block_size, sector_size=sector_size, has_parent=bool(flags & _HAS_PARENT))


def parse_parent(raw: bytes, path: str) -> ParentLink:
    """Parse the parent locator. Source: [MS-VHDX] 2.6.2.6.

    Raises:
        DiskFormatError: It is of another kind, or broken.
    """
    kind = uuid.UUID(bytes_le=raw[:16])
    if kind != _PARENT_IS_VHDX:
        raise unsupported(path, f"it rests on something that is no VHDX ({kind})", _CONVERT)
    pairs = dict(_pairs(raw, path))
    try:
        states = [pairs[key] for key in ("parent_linkage", "parent_linkage2") if key in pairs]
        parsed = tuple(str(uuid.UUID(state)) for state in states)
    except ValueError as error:
        raise DiskFormatError(
            f"{path}: the state of its parent is {states}, which are no ids", hint="Get the file again."
        ) from error
    hints = [
        ParentHint(name=pairs[key], is_relative=key == "relative_path")
        for key in ("relative_path", "absolute_win32_path", "volume_path")
        if pairs.get(key)
    ]
    return ParentLink(states=parsed, hints=tuple(hints))


def _pairs(raw: bytes, path: str) -> Iterator[tuple[str, str]]:
    count: int = struct.unpack_from("<H", raw, 18)[0]
    for number in range(count):
        at = 20 + 12 * number
        if at + 12 > len(raw):
            raise broken(path, at, "the parent locator", expected=f"{count} entries", found=f"{len(raw)} bytes")
        key_at, value_at, key_size, value_size = struct.unpack_from("<IIHH", raw, at)
        if max(key_at + key_size, value_at + value_size) > len(raw):
            raise broken(path, at, "the parent locator", expected="names inside of it", found="one outside")
        key, value = raw[key_at : key_at + key_size], raw[value_at : value_at + value_size]
        yield key.decode("utf-16-le", "replace"), value.decode("utf-16-le", "replace").rstrip("\0")
