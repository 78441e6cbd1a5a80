r"""Where a Windows says that its volumes lie: on which disk, in which partition.

Answers: "on which partition was this volume, by the records of the Windows that used it?" Windows keeps that in the key
``MountedDevices`` of its registry, and for what it starts from in the boot configuration data (BCD). Whether a record
fits what else is known is for the caller: records of disks that are long gone stay there.

Sources: libguestfs daemon/inspect_fs_windows.ml (``MountedDevices``: 12 bytes, disk signature and byte offset; 24
bytes, ``DMIO:ID:`` and the partition's GUID); mistyprojects.co.uk, "Devices Partition - Data" (elements of the BCD);
Microsoft, "BcdBootMgrObject" and "BCDElement" (the ids); serverfault.com 545976 (names of volumes on MBR disks).
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal
from uuid import UUID

from stillframe.errors import StillframeError
from stillframe.events import Notice
from stillframe.systems.hive import Hive
from stillframe.systems.records import SystemFiles

_SYSTEMS: Final = ("/Windows/System32/config/SYSTEM", "/WINNT/System32/config/SYSTEM")
_EFI_FOLDER: Final = "/EFI/Microsoft/Boot"
_STORES: Final = (f"{_EFI_FOLDER}/BCD", "/Boot/BCD")
_WINRE: Final = "/Recovery/WindowsRE/Winre.wim"
_BOOTMGR: Final = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_APPLICATION_DEVICE, _OS_DEVICE = "11000001", "21000001"
_OBJECTS_MAX: Final = 1000
_GPT_MARK: Final = b"DMIO:ID:"
_DEVICE_HEADER: Final = struct.pack("<IIII", 6, 0, 0x48, 0)  # a partition, no flags, the size of this form
_DEVICE_SIZE: Final = 0x48
_DEVICE_AT: Final = 16  # behind the GUID of an object with options
_STYLE_GPT, _STYLE_MBR = 0, 1
_MBR_NAME: Final = re.compile(r"([0-9a-f]{8})-0000-0000-([0-9a-f]{4})-([0-9a-f]{12})")
_START_MAX: Final = 1 << 41
"""Behind 2^32 sectors of 512 bytes no record of an MBR disk can lead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRecord:
    """A partition as Windows knows it.

    Attributes:
        scheme: What the table of its disk is.
        disk: The disk GUID in upper case, or the signature as 8 upper-case hex digits; empty when not known.
        guid: Its own GUID, in upper case; empty on an MBR disk.
        start: Its first byte on an MBR disk; ``None`` for GPT.
    """

    scheme: Literal["gpt", "mbr"]
    disk: str
    guid: str = ""
    start: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeClues:
    """What the files of one volume tell.

    Attributes:
        is_esp: It holds Windows' boot files for UEFI.
        has_bootmgr: It holds Windows' boot manager for BIOS.
        has_store: It holds a BCD.
        has_windows: A Windows is installed on it.
        has_winre: It holds the recovery environment.
        mounted: Of the volumes asked for, by their names, what ``MountedDevices`` says.
        loader: The partition of the boot manager, by the BCD.
        systems: The partitions of installed systems, by the BCD.
        recoveries: The partitions that recovery environments are loaded from, by the BCD.
        notices: What could not be read.
    """

    is_esp: bool = False
    has_bootmgr: bool = False
    has_store: bool = False
    has_windows: bool = False
    has_winre: bool = False
    mounted: tuple[tuple[str, PartitionRecord], ...] = ()
    loader: PartitionRecord | None = None
    systems: tuple[PartitionRecord, ...] = ()
    recoveries: tuple[PartitionRecord, ...] = ()
    notices: tuple[Notice, ...] = ()


def read_clues(files: SystemFiles, names: Sequence[str]) -> VolumeClues:
    r"""Look at the few files of a volume that say where volumes lie.

    Args:
        files: Of the volume.
        names: Values of ``MountedDevices`` that are of interest, such as ``\DosDevices\C:``.
    """
    notices = list[Notice]()
    hive = next((path for path in _SYSTEMS if _is_file(files, path)), "")
    mounted = _read_mounted(files, hive, names, notices) if hive else ()
    store = next((path for path in _STORES if _is_file(files, path)), "")
    loader, systems, recoveries = _read_store(files, store, notices)
    return VolumeClues(
        is_esp=bool(_names(files, _EFI_FOLDER)), has_bootmgr=_is_file(files, "/bootmgr"), has_store=bool(store),
        has_windows=bool(hive), has_winre=_is_file(files, _WINRE), mounted=mounted, loader=loader,
        systems=systems, recoveries=recoveries, notices=tuple(notices),
    )  # fmt: skip


def parse_mounted_device(raw: bytes) -> PartitionRecord | None:
    """A value of ``MountedDevices``; ``None`` for what is no partition of a basic disk."""
    if len(raw) == len(_GPT_MARK) + 16 and raw.startswith(_GPT_MARK):
        return PartitionRecord(scheme="gpt", disk="", guid=str(UUID(bytes_le=raw[len(_GPT_MARK) :])).upper())
    if len(raw) != 12:
        return None
    return _mbr_record(*struct.unpack("<IQ", raw))


def parse_boot_device(element: bytes) -> tuple[PartitionRecord, ...]:
    """The partitions that a device element of a BCD names, also inside of another device such as a RAM disk."""
    return tuple(dict.fromkeys(record for _, record in iter_boot_devices(element)))


