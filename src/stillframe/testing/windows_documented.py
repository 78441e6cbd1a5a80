"""What Windows should answer, written from Microsoft's documentation. NOTHING HERE WAS RECORDED ON WINDOWS.

``tools/windows_transcripts.py`` writes the transcripts in ``tests/data/windows`` from these lines; tests bend them: a
step fails, takes too long, is interrupted. Answers of devices are packed with ``struct`` after the pages of their
structures, not with the code that is tested.
"""

import struct
import uuid
from collections.abc import Sequence

from stillframe.testing.windows_transcript import Line

NOT_RECORDED = "made by tools/windows_transcripts.py from Microsoft's documentation, not recorded on Windows"

C, D = (rf"\\?\Volume{{{letter * 8}-0000-0000-0000-{letter * 12}}}" + "\\" for letter in "cd")
ESP = "\\\\?\\Volume{eeeeeeee-0000-0000-0000-eeeeeeeeeeee}\\"
OPTICAL = "\\\\?\\Volume{0f0f0f0f-0000-0000-0000-000000000f0f}\\"
SET_ID = "5e700000-0000-4000-8000-000000000001"
NOBODY = "00000000-0000-0000-0000-000000000000"
COMPONENTS = 0x1000
MOMENT = 133_800_000_000_000_000  # FILETIME of 2024-12-30 02:40:00 UTC

BACKUP = "IVssBackupComponents::"
PENDING, FINISHED, CANCELLED = 0x42309, 0x4230A, 0x4230B
WAIT_MS, CANCEL_WAIT_MS = 500, 10_000

Writer = tuple[str, int, int]
"""Name, state, failure."""
WELL: tuple[Writer, ...] = (("System Writer", 5, 0), ("Registry Writer", 1, 0))


def snapshot_id(volume: str) -> str:
    """The id that a volume's shadow gets here."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, volume))


def shadow_device(volume: str) -> str:
    """Where a volume's shadow is."""
    number = {C: 7, D: 8, ESP: 9}[volume]
    return rf"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy{number}"


def method(name: str, *arguments: object, pointer: int = COMPONENTS, hresult: int = 0, **answer: object) -> Line:
    """One method of an object of VSS."""
    full = name if "::" in name else BACKUP + name
    return Line(call="call_method", arguments=(pointer, full, *arguments), answer={"hresult": hex(hresult), **answer})


def step(name: str, pointer: int, *, pending: int = 0) -> list[Line]:
    """A method that goes on by itself: waited for, asked, and its object released."""
    waited = [
        line
        for status in [PENDING] * pending + [FINISHED]
        for line in (
            method("IVssAsync::Wait", WAIT_MS, pointer=pointer),
            method("IVssAsync::QueryStatus", pointer=pointer, numbers=[status]),
        )
    ]
    return [method(name, numbers=[pointer]), *waited, method("IVssAsync::Release", pointer=pointer)]


def writer_status(pointer: int, writers: Sequence[Writer]) -> list[Line]:
    """GatherWriterStatus, and each writer asked."""
    lines = [*step("GatherWriterStatus", pointer), method("GetWriterStatusCount", numbers=[len(writers)])]
    for index, (name, state, failure) in enumerate(writers):
        ids = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind} {name}")) for kind in ("instance", "class")]
        lines.append(method("GetWriterStatus", index, texts=[*ids, name], numbers=[state, failure]))
    return [*lines, method("FreeWriterStatus")]


def opening(volumes: Sequence[str] = (C, D), *, unsupported: Sequence[str] = ()) -> list[Line]:
    """From the object to the moment before StartSnapshotSet."""
    return [
        Line(call="create_backup_components", answer=COMPONENTS),
        method("InitializeForBackup"),
        method("SetContext", 0),
        method("SetBackupState", False, True, 5, False),
        *step("GatherWriterMetadata", 0x2001),
        *(method("IsVolumeSupported", NOBODY, v, numbers=[int(v not in unsupported)]) for v in volumes),
    ]


def prepared(volumes: Sequence[str] = (C, D), *, writers: Sequence[Writer] = WELL) -> list[Line]:
    """From StartSnapshotSet to the moment before DoSnapshotSet."""
    return [
        method("StartSnapshotSet", texts=[SET_ID]),
        *(method("AddToSnapshotSet", v, NOBODY, texts=[snapshot_id(v)]) for v in volumes),
        *step("PrepareForBackup", 0x2002),
        *writer_status(0x2003, writers),
    ]


