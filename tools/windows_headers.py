"""Makes tests/data/windows/headers.json: what mingw-w64's headers say of Windows' structures, numbers and methods.

    apt-get install gcc-mingw-w64-x86-64-win32       (Debian; 200 MB, which is why the tests use the table instead)
    python tools/windows_headers.py > tests/data/windows/headers.json

Nothing is run on Windows: a C compiler for Windows puts the values into a section of an object file, which is read. The
headers are mingw-w64's own, written from Microsoft's documentation and interfaces; they are not Microsoft's.
"""

import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILER = "x86_64-w64-mingw32-gcc"
HEADERS = """
#define COBJMACROS
#define CINTERFACE
#include <stddef.h>
#include <windows.h>
#include <winioctl.h>
#include <vss.h>
#include <vswriter.h>
#include <vsbackup.h>
#include <vsserror.h>
"""

STRUCTURES = {
    "GUID": [],
    "PARTITION_INFORMATION_MBR": ["PartitionType", "BootIndicator", "RecognizedPartition", "HiddenSectors"],
    "PARTITION_INFORMATION_GPT": ["PartitionType", "PartitionId", "Attributes", "Name"],
    "PARTITION_INFORMATION_EX": [
        "PartitionStyle", "StartingOffset", "PartitionLength", "PartitionNumber", "RewritePartition", "Mbr", "Gpt",
    ],
    "DRIVE_LAYOUT_INFORMATION_MBR": ["Signature"],
    "DRIVE_LAYOUT_INFORMATION_GPT": ["DiskId", "StartingUsableOffset", "UsableLength", "MaxPartitionCount"],
    "DRIVE_LAYOUT_INFORMATION_EX": ["PartitionStyle", "PartitionCount", "Mbr", "Gpt", "PartitionEntry"],
    "DISK_EXTENT": ["DiskNumber", "StartingOffset", "ExtentLength"],
    "VOLUME_DISK_EXTENTS": ["NumberOfDiskExtents", "Extents"],
    "NTFS_VOLUME_DATA_BUFFER": [
        "VolumeSerialNumber", "NumberSectors", "TotalClusters", "FreeClusters", "TotalReserved", "BytesPerSector",
        "BytesPerCluster", "BytesPerFileRecordSegment", "ClustersPerFileRecordSegment", "MftValidDataLength",
        "MftStartLcn", "Mft2StartLcn", "MftZoneStart", "MftZoneEnd",
    ],
    "VOLUME_BITMAP_BUFFER": ["StartingLcn", "BitmapSize", "Buffer"],
    "STORAGE_DEVICE_NUMBER": ["DeviceType", "DeviceNumber", "PartitionNumber"],
    "GET_LENGTH_INFORMATION": ["Length"],
    "STORAGE_PROPERTY_QUERY": ["PropertyId", "QueryType", "AdditionalParameters"],
    "STORAGE_DEVICE_DESCRIPTOR": [
        "Version", "Size", "DeviceType", "DeviceTypeModifier", "RemovableMedia", "CommandQueueing", "VendorIdOffset",
        "ProductIdOffset", "ProductRevisionOffset", "SerialNumberOffset", "BusType", "RawPropertiesLength",
        "RawDeviceProperties",
    ],
    "DISK_GEOMETRY": ["Cylinders", "MediaType", "TracksPerCylinder", "SectorsPerTrack", "BytesPerSector"],
    "DISK_GEOMETRY_EX": ["Geometry", "DiskSize", "Data"],
    "OVERLAPPED": ["Internal", "InternalHigh", "Offset", "OffsetHigh", "hEvent"],
    "VSS_SNAPSHOT_PROP": [
        "m_SnapshotId", "m_SnapshotSetId", "m_lSnapshotsCount", "m_pwszSnapshotDeviceObject",
        "m_pwszOriginalVolumeName", "m_pwszOriginatingMachine", "m_pwszServiceMachine", "m_pwszExposedName",
        "m_pwszExposedPath", "m_ProviderId", "m_lSnapshotAttributes", "m_tsCreationTimestamp", "m_eStatus",
    ],
}  # fmt: skip

