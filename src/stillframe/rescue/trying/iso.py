"""Where a file lies in the image of a CD.

Answers: "at which bytes of this ISO is ``live/filesystem.squashfs``?" so that it is read where it lies, and nothing has
to be copied out of 300 MB. Only what our own media need: ISO 9660 with one extent a file, names as Rock Ridge or as the
standard spells them.

Sources: ECMA-119 (4th edition), 8.4 "Primary Volume Descriptor", 9.1 "Directory Record"; IEEE P1282 (Rock Ridge),
4.1.4 "NM".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

SECTOR: Final = 2048
_VOLUME_AT: Final = 16 * SECTOR
_ROOT_AT: Final = 156
_FOLDER_MAX: Final = 16 << 20
_FOLDER: Final = 0x02
_MULTI: Final = 0x80
_HINT: Final = "Make the medium anew: 'stillframe rescue build FILE.iso'."


@dataclass(frozen=True, slots=True)
class _Record:
    name: str
    extent: Extent
    flags: int


def find_file(disk: BlockReader, path: str) -> Extent | None:
    """The bytes of a file; ``None`` when the disk is no ISO, or holds no such file.

    Args:
        disk: The image of the CD.
        path: Such as ``live/vmlinuz``; capital and small letters are the same.

    Raises:
        DiskFormatError: It is an ISO that contradicts itself.
    """
    if disk.size < _VOLUME_AT + SECTOR:
        return None
    volume = disk.read_at(_VOLUME_AT, SECTOR)
    if volume[:6] != b"\x01CD001":
        return None
    here = _parse_record(volume[_ROOT_AT : _ROOT_AT + 34], disk.size)
    for word in path.strip("/").split("/"):
        if here is None or not here.flags & _FOLDER:
            return None
        here = next((one for one in _iter_folder(disk, here.extent) if one.name.lower() == word.lower()), None)
    return None if here is None or here.flags & _FOLDER else here.extent


def _iter_folder(disk: BlockReader, extent: Extent) -> Iterator[_Record]:
    if extent.size > _FOLDER_MAX:
        raise DiskFormatError(f"a folder of the ISO has {extent.size} bytes", hint=_HINT)
    raw, at = disk.read_at(extent.start, extent.size), 0
    while at < len(raw):
        length = raw[at]
        if length == 0:  # a record does not cross the end of a sector
            at = (at // SECTOR + 1) * SECTOR
            continue
        record = _parse_record(raw[at : at + length], disk.size)
        if record is not None:
            yield record
        at += length


def _parse_record(raw: bytes, size: int) -> _Record | None:
    """A directory record; ``None`` for a file in several extents, which no file of ours is."""
    if len(raw) < 34 or 33 + raw[32] > len(raw):
        raise DiskFormatError("a folder of the ISO is cut off", hint=_HINT)
    start = int.from_bytes(raw[2:6], "little") * SECTOR
    length = int.from_bytes(raw[10:14], "little")
    if start + length > size:
        raise DiskFormatError(
            f"a file of the ISO lies at {start} to {start + length}, behind its end at {size}: it is cut off",
            hint=_HINT,
        )
    name = raw[33 : 33 + raw[32]].decode("ascii", "replace").partition(";")[0].rstrip(".")
    if raw[25] & _MULTI:
        return None
    known = _rock_ridge_name(raw[33 + raw[32] + (raw[32] + 1) % 2 :])
    return _Record(known or name, Extent(start, start + length), raw[25])


def _rock_ridge_name(raw: bytes) -> str:
    """The name in an ``NM`` entry of the system use area; empty when there is none."""
    at, found = 0, b""
    while at + 4 <= len(raw) and raw[at + 2] >= 4:
        length = raw[at + 2]
        if raw[at : at + 2] == b"NM" and length > 5 and not raw[at + 4] & 0x06:  # neither "." nor ".."
            found += raw[at + 5 : at + length]
        at += length
    return found.decode("utf-8", "replace")
