"""Records and texts of a Windows that name partitions: what they say after a move, byte by byte."""

import xml.etree.ElementTree as ET

import pytest

from stillframe.block import MemoryDisk
from stillframe.block.edits import Edit, build_sectors, find_mismatch, order_edits
from stillframe.disk import read_layout
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent
from stillframe.fs.files.placed import PlacedFile
from stillframe.fs.ntfs.places import Piece
from stillframe.systems.text_moves import move_boot_ini, move_reagent
from stillframe.systems.windows_disks import PartitionRecord
from stillframe.systems.windows_moves import MovedPartition, Moves, PartitionPlace, Rewriting, build_moves
from stillframe.systems.windows_repair import plan_windows_repair
from stillframe.testing.disk_builder import write_gpt, write_mbr

MIB = 1 << 20
OLD, NEW = "1A2B3C4D-0000-4000-8000-000000000001", "5E6F7A8B-0000-4000-8000-000000000002"
NONE = "00000000-0000-0000-0000-000000000000"


def gpt_moves(*starts: tuple[int, int], disk: str = NEW) -> Moves:
    moved = tuple(
        MovedPartition(old=PartitionPlace(start=old, guid=f"A{index}"), new=PartitionPlace(start=new, guid=f"B{index}"))
        for index, (old, new) in enumerate(starts)
    )
    return Moves(scheme="gpt", old_disk=OLD, new_disk=disk, partitions=moved)


def mbr_moves(*numbers: tuple[int, int], disk: str = "0BADCAFE") -> Moves:
    moved = tuple(
        MovedPartition(
            old=PartitionPlace(start=old * MIB, arc_number=old), new=PartitionPlace(start=new * MIB, arc_number=new)
        )
        for old, new in numbers
    )
    return Moves(scheme="mbr", old_disk="8B467C12", new_disk=disk, partitions=moved)


def applied(text: bytes, found: Rewriting) -> bytes:
    for edit in found.edits:
        assert text[edit.offset : edit.extent.end] == edit.old
        text = text[: edit.offset] + edit.new + text[edit.extent.end :]
    return text


def tag(offset: int, *, disk: str = OLD, number: int = 0, spaces: str = " ", end: str = "/>\r\n  ") -> bytes:
    return f'<WinreLocation path="\\R" id="{number}" offset="{offset}"{spaces}guid="{{{disk}}}"{end}<Next/>'.encode()


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        (1000, 2000, tag(1000), tag(2000, disk=NEW)),
        (1000, 200, tag(1000), tag(200, disk=NEW, spaces="  ")),
        (200, 1000, tag(200, spaces="  "), tag(1000, disk=NEW)),
        (200, 10000, tag(200, spaces="  "), tag(10000, disk=NEW, end="/>\r\n ")),
        (200, 1000, tag(200, end=" />"), tag(1000, disk=NEW, end="/>")),
        (9, 100, tag(9), tag(100, disk=NEW, end="/>\r\n")),
    ],
)
def test_the_place_in_reagent_is_fitted_in_by_spaces(old: int, new: int, before: bytes, after: bytes) -> None:
    found = move_reagent(before, gpt_moves((old, new)))
    assert not found.notices
    assert applied(before, found) == after
    (read,) = ET.fromstring(b"<a>" + after + b"</a>").findall("WinreLocation")  # noqa: S314 made here
    assert read.attrib == {"path": "\\R", "id": "0", "offset": str(new), "guid": f"{{{NEW}}}"}


def test_a_longer_number_without_room_is_not_written() -> None:
    found = move_reagent(tag(9, end="/>"), gpt_moves((9, 10)))
    assert not found.edits
    assert not found.done
    assert "no room" in found.notices[0].message
    assert "reagentc" in found.notices[0].hint


def test_small_letters_stay_small() -> None:
    before = tag(512, disk=OLD.lower())
    assert applied(before, move_reagent(before, gpt_moves((512, 512)))) == tag(512, disk=NEW.lower())


def test_on_mbr_disks_the_id_is_the_signature() -> None:
    before = tag(MIB, disk=NONE, number=0x8B467C12)
    after = tag(2 * MIB, disk=NONE, number=0x0BADCAFE).replace(b'" offset', b'"  offset')
    assert applied(before, move_reagent(before, mbr_moves((1, 2)))) == after
    unknown = move_reagent(tag(MIB, disk=NONE, number=77), mbr_moves((1, 2)))
    assert not unknown.edits
    assert "not known" in unknown.notices[0].message


def test_what_names_nothing_or_another_disk_is_left() -> None:
    for text in (tag(0, disk=NONE), tag(1000, disk=NEW), b"", b"<a", tag(1000).decode().encode("utf-16")):
        assert not move_reagent(text, gpt_moves((1000, 2000))).edits
    lost = move_reagent(tag(7, disk=OLD), gpt_moves((1000, 2000)))
    assert "not on the new disk" in lost.notices[0].message