NUMBERS = [
    "FSCTL_LOCK_VOLUME", "FSCTL_UNLOCK_VOLUME", "FSCTL_GET_NTFS_VOLUME_DATA", "FSCTL_GET_VOLUME_BITMAP",
    "FSCTL_GET_RETRIEVAL_POINTERS", "FSCTL_ALLOW_EXTENDED_DASD_IO", "IOCTL_DISK_GET_DRIVE_LAYOUT_EX",
    "IOCTL_DISK_GET_LENGTH_INFO", "IOCTL_DISK_GET_DRIVE_GEOMETRY_EX", "IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS",
    "IOCTL_STORAGE_GET_DEVICE_NUMBER", "IOCTL_STORAGE_QUERY_PROPERTY", "PARTITION_STYLE_MBR", "PARTITION_STYLE_GPT",
    "PARTITION_STYLE_RAW", "FILE_DEVICE_DISK", "GENERIC_READ", "OPEN_EXISTING", "FILE_FLAG_NO_BUFFERING",
    "ERROR_INVALID_FUNCTION", "ERROR_FILE_NOT_FOUND", "ERROR_PATH_NOT_FOUND", "ERROR_ACCESS_DENIED",
    "ERROR_NO_MORE_FILES", "ERROR_NOT_READY",
    "ERROR_CRC", "ERROR_SECTOR_NOT_FOUND", "ERROR_READ_FAULT", "ERROR_SHARING_VIOLATION", "ERROR_HANDLE_EOF",
    "ERROR_NOT_SUPPORTED", "ERROR_DEV_NOT_EXIST", "ERROR_INVALID_PARAMETER", "ERROR_SEM_TIMEOUT",
    "ERROR_INSUFFICIENT_BUFFER",
    "ERROR_MORE_DATA", "ERROR_UNRECOGNIZED_VOLUME", "ERROR_FILE_INVALID", "ERROR_NO_MEDIA_IN_DRIVE",
    "ERROR_IO_DEVICE", "ERROR_DISK_OPERATION_FAILED", "ERROR_DEVICE_NOT_CONNECTED", "VSS_CTX_BACKUP",
    "VSS_CTX_FILE_SHARE_BACKUP", "VSS_VOLSNAP_ATTR_PERSISTENT", "VSS_VOLSNAP_ATTR_NO_AUTORECOVERY",
    "VSS_VOLSNAP_ATTR_NO_AUTO_RELEASE", "VSS_VOLSNAP_ATTR_NO_WRITERS", "VSS_BT_COPY", "VSS_OBJECT_SNAPSHOT_SET",
    "RPC_E_CHANGED_MODE", "RPC_E_TOO_LATE", "E_ACCESSDENIED", "E_INVALIDARG", "E_OUTOFMEMORY", "E_UNEXPECTED",
    "REGDB_E_CLASSNOTREG",
]  # fmt: skip

INTERFACES = ("IVssBackupComponents", "IVssAsync")


def run(command: list[str | Path], given: str = "") -> str:
    """What a program of the compiler says."""
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout  # noqa: S603


def preprocessed(*flags: str) -> str:
    """The headers after the preprocessor."""
    return run([COMPILER, "-E", "-P", *flags, "-x", "c", "-"], HEADERS)


def methods(expanded: str) -> dict[str, list[dict[str, object]]]:
    """Every method of an interface in the order of its table of functions, with the types of its parameters."""
    found: dict[str, list[dict[str, object]]] = {}
    for interface in INTERFACES:
        body = expanded.partition(f"typedef struct {interface}Vtbl {{")[2].partition(f"}} {interface}Vtbl;")[0]
        found[interface] = []
        for name, parameters in re.findall(r"\*\s*(\w+)\)\s*\(([^)]*)\)", body):
            types = [" ".join(p.split()) for p in parameters.split(",")][1:]
            found[interface].append({"name": name, "parameters": [re.sub(r"\s*\w+$", "", t) for t in types]})
    return found


def evaluate(expressions: list[str]) -> dict[str, int]:
    """Let the compiler work the expressions out."""
    values = ",\n".join(f"(unsigned long long)(unsigned)({text})" for text in expressions)
    source = f'{HEADERS}\n__attribute__((section(".values"))) const unsigned long long values[] = {{{values}}};\n'
    with tempfile.TemporaryDirectory() as folder:
        made, raw = Path(folder) / "values.o", Path(folder) / "values.bin"
        run([COMPILER, "-x", "c", "-c", "-", "-o", made], source)
        run([COMPILER.replace("gcc", "objcopy"), "-O", "binary", "--only-section=.values", made, raw])
        numbers = struct.unpack(f"<{len(expressions)}Q", raw.read_bytes()[: 8 * len(expressions)])
    return dict(zip(expressions, numbers, strict=True))


def main() -> None:
    """Print the table."""
    expanded = preprocessed()
    vss = sorted(re.findall(r"#define (VSS_[ES]_\w+) ", preprocessed("-dM")))
    states = re.findall(r"\bVSS_WS_\w+", expanded.partition("enum _VSS_WRITER_STATE {")[2].partition("}")[0])
    sizes = evaluate([f"sizeof({name})" for name in STRUCTURES])
    offsets = evaluate([f"offsetof({name}, {field})" for name, fields in STRUCTURES.items() for field in fields])
    table = methods(expanded)
    slots = evaluate([f"offsetof({i}Vtbl, {method['name']}) / 8" for i in INTERFACES for method in table[i]])
    for interface in INTERFACES:
        for index, method in enumerate(table[interface]):
            assert slots[f"offsetof({interface}Vtbl, {method['name']}) / 8"] == index
    version = run(["dpkg-query", "-W", "mingw-w64-x86-64-dev"]).split()[-1]
    json.dump(
        {
            "made_by": "tools/windows_headers.py from mingw-w64's headers; not from Windows",
            "headers": version,
            "sizes": {name: sizes[f"sizeof({name})"] for name in STRUCTURES},
            "offsets": {n: {f: offsets[f"offsetof({n}, {f})"] for f in fields} for n, fields in STRUCTURES.items()},
            "numbers": evaluate([*NUMBERS, *vss]),
            "writer_states": evaluate(states),
            "methods": table,
        },
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
