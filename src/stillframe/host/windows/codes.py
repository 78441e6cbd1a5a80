"""Numbers of Windows, each with its source: control codes, error codes, VSS constants, and what a code means in words.

Answers: "which number is that, and what does this failure tell a person?" ``tests/data/windows_headers.json`` holds
the same numbers as mingw-w64's headers have them, and a test compares.

Source of all control codes: winioctl.h, ``CTL_CODE(device, function, method, access)`` of learn.microsoft.com.
"""

from dataclasses import dataclass
from typing import Final


def control_code(device: int, function: int, *, method: int = 0, access: int = 0) -> int:
    """Put a control code together. Source: d4drvif.h and winioctl.h, macro ``CTL_CODE``."""
    return device << 16 | access << 14 | function << 2 | method


_DISK: Final = 0x07  # IOCTL_DISK_BASE
_FILE_SYSTEM: Final = 0x09  # FILE_DEVICE_FILE_SYSTEM
_MASS_STORAGE: Final = 0x2D  # IOCTL_STORAGE_BASE
_VOLUME: Final = 0x56  # IOCTL_VOLUME_BASE, the letter V
_NEITHER: Final = 3  # METHOD_NEITHER
_READ: Final = 1  # FILE_READ_ACCESS

FSCTL_LOCK_VOLUME: Final = control_code(_FILE_SYSTEM, 6)
FSCTL_UNLOCK_VOLUME: Final = control_code(_FILE_SYSTEM, 7)
FSCTL_GET_NTFS_VOLUME_DATA: Final = control_code(_FILE_SYSTEM, 25)
FSCTL_GET_VOLUME_BITMAP: Final = control_code(_FILE_SYSTEM, 27, method=_NEITHER)
FSCTL_GET_RETRIEVAL_POINTERS: Final = control_code(_FILE_SYSTEM, 28, method=_NEITHER)
FSCTL_ALLOW_EXTENDED_DASD_IO: Final = control_code(_FILE_SYSTEM, 32, method=_NEITHER)
IOCTL_DISK_GET_DRIVE_LAYOUT_EX: Final = control_code(_DISK, 0x14)
IOCTL_DISK_GET_LENGTH_INFO: Final = control_code(_DISK, 0x17, access=_READ)
IOCTL_DISK_GET_DRIVE_GEOMETRY_EX: Final = control_code(_DISK, 0x28)
IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS: Final = control_code(_VOLUME, 0)
IOCTL_STORAGE_GET_DEVICE_NUMBER: Final = control_code(_MASS_STORAGE, 0x420)
IOCTL_STORAGE_QUERY_PROPERTY: Final = control_code(_MASS_STORAGE, 0x500)

FILE_DEVICE_DISK: Final = 7  # devioctl.h, DEVICE_TYPE; an optical drive is 2

STORAGE_DEVICE_PROPERTY: Final = 0  # enum STORAGE_PROPERTY_ID, StorageDeviceProperty
PROPERTY_STANDARD_QUERY: Final = 0  # enum STORAGE_QUERY_TYPE, PropertyStandardQuery

GENERIC_READ: Final = 0x80000000  # winnt.h
FILE_SHARE_READ_WRITE: Final = 3  # winnt.h, FILE_SHARE_READ | FILE_SHARE_WRITE
OPEN_EXISTING: Final = 3  # fileapi.h
FILE_FLAG_NO_BUFFERING: Final = 0x20000000  # winbase.h

PARTITION_STYLE_MBR: Final = 0  # enum PARTITION_STYLE
PARTITION_STYLE_GPT: Final = 1
PARTITION_STYLE_RAW: Final = 2

BUS_TYPES: Final = {
    1: "scsi", 2: "atapi", 3: "ata", 4: "1394", 5: "ssa", 6: "fibre", 7: "usb", 8: "raid", 9: "iscsi", 10: "sas",
    11: "sata", 12: "sd", 13: "mmc", 14: "virtual", 15: "file-backed", 16: "spaces", 17: "nvme", 18: "scm", 19: "ufs",
}  # fmt: skip
"""Source: winioctl.h, enum STORAGE_BUS_TYPE."""

