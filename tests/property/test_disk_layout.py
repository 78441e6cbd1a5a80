"""Laws of layouts: hostile bytes raise our own errors or give disjoint partitions inside the disk."""

import struct
import zlib
from functools import cache
from itertools import pairwise
from random import Random
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.disk import Layout, Patch, clear_table_patches, fit_table, new_identity, read_layout
from stillframe.errors import DiskFormatError, StillframeError, TargetError
from stillframe.extents import ExtentSet
from stillframe.testing.disks_partitioned import make_disk, patched

SIZE = 256 << 10
BACKUP_AT = SIZE - 512
LOGICAL = """label: dos
/a1 : start=8, size=40
/a2 : start=64, size=400, type=5
/a5 : start=72, size=40
/a6 : start=200, size=40
"""


@cache
def seeds() -> tuple[bytes, ...]:
    gpt = "label: gpt\nfirst-lba: 34\nstart=40, size=80, name=a\nstart=200, size=50\nstart=128, size=8\n"
    return (make_disk(SIZE, sfdisk=gpt), make_disk(SIZE, sfdisk=LOGICAL))


def assert_lawful(layout: Layout) -> None:
    """A layout is what its docstring says, whatever it was read from."""
    extents = sorted(partition.extent for partition in layout.partitions)
    assert all(extent.size > 0 and extent.end <= layout.size for extent in extents)
    assert all(before.end <= after.start for before, after in pairwise(extents))
    numbers = [partition.number for partition in layout.partitions]
    assert numbers == sorted(set(numbers))
    inside = ExtentSet.from_extents(extents)
    assert (inside | layout.outside).size == inside.size + layout.outside.size == layout.size
    assert all(layout.outside.contains(extent) for extent in layout.table)
    for partition in layout.partitions:
        partition.name.encode()


def fuzz_layout(data: bytes) -> None:
    """Read a disk from any bytes, then place it: only our own errors, only lawful answers."""
    reader = MemoryDisk(data)
    try:
        layout = read_layout(reader)
    except StillframeError as error:
        assert isinstance(error, DiskFormatError)  # noqa: PT017 - other kinds are wrong here
        return
    assert_lawful(layout)
    clear_table_patches(layout)
    for size in (len(data), len(data) + 8192, max(0, len(data) - 8192)):
        assert_placed(layout, reader, size)


def assert_placed(layout: Layout, reader: MemoryDisk, size: int) -> None:
    """A table put on a target reads as the same partitions, and only bytes outside of them were written."""
    try:
        patches = fit_table(layout, reader, size)
        renamed = new_identity(layout, reader, size, next_uuid=lambda: UUID(int=1 << 100))
    except (TargetError, DiskFormatError):
        return
    assert_apart(patches, layout, size)
    if layout.scheme == "gpt":
        assert_apart(renamed.patches, layout, size)
        placed = read_layout(
            MemoryDisk(patched(bytes(reader.contents), patches, size=size), sector_size=layout.sector_size)
        )
        assert (placed.partitions, placed.disk_id) == (layout.partitions, layout.disk_id)


def assert_apart(patches: tuple[Patch, ...], layout: Layout, size: int) -> None:
    """Patches are inside the target and touch neither each other nor a partition."""
    extents = [patch.extent for patch in patches]
    assert all(before.end <= after.start for before, after in pairwise(extents))
    assert all(extent.end <= size for extent in extents)
    inside = ExtentSet.from_extents(partition.extent for partition in layout.partitions)
    assert not any(inside.clipped(extent).size for extent in extents)


def with_right_checksums(disk: bytearray) -> bytes:
    """The disk with the checksums of both GPT copies made right, so that a wrong field is what is found."""
    for header_at in (512, BACKUP_AT):
        size, entries_lba, count, entry_size = (
            *struct.unpack_from("<I", disk, header_at + 12),
            *struct.unpack_from("<QII", disk, header_at + 72),
        )
        entries = disk[entries_lba * 512 : entries_lba * 512 + min(count * entry_size, SIZE)]
        struct.pack_into("<I", disk, header_at + 88, zlib.crc32(entries))
        struct.pack_into("<I", disk, header_at + 16, 0)
        struct.pack_into("<I", disk, header_at + 16, zlib.crc32(disk[header_at : header_at + min(size, 512)]))
    return bytes(disk)


