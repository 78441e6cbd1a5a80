r"""What an NTFS reparse point says: a link and where it leads, or something that only Windows can follow.

Answers: "is this a link, and what is written in it?" Targets keep their words; ``\`` becomes ``/``.

Source: [MS-FSCC] 2.1.2 "Reparse Point Data Structures", 2.1.2.1 "Reparse Tags"; LX_SYMLINK as in WSL and ntfs-3g
``reparse.c``.
"""

import struct
from typing import Final, NamedTuple

_MOUNT_POINT: Final = 0xA0000003
_SYMLINK: Final = 0xA000000C
_LX_SYMLINK: Final = 0xA000001D
_WOF: Final = 0x80000017
_NAMES: Final = {
    _WOF: "it is compressed by Windows itself (CompactOS, tag WOF)",
    0x80000013: "its contents are in the store of Windows' deduplication",
    0x80000023: "it is a socket of WSL",
    0x80000024: "it is a pipe of WSL",
    0x80000025: "it is a device of WSL",
    0x80000026: "it is a device of WSL",
    0x8000001B: "it is the name of a Windows app, not a file",
}
_CLOUD: Final = 0x9000001A
_CLOUD_MASK: Final = 0xFFFF0FFF
_HEAD: Final = 8
SIZE_MAX: Final = 16 << 10
"""MAXIMUM_REPARSE_DATA_BUFFER_SIZE."""


class Reparse(NamedTuple):
    """A reparse point: a link with its target, or the reason why it is none."""

    target: bytes | None
    refusal: str


def parse_reparse(raw: bytes) -> Reparse:
    """Read a reparse point; one that breaks its own rules is no link, and says so."""
    if len(raw) < _HEAD:
        return Reparse(None, "its reparse point is too short")
    tag, size = struct.unpack_from("<IH", raw)
    body = raw[_HEAD : _HEAD + size]
    try:
        if tag == _SYMLINK:
            return _parse_names(body, names_at=12)
        if tag == _MOUNT_POINT:
            return _parse_names(body, names_at=8)
    except (struct.error, UnicodeDecodeError):
        return Reparse(None, "its link is broken")
    if tag == _LX_SYMLINK and len(body) > 4:
        return Reparse(body[4:], "")
    if tag & _CLOUD_MASK == _CLOUD:
        return Reparse(None, "its contents are in the cloud (OneDrive and its like)")
    return Reparse(None, _NAMES.get(tag, f"it is a reparse point with the tag {tag:#x}"))


def _parse_names(body: bytes, *, names_at: int) -> Reparse:
    place, size, shown_place, shown_size = struct.unpack_from("<HHHH", body)
    names = body[names_at:]
    if max(place + size, shown_place + shown_size) > len(names):
        return Reparse(None, "its link is broken")
    shown = names[shown_place : shown_place + shown_size].decode("utf-16-le")
    real = names[place : place + size].decode("utf-16-le")
    target = (shown or real.removeprefix("\\??\\")).replace("\\", "/")
    if not target or "\0" in target:
        return Reparse(None, "its link is broken")
    return Reparse(target.encode(), "")
