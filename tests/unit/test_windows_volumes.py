"""What Windows answers of disks and volumes, parsed, and volumes put into their partitions."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.errors import DeviceError, DiskFormatError, MachineRefusal
from stillframe.extents import Extent, ExtentSet
from stillframe.host.windows import answers, codes
from stillframe.host.windows.answers import DiskExtent
from stillframe.host.windows.asking import BITMAP_SIZE, SIZE_MAX, ask, ask_ntfs, ask_used, opened
from stillframe.host.windows.calls import Win32Failure
from stillframe.host.windows.exclusions import (
    MEMORY_KEY,
    NOT_TO_SNAPSHOT_KEY,
    ExclusionPattern,
    PageFile,
    exclusions,
    page_files,
)  # fmt: skip
from stillframe.host.windows.volumes import VolumeSeen, disk_of, look_at_disks, match_volumes
from stillframe.testing import windows_documented as documented
from stillframe.testing.windows_documented import ESP, GIB, MIB, OPTICAL, C, D
from stillframe.testing.windows_transcript import Line, WindowsTranscript, read_transcript

FOLDER = Path(__file__).parents[1] / "data" / "windows"


def test_a_machine_is_seen() -> None:
    with WindowsTranscript(read_transcript(FOLDER / "look-at-disks.jsonl")) as calls:
        seen = look_at_disks(calls)
    first, second = seen.disks
    assert (first.path, first.size, first.sector_size, first.scheme) == (r"\\.\PhysicalDrive0", 64 * GIB, 512, "gpt")
    assert (first.model, first.serial, first.bus) == ("Samsung SSD 980 500GB", "S64DNF0R 12345", "nvme")
    assert first.disk_id == "d15c0000-0000-4000-8000-000000000000"
    assert (second.model, second.bus, second.removable) == ("Kingston DataTraveler 3.0", "usb", True)
    assert (second.scheme, second.disk_id) == ("mbr", "a1b2c3d4")
    assert [volume.name for volume in seen.elsewhere] == [OPTICAL]
    assert seen.notices == ()


def test_volumes_without_letters_are_found_by_where_they_lie() -> None:
    with WindowsTranscript(documented.looking()) as calls:
        seen = look_at_disks(calls)
    names = [[p.volume.name if p.volume else None for p in disk.partitions] for disk in seen.disks]
    assert names == [[ESP, None, C, None], [None, D, None]]
    esp = seen.disks[0].partitions[0].volume
    assert esp is not None
    assert (esp.paths, esp.device) == ((), ESP.removesuffix("\\"))
    # Neither the reserved partition nor WinRE has a volume here: those are read from the disk, or by their own name.
    reserved = seen.disks[0].partitions[1]
    assert reserved.entry.extent == Extent(101 * MIB, 117 * MIB)
    assert reserved.device == r"\\?\GLOBALROOT\Device\Harddisk0\Partition2"


def test_a_partition_is_named_by_its_number_not_by_its_place_in_the_table() -> None:
    with WindowsTranscript(documented.looking()) as calls:
        seen = look_at_disks(calls)
    devices = [[partition.device.rpartition("\\")[2] for partition in disk.partitions] for disk in seen.disks]
    # Behind a hole GPT keeps its numbers; an extended partition and its links have none. By their place in the
    # table plus one they would be 1, 2, 3, 4 and 1, 5, 9.
    assert devices == [
        ["Partition1", "Partition2", "Partition3", "Partition5"],
        ["Partition1", "Partition2", "Partition3"],
    ]
    assert seen.disks[1].partitions[1].device == r"\\?\GLOBALROOT\Device\Harddisk1\Partition2"
    assert [partition.entry.type for partition in seen.disks[1].partitions] == ["07", "07", "83"]


def test_the_entries_of_a_gpt_disk_are_what_the_table_says() -> None:
    layout = answers.parse_drive_layout(documented.gpt_layout(documented.GPT_ENTRIES, size=64 * GIB))
    entry = layout.entries[0]
    assert (entry.number, entry.extent) == (1, Extent(MIB, 101 * MIB))
    assert (entry.type, entry.name, entry.attributes) == (
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        "EFI system partition",
        1,
    )
    assert len(entry.guid) == 36


def test_containers_and_empty_entries_are_no_partitions() -> None:
    layout = answers.parse_drive_layout(documented.mbr_layout(documented.MBR_ENTRIES))
    assert len(layout.entries) == 12
    assert [entry.number for entry in layout.entries if entry.is_partition] == [1, 2, 3]
    assert [entry.active for entry in layout.entries if entry.is_partition] == [True, False, False]


def test_a_disk_without_a_table_has_no_partitions() -> None:
    assert answers.parse_drive_layout(struct.pack("<II40x", 2, 0)) == answers.DriveLayout(
        scheme="none", disk_id="", entries=()
    )


VOLUME_DATA = struct.pack("<qqqqqIIIIqqqqq", 0x1234, 204799, 25599, 9, 0, 512, 4096, 1024, 0, 65536, 4, 2, 4, 99)


def test_ntfs_says_its_size_without_the_last_sector() -> None:
    found = answers.parse_ntfs_volume(VOLUME_DATA)
    assert (found.size, found.cluster_size, found.cluster_count) == (204799 * 512, 4096, 25599)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(40, 0), (40, 3), (44, 0), (44, 4097), (44, 4 << 20), (8, 0), (8, 0xFFFFFFFF << 31), (16, 0), (16, 204800)],
)
def test_sizes_that_ntfs_does_not_have_are_refused(offset: int, value: int) -> None:
    wrong = bytearray(VOLUME_DATA)
    width = 4 if offset >= 40 else 8
    wrong[offset : offset + width] = value.to_bytes(width, "little")
    with pytest.raises(DiskFormatError):
        answers.parse_ntfs_volume(bytes(wrong))


def test_a_device_number_without_a_partition_is_the_disk() -> None:
    assert answers.parse_device_number(struct.pack("<III", 7, 2, 0xFFFFFFFF)).partition == 0
    assert answers.parse_device_number(struct.pack("<III", 7, 2, 3)) == answers.DeviceNumber(
        kind=7, disk=2, partition=3
    )


@pytest.mark.parametrize("offset", [0, 0xFFFFFFFF, 9999, 36])
def test_a_description_that_says_nothing_is_empty(offset: int) -> None:
    raw = bytearray(documented.description("V", "M", "S", bus=99, removable=False))[:36]
    raw[12:28] = struct.pack("<IIII", *[offset] * 4)
    found = answers.parse_device_description(bytes(raw))
    assert (found.vendor, found.model, found.revision, found.serial, found.bus) == ("", "", "", "", "")


def test_a_spanned_volume_lies_in_several_places() -> None:
    found = answers.parse_disk_extents(documented.extents((0, MIB, MIB), (1, 2 * MIB, MIB)))
    assert found == (
        DiskExtent(disk=0, extent=Extent(MIB, 2 * MIB)),
        DiskExtent(disk=1, extent=Extent(2 * MIB, 3 * MIB)),
    )


PARSERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (answers.parse_drive_layout, documented.mbr_layout(documented.MBR_ENTRIES[:1])),
    (answers.parse_drive_layout, documented.gpt_layout(documented.GPT_ENTRIES[:1], size=GIB)),
    (answers.parse_disk_extents, documented.extents((0, MIB, MIB))),
    (answers.parse_ntfs_volume, VOLUME_DATA),
    (answers.parse_volume_bitmap, struct.pack("<qq", 0, 8)),
    (answers.parse_device_number, struct.pack("<III", 7, 2, 3)),
    (answers.parse_length, struct.pack("<q", 5)),
    (answers.parse_geometry, documented.geometry(GIB)[:32]),
    (answers.parse_device_description, documented.description("", "", "", bus=7, removable=False)[:36]),
]


@pytest.mark.parametrize(("parse", "whole"), PARSERS)
def test_an_answer_that_is_cut_off_is_refused(parse: Callable[[bytes], object], whole: bytes) -> None:
    parse(whole)
    for length in range(len(whole)):
        with pytest.raises(DiskFormatError):
            parse(whole[:length])


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack("<II40x", 3, 0),
        struct.pack("<II40x", 0, answers.PARTITIONS_MAX + 1) + bytes(144) * (answers.PARTITIONS_MAX + 1),
        documented.mbr_layout([documented.mbr_entry(1, -1, 5, 7)]),
        documented.mbr_layout([documented.mbr_entry(1, 5, -1, 7)]),
        documented.mbr_layout([documented.mbr_entry(1, (1 << 63) - 1, 1, 7)]),
    ],
)
def test_layouts_that_cannot_be_are_refused(answer: bytes) -> None:
    with pytest.raises(DiskFormatError):
        answers.parse_drive_layout(answer)


def test_counts_and_sizes_at_their_limits() -> None:
    most = struct.pack("<II40x", 0, answers.PARTITIONS_MAX) + bytes(144) * answers.PARTITIONS_MAX
    assert len(answers.parse_drive_layout(most).entries) == answers.PARTITIONS_MAX
    with pytest.raises(DiskFormatError, match="at most"):
        answers.parse_disk_extents(struct.pack("<II", answers.DISK_EXTENTS_MAX + 1, 0) + bytes(24 * 2000))
    with pytest.raises(DiskFormatError):
        answers.parse_length(struct.pack("<q", -1))
    with pytest.raises(DiskFormatError, match="512 or 4096"):
        answers.parse_geometry(documented.geometry(GIB, 520))


def bent(find: Callable[[Line], bool], answer: object) -> list[Line]:
    """The machine with one answer changed, and what Windows then is not asked."""
    lines = documented.looking()
    index = next(number for number, line in enumerate(lines) if find(line))
    handle = lines[index].arguments[0]
    rest = lines[index + 1 :]
    end = next(number for number, line in enumerate(rest) if line == Line(call="close_handle", arguments=(handle,)))
    return [*lines[:index], replace(lines[index], answer=answer), *rest[end:]]


@pytest.mark.parametrize("code", ["0x0007405C", "0x002D1400", "0x00070050", "0x000700A0"])
def test_a_disk_that_fails_is_left_out_and_the_others_are_seen(code: str) -> None:
    lines = bent(lambda line: line.arguments[:2] == (16, code), {"error": codes.ERROR_IO_DEVICE})
    with WindowsTranscript(lines) as calls:
        seen = look_at_disks(calls)
    assert ([disk.number for disk in seen.disks], [notice.code for notice in seen.notices]) == ([1], ["disk-not-seen"])


@pytest.mark.parametrize(
    "entries",
    [
        (documented.GPT_ENTRIES[0], documented.GPT_ENTRIES[0]),
        (documented.gpt_entry(1, 64 * GIB - 1, 2, documented.BASIC, ""),),
    ],
)
def test_a_table_that_contradicts_itself_leaves_the_disk_out(entries: tuple[bytes, ...]) -> None:
    answer = {"hex": documented.gpt_layout(entries, size=64 * GIB).hex()}
    lines = bent(lambda line: line.arguments[:2] == (16, "0x00070050"), answer)
    with WindowsTranscript(lines) as calls:
        seen = look_at_disks(calls)
    assert "contradicts itself" in seen.notices[0].message


def test_who_is_no_administrator_is_told_so() -> None:
    lines = [*documented.looking()[:2], replace(documented.looking()[2], answer={"error": codes.ERROR_ACCESS_DENIED})]
    with pytest.raises(MachineRefusal, match="may not be opened") as caught, WindowsTranscript(lines) as calls:
        look_at_disks(calls)
    assert "Administrator" in caught.value.hint


def test_windows_that_does_not_list_its_disks_is_an_error() -> None:
    lines = [Line(call="device_names", answer={"error": 8})]
    with pytest.raises(DeviceError, match="listing disks"), WindowsTranscript(lines) as calls:
        look_at_disks(calls)


def volume(name: str, *places: tuple[int, int, int]) -> VolumeSeen:
    found = tuple(DiskExtent(disk=disk, extent=Extent(start, end)) for disk, start, end in places)
    return VolumeSeen(name=name, paths=(), places=found)


@pytest.mark.parametrize(
    ("places", "fits"),
    [
        ([(0, MIB, 101 * MIB)], True),
        ([(0, MIB, 50 * MIB)], True),  # a file system that was not grown
        ([(0, MIB, 102 * MIB)], False),  # reaches beyond
        ([(1, MIB, 101 * MIB)], False),  # another disk
        ([(0, 2 * MIB, 101 * MIB)], False),  # begins elsewhere
        ([(0, MIB, 101 * MIB), (1, MIB, 101 * MIB)], False),  # mirrored
        ([], False),
    ],
)
def test_a_volume_fills_a_partition_when_it_begins_there(places: list[tuple[int, int, int]], *, fits: bool) -> None:
    with WindowsTranscript(documented.looking()) as calls:
        seen = look_at_disks(calls)
    bare = [replace(p, volume=None) for p in seen.disks[0].partitions]
    matched = match_volumes([replace(seen.disks[0], partitions=tuple(bare))], [volume("X\\", *places)])
    assert (matched.disks[0].partitions[0].volume is not None) == fits
    assert bool(matched.elsewhere) != fits


def test_an_answer_gets_more_room_until_it_fits() -> None:
    layout = documented.gpt_layout(documented.GPT_ENTRIES[:1] * 128, size=GIB)
    code = "0x00070050"
    lines = [
        documented.control(1, code, {"error": 122}),
        documented.control(1, code, {"error": 234}, size=8192),
        documented.control(1, code, {"error": 122}, size=16384),
        documented.control(1, code, layout, size=32768),
    ]
    with WindowsTranscript(lines) as calls:
        assert ask(calls, 1, codes.IOCTL_DISK_GET_DRIVE_LAYOUT_EX) == layout


def test_an_answer_does_not_get_room_without_end() -> None:
    sizes = [4096 << step for step in range(9)]
    assert sizes[-1] == SIZE_MAX
    lines = [documented.control(1, "0x00070050", {"error": 122}, size=size) for size in sizes]
    with WindowsTranscript(lines) as calls, pytest.raises(Win32Failure):
        ask(calls, 1, codes.IOCTL_DISK_GET_DRIVE_LAYOUT_EX)


@pytest.mark.parametrize(("answer", "known"), [(VOLUME_DATA, True), ({"error": 1}, False), ({"error": 87}, False)])
def test_a_volume_that_is_not_ntfs_says_nothing(answer: object, *, known: bool) -> None:
    with WindowsTranscript([documented.control(1, "0x00090064", answer, size=96)]) as calls:
        assert (ask_ntfs(calls, 1) is not None) == known


def bitmap(first: int, count: int, *bits: int) -> bytes:
    return struct.pack("<qq", first, count) + bytes(bits)


SMALL = struct.pack("<qqqqqIIIIqqqqq", 0x1234, 207, 20, 9, 0, 512, 4096, 1024, 0, 65536, 4, 2, 4, 99)


def asked_used(*pieces: object, data: object = SMALL) -> list[Line]:
    """What is asked for the map of a volume of 20 clusters; each piece begins where the one before ended."""
    given = [struct.pack("<q", at).hex() for at in (0, 8, 16)]
    asked = [
        documented.control(5, "0x0009006F", piece, given=start, size=BITMAP_SIZE)
        for piece, start in zip(pieces, given, strict=False)
    ]
    opening = Line(call="open_handle", arguments=("X", False), answer=5)
    return [
        opening,
        documented.control(5, "0x00090064", data, size=96),
        *asked,
        Line(call="close_handle", arguments=(5,)),
    ]


def more(answer: bytes) -> dict[str, object]:
    return {"error": 234, "hex": answer.hex()}


def test_a_map_comes_in_pieces() -> None:
    lines = asked_used(more(bitmap(0, 20, 0b11)), more(bitmap(8, 12, 0b1000_0000)), bitmap(16, 4, 0xFF))
    with WindowsTranscript(lines) as calls:
        used = ask_used(calls, "X")
    # Clusters 0, 1, 15 and 16 to 19; the last bits stand for no cluster.
    assert used == ExtentSet.of(Extent(0, 2 * 4096), Extent(15 * 4096, 20 * 4096))


@pytest.mark.parametrize(
    "lines",
    [asked_used(data={"error": 1}), asked_used({"error": 1}), asked_used(more(bitmap(0, 20, 1)), {"error": 5})],
)
def test_a_map_that_is_not_told_is_none(lines: list[Line]) -> None:
    with WindowsTranscript(lines) as calls:
        assert ask_used(calls, "X") is None


@pytest.mark.parametrize(
    "pieces",
    [
        [bitmap(0, 21, 1, 1, 1)],  # of another size than the volume
        [bitmap(0, 12, 1, 1)],
        [bitmap(8, 12, 1, 1)],  # the beginning is missing
        [more(bitmap(0, 20))],  # nothing more comes
        [more(bitmap(0, 20, 1)), more(bitmap(0, 20, 1))],  # the same again
        [bitmap(0, 0)],
        [bitmap(-8, 28, 1)],
        [b"short"],
    ],
)
def test_a_map_that_does_not_fit_the_volume_is_refused(pieces: list[object]) -> None:
    with WindowsTranscript(asked_used(*pieces)) as calls, pytest.raises(DiskFormatError):
        ask_used(calls, "X")


@pytest.mark.parametrize(
    ("answer", "disk"),
    [(struct.pack("<III", 7, 2, 1), 2), (struct.pack("<III", 2, 0, 0xFFFFFFFF), -1), ({"error": 1}, None), (b"", None)],
)
def test_the_disk_of_a_volume_that_says_no_more(answer: object, disk: int | None) -> None:
    lines = [
        Line(call="open_handle", arguments=("X", False), answer=5),
        documented.control(5, "0x002D1080", answer, size=12),
        Line(call="close_handle", arguments=(5,)),
    ]
    with WindowsTranscript(lines) as calls:
        assert disk_of(calls, volume("X\\")) == disk


def test_a_handle_is_closed_when_the_asking_fails() -> None:
    lines = [Line(call="open_handle", arguments=("X", False), answer=5), Line(call="close_handle", arguments=(5,))]
    with WindowsTranscript(lines) as calls, pytest.raises(KeyboardInterrupt), opened(calls, "X"):
        raise KeyboardInterrupt


def test_what_windows_leaves_out_of_shadows() -> None:
    # Values of a real hive: dissect.regf, tests/_data/SYSTEM.gz, key FilesNotToSnapshot.
    values = {
        "OutlookOST": [r"$UserProfile$\AppData\Local\Microsoft\Outlook\*.ost"],
        "WUA": [r"%windir%\softwaredistribution\*.* /s", ""],
        "Heat": [r"\System Volume Information\Heat\*.*  /S "],
    }
    with WindowsTranscript([Line(call="registry_values", arguments=(NOT_TO_SNAPSHOT_KEY,), answer=values)]) as calls:
        found = exclusions(calls)
    assert found == (
        ExclusionPattern(
            owner="OutlookOST", path=r"$UserProfile$\AppData\Local\Microsoft\Outlook\*.ost", recursive=False
        ),
        ExclusionPattern(owner="WUA", path=r"%windir%\softwaredistribution\*.*", recursive=True),
        ExclusionPattern(owner="Heat", path=r"\System Volume Information\Heat\*.*", recursive=True),
    )


def test_paging_files_that_are_in_use() -> None:
    values = {
        "PagingFiles": [r"?:\pagefile.sys"],
        "existingpagefiles": [
            r"\??\C:\pagefile.sys",
            r"\DosDevices\d:\other pages\page file.sys",
            "nonsense",
            "",
            "C:",
        ],
    }
    with WindowsTranscript([Line(call="registry_values", arguments=(MEMORY_KEY,), answer=values)]) as calls:
        found = page_files(calls)
    assert found == (
        PageFile(drive="C:", path=r"\pagefile.sys"),
        PageFile(drive="D:", path=r"\other pages\page file.sys"),
    )
