"""The partitions of a source on a running Windows, and from where the bytes of each one are read.

Answers: "which of them gets a shadow, which is read until two passes agree, and which is nobody's?" A partition that
Windows shows as a volume may be written at any moment. What no file system of Windows is on, or no volume at all, is
read from the disk as it lies there. What cannot be placed is refused.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.block import BlockReader, WindowReader
from stillframe.errors import DeviceError, SourceInUse
from stillframe.events import Notice
from stillframe.extents import Extent
from stillframe.fs.registry import identify
from stillframe.host.windows.calls import WindowsCalls
from stillframe.host.windows.naming import NamedSource
from stillframe.host.windows.reader import HandleReader, open_handle_reader
from stillframe.host.windows.volumes import DisksSeen, PartitionSeen, disk_of

Way = Literal["shadow", "agreed", "disk"]
"""By a shadow of its volume; by reading it until two passes agree; as it lies on the disk, used by nobody."""

_SHADOWED: Final = frozenset({"ntfs", "ReFS"})
_AGREED: Final = frozenset({"vfat", "exfat", ""})
"""File systems that Windows writes and that have no shadow of their own, and what nobody knows."""
_BITLOCKER: Final = "BitLocker"
# UEFI Specification 2.10, table 5.7; of the types of an MBR, EFh.
_EFI: Final = frozenset({"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef"})
# PARTITION_INFORMATION_GPT, PARTITION_MSFT_RESERVED_GUID: never holds a volume.
_RESERVED: Final = "e3c9e316-0b5c-4db8-817d-f92df00215ae"
# learn.microsoft.com, PARTITION_INFORMATION_GPT and "Disk Partition Types": several of them make up other volumes.
_MANAGED: Final = {
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "a dynamic disk",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "a dynamic disk",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": "a storage pool",
    "42": "a dynamic disk",
}
_RESCUE: Final = "Save this disk from the Linux rescue system, while Windows is shut down."


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One partition.

    Attributes:
        partition: What Windows says of it.
        place: Where it lies in the source.
        way: From where its bytes are read.
        live: Its bytes as Windows shows them at this moment; ``None`` where those of the disk are taken.
        notices: What a person should know of it.
    """

    partition: PartitionSeen
    place: Extent
    way: Way
    live: HandleReader | None = None
    notices: tuple[Notice, ...] = ()

    @property
    def volume_name(self) -> str:
        """The volume as VSS wants it; empty when there is none."""
        return self.partition.volume.name if self.partition.volume is not None else ""

    @property
    def is_mounted(self) -> bool:
        """Whether people see it: it has a letter or a folder."""
        return self.partition.volume is not None and bool(self.partition.volume.paths)

    @property
    def name(self) -> str:
        """For people."""
        return name_of(self.partition)


def name_of(partition: PartitionSeen) -> str:
    """What a partition is called: a drive letter or a folder, else its number."""
    if partition.volume is not None and partition.volume.paths:
        return partition.volume.paths[0].removesuffix("\\")
    return f"partition {partition.entry.number}"


def require_placed(calls: WindowsCalls, seen: DisksSeen, named: NamedSource) -> None:
    """Refuse a source of which a part may be in use in a way that cannot be seen from its partitions.

    Raises:
        SourceInUse: A spanned or mirrored volume, a storage pool, or a volume that does not say where it lies.
    """
    for partition in named.partitions:
        kind = _MANAGED.get(partition.entry.type.lower())
        if kind is not None:
            raise SourceInUse(
                f"{name_of(partition)} of {named.disk.path} belongs to {kind}, whose volumes lie across disks",
                hint=_RESCUE,
            )
    is_bare = any(p.volume is None and p.entry.type.lower() != _RESERVED for p in named.partitions)
    for volume in seen.elsewhere:
        for place in volume.places:
            if place.disk == named.disk.number and place.extent.clipped(named.place) is not None:
                raise SourceInUse(
                    f"a part of {named.path} belongs to the volume {volume.name}, which is no single partition",
                    hint=_RESCUE,
                )
        if is_bare and not volume.places and disk_of(calls, volume) in (None, named.disk.number):
            raise SourceInUse(
                f"the volume {volume.name} does not say where it lies: it may be a partition of {named.disk.path}",
                hint=_RESCUE,
            )