def made(volumes: Sequence[str] = (C, D), *, writers: Sequence[Writer] = WELL) -> list[Line]:
    """DoSnapshotSet and what is asked after it."""
    return [*step("DoSnapshotSet", 0x2004, pending=2), *writer_status(0x2005, writers), *properties(volumes)]


def properties(volumes: Sequence[str]) -> list[Line]:
    """Where each shadow is."""
    return [
        method(
            "GetSnapshotProperties",
            snapshot_id(volume),
            snapshot={
                "snapshot_id": snapshot_id(volume), "set_id": SET_ID, "device": shadow_device(volume),
                "volume": volume, "created": MOMENT,
            },
        )
        for volume in volumes
    ]  # fmt: skip


COMPLETE = step("BackupComplete", 0x2006)
ABORT = [method("AbortBackup")]
DELETE = [method("DeleteSnapshots", SET_ID, 2, 1, numbers=[2], texts=[NOBODY])]
RELEASE = [method("Release")]
START = [Line(call="start_com")]


def happy() -> list[Line]:
    """Two volumes, nothing goes wrong; the copy is made between GetSnapshotProperties and BackupComplete."""
    return [*START, *opening(), *prepared(), *made(), *COMPLETE, *DELETE, *RELEASE]


def guid(text: str) -> bytes:
    """A GUID as it lies in memory."""
    return uuid.UUID(text).bytes_le


def gpt_entry(number: int, start: int, length: int, kind: str, name: str) -> bytes:
    """PARTITION_INFORMATION_EX: style, padding, start, length, number, flags; then type, id, attributes, name."""
    own = uuid.uuid5(uuid.NAMESPACE_OID, f"partition {number}")
    head = struct.pack("<I4xqqIBB2x", 1, start, length, number, 0, 0)
    return head + guid(kind) + own.bytes_le + struct.pack("<Q", number & 1) + name.encode("utf-16-le").ljust(72, b"\0")