# winerror.h; learn.microsoft.com "System Error Codes".
ERROR_INVALID_FUNCTION: Final = 1
ERROR_FILE_NOT_FOUND: Final = 2
ERROR_PATH_NOT_FOUND: Final = 3
ERROR_ACCESS_DENIED: Final = 5
ERROR_NO_MORE_FILES: Final = 18
ERROR_NOT_READY: Final = 21
ERROR_CRC: Final = 23
ERROR_SECTOR_NOT_FOUND: Final = 27
ERROR_READ_FAULT: Final = 30
ERROR_SHARING_VIOLATION: Final = 32
ERROR_HANDLE_EOF: Final = 38
ERROR_NOT_SUPPORTED: Final = 50
ERROR_DEV_NOT_EXIST: Final = 55
ERROR_INVALID_PARAMETER: Final = 87
ERROR_SEM_TIMEOUT: Final = 121
ERROR_INSUFFICIENT_BUFFER: Final = 122
ERROR_MORE_DATA: Final = 234
ERROR_NO_SUCH_DEVICE: Final = 433
ERROR_UNRECOGNIZED_VOLUME: Final = 1005
ERROR_FILE_INVALID: Final = 1006
ERROR_NO_MEDIA_IN_DRIVE: Final = 1112
ERROR_IO_DEVICE: Final = 1117
ERROR_DISK_OPERATION_FAILED: Final = 1127
ERROR_DEVICE_NOT_CONNECTED: Final = 1167

SECTOR_ERRORS: Final = frozenset(
    {ERROR_CRC, ERROR_SECTOR_NOT_FOUND, ERROR_READ_FAULT, ERROR_SEM_TIMEOUT, ERROR_IO_DEVICE,
     ERROR_DISK_OPERATION_FAILED}
)  # fmt: skip
"""Answers that speak of some sectors; every other failure of a read speaks of the whole device."""

GONE: Final = frozenset({ERROR_DEV_NOT_EXIST, ERROR_NO_SUCH_DEVICE, ERROR_FILE_INVALID, ERROR_DEVICE_NOT_CONNECTED})
"""The device, or the shadow, does not exist any more."""

NO_MEDIUM: Final = frozenset({ERROR_NOT_READY, ERROR_NO_MEDIA_IN_DRIVE})
"""A card reader without a card, an empty optical drive."""

NOT_THERE: Final = frozenset({ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND, ERROR_NO_SUCH_DEVICE})

NOT_ASKED_SO: Final = frozenset({ERROR_INVALID_FUNCTION, ERROR_NOT_SUPPORTED, ERROR_INVALID_PARAMETER})
"""A driver's ways to say that it does not know a control code."""

# vss.h, enum _VSS_SNAPSHOT_CONTEXT and _VSS_VOLUME_SNAPSHOT_ATTRIBUTES.
VSS_CTX_BACKUP: Final = 0x00
VSS_CTX_FILE_SHARE_BACKUP: Final = 0x10
VSS_VOLSNAP_ATTR_PERSISTENT: Final = 0x01
VSS_VOLSNAP_ATTR_NO_AUTORECOVERY: Final = 0x02
VSS_VOLSNAP_ATTR_NO_AUTO_RELEASE: Final = 0x08
VSS_VOLSNAP_ATTR_NO_WRITERS: Final = 0x10

VSS_BT_COPY: Final = 5  # vss.h, enum VSS_BACKUP_TYPE: neither truncates logs nor resets another product's chain
VSS_OBJECT_SNAPSHOT_SET: Final = 2  # vss.h, enum VSS_OBJECT_TYPE
NO_PROVIDER: Final = "00000000-0000-0000-0000-000000000000"
"""GUID_NULL: VSS chooses the provider. Source: IVssBackupComponents::AddToSnapshotSet, ProviderId."""

