"""Disk files that no tool at hand can make: differencing VHD and VHDX, VHDX with large sectors or a log to replay.

Answers: "how would Hyper-V write this?", and "what if QEMU has one open?" Built from the specifications named in
``block.formats``, byte by byte and by other code than reads them; tests have them checked by an independent reader.
"""

import functools
import struct
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.units import KIB, MIB

DATA_STATE: Final = uuid.UUID("0f5c7b62-1c33-4f8a-9a55-6b7f40c1d2e3")
LOG_STATE: Final = uuid.UUID("7d0f6a10-55c4-4c51-8e05-2c9f1a3b4d5e")
_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C, bits reversed; RFC 3720 section 12.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """The file that a differencing disk rests on: its state, and its name relative to the child."""

    state: str
    name: str


def crc32c_by_bytes(message: bytes) -> int:
    """CRC-32C, one byte after the other. Slow, and nothing like the one that is tested."""
    table, state = _crc_table(), 0xFFFF_FFFF
    for byte in message:
        state = (state >> 8) ^ table[(state ^ byte) & 0xFF]
    return state ^ 0xFFFF_FFFF


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _sealed(raw: bytes, place: int = 4) -> bytes:
    """The same with its CRC-32C."""
    empty = raw[:place] + bytes(4) + raw[place + 4 :]
    return raw[:place] + struct.pack("<I", crc32c_by_bytes(empty)) + raw[place + 4 :]