def test_boot_ini_counts_and_keeps_its_size() -> None:
    text = (
        b"default=multi(0)disk(0)rdisk(0)partition(2)\\W\r\nMULTI(0)DISK(0)RDISK(0)PARTITION(1)\\W\r\n"
        b"signature(8b467c12)disk(0)rdisk(0)partition(2)\\W\r\nsignature(11111111)disk(0)rdisk(0)partition(2)\\W\r\n"
    )
    found = move_boot_ini(text, mbr_moves((1, 3), (2, 1)))
    expected = (
        b"default=multi(0)disk(0)rdisk(0)partition(1)\\W\r\nMULTI(0)DISK(0)RDISK(0)PARTITION(3)\\W\r\n"
        b"signature(0badcafe)disk(0)rdisk(0)partition(1)\\W\r\nsignature(11111111)disk(0)rdisk(0)partition(2)\\W\r\n"
    )
    assert applied(text, found) == expected
    longer = move_boot_ini(text, mbr_moves((1, 3), (2, 12)))
    assert not longer.edits
    assert longer.notices[0].code == "boot-ini-not-moved"
    assert not move_boot_ini(text, gpt_moves((1, 2))).edits


def test_a_partition_of_boot_ini_that_was_left_out_keeps_its_old_signature() -> None:
    text = b"signature(8b467c12)disk(0)rdisk(0)partition(2)\\W\r\n"
    found = move_boot_ini(text, mbr_moves((1, 1)))
    assert not found.edits
    assert found.notices[0].message == "partition(2) is not on the new disk"


def test_an_edit_of_a_file_in_pieces_is_spread_over_them() -> None:
    pieces = (Piece(0, 5000, 10), Piece(10, 100, 4), Piece(14, 9000, 100))
    file = PlacedFile(path="/x", size=60, pieces=pieces, flaw="")
    edit = Edit(offset=8, old=b"abcdefgh", new=b"ABCDEFGH")
    assert list(file.spread([edit])) == [
        Edit(offset=5008, old=b"ab", new=b"AB"),
        Edit(offset=100, old=b"cdef", new=b"CDEF"),
        Edit(offset=9000, old=b"gh", new=b"GH"),
    ]
    with pytest.raises(DiskFormatError, match="lies nowhere"):
        list(file.spread([edit.shifted(100)]))


def test_moves_of_two_layouts_number_partitions_as_boot_ini_does() -> None:
    old, new = MemoryDisk(bytearray(64 * MIB)), MemoryDisk(bytearray(64 * MIB))
    write_mbr(old, [Extent(MIB, 2 * MIB), Extent(3 * MIB, 4 * MIB)], [Extent(6 * MIB, 7 * MIB)])
    write_mbr(new, [Extent(2 * MIB, 3 * MIB)], [Extent(9 * MIB, 10 * MIB)])
    moves = build_moves(read_layout(old), read_layout(new), {2: 1, 5: 5})
    numbers = [(one.old.arc_number, one.new.arc_number) for one in moves.partitions]
    assert numbers == [(2, 1), (3, 2)]
    assert moves.inverse.inverse == moves
    with pytest.raises(ValueError, match="no partition 4"):
        build_moves(read_layout(old), read_layout(new), {4: 1})


def test_a_guid_that_two_partitions_have_is_not_followed() -> None:
    twice = tuple(
        MovedPartition(old=PartitionPlace(start=at, guid="A"), new=PartitionPlace(start=at, guid=f"B{at}"))
        for at in (1, 2)
    )
    moves = Moves(scheme="gpt", old_disk=OLD, new_disk=NEW, partitions=twice)
    assert moves.ambiguous == ("A",)
    assert moves.follow(PartitionRecord(scheme="gpt", disk="", guid="A")) is None


def test_a_plan_for_other_partitions_is_a_bug() -> None:
    disk = MemoryDisk(bytearray(8 * MIB))
    write_gpt(disk, [Extent(MIB, 2 * MIB)])
    layout = read_layout(disk)
    with pytest.raises(ValueError, match="no partition begins at byte 7"):
        plan_windows_repair(disk, layout, gpt_moves((1, 7)))
    with pytest.raises(ValueError, match="mbr"):
        plan_windows_repair(disk, layout, mbr_moves((1, 1)))


def test_edits_become_whole_sectors_and_never_overlap() -> None:
    disk = MemoryDisk(bytearray(range(256)) * 16)
    edits = order_edits(
        [Edit(offset=510, old=b"\xfe\xff\x00", new=b"abc"), Edit(offset=3, old=b"\x03", new=b"x")], what="it"
    )
    assert find_mismatch(disk, edits) is None
    (sector,) = build_sectors(disk, edits, sector_size=512)
    expected = bytearray(disk.contents[:1024])
    expected[510:513] = b"abc"
    expected[3:4] = b"x"
    assert sector == (0, bytes(expected))
    wrong = Edit(offset=4095, old=b"??", new=b"!!")
    assert find_mismatch(disk, [*edits, wrong]) == wrong
    with pytest.raises(DiskFormatError, match="overlap"):
        order_edits([Edit(offset=3, old=b"ab", new=b"cd"), Edit(offset=4, old=b"b", new=b"x")], what="it")
    with pytest.raises(ValueError, match="2 bytes in the place of 1"):
        Edit(offset=0, old=b"a", new=b"bc")
