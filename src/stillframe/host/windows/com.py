"""The methods of VSS by their slot in the table of functions, and how one is called.

Answers: "where is that method, what does it take and give back, and how is it called without a type library?" An object
of COM is a pointer to a pointer to a table of functions; a wrong slot silently calls another method, so a test compares
each slot with mingw-w64's headers (``tests/data/windows_headers.json``).

On 64-bit Windows there is one calling convention, so a plain ``CFUNCTYPE`` is right, and the same code can call a table
made on Linux: that is how it is tested. How a GUID is passed by value is left to ctypes, which knows the machine.

Source: vsbackup.h and vss.h, as on learn.microsoft.com; the interface's methods stand in the order of the header.
"""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from stillframe.host.windows.structures import Guid, SnapshotProp

TEXT_MAX: Final = 32768  # characters; the longest path of Windows


class Kind(Enum):
    """What a parameter is. The first group is given by the caller, the second comes back."""

    NUMBER = "number"  # LONG, DWORD, UINT, BOOL or an enum: 32 bits
    FLAG = "flag"  # bool of C++: 8 bits
    TEXT = "text"  # LPCWSTR
    ID = "id"  # VSS_ID by value

    NUMBER_OUT = "number back"  # 32 bits
    POINTER_OUT = "pointer back"  # an interface; the caller releases it
    ID_OUT = "id back"
    BSTR_OUT = "text back"  # freed here
    SNAPSHOT_OUT = "snapshot back"  # VSS_SNAPSHOT_PROP, freed here
    NOTHING = "nothing"  # a pointer that is NULL