def build_vhd(
    content: bytes, *, here: Sequence[bool] | None = None, below: Below | None = None, block_size: int = 64 * KIB,
    own: uuid.UUID = DATA_STATE,
) -> bytes:  # fmt: skip
    """A dynamic VHD, or with ``below`` a differencing one.

    Args:
        content: The disk, whole blocks.
        here: For each sector whether it is in this file; blocks without any are left out. ``None`` is all.
        below: What it rests on; ``state`` is that file's id, 32 hexadecimal digits.
        block_size: Bytes of a block.
        own: Its own id.
    """
    sectors = len(content) // 512
    here = here if here is not None else [True] * sectors
    count, per_block = len(content) // block_size, block_size // 512
    name = below.name.encode("utf-16-le") if below else b""
    table_at = 1536 + 512
    data_at = table_at + -(-count * 4 // 512) * 512
    footer = struct.pack(
        ">8sIIQI4sI4sQQIII16sB427x", b"conectix", 2, 0x10000, 512, 0x2A000000, b"test", 0x10000, b"Wi2k",
        len(content), len(content), 0x01000411, 4 if below else 3, 0, own.bytes, 0,
    )  # fmt: skip
    footer = _summed(footer, 64)
    locator = struct.pack(">4sIIIQ", b"W2ru", 512, len(name), 0, 1536) if below else bytes(24)
    header = struct.pack(
        ">8sQQIIII16sII512s24s168x256x", b"cxsparse", (1 << 64) - 1, table_at, 0x10000, count, block_size, 0,
        bytes.fromhex(below.state) if below else bytes(16), 0x2A000000 if below else 0, 0,
        below.name.encode("utf-16-be") if below else b"", locator,
    )  # fmt: skip
    header = _summed(header, 36)
    table, blocks = [], bytearray()
    bitmap_size = max(512, -(-(per_block // 8) // 512) * 512)
    for number in range(count):
        bits = here[number * per_block : (number + 1) * per_block]
        if not any(bits):
            table.append(0xFFFF_FFFF)
            continue
        table.append((data_at + len(blocks)) // 512)
        bitmap = bytearray(bitmap_size)
        for sector, is_here in enumerate(bits):
            bitmap[sector // 8] |= is_here << (7 - sector % 8)
        blocks += bytes(bitmap) + content[number * block_size : (number + 1) * block_size]
    raw_table = struct.pack(f">{count}I", *table).ljust(data_at - table_at, b"\xff")
    return footer + header + name.ljust(512, b"\0") + raw_table + bytes(blocks) + footer


def _summed(raw: bytes, place: int) -> bytes:
    return raw[:place] + struct.pack(">I", ~sum(raw) & 0xFFFF_FFFF) + raw[place + 4 :]


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdxPlan:
    """A VHDX to be built.

    Attributes:
        content: The disk, whole sectors.
        sector_size: Logical sector.
        block_size: Of a block; at least 1 MiB.
        here: For each block a state (0 to 7), or for each sector of it whether it is here; by number; others are whole.
        below: What it rests on; ``state`` is that file's data id, with braces as Hyper-V writes it.
        own: Its own data id.
        log: The contents of its log; else there is none.
    """

    content: bytes
    sector_size: int = 512
    block_size: int = MIB
    here: "dict[int, int | Sequence[bool]] | None" = None
    below: Below | None = None
    own: uuid.UUID = DATA_STATE
    log: bytes = b""


BAT_PLACE: Final = 3 * MIB


def build_vhdx(plan: VhdxPlan) -> bytes:
    """The file that a plan describes: log at 1 MiB, metadata at 2, table of blocks at 3, then bitmaps and blocks."""
    ratio = (1 << 23) * plan.sector_size // plan.block_size
    count = -(-len(plan.content) // plan.block_size)
    table = [0] * (ratio + 1 if plan.below else count)
    tail, states = bytearray(), plan.here or {}
    if plan.below:
        table[ratio] = (4 << 20) | 6
        tail += _bitmap_block(plan, states)
    for number in range(count):
        state = states.get(number, 6)
        numeric = state if isinstance(state, int) else 7
        place = 4 * MIB + len(tail)
        table[number] = numeric | (place if numeric >= 6 else 0)
        if numeric >= 6:
            block = plan.content[number * plan.block_size : (number + 1) * plan.block_size]
            tail += block.ljust(plan.block_size, b"\0")
    head = b"vhdxfile" + "stillframe tests".encode("utf-16-le")
    parts = [
        (0, head), (64 * KIB, _vhdx_header(plan, 1, b"")), (128 * KIB, _vhdx_header(plan, 2, plan.log)),
        (192 * KIB, _regions()), (256 * KIB, _regions()), (MIB, plan.log), (2 * MIB, _metadata(plan)),
        (BAT_PLACE, struct.pack(f"<{len(table)}Q", *table)), (4 * MIB, bytes(tail)),
    ]  # fmt: skip
    out = bytearray(4 * MIB + len(tail))
    for place, part in parts:
        out[place : place + len(part)] = part
    return bytes(out)


def _bitmap_block(plan: VhdxPlan, states: "dict[int, int | Sequence[bool]]") -> bytes:
    bitmap = bytearray(MIB)
    per_block = plan.block_size // plan.sector_size
    for number, state in states.items():
        if not isinstance(state, int):
            for sector, is_here in enumerate(state):
                at = number * per_block + sector
                bitmap[at // 8] |= is_here << at % 8
    return bytes(bitmap)


def _vhdx_header(plan: VhdxPlan, sequence: int, log: bytes) -> bytes:
    guid = LOG_STATE.bytes_le if log else bytes(16)
    fields = struct.pack(
        "<4sIQ16s16s16sHHIQ", b"head", 0, sequence, uuid.UUID(int=5).bytes_le, plan.own.bytes_le, guid, 0, 1, MIB, MIB
    )
    return _sealed(fields.ljust(4096, b"\0"))


def _regions() -> bytes:
    entries = [
        struct.pack("<16sQII", uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le, BAT_PLACE, MIB, 1),
        struct.pack("<16sQII", uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le, 2 * MIB, MIB, 1),
    ]
    return _sealed((struct.pack("<4sIII", b"regi", 0, len(entries), 0) + b"".join(entries)).ljust(64 * KIB, b"\0"))


def _metadata(plan: VhdxPlan) -> bytes:
    items = [
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", struct.pack("<II", plan.block_size, 2 if plan.below else 0), 4),
        ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", struct.pack("<Q", len(plan.content)), 6),
        ("beca12ab-b2e6-4523-93ef-c309e000c746", uuid.UUID(int=9).bytes_le, 6),
        ("8141bf1d-a96f-4709-ba47-f233a8faab5f", struct.pack("<I", plan.sector_size), 6),
        ("cda348c7-445d-4471-9cc9-e9885251c556", struct.pack("<I", 4096), 6),
    ]
    if plan.below:
        items.append(("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", _locator(plan.below), 4))
    table = struct.pack("<8sHH20x", b"metadata", 0, len(items))
    data = bytearray()
    for guid, value, flags in items:
        table += struct.pack(
            "<16sIIII", uuid.UUID(guid).bytes_le, 64 * KIB + len(data), len(value), flags, 0
        )  # fmt: skip
        data += value
    return table.ljust(64 * KIB, b"\0") + bytes(data)


def _locator(below: Below) -> bytes:
    windows_path = "C:\\vm\\" + below.name.rpartition("\\")[2]
    pairs = [
        ("parent_linkage", below.state), ("relative_path", below.name), ("absolute_win32_path", windows_path)
    ]  # fmt: skip
    head = uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913").bytes_le + struct.pack("<HH", 0, len(pairs))
    at, entries, words = 20 + 12 * len(pairs), b"", b""
    for key, value in pairs:
        raw_key, raw_value = key.encode("utf-16-le"), value.encode("utf-16-le")
        key_at = at + len(words)
        entries += struct.pack("<IIHH", key_at, key_at + len(raw_key), len(raw_key), len(raw_value))
        words += raw_key + raw_value
    return head + entries + words


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChange:
    """A sector of 4096 bytes that the log writes, or with no data a range of zeros of that size."""

    place: int
    data: bytes = b""
    zeros: int = 0


def build_log(
    entries: Sequence[Sequence[LogChange]], *, file_size: int, first_sequence: int = 7, start: int = 0
) -> bytes:
    """A log of 1 MiB.

    Args:
        entries: The changes of each entry, in order; the tail is at the first.
        file_size: What the file had when it was written.
        first_sequence: Number of the first entry.
        start: Where the first entry begins; entries go round at the end.
    """
    log, at = bytearray(MIB), start
    for number, changes in enumerate(entries):
        raw = _log_entry(changes, first_sequence + number, tail=start, file_size=file_size)
        for part in range(0, len(raw), 4096):
            log[at : at + 4096] = raw[part : part + 4096]
            at = (at + 4096) % MIB
    return bytes(log)


def _log_entry(changes: Sequence[LogChange], sequence: int, *, tail: int, file_size: int) -> bytes:
    descriptors, sectors = b"", b""
    for change in changes:
        if change.zeros:
            descriptors += struct.pack("<4sIQQQ", b"zero", 0, change.zeros, change.place, sequence)
            continue
        descriptors += struct.pack(
            "<4s4s8sQQ", b"desc", change.data[-4:], change.data[:8], change.place, sequence
        )  # fmt: skip
        sectors += struct.pack("<4sI4084sI", b"data", sequence >> 32, change.data[8:-4], sequence & 0xFFFF_FFFF)
    size = -(-(64 + len(descriptors)) // 4096) * 4096 + len(sectors)
    header = struct.pack(
        "<4sIIIQII16sQQ", b"loge", 0, size, tail, sequence, len(changes), 0, LOG_STATE.bytes_le, file_size, file_size
    )
    head = (header + descriptors).ljust(size - len(sectors), b"\0")
    return _sealed(head + sectors)


@contextmanager
def held_by_qemu(path: Path, form: str, *options: str) -> Iterator[None]:
    """QEMU has the file open until the block ends, for writing if no option says otherwise."""
    command = ["qemu-io", "-f", form, *options, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as held:  # noqa: S603 - a test's tool
        assert held.stdin
        assert held.stdout
        held.stdin.write("read 0 512\n")
        held.stdin.flush()
        assert "512" in held.stdout.readline()
        yield
        held.stdin.close()
