"""Structures of Windows as it lays them out in memory on 64-bit machines.

Answers: "at which offset is which field?" Only fixed-size types: never ``c_ulong`` or ``c_wchar``, whose sizes differ
between systems. So the layouts are the same on Linux, where ``tests/unit/test_windows_structures.py`` compares each
size and offset with what a C compiler makes of mingw-w64's headers.

Source: winioctl.h, vss.h, guiddef.h, minwinbase.h; learn.microsoft.com has a page for each.
"""

import ctypes
import uuid
from ctypes import c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64


class Guid(ctypes.Structure):
    """GUID, 16 bytes, aligned to 4. Four numbers and no array: it is passed by value, where arrays confuse ctypes."""

    _fields_ = (("First", c_uint32), ("Second", c_uint32), ("Third", c_uint32), ("Fourth", c_uint32))

    @classmethod
    def parse(cls, text: str) -> "Guid":
        """From text such as ``b5946137-7b9f-4925-af80-51abd60b20d5``, with braces or not."""
        return cls.from_buffer_copy(uuid.UUID(text).bytes_le)

    @property
    def text(self) -> str:
        """In lower case, without braces."""
        return str(uuid.UUID(bytes_le=bytes(self)))


class PartitionInformationMbr(ctypes.Structure):
    """PARTITION_INFORMATION_MBR."""

    _fields_ = (
        ("PartitionType", c_uint8),
        ("BootIndicator", c_uint8),
        ("RecognizedPartition", c_uint8),
        ("HiddenSectors", c_uint32),
        ("PartitionId", Guid),
    )


class PartitionInformationGpt(ctypes.Structure):
    """PARTITION_INFORMATION_GPT."""

    _fields_ = (
        ("PartitionType", Guid),
        ("PartitionId", Guid),
        ("Attributes", c_uint64),
        ("Name", c_uint16 * 36),
    )


class _PartitionUnion(ctypes.Union):
    _fields_ = (("Mbr", PartitionInformationMbr), ("Gpt", PartitionInformationGpt))


class PartitionInformationEx(ctypes.Structure):
    """PARTITION_INFORMATION_EX, 144 bytes, the union at 32."""

    _fields_ = (
        ("PartitionStyle", c_uint32),
        ("StartingOffset", c_int64),
        ("PartitionLength", c_int64),
        ("PartitionNumber", c_uint32),
        ("RewritePartition", c_uint8),
        ("IsServicePartition", c_uint8),
        ("Union", _PartitionUnion),
    )


class DriveLayoutMbr(ctypes.Structure):
    """DRIVE_LAYOUT_INFORMATION_MBR."""

    _fields_ = (("Signature", c_uint32), ("CheckSum", c_uint32))


class DriveLayoutGpt(ctypes.Structure):
    """DRIVE_LAYOUT_INFORMATION_GPT."""

    _fields_ = (
        ("DiskId", Guid),
        ("StartingUsableOffset", c_int64),
        ("UsableLength", c_int64),
        ("MaxPartitionCount", c_uint32),
    )


class _LayoutUnion(ctypes.Union):
    _fields_ = (("Mbr", DriveLayoutMbr), ("Gpt", DriveLayoutGpt))


class DriveLayoutHeader(ctypes.Structure):
    """DRIVE_LAYOUT_INFORMATION_EX without its array: 48 bytes, then one PARTITION_INFORMATION_EX after the other."""

    _fields_ = (("PartitionStyle", c_uint32), ("PartitionCount", c_uint32), ("Union", _LayoutUnion))


class DiskExtentStructure(ctypes.Structure):
    """DISK_EXTENT, 24 bytes."""

    _fields_ = (("DiskNumber", c_uint32), ("StartingOffset", c_int64), ("ExtentLength", c_int64))


class VolumeDiskExtentsHeader(ctypes.Structure):
    """VOLUME_DISK_EXTENTS without its array; the first DISK_EXTENT is at 8."""

    _fields_ = (("NumberOfDiskExtents", c_uint32), ("Padding", c_uint32))


