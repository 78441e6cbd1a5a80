"""Layouts, numbers and slots of Windows, compared with what a C compiler makes of mingw-w64's headers."""

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest

from stillframe.host.windows import codes, com, structures
from stillframe.host.windows.com import Kind

HEADERS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "windows" / "headers.json").read_text())

PLAIN = {
    "GUID": structures.Guid,
    "PARTITION_INFORMATION_MBR": structures.PartitionInformationMbr,
    "PARTITION_INFORMATION_GPT": structures.PartitionInformationGpt,
    "PARTITION_INFORMATION_EX": structures.PartitionInformationEx,
    "DRIVE_LAYOUT_INFORMATION_GPT": structures.DriveLayoutGpt,
    "DISK_EXTENT": structures.DiskExtentStructure,
    "NTFS_VOLUME_DATA_BUFFER": structures.NtfsVolumeStructure,
    "STORAGE_DEVICE_NUMBER": structures.StorageDeviceNumberStructure,
    "GET_LENGTH_INFORMATION": structures.LengthStructure,
    "STORAGE_PROPERTY_QUERY": structures.StoragePropertyQuery,
    "STORAGE_DEVICE_DESCRIPTOR": structures.StorageDeviceDescriptor,
    "DISK_GEOMETRY_EX": structures.DiskGeometryEx,
    "OVERLAPPED": structures.Overlapped,
    "VSS_SNAPSHOT_PROP": structures.SnapshotProp,
}
OTHER_NAMES = {"Mbr": "Union", "Gpt": "Union", "hEvent": "Event", "Data": "Rest"}

# What each type of the headers is for ctypes. LONG and DWORD have 32 bits on Windows, whatever the machine.
KINDS = {
    "BSTR": Kind.NOTHING,
    "INT *": Kind.NOTHING,
    "boolean": Kind.FLAG,
    "UINT": Kind.NUMBER,
    "LONG": Kind.NUMBER,
    "DWORD": Kind.NUMBER,
    "WINBOOL": Kind.NUMBER,
    "VSS_BACKUP_TYPE": Kind.NUMBER,
    "VSS_OBJECT_TYPE": Kind.NUMBER,
    "VSS_ID": Kind.ID,
    "VSS_PWSZ": Kind.TEXT,
    "UINT *": Kind.NUMBER_OUT,
    "LONG *": Kind.NUMBER_OUT,
    "WINBOOL *": Kind.NUMBER_OUT,
    "HRESULT *": Kind.NUMBER_OUT,
    "VSS_WRITER_STATE *": Kind.NUMBER_OUT,
    "IVssAsync **": Kind.POINTER_OUT,
    "VSS_ID *": Kind.ID_OUT,
    "BSTR *": Kind.BSTR_OUT,
    "VSS_SNAPSHOT_PROP *": Kind.SNAPSHOT_OUT,
}


def offset(kind: type[ctypes.Structure], field: str) -> int:
    found: int = getattr(kind, field).offset
    return found


@pytest.mark.parametrize("name", PLAIN)
def test_sizes_and_offsets_are_those_of_the_headers(name: str) -> None:
    kind = PLAIN[name]
    assert ctypes.sizeof(kind) == HEADERS["sizes"][name]
    for field, expected in HEADERS["offsets"][name].items():
        ours = "CreationTimestamp" if field == "m_tsCreationTimestamp" else OTHER_NAMES.get(field, field)
        ours = ours.removeprefix("m_pwsz").removeprefix("m_l").removeprefix("m_e").removeprefix("m_")
        if (name, field) != ("DISK_GEOMETRY_EX", "Geometry"):
            assert offset(kind, ours) == expected, field


def test_the_parts_of_larger_structures_lie_where_the_headers_have_them() -> None:
    layout, extents = HEADERS["offsets"]["DRIVE_LAYOUT_INFORMATION_EX"], HEADERS["offsets"]["VOLUME_DISK_EXTENTS"]
    assert ctypes.sizeof(structures.DriveLayoutHeader) == layout["PartitionEntry"] == 48
    bitmap = HEADERS["offsets"]["VOLUME_BITMAP_BUFFER"]
    assert ctypes.sizeof(structures.VolumeBitmapHeader) == bitmap["Buffer"] == 16
    assert offset(structures.VolumeBitmapHeader, "BitmapSize") == bitmap["BitmapSize"]
    assert offset(structures.DriveLayoutHeader, "Union") == layout["Mbr"] == layout["Gpt"]
    assert ctypes.sizeof(structures.VolumeDiskExtentsHeader) == extents["Extents"] == 8
    geometry = HEADERS["offsets"]["DISK_GEOMETRY"]
    assert {field: offset(structures.DiskGeometryEx, field) for field in geometry} == geometry


def test_the_sizes_are_those_that_were_noted_before() -> None:
    # Computed once by hand for the plan of this work, before there was any of this code.
    expected = {"PARTITION_INFORMATION_EX": 144, "NTFS_VOLUME_DATA_BUFFER": 96, "VSS_SNAPSHOT_PROP": 128}
    assert {name: ctypes.sizeof(PLAIN[name]) for name in expected} == expected
    assert offset(structures.PartitionInformationEx, "Union") == 32
    names = ("SnapshotDeviceObject", "ProviderId", "CreationTimestamp")
    assert [offset(structures.SnapshotProp, name) for name in names] == [40, 88, 112]


@pytest.mark.parametrize("name", [name for name in HEADERS["numbers"] if hasattr(codes, name)])
def test_numbers_are_those_of_the_headers(name: str) -> None:
    assert getattr(codes, name) == HEADERS["numbers"][name]


def test_every_number_with_a_windows_name_is_compared() -> None:
    prefixes = (
        "FSCTL",
        "IOCTL",
        "ERROR_",
        "VSS_",
        "E_",
        "RPC_E",
        "PARTITION_STYLE",
        "FILE_FLAG",
        "FILE_DEVICE",
        "GENERIC",
    )
    ours = {name for name in dir(codes) if name.startswith(prefixes)}
    assert ours - set(HEADERS["numbers"]) == {"ERROR_NO_SUCH_DEVICE"}  # 433; mingw-w64 of Debian 12 lacks it


def test_every_failure_has_the_name_of_its_number() -> None:
    for number in codes.known_failures():
        assert HEADERS["numbers"][codes.meaning_of(number).name] == number
    assert codes.meaning_of(0x80045678).name == "0x80045678"


def test_states_of_writers_are_those_of_the_headers() -> None:
    states: dict[str, int] = HEADERS["writer_states"]
    assert states["VSS_WS_COUNT"] == len(codes.WRITER_STATES)
    failed = {number for name, number in states.items() if "FAILED" in name or "UNKNOWN" in name}
    assert frozenset(range(len(codes.WRITER_STATES))) - codes.WRITER_STATES_WELL == failed


@pytest.mark.parametrize("method", com.METHODS, ids=str)
def test_slots_and_parameters_are_those_of_the_headers(method: com.Method) -> None:
    there = HEADERS["methods"][method.interface][method.slot]
    assert there["name"] == method.name
    assert tuple(KINDS[parameter] for parameter in there["parameters"]) == method.parameters


def test_a_guid_is_what_its_text_says() -> None:
    guid = structures.Guid.parse("{b5946137-7b9f-4925-af80-51abd60b20d5}")
    assert bytes(guid) == bytes.fromhex("376194b59f7b2549af8051abd60b20d5")
    assert guid.text == "b5946137-7b9f-4925-af80-51abd60b20d5"
