"""Boot targets that the journal of systemd notes.

Answers: "how often did this system come up, by its own journal?" The text of a message is kept once, with the number of
entries that have it, so no time has to be believed and no entry to be read.

Source: systemd, docs/JOURNAL_FILE_FORMAT.md ("Header", "Objects", "Data Objects"): a data object is 16 bytes of object
header (type 1, flags, size), five numbers of 64 bits, the number of entries, and the payload; in compact mode two
numbers of 32 bits stand before it. Texts of less than 512 bytes are not compressed.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Final

_HEADER_SIZE: Final = 64
JOURNAL_MAX: Final = 256 << 20
"""Bytes of one journal that are looked at; systemd makes them no larger than 128 MiB by default."""
_SIGNATURE: Final = b"LPKSHHRH"
_COMPACT: Final = 1 << 4  # HEADER_INCOMPATIBLE_COMPACT
_DATA: Final = 1
_COUNT_OFFSET: Final = 56
_STEP: Final = 1 << 20
_BEFORE_MAX: Final = 72
_NAME_MAX: Final = 32
_TEXT_MAX: Final = 512
_REACHED: Final = re.compile(
    rb"MESSAGE=Reached target (?:(?:multi-user|graphical)\.target|Multi-User System|Graphical Interface)"
)
_TEXT: Final = b"MESSAGE=Reached target "


def count_targets(read: Callable[[int, int], bytes], size: int) -> int:
    """How many entries of a journal say that a target was reached which only a system that came up reaches.

    Args:
        read: Gives bytes of the file: offset and size; fewer at its end.
        size: Bytes of the file.
    """
    head = read(0, _HEADER_SIZE)
    if len(head) < _HEADER_SIZE or not head.startswith(_SIGNATURE):
        return 0
    (flags,) = struct.unpack_from("<I", head, 12)
    payload = 72 if flags & _COMPACT else 64
    return sum(_count(raw, at, payload) for raw, at in _find(read, min(size, JOURNAL_MAX)))


def _find(read: Callable[[int, int], bytes], size: int) -> Iterator[tuple[bytes, int]]:
    """Pieces of the file with such a text, and where it begins in them; each text once."""
    for start in range(0, size, _STEP):
        first = max(0, start - _BEFORE_MAX)
        raw = read(first, start + _STEP + len(_TEXT) + _NAME_MAX - first)
        for found in _REACHED.finditer(raw):
            if start <= first + found.start() < start + _STEP:
                yield raw, found.start()


def _count(raw: bytes, at: int, payload: int) -> int:
    """The entries that have a text, when it is the payload of a data object."""
    start = at - payload
    if start < 0:
        return 0
    kind, flags, size = struct.unpack_from("<BB6xQ", raw, start)
    if kind != _DATA or flags or not len(_TEXT) < size - payload < _TEXT_MAX:
        return 0
    (count,) = struct.unpack_from("<Q", raw, start + _COUNT_OFFSET)
    return int(count) if count < 1 << 32 else 0