class NtfsVolumeStructure(ctypes.Structure):
    """NTFS_VOLUME_DATA_BUFFER, 96 bytes."""

    _fields_ = (
        ("VolumeSerialNumber", c_int64),
        ("NumberSectors", c_int64),
        ("TotalClusters", c_int64),
        ("FreeClusters", c_int64),
        ("TotalReserved", c_int64),
        ("BytesPerSector", c_uint32),
        ("BytesPerCluster", c_uint32),
        ("BytesPerFileRecordSegment", c_uint32),
        ("ClustersPerFileRecordSegment", c_uint32),
        ("MftValidDataLength", c_int64),
        ("MftStartLcn", c_int64),
        ("Mft2StartLcn", c_int64),
        ("MftZoneStart", c_int64),
        ("MftZoneEnd", c_int64),
    )


class VolumeBitmapHeader(ctypes.Structure):
    """VOLUME_BITMAP_BUFFER without its array; the bits begin at 16."""

    _fields_ = (("StartingLcn", c_int64), ("BitmapSize", c_int64))


class StorageDeviceNumberStructure(ctypes.Structure):
    """STORAGE_DEVICE_NUMBER, 12 bytes."""

    _fields_ = (("DeviceType", c_uint32), ("DeviceNumber", c_uint32), ("PartitionNumber", c_uint32))


class LengthStructure(ctypes.Structure):
    """GET_LENGTH_INFORMATION, 8 bytes."""

    _fields_ = (("Length", c_int64),)


class StoragePropertyQuery(ctypes.Structure):
    """STORAGE_PROPERTY_QUERY, 12 bytes."""

    _fields_ = (("PropertyId", c_uint32), ("QueryType", c_uint32), ("AdditionalParameters", c_uint8 * 1))


class StorageDeviceDescriptor(ctypes.Structure):
    """STORAGE_DEVICE_DESCRIPTOR, 40 bytes with its array of one; offsets of texts count from its beginning."""

    _fields_ = (
        ("Version", c_uint32),
        ("Size", c_uint32),
        ("DeviceType", c_uint8),
        ("DeviceTypeModifier", c_uint8),
        ("RemovableMedia", c_uint8),
        ("CommandQueueing", c_uint8),
        ("VendorIdOffset", c_uint32),
        ("ProductIdOffset", c_uint32),
        ("ProductRevisionOffset", c_uint32),
        ("SerialNumberOffset", c_uint32),
        ("BusType", c_uint32),
        ("RawPropertiesLength", c_uint32),
        ("RawDeviceProperties", c_uint8 * 1),
    )


class DiskGeometryEx(ctypes.Structure):
    """DISK_GEOMETRY_EX: DISK_GEOMETRY (24 bytes), the size of the disk, and more that is not used here."""

    _fields_ = (
        ("Cylinders", c_int64),
        ("MediaType", c_uint32),
        ("TracksPerCylinder", c_uint32),
        ("SectorsPerTrack", c_uint32),
        ("BytesPerSector", c_uint32),
        ("DiskSize", c_int64),
        ("Rest", c_uint8 * 1),
    )


class Overlapped(ctypes.Structure):
    """OVERLAPPED, 32 bytes: at which offset to read."""

    _fields_ = (
        ("Internal", c_uint64),
        ("InternalHigh", c_uint64),
        ("Offset", c_uint32),
        ("OffsetHigh", c_uint32),
        ("Event", c_uint64),
    )


class SnapshotProp(ctypes.Structure):
    """VSS_SNAPSHOT_PROP, 128 bytes: device name at 40, provider at 88, time at 112. Texts are pointers."""

    _fields_ = (
        ("SnapshotId", Guid),
        ("SnapshotSetId", Guid),
        ("SnapshotsCount", c_int32),
        ("SnapshotDeviceObject", c_uint64),
        ("OriginalVolumeName", c_uint64),
        ("OriginatingMachine", c_uint64),
        ("ServiceMachine", c_uint64),
        ("ExposedName", c_uint64),
        ("ExposedPath", c_uint64),
        ("ProviderId", Guid),
        ("SnapshotAttributes", c_int32),
        ("CreationTimestamp", c_int64),
        ("Status", c_int32),
    )
