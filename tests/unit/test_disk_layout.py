"""Broken, odd and hostile partition tables: what is refused, in which words, and what is only noticed."""

import struct

import pytest

from stillframe.block import MemoryDisk, ReadFault
from stillframe.disk import Layout, fit_table, name_type, new_identity, read_layout
from stillframe.errors import DiskFormatError, TargetError
from stillframe.extents import Extent
from stillframe.testing.disks_partitioned import MIB, make_disk, with_entries, with_header_field

SIZE = 4 * MIB
SECTORS = SIZE // 512
BACKUP_AT = SIZE - 512
LINUX = bytes.fromhex("AF3DC60F838472478E793D69D8477DE4")
"""0FC63DAF-8483-4772-8E79-3D69D8477DE4 in the byte order of the disk: UEFI 2.10, appendix A."""


@pytest.fixture(scope="session")
def gpt_disk() -> bytes:
    return make_disk(SIZE, sfdisk="label: gpt\nfirst-lba: 34\nstart=64, size=100, name=a\nstart=200, size=50, name=b\n")


def mbr(*entries: tuple[int, int, int, int], size: int = SIZE) -> bytearray:
    """A disk with an MBR of (status, type, first sector, number of sectors)."""
    disk = bytearray(size)
    put_record(disk, 0, *entries)
    return disk


def put_record(disk: bytearray, lba: int, *entries: tuple[int, int, int, int]) -> None:
    for index, (status, kind, first, count) in enumerate(entries):
        struct.pack_into("<B3xB3xII", disk, lba * 512 + 446 + 16 * index, status, kind, first, count)
    disk[lba * 512 + 510 : lba * 512 + 512] = b"\x55\xaa"


def entry(first: int, last: int, name: bytes = b"") -> bytes:
    return struct.pack("<16s16sQQQ72s", LINUX, bytes(range(16)), first, last, 0, name)


def in_both_copies(disk: bytes, entries: bytes) -> bytes:
    disk = with_entries(disk, entries)
    return with_entries(disk, entries, header_at=BACKUP_AT, entries_at=BACKUP_AT - 16384)


def read(disk: bytes | bytearray) -> Layout:
    return read_layout(MemoryDisk(disk))


def codes(layout: Layout) -> list[str]:
    return [notice.code for notice in layout.notices]


class UnreadableSectors(MemoryDisk):
    """A disk that cannot read some sectors."""

    bad: tuple[Extent, ...] = ()

    def read_at(self, offset: int, length: int) -> bytes:
        for extent in self.bad:
            if length and extent.clipped(Extent(offset, offset + length)):
                raise ReadFault("the disk cannot read", extent=Extent(offset, offset + length))
        return super().read_at(offset, length)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4096, MIB])
def test_a_disk_of_zeros_has_no_table(size: int) -> None:
    layout = read(bytes(size))
    assert (layout.scheme, layout.partitions, layout.notices, layout.outside.size) == ("none", (), (), size)


def test_an_empty_mbr_is_a_table_without_partitions() -> None:
    layout = read(mbr())
    assert (layout.scheme, layout.disk_id, layout.partitions) == ("mbr", "00000000", ())
    assert list(layout.table) == [Extent(0, 512)]


def test_code_that_ends_like_a_boot_record_is_no_table() -> None:
    layout = read(mbr((0x41, 0x42, 1, 1)))
    assert (layout.scheme, codes(layout)) == ("none", ["mbr-unreadable"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (((0, 7, 10, 20), (0, 7, 29, 5)), "partition 2: expected it behind partition 1, which ends at byte 15360"),
        (((0, 7, 40, 20), (0, 7, 30, 11)), "partition 1: expected it behind partition 2"),
        (((0, 7, 1, SECTORS),), f"partition 1: expected it inside the disk of {SECTORS} sectors"),
        (((0, 7, 0, 10),), "expected it behind"),
        (((0, 0xEE, 1, SECTORS - 1),), "no copy of the GUID partition table is good"),
        (((0, 5, SECTORS, 10),), "extended boot record in sector 8192"),
    ],
)
def test_a_broken_mbr_is_refused(entries: tuple[tuple[int, int, int, int], ...], message: str) -> None:
    with pytest.raises(DiskFormatError, match=message) as caught:
        read(mbr(*entries))
    assert caught.value.hint


def test_a_chain_that_comes_back_to_itself() -> None:
    disk = mbr((0, 5, 100, 1000))
    put_record(disk, 100, (0, 7, 1, 10), (0, 5, 50, 20))
    put_record(disk, 150, (0, 7, 1, 10), (0, 5, 0, 20))
    with pytest.raises(DiskFormatError, match=r"sector 100 .* comes back"):
        read(disk)


def test_a_chain_of_empty_records_without_end() -> None:
    disk = mbr((0, 5, 100, 4000))
    for index in range(400):
        put_record(disk, 100 + index, (0, 5, index + 1, 1))
    with pytest.raises(DiskFormatError, match="at most 256 records"):
        read(disk)


