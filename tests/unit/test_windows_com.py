"""Calls by slot, on a table of functions made here: arguments arrive, answers come back, memory is given back."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from stillframe.errors import MachineRefusal
from stillframe.host.windows import codes, com
from stillframe.host.windows.calls import (
    INVALID_HANDLE,
    Libraries,
    SystemCalls,
    Win32Failure,
    split_names,
    system_calls,
)  # fmt: skip
from stillframe.host.windows.com import Freeing, Method, invoke, read_wide, wide
from stillframe.host.windows.structures import Guid, Overlapped, SnapshotProp

ID = "665c1d5f-c218-414d-a05d-7fef5f9d5c86"
OTHER = "507c37b4-cf5b-4e95-b0af-14eb9767467e"


class ComObject:
    """An object whose methods are Python functions, as a C++ compiler would lay it out."""

    def __init__(self, slots: dict[int, Any]) -> None:
        self._kept = slots
        self._table = (ctypes.c_uint64 * 64)()
        for slot, function in slots.items():
            self._table[slot] = ctypes.cast(function, ctypes.c_void_p).value or 0
        self._object = ctypes.c_uint64(ctypes.addressof(self._table))
        self.address = ctypes.addressof(self._object)


@dataclass
class Freed:
    bstrs: list[int] = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)

    @property
    def freeing(self) -> Freeing:
        return Freeing(bstr=self.bstrs.append, snapshot=self.snapshots.append)


def function(*arguments: Any) -> Callable[[Callable[..., int]], Any]:
    return ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_uint64, *arguments)


def store(address: int, value: Any) -> None:
    ctypes.memmove(address, ctypes.addressof(value), ctypes.sizeof(value))


def test_flags_and_numbers_arrive_in_their_order() -> None:
    seen: list[tuple[int, ...]] = []

    @function(ctypes.c_uint8, ctypes.c_uint8, ctypes.c_int32, ctypes.c_uint8)
    def set_backup_state(this: int, *given: int) -> int:
        seen.append((this, *given))
        return 0

    there = ComObject({6: set_backup_state})
    answer = invoke(there.address, com.SET_BACKUP_STATE, (False, True, codes.VSS_BT_COPY, False), Freed().freeing)
    assert seen == [(there.address, 0, 1, 5, 0)]
    assert answer == com.ComAnswer(hresult=0)


def test_an_id_goes_by_value_and_a_text_as_utf_16() -> None:
    seen: list[tuple[str, str]] = []

    @function(ctypes.c_uint64, Guid, ctypes.c_uint64)
    def add_to_snapshot_set(_: int, name: int, provider: Guid, back: int) -> int:
        seen.append((read_wide(name), provider.text))
        store(back, Guid.parse(OTHER))
        return 0

    there = ComObject({37: add_to_snapshot_set})
    volume = "\\\\?\\Volume{grüße-\U0001f4be}\\"
    answer = invoke(there.address, com.ADD_TO_SNAPSHOT_SET, (volume, ID), Freed().freeing)
    assert seen == [(volume, ID)]
    assert answer.texts == (OTHER,)


def test_numbers_between_ids_by_value_keep_their_place() -> None:
    seen: list[tuple[object, ...]] = []

    @function(Guid, ctypes.c_int32, ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64)
    def delete_snapshots(_: int, which: Guid, kind: int, force: int, count: int, undeleted: int) -> int:
        seen.append((which.text, kind, force))
        store(count, ctypes.c_int32(2))
        store(undeleted, Guid())
        return 0

    there = ComObject({39: delete_snapshots})
    answer = invoke(there.address, com.DELETE_SNAPSHOTS, (ID, codes.VSS_OBJECT_SNAPSHOT_SET, 1), Freed().freeing)
    assert seen == [(ID, 2, 1)]
    assert (answer.numbers, answer.texts) == ((2,), (codes.NO_PROVIDER,))


def test_the_status_of_a_writer_comes_back_and_its_name_is_freed() -> None:
    name = wide("Système Writer")

    @function(ctypes.c_uint32, *[ctypes.c_uint64] * 5)
    def get_writer_status(_: int, index: int, *back: int) -> int:
        assert index == 3
        values = (Guid.parse(ID), Guid.parse(OTHER), ctypes.c_uint64(ctypes.addressof(name)), ctypes.c_int32(9))
        for address, value in zip(back, (*values, ctypes.c_uint32(0x800423F3)), strict=True):
            store(address, value)
        return 0

    freed = Freed()
    there = ComObject({19: get_writer_status})
    answer = invoke(there.address, com.GET_WRITER_STATUS, (3,), freed.freeing)
    assert answer.texts == (ID, OTHER, "Système Writer")
    assert answer.numbers == (9, 0x800423F3)
    assert freed.bstrs == [ctypes.addressof(name)]


@pytest.mark.parametrize("device", [r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy7", "\\\\?\\GLOBALROOT\\X\\"])
def test_a_snapshot_is_copied_and_freed(device: str) -> None:
    texts = [wide(device), wide("\\\\?\\Volume{c}\\")]

    @function(Guid, ctypes.c_uint64)
    def get_snapshot_properties(_: int, which: Guid, back: int) -> int:
        assert which.text == ID
        store(
            back,
            SnapshotProp(
                SnapshotId=Guid.parse(ID), SnapshotSetId=Guid.parse(OTHER), CreationTimestamp=12,
                SnapshotDeviceObject=ctypes.addressof(texts[0]), OriginalVolumeName=ctypes.addressof(texts[1]),
            ),
        )  # fmt: skip
        return 0

    freed = Freed()
    there = ComObject({42: get_snapshot_properties})
    answer = invoke(there.address, com.GET_SNAPSHOT_PROPERTIES, (ID,), freed.freeing)
    assert answer.snapshot == com.SnapshotFacts(
        snapshot_id=ID, set_id=OTHER, device=device.rstrip("\\"), volume="\\\\?\\Volume{c}\\", created=12
    )
    assert len(freed.snapshots) == 1


def test_a_failure_is_an_unsigned_number_and_frees_nothing() -> None:
    @function(Guid, ctypes.c_uint64)
    def get_snapshot_properties(*_: object) -> int:
        return 0x80042308 - (1 << 32)

    freed = Freed()
    there = ComObject({42: get_snapshot_properties})
    answer = invoke(there.address, com.GET_SNAPSHOT_PROPERTIES, (ID,), freed.freeing)
    assert (answer.hresult, answer.failed, answer.snapshot) == (codes.VSS_E_OBJECT_NOT_FOUND, True, None)
    assert freed.snapshots == []


def test_parameters_that_must_be_null_are_null() -> None:
    seen: list[object] = []

    @function(ctypes.c_uint64, ctypes.c_void_p)
    def query_status(_: int, back: int, reserved: object) -> int:
        seen.append(reserved)
        store(back, ctypes.c_uint32(codes.VSS_S_ASYNC_PENDING))
        return 0

    there = ComObject({5: query_status})
    answer = invoke(there.address, com.ASYNC_QUERY_STATUS, (), Freed().freeing)
    assert (seen, answer.numbers) == ([None], (codes.VSS_S_ASYNC_PENDING,))


@pytest.mark.parametrize("arguments", [(), (1, 2), ("x",), (None,)])
def test_wrong_arguments_are_a_bug_of_the_caller(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"is no number|takes fewer"):
        invoke(0, com.SET_CONTEXT, arguments, Freed().freeing)


def test_nothing_is_called_through_a_null_pointer() -> None:
    there = ComObject({})
    empty = Method(interface="I", name="Empty", slot=3)
    for pointer, method in ((0, com.RELEASE), (there.address, empty)):
        with pytest.raises(ValueError, match="no object"):
            invoke(pointer, method, (), Freed().freeing)


def test_text_without_an_end_is_read_no_further_than_windows_writes() -> None:
    endless = (ctypes.c_uint16 * (com.TEXT_MAX + 100))(*[0x41] * (com.TEXT_MAX + 100))
    assert len(read_wide(ctypes.addressof(endless))) == com.TEXT_MAX
    assert read_wide(0) == ""


@pytest.mark.parametrize(
    ("units", "expected"),
    [("C:\\\0D:\\\0\0", ("C:\\", "D:\\")), ("\0\0", ()), ("", ()), ("a\0\0rest\0", ("a",)), ("a", ("a",))],
)
def test_lists_of_names_end_at_an_empty_one(units: str, expected: tuple[str, ...]) -> None:
    assert split_names(units.encode("utf-16-le")) == expected


class Library:
    """A library of Windows whose functions are Python functions."""


class Windows:
    """Enough of kernel32, ole32, oleaut32 and vssapi to see which arguments arrive."""

    def __init__(self) -> None:
        self.error = 0
        self.calls: list[tuple[object, ...]] = []
        self.libraries: dict[str, Library] = {}

    def add(self, library: str, name: str, result: Any, arguments: list[Any], body: Callable[..., Any]) -> None:
        def record(*given: object) -> Any:
            self.calls.append((name, *given))
            return body(*given)

        made = self.libraries.setdefault(library, Library())
        setattr(made, name, ctypes.CFUNCTYPE(result, *arguments)(record))

    def calls_of(self) -> SystemCalls:
        def load(name: str) -> Any:
            if name not in self.libraries:
                raise OSError(name)
            return self.libraries[name]

        return SystemCalls(Libraries(load=load, last_error=lambda: self.error))


U32, U64, PTR = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64


@pytest.fixture
def windows() -> Windows:
    return Windows()


@pytest.mark.parametrize(("unbuffered", "flags"), [(True, 0x20000000), (False, 0)])
def test_a_device_is_opened_for_reading_and_shared(windows: Windows, flags: int, *, unbuffered: bool) -> None:
    names: list[str] = []

    def create(name: int, *_: int) -> int:
        names.append(read_wide(name))
        return 0x99

    windows.add("kernel32", "CreateFileW", U64, [PTR, U32, U32, PTR, U32, U32, PTR], create)
    assert windows.calls_of().open_handle(r"\\.\PhysicalDrive0", unbuffered=unbuffered) == 0x99
    assert names == [r"\\.\PhysicalDrive0"]
    # GENERIC_READ; FILE_SHARE_READ | FILE_SHARE_WRITE; no security; OPEN_EXISTING; flags; no template
    assert windows.calls[0][2:] == (0x80000000, 3, 0, 3, flags, 0)


def test_a_device_that_cannot_be_opened_tells_why(windows: Windows) -> None:
    windows.add("kernel32", "CreateFileW", U64, [PTR, U32, U32, PTR, U32, U32, PTR], lambda *_: INVALID_HANDLE)
    windows.error = codes.ERROR_ACCESS_DENIED
    with pytest.raises(Win32Failure) as caught:
        windows.calls_of().open_handle("X", unbuffered=True)
    assert (caught.value.call, caught.value.code) == ("CreateFileW", 5)


def test_a_device_is_asked_with_bytes_and_answers_with_bytes(windows: Windows) -> None:
    def control(*arguments: int) -> int:
        handle, code, given, size, into, room, count, overlapped = arguments
        assert (handle, code, size, room, overlapped) == (0x99, 0x002D1400, 3, 8, 0)
        assert ctypes.string_at(given, size) == b"a\0b"
        ctypes.memmove(into, b"answer", 6)
        store(count, ctypes.c_uint32(6))
        return 1

    windows.add("kernel32", "DeviceIoControl", ctypes.c_int32, [U64, U32, PTR, U32, PTR, U32, PTR, PTR], control)
    assert windows.calls_of().device_io_control(0x99, codes.IOCTL_STORAGE_QUERY_PROPERTY, b"a\0b", 8) == b"answer"


@pytest.mark.parametrize(("code", "answer"), [(codes.ERROR_MORE_DATA, b"part"), (codes.ERROR_CRC, b"")])
def test_of_an_answer_that_has_no_room_a_part_is_kept(windows: Windows, code: int, answer: bytes) -> None:
    def control(*arguments: int) -> int:
        ctypes.memmove(arguments[4], b"part", 4)
        store(arguments[6], ctypes.c_uint32(4))
        return 0

    windows.add("kernel32", "DeviceIoControl", ctypes.c_int32, [U64, U32, PTR, U32, PTR, U32, PTR, PTR], control)
    windows.error = code
    with pytest.raises(Win32Failure) as caught:
        windows.calls_of().device_io_control(0x99, codes.FSCTL_GET_VOLUME_BITMAP, bytes(8), 4)
    assert (caught.value.code, caught.value.answer) == (code, answer)


def test_a_control_code_without_bytes_has_null_for_both(windows: Windows) -> None:
    windows.add("kernel32", "DeviceIoControl", ctypes.c_int32, [U64, U32, PTR, U32, PTR, U32, PTR, PTR], lambda *_: 1)
    assert windows.calls_of().device_io_control(0x99, codes.FSCTL_ALLOW_EXTENDED_DASD_IO, b"", 0) == b""
    assert windows.calls[0][1:7] == (0x99, 0x00090083, 0, 0, 0, 0)


def test_a_read_says_its_place_in_two_halves(windows: Windows) -> None:
    places: list[int] = []

    def read(_: int, into: int, length: int, count: int, overlapped: int) -> int:
        place = Overlapped.from_address(overlapped)
        places.append(place.OffsetHigh << 32 | place.Offset)
        assert place.Event == 0
        ctypes.memset(into, 0x5A, length)
        store(count, ctypes.c_uint32(length))
        return 1

    windows.add("kernel32", "ReadFile", ctypes.c_int32, [U64, PTR, U32, PTR, PTR], read)
    buffer = bytearray(512)
    offset = 5 * (1 << 40) + 0xFFFFF000
    assert windows.calls_of().read(0x99, offset, memoryview(buffer)) == 512
    assert (places, set(buffer)) == ([offset], {0x5A})


def test_volumes_are_found_until_there_are_no_more(windows: Windows) -> None:
    names = ["\\\\?\\Volume{a}\\", "\\\\?\\Volume{b}\\"]

    def first(into: int, _: int) -> int:
        store(into, wide(names[0]))
        return 0x77

    def following(_: int, into: int, __: int) -> int:
        if len([call for call in windows.calls if call[0] == "FindNextVolumeW"]) > 1:
            windows.error = codes.ERROR_NO_MORE_FILES
            return 0
        store(into, wide(names[1]))
        return 1

    windows.add("kernel32", "FindFirstVolumeW", U64, [PTR, U32], first)
    windows.add("kernel32", "FindNextVolumeW", ctypes.c_int32, [U64, PTR, U32], following)
    windows.add("kernel32", "FindVolumeClose", ctypes.c_int32, [U64], lambda _: 1)
    assert windows.calls_of().find_volumes() == tuple(names)
    assert windows.calls[-1] == ("FindVolumeClose", 0x77)


def test_a_search_that_fails_is_closed_too(windows: Windows) -> None:
    windows.add("kernel32", "FindFirstVolumeW", U64, [PTR, U32], lambda *_: 0x77)
    windows.add("kernel32", "FindNextVolumeW", ctypes.c_int32, [U64, PTR, U32], lambda *_: 0)
    windows.add("kernel32", "FindVolumeClose", ctypes.c_int32, [U64], lambda _: 1)
    windows.error = codes.ERROR_ACCESS_DENIED
    with pytest.raises(Win32Failure):
        windows.calls_of().find_volumes()
    assert windows.calls[-1] == ("FindVolumeClose", 0x77)


def test_a_list_of_names_gets_more_room_until_it_fits(windows: Windows) -> None:
    windows.error = codes.ERROR_INSUFFICIENT_BUFFER

    def query(_: int, into: int, size: int) -> int:
        if size < 100_000:
            return 0
        store(into, wide("C:\0PhysicalDrive0\0"))
        return 20

    windows.add("kernel32", "QueryDosDeviceW", U32, [PTR, PTR, U32], query)
    assert windows.calls_of().device_names() == ("C:", "PhysicalDrive0")
    assert [call[3] for call in windows.calls] == [32768, 65536, 131072]


def test_a_volume_says_where_it_is_mounted(windows: Windows) -> None:
    def names(volume: int, into: int, _: int, needed: int) -> int:
        assert (read_wide(volume), needed > 0) == ("\\\\?\\Volume{a}\\", True)
        store(into, wide("C:\\\0C:\\stick\\\0"))
        return 1

    windows.add("kernel32", "GetVolumePathNamesForVolumeNameW", ctypes.c_int32, [PTR, PTR, U32, PTR], names)
    assert windows.calls_of().volume_path_names("\\\\?\\Volume{a}\\") == ("C:\\", "C:\\stick\\")


SECURITY = [PTR, ctypes.c_int32, PTR, PTR, U32, U32, PTR, U32, PTR]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (codes.RPC_E_CHANGED_MODE, codes.RPC_E_TOO_LATE)])
def test_com_is_started_once_so_that_writers_may_call_back(windows: Windows, first: int, second: int) -> None:
    windows.add("ole32", "CoInitializeEx", ctypes.c_int32, [PTR, U32], lambda *_: ctypes.c_int32(first).value)
    windows.add("ole32", "CoInitializeSecurity", ctypes.c_int32, SECURITY, lambda *_: ctypes.c_int32(second).value)
    calls = windows.calls_of()
    calls.start_com()
    calls.start_com()
    # multithreaded; PKT_PRIVACY, IMPERSONATE, static cloaking
    assert windows.calls == [("CoInitializeEx", 0, 0), ("CoInitializeSecurity", 0, -1, 0, 0, 6, 3, 0, 0x20, 0)]


def test_com_that_does_not_start_is_a_refusal(windows: Windows) -> None:
    windows.add("ole32", "CoInitializeEx", ctypes.c_int32, [PTR, U32], lambda *_: codes.E_ACCESSDENIED - (1 << 32))
    with pytest.raises(MachineRefusal, match="E_ACCESSDENIED"):
        windows.calls_of().start_com()


def test_an_object_of_vss_is_made_called_and_its_texts_freed(windows: Windows) -> None:
    name = wide("Registry Writer")

    @function(ctypes.c_uint32, *[ctypes.c_uint64] * 5)
    def get_writer_status(_: int, __: int, *back: int) -> int:
        store(back[2], ctypes.c_uint64(ctypes.addressof(name)))
        return 0

    there = ComObject({19: get_writer_status})

    def create(back: int) -> int:
        store(back, ctypes.c_uint64(there.address))
        return 0

    windows.add("vssapi", "CreateVssBackupComponentsInternal", ctypes.c_int32, [PTR], create)
    windows.add("vssapi", "VssFreeSnapshotPropertiesInternal", None, [PTR], lambda _: None)
    windows.add("oleaut32", "SysFreeString", None, [PTR], lambda _: None)
    calls = windows.calls_of()
    pointer = calls.create_backup_components()
    assert pointer == there.address
    assert calls.call_method(pointer, com.GET_WRITER_STATUS, (0,)).texts[2] == "Registry Writer"
    assert windows.calls[-1] == ("SysFreeString", ctypes.addressof(name))


def test_a_function_that_windows_does_not_have_is_a_refusal(windows: Windows) -> None:
    with pytest.raises(MachineRefusal, match=r"CreateVssBackupComponentsInternal in vssapi\.dll"):
        windows.calls_of().create_backup_components()


def test_elsewhere_windows_is_not_asked() -> None:
    calls = system_calls()
    with pytest.raises(MachineRefusal, match="on Windows only"):
        calls.find_volumes()
    with pytest.raises(MachineRefusal, match="on Windows only"):
        calls.registry_values("SYSTEM")
