"""Members of RAID arrays, built from the specification of md, for tests that ``mdadm --examine`` judges.

Answers: "what does a member look like?" The kernel's md, which would make a real one, is not there in every container.
"""

import struct
import uuid
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = 0xA92B4EFC
_SECTOR: Final = 512
_ARRAY: Final = uuid.UUID("12345678-9abc-4def-8123-456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPlan:
    """What a member says of itself. ``roles`` are those of all members; this one is ``number``."""

    version: str = "1.2"
    array: uuid.UUID = _ARRAY
    level: int = 1
    number: int = 0
    roles: tuple[int, ...] = (0, 1)
    events: int = 17
    features: int = 0
    data_start: int = 1 << 20


def build_member(contents: bytes, plan: MemberPlan) -> bytes:
    """A member that holds these bytes, whose size is a multiple of 64 KiB."""
    if plan.version == "0.90":
        return contents + _build_old(len(contents), plan)
    start = 0 if plan.version == "1.0" else plan.data_start
    size = start + len(contents) + (65536 if plan.version == "1.0" else 0)
    member = bytearray(size)
    member[start : start + len(contents)] = contents
    place = {"1.0": (size // _SECTOR - 16) // 8 * 8 * _SECTOR, "1.1": 0, "1.2": 4096}[plan.version]
    block = _build_new(place, start, len(contents), plan)
    member[place : place + len(block)] = block
    return bytes(member)


def _build_new(place: int, start: int, size: int, plan: MemberPlan) -> bytes:
    """Source: Linux ``include/uapi/linux/raid/md_p.h``, ``struct mdp_superblock_1``."""
    block = bytearray(256 + 2 * len(plan.roles))
    struct.pack_into("<4I16s32s", block, 0, _MAGIC, 1, plan.features, 0, plan.array.bytes, b"host:array")
    struct.pack_into("<QiIQII", block, 64, 1_700_000_000, plan.level, 0, size // _SECTOR, 0, len(plan.roles))
    struct.pack_into("<QQQQ", block, 128, start // _SECTOR, size // _SECTOR, place // _SECTOR, 0)
    struct.pack_into("<II16s", block, 160, plan.number, 0, uuid.UUID(int=plan.number + 1).bytes)
    resync = (1 << 64) - 1  # MaxSector: in sync
    struct.pack_into("<QQQII", block, 192, 1_700_000_000, plan.events, resync, 0, len(plan.roles))
    struct.pack_into(f"<{len(plan.roles)}H", block, 256, *plan.roles)
    words = bytes(block).ljust(-(-len(block) // 4) * 4, b"\0")
    total = sum(struct.unpack(f"<{len(words) // 4}I", words))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return bytes(block)


def _build_old(size: int, plan: MemberPlan) -> bytes:
    """64 KiB with a superblock 0.90. Source: the same file, ``mdp_superblock_s``, word by word."""
    words = [0] * 1024
    ids = struct.unpack(">4I", plan.array.bytes)
    words[0:16] = [_MAGIC, 0, 90, 0, 0, ids[0], 1_700_000_000, plan.level, size // 1024, 2, 2, 0, 0, *ids[1:]]
    words[32:41] = [1_700_000_000, 1, 2, 2, 0, 0, 0, plan.events & 0xFFFFFFFF, plan.events >> 32]
    for number, role in enumerate(plan.roles):
        state = 0b110 if role < 0xFF00 else 0b001  # active and in sync, or faulty
        words[128 + 32 * number : 133 + 32 * number] = [number, 8, number, role if role < 0xFF00 else number, state]
        if number == plan.number:
            words[992:997] = words[128 + 32 * number : 133 + 32 * number]
    total = sum(words)
    words[38] = (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF
    return struct.pack("<1024I", *words).ljust(65536, b"\0")