# winerror.h
S_OK: Final = 0
S_FALSE: Final = 1
RPC_E_CHANGED_MODE: Final = 0x80010106
RPC_E_TOO_LATE: Final = 0x80010119
E_ACCESSDENIED: Final = 0x80070005

# vsserror.h
VSS_S_ASYNC_PENDING: Final = 0x00042309
VSS_S_ASYNC_FINISHED: Final = 0x0004230A
VSS_S_ASYNC_CANCELLED: Final = 0x0004230B
VSS_E_BAD_STATE: Final = 0x80042301
VSS_E_PROVIDER_VETO: Final = 0x80042306
VSS_E_OBJECT_NOT_FOUND: Final = 0x80042308
VSS_E_VOLUME_NOT_SUPPORTED: Final = 0x8004230C
VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER: Final = 0x8004230E
VSS_E_SNAPSHOT_SET_IN_PROGRESS: Final = 0x80042316
VSS_E_INSUFFICIENT_STORAGE: Final = 0x8004231F
VSS_E_WRITERERROR_RETRYABLE: Final = 0x800423F3

WRITER_STATES: Final = (
    "unknown", "stable", "waiting for freeze", "waiting for thaw", "waiting for the snapshot's end",
    "waiting for the backup's end", "failed at identify", "failed at prepare backup", "failed at prepare snapshot",
    "failed at freeze", "failed at thaw", "failed after the snapshot", "failed at backup complete",
    "failed before restore", "failed after restore", "failed at shutdown",
)  # fmt: skip
"""By number. Source: vss.h, enum VSS_WRITER_STATE."""