ComValue = int | bool | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method: its interface and name, its slot from 0, and its parameters in order."""

    interface: str
    name: str
    slot: int
    parameters: tuple[Kind, ...] = ()

    def __str__(self) -> str:
        return f"{self.interface}::{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFacts:
    """What VSS tells of one shadow.

    Attributes:
        snapshot_id: Its id.
        set_id: Id of its set.
        device: Name of the device, without a backslash at its end: that is the raw volume.
        volume: Of which volume.
        created: When, in units of 100 ns since 1601, UTC. Source: FILETIME, minwinbase.h.
    """

    snapshot_id: str
    set_id: str
    device: str
    volume: str
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComAnswer:
    """What a method gave back.

    Attributes:
        hresult: As an unsigned number; below 0x80000000 it is a success.
        numbers: Numbers and pointers, in the order of the parameters.
        texts: Ids and texts, in the order of the parameters.
        snapshot: From ``GetSnapshotProperties`` only.
    """

    hresult: int
    numbers: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    snapshot: SnapshotFacts | None = None

    @property
    def failed(self) -> bool:
        """Whether it is a failure code."""
        return self.hresult >= 0x80000000


def _backup(name: str, slot: int, *parameters: Kind) -> Method:
    return Method(interface="IVssBackupComponents", name=name, slot=slot, parameters=parameters)


INITIALIZE_FOR_BACKUP: Final = _backup("InitializeForBackup", 5, Kind.NOTHING)
SET_BACKUP_STATE: Final = _backup("SetBackupState", 6, Kind.FLAG, Kind.FLAG, Kind.NUMBER, Kind.FLAG)
GATHER_WRITER_METADATA: Final = _backup("GatherWriterMetadata", 9, Kind.POINTER_OUT)
PREPARE_FOR_BACKUP: Final = _backup("PrepareForBackup", 14, Kind.POINTER_OUT)
ABORT_BACKUP: Final = _backup("AbortBackup", 15)
GATHER_WRITER_STATUS: Final = _backup("GatherWriterStatus", 16, Kind.POINTER_OUT)
GET_WRITER_STATUS_COUNT: Final = _backup("GetWriterStatusCount", 17, Kind.NUMBER_OUT)
FREE_WRITER_STATUS: Final = _backup("FreeWriterStatus", 18)
GET_WRITER_STATUS: Final = _backup(
    "GetWriterStatus", 19, Kind.NUMBER, Kind.ID_OUT, Kind.ID_OUT, Kind.BSTR_OUT, Kind.NUMBER_OUT, Kind.NUMBER_OUT
)
BACKUP_COMPLETE: Final = _backup("BackupComplete", 27, Kind.POINTER_OUT)
SET_CONTEXT: Final = _backup("SetContext", 35, Kind.NUMBER)
START_SNAPSHOT_SET: Final = _backup("StartSnapshotSet", 36, Kind.ID_OUT)
ADD_TO_SNAPSHOT_SET: Final = _backup("AddToSnapshotSet", 37, Kind.TEXT, Kind.ID, Kind.ID_OUT)
DO_SNAPSHOT_SET: Final = _backup("DoSnapshotSet", 38, Kind.POINTER_OUT)
DELETE_SNAPSHOTS: Final = _backup(
    "DeleteSnapshots", 39, Kind.ID, Kind.NUMBER, Kind.NUMBER, Kind.NUMBER_OUT, Kind.ID_OUT
)
GET_SNAPSHOT_PROPERTIES: Final = _backup("GetSnapshotProperties", 42, Kind.ID, Kind.SNAPSHOT_OUT)
IS_VOLUME_SUPPORTED: Final = _backup("IsVolumeSupported", 44, Kind.ID, Kind.TEXT, Kind.NUMBER_OUT)
RELEASE: Final = _backup("Release", 2)

ASYNC_RELEASE: Final = Method(interface="IVssAsync", name="Release", slot=2)
ASYNC_CANCEL: Final = Method(interface="IVssAsync", name="Cancel", slot=3)
ASYNC_WAIT: Final = Method(interface="IVssAsync", name="Wait", slot=4, parameters=(Kind.NUMBER,))
ASYNC_QUERY_STATUS: Final = Method(
    interface="IVssAsync", name="QueryStatus", slot=5, parameters=(Kind.NUMBER_OUT, Kind.NOTHING)
)

METHODS: Final = (
    INITIALIZE_FOR_BACKUP, SET_BACKUP_STATE, GATHER_WRITER_METADATA, PREPARE_FOR_BACKUP, ABORT_BACKUP,
    GATHER_WRITER_STATUS, GET_WRITER_STATUS_COUNT, FREE_WRITER_STATUS, GET_WRITER_STATUS, BACKUP_COMPLETE, SET_CONTEXT,
    START_SNAPSHOT_SET, ADD_TO_SNAPSHOT_SET, DO_SNAPSHOT_SET, DELETE_SNAPSHOTS, GET_SNAPSHOT_PROPERTIES,
    IS_VOLUME_SUPPORTED, RELEASE, ASYNC_RELEASE, ASYNC_CANCEL, ASYNC_WAIT, ASYNC_QUERY_STATUS,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeing:
    """How memory that a method handed out is given back; each takes an address."""

    bstr: Callable[[int], object]
    snapshot: Callable[[int], object]


_CELLS: Final[dict[Kind, type[ctypes.c_uint32 | ctypes.c_uint64 | ctypes.Structure]]] = {
    Kind.NUMBER_OUT: ctypes.c_uint32,
    Kind.POINTER_OUT: ctypes.c_uint64,
    Kind.ID_OUT: Guid,
    Kind.BSTR_OUT: ctypes.c_uint64,
    Kind.SNAPSHOT_OUT: SnapshotProp,
}


def invoke(pointer: int, method: Method, arguments: tuple[ComValue, ...], freeing: Freeing) -> ComAnswer:
    """Call one method of an object.

    Args:
        pointer: Address of the object.
        method: Which method.
        arguments: One for each parameter that is given; those that come back are made here.
        freeing: For texts and snapshots that come back.

    Raises:
        ValueError: Another number of arguments than the method takes, or no object: a bug of the caller.
    """
    given = iter(arguments)
    types: list[type] = []
    passed: list[object] = []
    back: list[tuple[Kind, ctypes.c_uint32 | ctypes.c_uint64 | ctypes.Structure]] = []
    alive: list[object] = []  # buffers that must outlast the call
    for kind in method.parameters:
        if kind in _CELLS:
            cell = _CELLS[kind]()
            back.append((kind, cell))
            types.append(ctypes.c_void_p)
            passed.append(ctypes.addressof(cell))
        else:
            declared, value = _argument(kind, given, alive)
            types.append(declared)
            passed.append(value)
    if next(given, None) is not None:
        raise ValueError(f"{method} takes fewer than {len(arguments)} arguments")
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, *types)
    hresult: int = prototype(_function_address(pointer, method.slot))(pointer, *passed)
    return _answer(hresult & 0xFFFFFFFF, back, freeing)


def _argument(kind: Kind, given: Iterator[ComValue], alive: list[object]) -> tuple[type, object]:
    """The declared type of a parameter and what is passed for it."""
    if kind is Kind.NOTHING:
        return ctypes.c_void_p, None
    value = next(given, None)
    if kind is Kind.NUMBER and isinstance(value, int):
        return ctypes.c_uint32, value & 0xFFFFFFFF
    if kind is Kind.FLAG and isinstance(value, bool):
        return ctypes.c_uint8, int(value)
    if kind is Kind.ID and isinstance(value, str):
        return Guid, Guid.parse(value)
    if kind is Kind.TEXT and isinstance(value, str):
        buffer = wide(value)
        alive.append(buffer)
        return ctypes.c_void_p, ctypes.addressof(buffer)
    raise ValueError(f"{value!r} is no {kind.value}")


def _answer(
    hresult: int, back: list[tuple[Kind, ctypes.c_uint32 | ctypes.c_uint64 | ctypes.Structure]], freeing: Freeing
) -> ComAnswer:
    numbers: list[int] = []
    texts: list[str] = []
    snapshot: SnapshotFacts | None = None
    failed = hresult >= 0x80000000
    for kind, cell in back:
        if isinstance(cell, SnapshotProp):
            if not failed:
                snapshot = read_snapshot(cell)
                freeing.snapshot(ctypes.addressof(cell))
        elif isinstance(cell, Guid):
            texts.append(cell.text)
        elif not isinstance(cell, ctypes.Structure):
            if kind is Kind.BSTR_OUT:
                texts.append(read_wide(cell.value))
                freeing.bstr(cell.value)
            else:
                numbers.append(cell.value)
    return ComAnswer(hresult=hresult, numbers=tuple(numbers), texts=tuple(texts), snapshot=snapshot)


def read_snapshot(found: SnapshotProp) -> SnapshotFacts:
    """Copy what is needed out of VSS_SNAPSHOT_PROP, before it is freed."""
    return SnapshotFacts(
        snapshot_id=found.SnapshotId.text,
        set_id=found.SnapshotSetId.text,
        device=read_wide(found.SnapshotDeviceObject).rstrip("\\"),
        volume=read_wide(found.OriginalVolumeName),
        created=found.CreationTimestamp,
    )


def wide(text: str) -> "ctypes.Array[ctypes.c_uint16]":
    """Text as Windows takes it: UTF-16 with a zero at the end. Whoever passes its address must keep it."""
    units = text.encode("utf-16-le") + b"\0\0"
    return (ctypes.c_uint16 * (len(units) // 2)).from_buffer_copy(units)


def read_wide(address: int) -> str:
    """The zero-terminated UTF-16 text at an address; empty for NULL."""
    units = bytearray()
    while address and len(units) < 2 * TEXT_MAX:
        unit = ctypes.string_at(address + len(units), 2)
        if unit == b"\0\0":
            break
        units += unit
    return units.decode("utf-16-le", "replace")


def _function_address(pointer: int, slot: int) -> int:
    """Where the function in a slot is; a null pointer would end the whole process."""
    table = ctypes.c_uint64.from_address(pointer).value if pointer else 0
    function = ctypes.c_uint64.from_address(table + slot * ctypes.sizeof(ctypes.c_uint64)).value if table else 0
    if not function:
        raise ValueError(f"no object of COM, or no method in its slot {slot}: {pointer:#x}")
    return function