def open_parts(calls: WindowsCalls, named: NamedSource, base: BlockReader, stack: ExitStack) -> tuple[Part, ...]:
    """Look at each partition of a source, and open what has a volume.

    Args:
        calls: Windows.
        named: The source.
        base: Its bytes as they lie on the disk.
        stack: Closes what is opened.

    Raises:
        SourceInUse: A volume cannot be read.
        DeviceError: It is larger than its partition, or fails.
    """
    opener = _Opener(calls, named, base, stack)
    return tuple(opener.open(partition) for partition in named.partitions)


class _Opener:
    """Opens the partitions of one source."""

    def __init__(self, calls: WindowsCalls, named: NamedSource, base: BlockReader, stack: ExitStack) -> None:
        self._calls = calls
        self._named = named
        self._base = base
        self._stack = stack

    def open(self, partition: PartitionSeen) -> Part:
        """Open one."""
        place = partition.entry.extent.shifted(-self._named.place.start)
        if partition.volume is not None:
            return self._open_volume(partition, partition.volume.device, place)
        if partition.entry.type.lower() not in _EFI:
            return Part(partition=partition, place=place, way="disk")
        # The firmware's own partition is written without having a letter, and perhaps without a volume.
        return Part(partition=partition, place=place, way="agreed", live=self._open_live(partition.device, place))

    def _open_volume(self, partition: PartitionSeen, device: str, place: Extent) -> Part:
        on_disk = identify(WindowReader(self._base, place)).volume.filesystem
        try:
            live = self._open_live(device, place)
            live.read_at(0, min(live.size, live.sector_size))
            shown = identify(live).volume.filesystem
        except DeviceError as error:
            if on_disk == _BITLOCKER:
                return _locked(partition, place)
            message = f"{name_of(partition)} has a volume that cannot be read: {error.message}"
            raise SourceInUse(message, hint=_RESCUE) from error
        if shown == _BITLOCKER:
            return _locked(partition, place)
        way = _way_of(shown)
        if way == "disk":
            return Part(partition=partition, place=place, way=way)
        notices = (_clear_text(partition),) if on_disk == _BITLOCKER else ()
        return Part(partition=partition, place=place, way=way, live=live, notices=notices)

    def _open_live(self, device: str, place: Extent) -> HandleReader:
        sector_size = self._named.disk.sector_size
        return self._stack.enter_context(open_fitting(self._calls, device, sector_size=sector_size, place=place))


def _way_of(filesystem: str) -> Way:
    """By what a volume shows. Others' file systems are mounted by nothing of Windows."""
    if filesystem in _SHADOWED:
        return "shadow"
    return "agreed" if filesystem in _AGREED else "disk"


def open_fitting(calls: WindowsCalls, device: str, *, sector_size: int, place: Extent) -> HandleReader:
    """Open a volume or shadow that lies in a partition.

    Args:
        calls: Windows.
        device: Its name without a backslash at the end.
        sector_size: Of its disk, bytes.
        place: The partition.

    Raises:
        DeviceError: It is larger than that. A smaller one is a volume that was not grown; the disk shows the rest.
        StillframeError: It cannot be opened.
    """
    reader = open_handle_reader(calls, device, sector_size=sector_size)
    if reader.size > place.size:
        reader.close()
        raise DeviceError(
            f"{device} has {reader.size} bytes, its partition only {place.size}",
            hint="Run it again; the Linux rescue system saves the disk too.",
        )
    return reader


def _locked(partition: PartitionSeen, place: Extent) -> Part:
    notice = Notice(
        code="bitlocker-locked",
        message=f"{name_of(partition)} is locked by BitLocker: it is kept whole, encrypted as it is",
        hint="Unlock it for a smaller image. To use this one, the recovery key of BitLocker is needed.",
    )
    return Part(partition=partition, place=place, way="disk", notices=(notice,))


def _clear_text(partition: PartitionSeen) -> Notice:
    return Notice(
        code="bitlocker-clear-text",
        message=f"{name_of(partition)} is encrypted by BitLocker, and open: the image holds its clear text",
        hint="Keep the repository encrypted. After a restore the drive is not encrypted: switch BitLocker on again.",
    )
