"""What devices answer to control codes, from bytes to records.

Answers: "what do these bytes say?" Pure functions. Every count and offset in an answer is bounded before it is used,
although the answer comes from a driver and not from a disk: a driver repeats what a disk says.

Source: learn.microsoft.com, winioctl.h, the page of each structure.
"""

import ctypes
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from stillframe.errors import DiskFormatError
from stillframe.extents import Extent
from stillframe.host.windows import codes, structures

PARTITIONS_MAX: Final = 1024  # Windows itself makes at most 128 on GPT; MBR entries come in groups of four
DISK_EXTENTS_MAX: Final = 1024

Scheme = Literal["mbr", "gpt", "none"]
_SCHEMES: Final[dict[int, Scheme]] = {
    codes.PARTITION_STYLE_MBR: "mbr",
    codes.PARTITION_STYLE_GPT: "gpt",
    codes.PARTITION_STYLE_RAW: "none",
}
_NO_OFFSET: Final = 0xFFFFFFFF  # some drivers say so instead of 0
_HINT: Final = "The driver of this disk answers wrongly. Use the Linux rescue system for it."

Some = TypeVar("Some", bound=ctypes.Structure)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionEntry:
    """One entry of a drive layout.

    Attributes:
        number: What Windows names the partition by, from 1. It is *not* the place in the table: containers of logical
            partitions and empty entries stand in between and have number 0.
        extent: Where it lies on the disk, in bytes; nothing for an empty entry.
        type: GUID, or two hexadecimal digits for MBR.
        guid: The partition's own; empty for MBR.
        name: From GPT.
        attributes: From GPT.
        active: An MBR entry that the boot code starts from.
    """

    number: int
    extent: Extent
    type: str
    guid: str = ""
    name: str = ""
    attributes: int = 0
    active: bool = False

    @property
    def is_partition(self) -> bool:
        """Whether it is one, and no container of logical partitions or empty entry."""
        return self.number > 0 and self.extent.size > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveLayout:
    """The partitions of a disk as Windows sees them. ``disk_id``: GUID, or eight hexadecimal digits for MBR."""

    scheme: Scheme
    disk_id: str
    entries: tuple[PartitionEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskExtent:
    """Where a volume, or a part of it, lies: number of the disk, and bytes of it."""

    disk: int
    extent: Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class NtfsVolume:
    """What NTFS says of a volume.

    Attributes:
        serial: Volume serial number.
        size: Bytes of the file system: the sectors it counts. The partition has at least one sector more.
        sector_size: Bytes.
        cluster_size: Bytes.
        cluster_count: Clusters that its map covers.
    """

    serial: int
    size: int
    sector_size: int
    cluster_size: int
    cluster_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeBitmap:
    """A piece of the map of a volume: a bit for each cluster from ``first_cluster`` on, least significant bit first.

    ``cluster_count`` is that of the volume from there to its end; there may be fewer bits.
    """

    first_cluster: int
    cluster_count: int
    bits: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNumber:
    """Which device a handle is of: number of the disk, number of the partition (0 for the whole disk)."""

    kind: int
    disk: int
    partition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescription:
    """What a disk says of itself; empty when it says nothing."""

    vendor: str
    model: str
    revision: str
    serial: str
    bus: str
    removable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Size of the disk and of its logical sector, in bytes."""

    size: int
    sector_size: int


def parse_drive_layout(answer: bytes) -> DriveLayout:
    """Parse IOCTL_DISK_GET_DRIVE_LAYOUT_EX.

    Args:
        answer: DRIVE_LAYOUT_INFORMATION_EX with all its entries.

    Returns:
        Every entry in the order of the answer, containers and empty ones too; see ``PartitionEntry.number``.

    Raises:
        DiskFormatError: It is too short, has an unknown style, or more entries than there can be.
    """
    header = _take(structures.DriveLayoutHeader, answer, 0, "the drive layout")
    scheme = _SCHEMES.get(header.PartitionStyle)
    if scheme is None:
        raise _wrong("the drive layout", "a partition style of 0, 1 or 2", header.PartitionStyle)
    if scheme == "none":
        return DriveLayout(scheme=scheme, disk_id="", entries=())
    if header.PartitionCount > PARTITIONS_MAX:
        raise _wrong("the drive layout", f"at most {PARTITIONS_MAX} entries", header.PartitionCount)
    start, step = ctypes.sizeof(structures.DriveLayoutHeader), ctypes.sizeof(structures.PartitionInformationEx)
    entries = tuple(
        _parse_entry(_take(structures.PartitionInformationEx, answer, start + index * step, f"entry {index}"))
        for index in range(header.PartitionCount)
    )
    disk_id = header.Union.Gpt.DiskId.text if scheme == "gpt" else f"{header.Union.Mbr.Signature:08x}"
    return DriveLayout(scheme=scheme, disk_id=disk_id, entries=entries)


def parse_disk_extents(answer: bytes) -> tuple[DiskExtent, ...]:
    """Parse IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS: one extent for a simple volume, more for a spanned or mirrored one.

    Raises:
        DiskFormatError: It is too short, or has more extents than there can be.
    """
    header = _take(structures.VolumeDiskExtentsHeader, answer, 0, "the extents of a volume")
    if header.NumberOfDiskExtents > DISK_EXTENTS_MAX:
        raise _wrong("the extents of a volume", f"at most {DISK_EXTENTS_MAX} extents", header.NumberOfDiskExtents)
    start, step = ctypes.sizeof(header), ctypes.sizeof(structures.DiskExtentStructure)
    found = []
    for index in range(header.NumberOfDiskExtents):
        raw = _take(structures.DiskExtentStructure, answer, start + index * step, f"extent {index}")
        found.append(DiskExtent(disk=raw.DiskNumber, extent=_extent(raw.StartingOffset, raw.ExtentLength)))
    return tuple(found)


def parse_ntfs_volume(answer: bytes) -> NtfsVolume:
    """Parse FSCTL_GET_NTFS_VOLUME_DATA.

    Raises:
        DiskFormatError: It is too short, or its sizes are none that NTFS has.
    """
    raw = _take(structures.NtfsVolumeStructure, answer, 0, "the NTFS volume data")
    if raw.BytesPerSector not in (512, 1024, 2048, 4096):
        raise _wrong("the NTFS volume data", "a sector of 512 to 4096 bytes", raw.BytesPerSector)
    # 2 MiB is the largest cluster. Source: learn.microsoft.com, "format" command, /a.
    if not raw.BytesPerSector <= raw.BytesPerCluster <= 2 << 20 or raw.BytesPerCluster % raw.BytesPerSector:
        raise _wrong("the NTFS volume data", "a cluster of whole sectors, 2 MiB at most", raw.BytesPerCluster)
    if not 0 < raw.NumberSectors < 1 << 51 or not 0 < raw.TotalClusters <= raw.NumberSectors:
        raise _wrong("the NTFS volume data", "counts that fit each other", (raw.NumberSectors, raw.TotalClusters))
    return NtfsVolume(
        serial=raw.VolumeSerialNumber & (1 << 64) - 1,
        size=raw.NumberSectors * raw.BytesPerSector,
        sector_size=raw.BytesPerSector,
        cluster_size=raw.BytesPerCluster,
        cluster_count=raw.TotalClusters,
    )


def parse_volume_bitmap(answer: bytes) -> VolumeBitmap:
    """Parse FSCTL_GET_VOLUME_BITMAP.

    Raises:
        DiskFormatError: It is too short, or counts what no volume has.
    """
    raw = _take(structures.VolumeBitmapHeader, answer, 0, "the map of a volume")
    if not 0 <= raw.StartingLcn < 1 << 51 or not 0 < raw.BitmapSize < 1 << 51:
        raise _wrong("the map of a volume", "clusters from 0", (raw.StartingLcn, raw.BitmapSize))
    bits = answer[ctypes.sizeof(raw) :]
    return VolumeBitmap(first_cluster=raw.StartingLcn, cluster_count=raw.BitmapSize, bits=bits)


def parse_device_number(answer: bytes) -> DeviceNumber:
    """Parse IOCTL_STORAGE_GET_DEVICE_NUMBER. A partition number of -1, "not partitioned", becomes 0.

    Raises:
        DiskFormatError: It is too short.
    """
    raw = _take(structures.StorageDeviceNumberStructure, answer, 0, "the device number")
    partition = 0 if raw.PartitionNumber == 0xFFFFFFFF else raw.PartitionNumber
    return DeviceNumber(kind=raw.DeviceType, disk=raw.DeviceNumber, partition=partition)


def parse_length(answer: bytes) -> int:
    """Parse IOCTL_DISK_GET_LENGTH_INFO: bytes.

    Raises:
        DiskFormatError: It is too short, or negative.
    """
    length: int = _take(structures.LengthStructure, answer, 0, "the length").Length
    if length < 0:
        raise _wrong("the length", "bytes", length)
    return length


def parse_geometry(answer: bytes) -> Geometry:
    """Parse IOCTL_DISK_GET_DRIVE_GEOMETRY_EX; only the first 32 bytes are needed.

    Raises:
        DiskFormatError: It is too short, or its sector is neither 512 nor 4096 bytes.
    """
    size = structures.DiskGeometryEx.Rest.offset
    raw = _take(structures.DiskGeometryEx, answer[:size] + bytes(8) if len(answer) >= size else answer, 0, "geometry")
    if raw.BytesPerSector not in (512, 4096):
        raise _wrong("the geometry", "a sector of 512 or 4096 bytes", raw.BytesPerSector)
    return Geometry(size=raw.DiskSize, sector_size=raw.BytesPerSector)


def parse_device_description(answer: bytes) -> DeviceDescription:
    """Parse IOCTL_STORAGE_QUERY_PROPERTY for StorageDeviceProperty.

    Args:
        answer: STORAGE_DEVICE_DESCRIPTOR and the texts behind it, which its offsets point to.

    Raises:
        DiskFormatError: It is too short.
    """
    size = structures.StorageDeviceDescriptor.RawDeviceProperties.offset
    padded = answer + bytes(4) if len(answer) >= size else answer
    raw = _take(structures.StorageDeviceDescriptor, padded, 0, "the device description")
    return DeviceDescription(
        vendor=_text_at(answer, raw.VendorIdOffset),
        model=_text_at(answer, raw.ProductIdOffset),
        revision=_text_at(answer, raw.ProductRevisionOffset),
        serial=_text_at(answer, raw.SerialNumberOffset),
        bus=codes.BUS_TYPES.get(raw.BusType, ""),
        removable=raw.RemovableMedia != 0,
    )


def _parse_entry(raw: structures.PartitionInformationEx) -> PartitionEntry:
    extent = _extent(raw.StartingOffset, raw.PartitionLength)
    if raw.PartitionStyle == codes.PARTITION_STYLE_GPT:
        gpt = raw.Union.Gpt
        name = bytes(gpt.Name).decode("utf-16-le", "replace").partition("\0")[0]
        return PartitionEntry(
            number=raw.PartitionNumber, extent=extent, type=gpt.PartitionType.text, guid=gpt.PartitionId.text,
            name=name, attributes=gpt.Attributes,
        )  # fmt: skip
    mbr = raw.Union.Mbr
    return PartitionEntry(
        number=raw.PartitionNumber, extent=extent, type=f"{mbr.PartitionType:02x}", active=mbr.BootIndicator != 0
    )


def _text_at(answer: bytes, offset: int) -> str:
    """Zero-terminated ASCII; spaces, which pad it on both sides, are not part of it."""
    if offset in (0, _NO_OFFSET) or offset >= len(answer):
        return ""
    return " ".join(answer[offset:].partition(b"\0")[0].decode("ascii", "replace").split())


def _extent(start: int, length: int) -> Extent:
    """A range from two signed numbers of an answer."""
    if start < 0 or length < 0 or start + length >= 1 << 63:
        raise _wrong("a place on a disk", "bytes from 0", (start, length))
    return Extent(start, start + length)


def _take(kind: type[Some], answer: bytes, offset: int, what: str) -> Some:
    if offset + ctypes.sizeof(kind) > len(answer):
        raise _wrong(what, f"{offset + ctypes.sizeof(kind)} bytes", len(answer))
    return kind.from_buffer_copy(answer, offset)


def _wrong(what: str, expected: str, found: object) -> DiskFormatError:
    return DiskFormatError(f"{what} that Windows gave is wrong: expected {expected}, found {found}", hint=_HINT)