def test_a_chain_that_leaves_the_disk() -> None:
    disk = mbr((0, 0x0F, 100, 1000))
    put_record(disk, 100, (0, 7, 1, 10), (0, 5, 0xFFFFFFFF, 20))
    with pytest.raises(DiskFormatError, match=f"expected it on the disk, which ends at sector {SECTORS}"):
        read(disk)


def test_a_logical_partition_over_the_next_record() -> None:
    disk = mbr((0, 0x0F, 100, 1000))
    put_record(disk, 100, (0, 7, 1, 60), (0, 5, 50, 20))
    put_record(disk, 150, (0, 7, 20, 10))
    with pytest.raises(DiskFormatError, match="the partition table: expected it behind partition 5"):
        read(disk)


def test_a_chain_that_ends_early_is_noticed() -> None:
    disk = mbr((0, 5, 100, 1000))
    put_record(disk, 100, (0, 7, 1, 10), (0, 5, 50, 20))
    layout = read(disk)
    assert [part.number for part in layout.partitions] == [5]
    assert codes(layout) == ["mbr-chain-broken"]


def test_garbage_in_the_third_entry_of_a_record_is_dropped() -> None:
    disk = mbr((0, 5, 100, 1000))
    put_record(disk, 100, (0, 7, 1, 10), (0, 0, 0, 0), (0, 7, 5000, 10), (0, 7, 20, 10))
    assert [part.extent.start // 512 for part in read(disk).partitions] == [101, 120]


def test_two_containers_are_numbered_on() -> None:
    disk = mbr((0, 5, 100, 100), (0, 7, 300, 10), (0, 0x85, 400, 100))
    put_record(disk, 100, (0, 7, 1, 10))
    put_record(disk, 400, (0, 7, 1, 10))
    assert [part.number for part in read(disk).partitions] == [2, 5, 6]


FAT16 = struct.pack("<3s8sHBHBHHBH", b"\xeb\x3c\x90", b"mkfs.fat", 512, 4, 4, 2, 512, SECTORS, 0xF8, 8)


def test_stale_parameters_of_a_file_system_do_not_hide_a_table() -> None:
    disk = mbr((0x80, 0x0C, 64, 1000))
    disk[: len(FAT16)] = FAT16
    layout = read(disk)
    assert [part.number for part in layout.partitions] == [1]
    assert codes(layout) == ["mbr-over-boot-sector"]


def test_parameters_of_a_file_system_over_a_broken_table_are_never_guessed_at() -> None:
    disk = mbr((0x80, 0x0C, 64, SECTORS))
    disk[: len(FAT16)] = FAT16
    with pytest.raises(DiskFormatError):
        read(disk)


@pytest.mark.parametrize("start", [FAT16, b"\xeb\x58\x90-FVE-FS-", b"\xeb\x76\x90EXFAT   "])
def test_boot_sectors_with_text_where_a_table_would_be(start: bytes) -> None:
    disk = mbr()
    disk[: len(start)] = start
    disk[446:466] = b"Remove disk or press"
    assert (read(disk).scheme, codes(read(disk))) == ("none", [])


@pytest.mark.parametrize("record", [True, False])
def test_a_gpt_that_is_not_announced_is_ignored(gpt_disk: bytes, *, record: bool) -> None:
    disk = (bytes(mbr((0, 7, 64, 10))[:512]) if record else bytes(512)) + gpt_disk[512:]
    layout = read(disk)
    assert (layout.scheme, codes(layout)) == ("mbr" if record else "none", ["gpt-ignored"])


def test_both_copies_broken(gpt_disk: bytes) -> None:
    disk = bytearray(gpt_disk)
    disk[512 + 56] ^= 1
    disk[BACKUP_AT + 56] ^= 1
    with pytest.raises(
        DiskFormatError, match=r"sector 1: expected checksum [0-9A-F]{8} .*found [0-9A-F]{8}.*sector 8191"
    ):
        read(disk)


def test_copies_that_differ(gpt_disk: bytes) -> None:
    layout = read(with_entries(gpt_disk, entry(300, 400).ljust(16384, b"\0")))
    assert [part.extent for part in layout.partitions] == [Extent(300 * 512, 401 * 512)]
    assert codes(layout) == ["gpt-copies-differ"]


def test_a_disk_cut_short_behind_its_partitions(gpt_disk: bytes) -> None:
    layout = read(gpt_disk[: SIZE - 40 * 512])
    assert [part.number for part in layout.partitions] == [1, 2]
    assert codes(layout) == ["gpt-disk-too-small"]


def test_a_disk_cut_short_in_a_partition(gpt_disk: bytes) -> None:
    with pytest.raises(
        DiskFormatError, match=r"partition 2: .* inside the disk of 240 sectors, found sectors 200 to 249"
    ):
        read(gpt_disk[: 240 * 512])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (entry(64, 163) + entry(163, 170), "partition 2: expected it behind partition 1"),
        (entry(64, 63), "partition 1: expected an end at or after its first sector 64, found 63"),
        (entry(64, (1 << 64) - 1), "partition 1: expected it inside the disk"),
        (entry(33, 40), "partition 1: expected it behind the partition table"),
        (entry(0, 40), "expected it behind"),
        (entry(SECTORS - 40, SECTORS - 1), "the partition table: expected it behind partition 1"),
    ],
)
def test_a_gpt_whose_partitions_cannot_be(gpt_disk: bytes, entries: bytes, message: str) -> None:
    with pytest.raises(DiskFormatError, match=message):
        read(in_both_copies(gpt_disk, entries.ljust(16384, b"\0")))