NUMBERS = st.one_of(
    st.integers(0, 600), st.sampled_from([1 << 31, (1 << 32) - 1, 1 << 52, 1 << 55, 1 << 63, (1 << 64) - 1])
)


@settings(deadline=None)
@given(st.binary(max_size=4096))
def test_any_bytes(data: bytes) -> None:
    fuzz_layout(data)


@settings(deadline=None)
@given(st.binary(min_size=66, max_size=66), st.binary(max_size=2048))
def test_any_bytes_that_end_like_a_boot_record(table: bytes, rest: bytes) -> None:
    fuzz_layout(bytes(446) + table[:64] + b"\x55\xaa" + rest)


@settings(deadline=None)
@given(st.integers(0, 1), st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 255)), max_size=20))
def test_changed_bytes(seed: int, changes: list[tuple[int, int]]) -> None:
    disk = bytearray(seeds()[seed])
    for offset, value in changes:
        disk[offset] = value
    fuzz_layout(bytes(disk))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([24, 32, 40, 48, 72, 80, 84]), NUMBERS, st.booleans()), max_size=3))
def test_changed_headers_with_right_checksums(changes: list[tuple[int, int, bool]]) -> None:
    disk = bytearray(seeds()[0])
    for offset, number, in_backup in changes:
        field = struct.pack("<Q", number)[: 8 if offset < 80 else 4]
        start = (BACKUP_AT if in_backup else 512) + offset
        disk[start : start + len(field)] = field
    fuzz_layout(with_right_checksums(disk))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), NUMBERS, NUMBERS, st.booleans()), max_size=4), st.booleans())
@example([(0, 1, 1, True)], True)  # the only good copy lists a partition where the other copy belongs
def test_changed_entries_with_right_checksums(changes: list[tuple[int, int, int, bool]], without_primary: bool) -> None:
    disk = bytearray(seeds()[0])
    for index, first, last, in_backup in changes:
        start = (BACKUP_AT - 16384 if in_backup else 1024) + 128 * index
        disk[start] |= 1
        struct.pack_into("<QQ", disk, start + 32, first, last)
    with_right_checksums(disk)
    if without_primary:
        disk[600] ^= 1
    fuzz_layout(bytes(disk))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 64, 199]), st.integers(0, 3), NUMBERS, NUMBERS), max_size=4))
def test_changed_boot_records(changes: list[tuple[int, int, int, int]]) -> None:
    disk = bytearray(seeds()[1])
    for lba, index, first, count in changes:
        struct.pack_into("<II", disk, lba * 512 + 446 + 16 * index + 8, first & 0xFFFFFFFF, count & 0xFFFFFFFF)
        disk[lba * 512 + 446 + 16 * index + 4] = (0x07, 0x05)[count & 1]
    fuzz_layout(bytes(disk))


@settings(deadline=None)
@given(st.integers(SIZE - 512 * 300, 4 * SIZE))
def test_placing_there_and_back_gives_the_same_disk(size: int) -> None:
    source = seeds()[0]
    reader = MemoryDisk(source)
    layout = read_layout(reader)
    try:
        target = MemoryDisk(patched(source, fit_table(layout, reader, size), size=size))
    except TargetError:
        assert size < (250 + 33) * 512
        return
    back = patched(bytes(target.contents), fit_table(read_layout(target), target, SIZE), size=SIZE)
    assert back == source


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_new_identity_changes_identities_only(chooser: Random) -> None:
    source = seeds()[0]
    reader = MemoryDisk(source)
    layout = read_layout(reader)
    identity = new_identity(layout, reader, SIZE, next_uuid=lambda: UUID(int=chooser.getrandbits(128)))
    changed = patched(source, identity.patches, size=SIZE)
    renamed = dict(identity.guids)
    after = read_layout(MemoryDisk(changed))
    assert [part.guid for part in after.partitions] == [renamed[part.guid] for part in layout.partitions]
    assert [(part.extent, part.type, part.name) for part in after.partitions] == [
        (part.extent, part.type, part.name) for part in layout.partitions
    ]


def test_the_largest_number_in_any_field() -> None:
    for offset in range(512, 1024 + 128, 4):
        disk = bytearray(seeds()[0])
        disk[offset : offset + 8] = b"\xff" * 8
        fuzz_layout(with_right_checksums(disk))