WRITER_STATES_WELL: Final = frozenset({1, 2, 3, 4, 5})


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a failure code of VSS is called, what it means, and what a person does about it."""

    name: str
    words: str
    hint: str = "Windows wrote more about it into its event log: Windows Logs, Application, source VSS."


_RETRY: Final = "Close what writes much to the disk, then run it again."
_RESTART: Final = "Restart Windows and run it again; the event log (source VSS) names the cause."

_MEANINGS: Final = {
    E_ACCESSDENIED: Meaning(
        name="E_ACCESSDENIED", words="this user may not do that",
        hint="Run it as Administrator: right-click, 'Run as administrator'."),
    0x80070057: Meaning(name="E_INVALIDARG", words="an argument was wrong, which is a mistake of ours"),
    0x8007000E: Meaning(name="E_OUTOFMEMORY", words="Windows has no memory left", hint=_RETRY),
    0x8000FFFF: Meaning(name="E_UNEXPECTED", words="something unexpected happened inside Windows", hint=_RESTART),
    0x80040154: Meaning(
        name="REGDB_E_CLASSNOTREG", words="the Volume Shadow Copy service is not registered",
        hint="This Windows is incomplete (a rescue system?): use the Linux rescue system."),
    VSS_E_BAD_STATE: Meaning(name="VSS_E_BAD_STATE", words="the calls came in an order that VSS does not accept"),
    0x80042302: Meaning(name="VSS_E_UNEXPECTED", words="something unexpected happened inside VSS", hint=_RESTART),
    0x80042304: Meaning(
        name="VSS_E_PROVIDER_NOT_REGISTERED", words="no provider for the shadow", hint=_RESTART),
    VSS_E_PROVIDER_VETO: Meaning(name="VSS_E_PROVIDER_VETO", words="the provider refused"),
    VSS_E_OBJECT_NOT_FOUND: Meaning(name="VSS_E_OBJECT_NOT_FOUND", words="there is no such volume or shadow"),
    VSS_E_VOLUME_NOT_SUPPORTED: Meaning(
        name="VSS_E_VOLUME_NOT_SUPPORTED", words="a volume of this kind cannot be shadowed"),
    VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER: Meaning(
        name="VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER", words="the provider cannot shadow a volume of this kind"),
    0x8004230F: Meaning(
        name="VSS_E_UNEXPECTED_PROVIDER_ERROR", words="the provider failed",
        hint="Another backup product's provider may be broken: `vssadmin list providers` lists them."),
    0x80042312: Meaning(
        name="VSS_E_MAXIMUM_NUMBER_OF_VOLUMES_REACHED", words="one shadow set holds no more volumes (64)",
        hint="Save fewer volumes in one run."),
    0x80042313: Meaning(
        name="VSS_E_FLUSH_WRITES_TIMEOUT", words="the volume could not be flushed in time", hint=_RETRY),
    0x80042314: Meaning(
        name="VSS_E_HOLD_WRITES_TIMEOUT", words="writes could not be held back long enough", hint=_RETRY),
    0x80042315: Meaning(
        name="VSS_E_UNEXPECTED_WRITER_ERROR", words="the writers failed",
        hint="`vssadmin list writers` names the one that failed; restart its service."),
    VSS_E_SNAPSHOT_SET_IN_PROGRESS: Meaning(
        name="VSS_E_SNAPSHOT_SET_IN_PROGRESS", words="another program is just making a shadow",
        hint="Another backup or a restore point is at work: wait for it, then run it again."),
    0x80042317: Meaning(
        name="VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED", words="the volume has as many shadows as it may have",
        hint="`vssadmin list shadows` lists them; delete old ones."),
    0x80042318: Meaning(
        name="VSS_E_WRITER_INFRASTRUCTURE", words="the services behind the writers do not work", hint=_RESTART),
    0x8004231B: Meaning(name="VSS_E_UNSUPPORTED_CONTEXT", words="this kind of shadow does not exist here"),
    VSS_E_INSUFFICIENT_STORAGE: Meaning(
        name="VSS_E_INSUFFICIENT_STORAGE", words="there is no room for the shadow",
        hint="Free some room on the volume, several hundred megabytes, and run it again."),
    0x8004232C: Meaning(name="VSS_E_NESTED_VOLUME_LIMIT", words="the volume lies in too many disk files"),
    0x80042327: Meaning(name="VSS_E_REBOOT_REQUIRED", words="Windows must be restarted first", hint=_RESTART),
    0x80042328: Meaning(
        name="VSS_E_TRANSACTION_FREEZE_TIMEOUT", words="open transactions could not be frozen in time", hint=_RETRY),
    0x80042329: Meaning(
        name="VSS_E_TRANSACTION_THAW_TIMEOUT", words="transactions could not be thawed in time", hint=_RETRY),
    0x800423F0: Meaning(
        name="VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT", words="the shadow lacks a volume that the writer needs"),
    0x800423F1: Meaning(name="VSS_E_WRITERERROR_OUTOFRESOURCES", words="the writer ran out of memory", hint=_RETRY),
    0x800423F2: Meaning(name="VSS_E_WRITERERROR_TIMEOUT", words="the writer was too slow", hint=_RETRY),
    VSS_E_WRITERERROR_RETRYABLE: Meaning(
        name="VSS_E_WRITERERROR_RETRYABLE", words="the writer failed and asks for another try", hint=_RETRY),
    0x800423F4: Meaning(
        name="VSS_E_WRITERERROR_NONRETRYABLE", words="the writer failed",
        hint="`vssadmin list writers` names it; restart its service."),
}  # fmt: skip
"""Source: vsserror.h and the pages of IVssBackupComponents on learn.microsoft.com."""


def meaning_of(hresult: int) -> Meaning:
    """What a failure code means; one that is not known keeps its number."""
    return _MEANINGS.get(hresult) or Meaning(name=f"0x{hresult:08X}", words=f"error 0x{hresult:08X}")


def known_failures() -> tuple[int, ...]:
    """Every failure code that has words."""
    return tuple(_MEANINGS)