@pytest.mark.parametrize(
    ("layout", "offset", "value", "words"),
    [
        ("<I", 8, 0x00020000, "revision"),
        ("<I", 12, 91, "size"),
        ("<I", 12, 513, "size"),
        ("<I", 12, 0xFFFFFFFF, "size"),
        ("<Q", 24, 2, "header of sector 1"),
        ("<Q", 40, 1 << 63, "usable sectors"),
        ("<Q", 72, 0, "entries"),
        ("<Q", 72, 1, "entries"),
        ("<Q", 72, (1 << 64) - 1, "entries"),
        ("<Q", 72, SECTORS - 31, "entries"),
        ("<I", 80, 0, "entries"),
        ("<I", 80, 32769, "1 to 32768 entries"),
        ("<I", 80, 0xFFFFFFFF, "entries"),
        ("<I", 84, 0, "entries"),
        ("<I", 84, 192, "entries"),
        ("<I", 84, 0x80000000, "entries"),
        ("<I", 88, 0, "checksum"),
    ],
)
def test_a_header_with_a_right_checksum_and_a_wrong_field(
    gpt_disk: bytes, layout: str, offset: int, value: int, words: str
) -> None:
    found = read(with_header_field(gpt_disk, layout, offset, value))
    assert codes(found) == ["gpt-primary-broken"]
    assert words in found.notices[0].message
    assert found.partitions == read(gpt_disk).partitions


@pytest.mark.parametrize("value", [0, 1, 2, SECTORS - 2])
def test_an_alternate_that_is_not_there(gpt_disk: bytes, value: int) -> None:
    found = read(with_header_field(gpt_disk, "<Q", 32, value))
    assert found.partitions == read(gpt_disk).partitions
    assert "gpt-backup-broken" in codes(found)


def test_a_backup_that_shares_the_array_of_the_primary_is_no_copy(gpt_disk: bytes) -> None:
    found = read(with_header_field(gpt_disk, "<Q", 72, 2, header_at=BACKUP_AT))
    assert found.partitions == read(gpt_disk).partitions
    assert codes(found) == ["gpt-backup-broken"]


@pytest.mark.parametrize("size", [256, 512, 4096])
def test_larger_entries(gpt_disk: bytes, size: int) -> None:
    entries = b"".join(gpt_disk[1024 + 128 * index : 1152 + 128 * index].ljust(size, b"\xa5") for index in range(2))
    disk = with_header_field(gpt_disk, "<I", 84, size)
    disk = with_header_field(disk, "<I", 80, 2)
    assert read(with_entries(disk, entries)).partitions == read(gpt_disk).partitions


def test_names(gpt_disk: bytes) -> None:
    names = [b"a\0\0\0b\0", b"\x00\xd8x\0", "\U0001f600".encode("utf-16-le"), b"x\0" * 36]
    entries = b"".join(entry(100 + index, 100 + index, name) for index, name in enumerate(names)).ljust(16384, b"\0")
    found = [part.name for part in read(with_entries(gpt_disk, entries)).partitions]
    assert found == ["a", "\ufffdx", "\U0001f600", "x" * 36]
    assert all(name.encode() for name in found)


def test_a_primary_copy_that_cannot_be_read(gpt_disk: bytes) -> None:
    disk = UnreadableSectors(gpt_disk)
    disk.bad = (Extent(512, 1024),)
    layout = read_layout(disk)
    assert layout.partitions == read(gpt_disk).partitions
    assert codes(layout) == ["gpt-primary-broken"]
    assert [(patch.offset, patch.data) for patch in fit_table(layout, disk, SIZE)] == [(512, gpt_disk[512:1024])]


def test_a_device_that_cannot_read_sector_0(gpt_disk: bytes) -> None:
    disk = UnreadableSectors(gpt_disk)
    disk.bad = (Extent(0, 512),)
    with pytest.raises(ReadFault):
        read_layout(disk)


def test_a_disk_without_a_table_fits_only_whole() -> None:
    disk = MemoryDisk(bytes(SIZE))
    layout = read_layout(disk)
    assert fit_table(layout, disk, SIZE) == ()
    assert new_identity(layout, disk, SIZE, next_uuid=lambda: pytest.fail("not needed")).patches == ()
    with pytest.raises(TargetError):
        fit_table(layout, disk, SIZE - 1)


def test_a_type_that_nobody_knows() -> None:
    assert name_type("00000000-0000-0000-0000-000000000001") == "unknown"
    assert name_type("07") == "Windows data"