def iter_boot_devices(element: bytes) -> Iterator[tuple[int, PartitionRecord]]:
    """The same, each with the offset in the element where ``write_boot_device`` would write."""
    at = element.find(_DEVICE_HEADER)
    while 0 <= at <= len(element) - _DEVICE_SIZE:
        record = _parse_descriptor(element[at : at + _DEVICE_SIZE])
        if record:
            yield at, record
        at = element.find(_DEVICE_HEADER, at + _DEVICE_SIZE)


def write_boot_device(element: bytes, at: int, record: PartitionRecord) -> bytes:
    """An element with another partition at an offset that ``iter_boot_devices`` gave; of the same size and scheme."""
    written = bytearray(element)
    if record.scheme == "mbr":
        struct.pack_into("<Q", written, at + 0x10, record.start)
        struct.pack_into("<I", written, at + 0x28, int(record.disk, 16))
    else:
        written[at + 0x10 : at + 0x20] = UUID(record.guid).bytes_le
        written[at + 0x28 : at + 0x38] = UUID(record.disk).bytes_le
    return bytes(written)


def new_boot_device(record: PartitionRecord) -> bytes:
    """The element that names a partition of a GPT disk."""
    empty = (bytes(_DEVICE_AT) + _DEVICE_HEADER).ljust(_DEVICE_AT + _DEVICE_SIZE, b"\0")
    return write_boot_device(empty, _DEVICE_AT, record)


def write_mounted_device(record: PartitionRecord) -> bytes:
    """What ``MountedDevices`` says of a partition."""
    if record.scheme == "mbr":
        return struct.pack("<IQ", int(record.disk, 16), record.start)
    return _GPT_MARK + UUID(record.guid).bytes_le


def parse_volume_guid(guid: str) -> PartitionRecord | None:
    """What the name of a volume says of its place: since Windows 10, on MBR disks, signature and byte offset.

    Args:
        guid: Such as ``5e6b7a3b-0000-0000-0000-100000000000``, in small letters.
    """
    found = _MBR_NAME.fullmatch(guid)
    return found and _mbr_record(int(found[1], 16), int.from_bytes(bytes.fromhex(found[2] + found[3]), "little"))


def _mbr_record(signature: int, start: int) -> PartitionRecord | None:
    if not signature or not 0 < start < _START_MAX or start % 512:
        return None
    return PartitionRecord(scheme="mbr", disk=f"{signature:08X}", start=start)


def _parse_descriptor(raw: bytes) -> PartitionRecord | None:
    kind, style = struct.unpack_from("<II", raw, 0x20)
    if kind != 0:  # not a hard disk
        return None
    if style == _STYLE_MBR:
        return _mbr_record(*struct.unpack_from("<I", raw, 0x28), *struct.unpack_from("<Q", raw, 0x10))
    if style != _STYLE_GPT or not any(raw[0x10:0x20]) or not any(raw[0x28:0x38]):
        return None
    disk, guid = (str(UUID(bytes_le=raw[at : at + 16])).upper() for at in (0x28, 0x10))
    return PartitionRecord(scheme="gpt", disk=disk, guid=guid)


def _read_mounted(
    files: SystemFiles, path: str, names: Sequence[str], notices: list[Notice]
) -> tuple[tuple[str, PartitionRecord], ...]:
    found = list[tuple[str, PartitionRecord]]()
    try:
        hive = _open(files, path)
        key = hive.find_key("MountedDevices") if hive else None
        for name in names if hive and key else ():
            value = hive.read_value(key, name) if hive and key else None
            record = parse_mounted_device(value) if isinstance(value, bytes) else None
            found += [(name, record)] if record else []
    except StillframeError as error:
        notices.append(_not_read(path, error))
    return tuple(found)


Store = tuple[PartitionRecord | None, tuple[PartitionRecord, ...], tuple[PartitionRecord, ...]]


def _read_store(files: SystemFiles, path: str, notices: list[Notice]) -> Store:
    """The boot manager's partition, those of systems, those of recovery environments."""
    loader, systems, recoveries = None, list[PartitionRecord](), list[PartitionRecord]()
    try:
        hive = _open(files, path) if path else None
        for element in _elements(hive, _BOOTMGR, _APPLICATION_DEVICE):
            loader = next(iter(parse_boot_device(element)), None)
        objects = hive.find_key("Objects") if hive else None
        for name in islice(hive.iter_names(objects), _OBJECTS_MAX) if hive and objects else ():
            for element in _elements(hive, name, _OS_DEVICE):
                # A RAM disk names the partition that its file is on, somewhere behind its own head.
                is_direct = element[_DEVICE_AT : _DEVICE_AT + len(_DEVICE_HEADER)] == _DEVICE_HEADER
                (systems if is_direct else recoveries).extend(parse_boot_device(element))
    except StillframeError as error:
        notices.append(_not_read(path, error))
    return loader, tuple(dict.fromkeys(systems)), tuple(dict.fromkeys(recoveries))


def _elements(hive: Hive | None, name: str, element: str) -> Iterator[bytes]:
    """The bytes of one element of an object of a BCD, when it is there."""
    key = hive.find_key(rf"Objects\{name}\Elements\{element}") if hive else None
    value = hive.read_value(key, "Element") if hive and key else None
    if isinstance(value, bytes):
        yield value


def _open(files: SystemFiles, path: str) -> Hive | None:
    return Hive.open(lambda offset, size: files.read_file(path, offset, size) or b"")


def _is_file(files: SystemFiles, path: str) -> bool:
    try:
        return files.read_file(path, 0, 1) is not None
    except StillframeError:
        return False


def _names(files: SystemFiles, path: str) -> tuple[str, ...]:
    try:
        return files.list_names(path)
    except StillframeError:
        return ()


def _not_read(path: str, error: StillframeError) -> Notice:
    return Notice(code="registry-not-read", message=f"{path}: {error.message}", hint=error.hint)
