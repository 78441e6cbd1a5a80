"""``boot.ini``: what is written in it, and which partition that means."""

import pytest

from stillframe.systems.boot_ini import parse_arc_path, parse_boot_ini
from stillframe.systems.names import find_arc
from stillframe.systems.needed import judge_parts
from stillframe.testing.boot_disks import boot_ini, xp_files, xp_starts
from stillframe.testing.system_files import SIGNATURE, boot_part

# The example of Microsoft KB 289022, and a line for the recovery console as its installer writes it.
PUBLISHED = b"""[boot loader]\r
timeout=30\r
default=multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS\r
; a comment=with a sign\r
[operating systems]\r
multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS="Microsoft Windows XP Professional" /fastdetect\r
multi(0)disk(0)rdisk(1)partition(2)\\WINNT="Windows 2000 Professional" /fastdetect\r
C:\\CMDCONS\\BOOTSECT.DAT="Microsoft Windows Recovery Console" /cmdcons\r
signature(8b467c12)disk(1)rdisk(0)partition(2)\\winnt="Windows 2000" /fastdetect\r
"""


def test_the_published_example_is_read() -> None:
    ini = parse_boot_ini(PUBLISHED)
    assert ini.default is not None
    assert [(entry.title, entry.place is None) for entry in ini.entries] == [
        ("Microsoft Windows XP Professional", False), ("Windows 2000 Professional", False),
        ("Microsoft Windows Recovery Console", True), ("Windows 2000", False),
    ]  # fmt: skip
    assert [(one.signature, one.disk, one.partition, one.folder) for one in ini.places] == [
        ("", 0, 1, "/WINDOWS"), ("", 1, 2, "/WINNT"), ("8B467C12", 0, 2, "/winnt"),
    ]  # fmt: skip


def test_with_scsi_the_disk_is_counted_by_its_id() -> None:
    place = parse_arc_path(r"scsi(0)disk(2)rdisk(0)partition(1)\WINNT")
    assert place is not None
    assert place.disk == 2


@pytest.mark.parametrize("text", ["", "C:\\", "multi(0)disk(0)rdisk(0)", "multi(0)disk(0)rdisk(0)partition(x)\\W", "a"])
def test_other_words_are_no_place(text: str) -> None:
    assert parse_arc_path(text) is None


def test_partitions_are_counted_in_the_order_of_the_table_and_logical_ones_last() -> None:
    """KB 102873: primary partitions first, then logical ones; the number of an empty or extended entry is not used."""
    numbers = (1, 3, 5, 6)  # by Linux: a slot is empty, another one is the extended partition
    parts = [boot_part(number, "ntfs", scheme="mbr", logical=number > 4).evidence for number in numbers]
    for rank, number in enumerate(numbers, 1):
        place = parse_arc_path(rf"multi(0)disk(0)rdisk(0)partition({rank})\WINDOWS")
        assert place is not None
        found = find_arc(place, parts[0], parts)
        assert found is not None
        assert found.partition.number == number
    for rank in (0, 5):
        place = parse_arc_path(rf"multi(0)disk(0)rdisk(0)partition({rank})\WINDOWS")
        assert place is not None
        assert find_arc(place, parts[0], parts) is None


def test_disks_are_counted_from_the_one_that_starts_or_named_by_their_signature() -> None:
    first, second, third = (boot_part(1, "ntfs", scheme="mbr", disk=disk).evidence for disk in range(3))
    other = parse_arc_path(r"multi(0)disk(0)rdisk(1)partition(1)\WINDOWS")
    named = parse_arc_path(rf"signature({SIGNATURE.lower()})disk(0)rdisk(0)partition(1)\WINDOWS")
    assert other is not None
    assert named is not None
    assert find_arc(other, first, [first, second]) is second
    assert find_arc(other, second, [first, second]) is first
    assert find_arc(other, first, [first, second, third]) is None, "nobody knows the order of the others"
    assert find_arc(named, second, [first, second, third]) is first


def test_a_windows_that_only_boot_ini_names_is_taken() -> None:
    """Its files are not read, so nothing else tells of it."""
    start = boot_part(1, "vfat", xp_starts(boot_ini(r"multi(0)disk(0)rdisk(0)partition(2)\WINDOWS")), scheme="mbr")
    hidden, data = boot_part(5, "ntfs", None, scheme="mbr"), boot_part(6, "ntfs", {"a.jpg": b""}, scheme="mbr")
    judged = judge_parts([start.evidence, hidden.evidence, data.evidence])
    assert [(one.taken, one.reason) for one in judged.verdicts] == [
        (True, "loader of Windows (ntldr)"), (True, "a Windows, named by boot.ini of partition 1"),
        (False, "data: nothing that starts lies here"),
    ]  # fmt: skip
    assert judged.missing == ()


def test_a_windows_on_fat_and_one_that_is_gone() -> None:
    ini = boot_ini(r"multi(0)disk(0)rdisk(0)partition(1)\WINDOWS", r"multi(0)disk(0)rdisk(0)partition(4)\WINNT")
    part = boot_part(1, "vfat", {**xp_starts(ini), **xp_files()}, scheme="mbr", active=True)
    judged = judge_parts([part.evidence])
    assert judged.verdicts[0].reason == "Microsoft Windows XP Service Pack 3"
    assert judged.missing == (
        r"boot.ini of partition 1 names multi(0)disk(0)rdisk(0)partition(4)\WINNT, which is on none of these disks",
    )