def mbr_entry(number: int, start: int, length: int, kind: int, *, active: bool = False) -> bytes:
    """The same for MBR: type, boot, recognized, hidden sectors, partition id; 88 bytes of the union are not used."""
    head = struct.pack("<I4xqqIBB2x", 0, start, length, number, 0, 0)
    return head + struct.pack("<BBBxI", kind, active, kind != 0, start // 512 & 0xFFFFFFFF) + bytes(16) + bytes(88)


def gpt_layout(entries: Sequence[bytes], *, size: int) -> bytes:
    """DRIVE_LAYOUT_INFORMATION_EX of a GPT disk: style, count, disk id, usable range, most entries."""
    disk = guid("d15c0000-0000-4000-8000-000000000000")
    return (
        struct.pack("<II", 1, len(entries)) + disk + struct.pack("<qqI4x", 17408, size - 34816, 128) + b"".join(entries)
    )


def mbr_layout(entries: Sequence[bytes]) -> bytes:
    """The same of an MBR disk: style, count, signature, checksum; 32 bytes of the union are not used."""
    return struct.pack("<IIII32x", 0, len(entries), 0xA1B2C3D4, 0) + b"".join(entries)


def geometry(size: int, sector_size: int = 512) -> bytes:
    """DISK_GEOMETRY_EX: cylinders, media type 12 (fixed), heads, sectors, sector size, size."""
    return struct.pack("<qIIIIq", size // (255 * 63 * sector_size), 12, 255, 63, sector_size, size) + bytes(8)


def description(vendor: str, model: str, serial: str, *, bus: int, removable: bool) -> bytes:
    """STORAGE_DEVICE_DESCRIPTOR: 36 bytes, then the texts that its offsets point to."""
    texts, offsets = b"", []
    for text in (vendor, model, "1.0", serial):
        offsets.append(36 + len(texts) if text else 0)
        texts += text.encode() + b"\0" if text else b""
    return struct.pack("<IIBBBBIIIIII", 40, 36 + len(texts), 0, 0, removable, 1, *offsets, bus, 0) + texts


def extents(*places: tuple[int, int, int]) -> bytes:
    """VOLUME_DISK_EXTENTS: each place is disk, start, length."""
    return struct.pack("<I4x", len(places)) + b"".join(struct.pack("<I4xqq", *place) for place in places)


def control(handle: int, code: str, answer: object, *, given: str = "", size: int = 4096) -> Line:
    """A control code and its answer."""
    hexed = {"hex": answer.hex()} if isinstance(answer, bytes) else answer
    return Line(call="device_io_control", arguments=(handle, code, given, size), answer=hexed)


MIB, GIB = 1 << 20, 1 << 30
BASIC = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
GPT_ENTRIES = (
    gpt_entry(1, MIB, 100 * MIB, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system partition"),
    gpt_entry(2, 101 * MIB, 16 * MIB, "e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved partition"),
    gpt_entry(3, 117 * MIB, 60 * GIB, BASIC, "Basic data partition"),
    # A hole of 1 GiB, where a partition was deleted: its number is free and the next keeps its own.
    gpt_entry(5, 117 * MIB + 61 * GIB, 700 * MIB, "de94bba4-06d1-4d40-a16a-bfd50179d6ac", ""),
)
MBR_ENTRIES = (
    mbr_entry(1, MIB, 500 * MIB, 0x07, active=True),
    mbr_entry(0, 501 * MIB, 2 * GIB, 0x0F),  # the container of the logical partitions has no number
    mbr_entry(0, 0, 0, 0),
    mbr_entry(0, 0, 0, 0),
    mbr_entry(2, 502 * MIB, 900 * MIB, 0x07),  # the first logical one: entry 4, number 2
    mbr_entry(0, 1402 * MIB, 600 * MIB, 0x05),  # a link to the next
    mbr_entry(0, 0, 0, 0),
    mbr_entry(0, 0, 0, 0),
    mbr_entry(3, 1403 * MIB, 599 * MIB, 0x83),  # Linux: no volume
    mbr_entry(0, 0, 0, 0),
    mbr_entry(0, 0, 0, 0),
    mbr_entry(0, 0, 0, 0),
)


def disk_lines(number: int, handle: int, *, size: int, about: bytes, layout: bytes) -> list[Line]:
    """Everything that is asked of one disk. A layout larger than the first room is asked for again."""
    room, again = 4096, []
    while len(layout) > room:
        again.append(control(handle, "0x00070050", {"error": 122}, size=room))
        room *= 2
    return [
        Line(call="open_handle", arguments=(rf"\\.\PhysicalDrive{number}", False), answer=handle),
        control(handle, "0x000700A0", geometry(size)),
        control(handle, "0x0007405C", struct.pack("<q", size), size=8),
        control(handle, "0x002D1400", about, given=struct.pack("<IIB3x", 0, 0, 0).hex()),
        *again,
        control(handle, "0x00070050", layout, size=room),
        Line(call="close_handle", arguments=(handle,)),
    ]


def volume_lines(name: str, handle: int, paths: Sequence[str], answer: object) -> list[Line]:
    """Everything that is asked of one volume."""
    return [
        Line(call="volume_path_names", arguments=(name,), answer=list(paths)),
        Line(call="open_handle", arguments=(name.removesuffix("\\"), False), answer=handle),
        control(handle, "0x00560000", answer),
        Line(call="close_handle", arguments=(handle,)),
    ]


def looking() -> list[Line]:
    """A GPT disk with a hole, an MBR disk with logical partitions, a card reader without a card, an optical drive."""
    size = 64 * GIB
    usual = description("", "Samsung SSD 980 500GB", "S64DNF0R  12345", bus=17, removable=False)
    stick = description("Kingston", "DataTraveler 3.0", "E0D55EA573", bus=7, removable=True)
    names = ["C:", "PhysicalDrive1", "D:", "PhysicalDrive0", "NUL", "CdRom0", "PhysicalDrive2", "PhysicalDrive10"]
    return [
        Line(call="device_names", answer=names),
        Line(call="find_volumes", answer=[C, ESP, D, OPTICAL]),
        *disk_lines(0, 16, size=size, about=usual, layout=gpt_layout(GPT_ENTRIES, size=size)),
        *disk_lines(1, 17, size=4 * GIB, about=stick, layout=mbr_layout(MBR_ENTRIES)),
        Line(call="open_handle", arguments=(r"\\.\PhysicalDrive2", False), answer=18),
        control(18, "0x000700A0", {"error": 21}),
        Line(call="close_handle", arguments=(18,)),
        Line(call="open_handle", arguments=(r"\\.\PhysicalDrive10", False), answer={"error": 2}),
        *volume_lines(C, 19, ["C:\\"], extents((0, 117 * MIB, 60 * GIB))),
        *volume_lines(ESP, 20, [], extents((0, MIB, 100 * MIB))),
        *volume_lines(D, 21, ["D:\\", "C:\\stick\\"], extents((1, 502 * MIB, 900 * MIB))),
        *volume_lines(OPTICAL, 22, ["E:\\"], {"error": 1}),
    ]


TRANSCRIPTS = {
    "shadow-set.jsonl": (happy, "two volumes are held still, copied, and let go"),
    "look-at-disks.jsonl": (looking, "the disks and volumes of a machine"),
}
"""By the name of the file: the lines, and what they show."""
