"""Damaged metadata of LVM and md: nothing but our own errors comes out.

The ``fuzz_`` functions take any bytes; ``make fuzz`` runs them for longer.
"""

import contextlib
import random
import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.disk.lvm import join_volume, parse_group, read_physical_volume
from stillframe.disk.md import read_member
from stillframe.errors import DiskFormatError
from stillframe.testing.volumes_raid import MemberPlan, build_member

TEXT = b"""contents = "Text Format Volume Group" version = 1
house { id = "A" seqno = 7 extent_size = 8
physical_volumes { pv0 { id = "%s" pe_start = 16 pe_count = 10 } }
logical_volumes { root { id = "C" status = ["VISIBLE"] segment_count = 2
segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv0", 5] }
segment2 { start_extent = 2 extent_count = 2 type = "striped" stripe_count = 2 stripe_size = 8
stripes = ["pv0", 0, "pv0", 3] } } } }
"""
UUID = b"abcdefghijklmnopqrstuvwxyzABCDEF"


def checksum(contents: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(contents, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF)


def with_text(text: bytes, *, offset: int = 512, begun: int = 0, flags: int = 0) -> bytes:
    """A physical volume of 64 KiB whose checksums are right, whatever its text says."""
    disk = bytearray(65536)
    places = struct.pack("<QQQQQQQQ", 8192, 0, 0, 0, 4096, 4096, 0, 0)
    label = b"LVM2 001".rjust(12, b"\0")[4:]
    sector = (struct.pack("<I", 32) + label + UUID + struct.pack("<Q", 65536) + places).ljust(492, b"\0")
    disk[512:1024] = b"LABELONE" + struct.pack("<Q", 1) + checksum(sector) + sector
    area = b"\x20LVM2\x20x[5A%r0N*>" + struct.pack("<IQQ", 1, 4096, 4096)
    area += struct.pack("<QQ", offset, len(text)) + checksum(text) + struct.pack("<IQ", flags, begun)
    area = area.ljust(508, b"\0")
    disk[4096:4608] = checksum(area) + area
    disk[4096 + offset : 4096 + offset + len(text)] = text
    return bytes(disk[:65536])


def fuzz_lvm(data: bytes) -> None:
    disk = MemoryDisk(data)
    with contextlib.suppress(DiskFormatError):
        physical = read_physical_volume(disk)
        for text in physical.texts if physical else ():
            for volume in parse_group(text).logical:
                below = {place.uuid for one in volume.segments for place, _ in one.stripes}
                if below == {UUID.decode()}:
                    reader = join_volume(volume, {UUID.decode(): disk})
                    assert reader.size == volume.size
                    reader.read_at(reader.size - 1, 1)


def fuzz_lvm_text(data: bytes) -> None:
    fuzz_lvm(with_text(data[:3000]))


def fuzz_md(data: bytes) -> None:
    with contextlib.suppress(DiskFormatError):
        found = read_member(MemoryDisk(data))
        assert found is None or found.content.end <= len(data)


def test_the_good_one_is_read() -> None:
    physical = read_physical_volume(MemoryDisk(with_text(TEXT % UUID)))
    assert physical is not None
    (volume,) = parse_group(physical.texts[0]).logical
    assert join_volume(volume, {UUID.decode(): MemoryDisk(with_text(TEXT % UUID))}).size == 4 * 4096


def test_a_change_that_was_begun_and_an_area_out_of_use_are_noticed() -> None:
    found = [
        read_physical_volume(MemoryDisk(with_text(TEXT % UUID, begun=begun, flags=flags)))
        for begun, flags in ((0, 0), (1024, 0), (0, 1))
    ]
    assert [(one.is_settled, len(one.texts)) for one in found if one] == [(True, 1), (False, 1), (False, 0)]


@given(st.integers(0, 1 << 30), st.integers(1, 8))
def test_changed_text(seed: int, count: int) -> None:
    choose, text = random.Random(seed), bytearray(TEXT % UUID)
    for _ in range(count):
        text[choose.randrange(len(text))] = choose.choice(b'0123456789{}[]=",# \n\xff')
    fuzz_lvm_text(bytes(text))


@given(st.integers(0, 1 << 30), st.integers(1, 8))
def test_changed_headers(seed: int, count: int) -> None:
    choose, disk = random.Random(seed), bytearray(with_text(TEXT % UUID))
    for _ in range(count):
        disk[choose.choice((512, 4096, 4608)) + choose.randrange(512)] = choose.randrange(256)
    fuzz_lvm(bytes(disk))


@given(st.binary(max_size=3000))
def test_any_text(data: bytes) -> None:
    fuzz_lvm_text(data)


@given(st.sampled_from(["0.90", "1.0", "1.1", "1.2"]), st.integers(0, 255), st.binary(min_size=1, max_size=16))
def test_changed_superblocks(version: str, at: int, new: bytes) -> None:
    member = bytearray(build_member(bytes(65536), MemberPlan(version=version, data_start=65536)))
    place = member.index(bytes.fromhex("fc4e2ba9")) + at
    member[place : place + len(new)] = new
    fuzz_md(bytes(member))
