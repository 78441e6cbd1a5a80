"""Transaction logs of registry files, made from two states of a hive.

Answers: "what would Windows have left in the logs, had it been stopped between these two?" Written from the
specification, apart from what reads them; its hash is another formulation of Marvin32.

Source: "Windows registry file format specification", github.com/msuhanov/regf, "Format of transaction log files".
"""

import struct
from collections.abc import Sequence
from functools import reduce
from typing import Final

_BASE_SIZE: Final = 4096
_PAGE: Final = 4096
_SEED: Final = (0x7A4E55C5, 0x82EF4D88)


def marvin(data: bytes, seed: tuple[int, int] = _SEED) -> bytes:
    """Marvin32, 8 bytes. ``seed`` is its low and its high word."""
    state = list(seed)
    tail = len(data) % 4
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data) - tail, 4)]
    words.append(int.from_bytes(data[len(data) - tail :] + b"\x80", "little"))
    for word in [*words, 0]:
        state[0] = _wrap(state[0] + word)
        state[1] ^= state[0]
        for turn_low, turn_high in ((20, 9), (27, 19)):
            state[0] = _wrap(_turn(state[0], turn_low) + state[1])
            state[1] = _turn(state[1], turn_high)
            if turn_high == 9:
                state[1] ^= state[0]
    return struct.pack("<II", *state)


def numbered(hive: bytes, first: int, second: int) -> bytes:
    """A hive with other sequence numbers; unequal ones say that it was not closed."""
    return _sealed(hive[:4] + struct.pack("<II", first, second) + hive[12:])


def entry(
    before: bytes, after: bytes, sequence: int, *, flags: int = 0, pages: Sequence[tuple[int, bytes]] | None = None
) -> bytes:
    """The entry that leads from one state of a hive to another; ``pages`` are others, by their places in the bins."""
    if pages is None:
        pages = _changed(before, after)
    bins_size = int.from_bytes(after[40:44], "little")
    body = b"".join(struct.pack("<II", at, len(data)) for at, data in pages) + b"".join(data for _, data in pages)
    size = -(-(40 + len(body)) // 512) * 512
    body = body.ljust(size - 40, b"\0")
    head = struct.pack("<4sIIIII", b"HvLE", size, flags, sequence, bins_size, len(pages)) + marvin(body)
    return head + marvin(head) + body


def new_log(hive: bytes, entries: Sequence[bytes], sequence: int) -> bytes:
    """A log as Windows 8.1 and later write it; ``sequence`` is that of its first entry."""
    return _log_base(hive, 6, sequence) + b"".join(entries)


def old_log(before: bytes, after: bytes, sequence: int) -> bytes:
    """A log as Windows XP to 8 write it."""
    pages = {at // 512 + part: data[512 * part :][:512] for at, data in _changed(before, after) for part in range(8)}
    marks = bytearray(int.from_bytes(after[40:44], "little") // _PAGE)
    for page in pages:
        marks[page // 8] |= 1 << page % 8
    vector = b"DIRT" + bytes(marks)
    vector = vector.ljust(-(-len(vector) // 512) * 512, b"\0")
    return _log_base(after, 1, sequence) + vector + b"".join(pages[page] for page in sorted(pages))


def _changed(before: bytes, after: bytes) -> list[tuple[int, bytes]]:
    """The pages of the bins that differ, by their places in them."""
    return [
        (at - _BASE_SIZE, after[at : at + _PAGE])
        for at in range(_BASE_SIZE, len(after), _PAGE)
        if before[at : at + _PAGE] != after[at : at + _PAGE]
    ]


def _log_base(hive: bytes, kind: int, sequence: int) -> bytes:
    base = bytearray(numbered(hive, sequence, sequence)[:512])
    struct.pack_into("<I", base, 28, kind)
    return _sealed(bytes(base))


def _sealed(raw: bytes) -> bytes:
    total = reduce(lambda one, other: one ^ other, struct.unpack_from("<127I", raw))
    total = 0xFFFFFFFE if total == 0xFFFFFFFF else total or 1
    return raw[:508] + struct.pack("<I", total) + raw[512:]


def _turn(word: int, by: int) -> int:
    return _wrap(word << by) | word >> (32 - by)


def _wrap(number: int) -> int:
    return number % (1 << 32)
