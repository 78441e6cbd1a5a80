"""A made-up Windows machine with one disk in memory, for tests of everything above the calls of Windows.

Answers: "what happens to a backup while this Windows goes on writing?" Devices are as strict as ``MemoryDevice``. VSS
is played from a transcript, and a shadow is a copy of a volume at the moment of ``DoSnapshotSet``; afterwards the
volume goes on changing. Answers are packed by ``windows_documented``. NOTHING OF IT WAS COMPARED WITH A WINDOWS.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent
from stillframe.host.windows import codes, com
from stillframe.host.windows.calls import RegistryValue, Win32Failure
from stillframe.host.windows.com import ComAnswer, ComValue, Method
from stillframe.testing import windows_documented as documented
from stillframe.testing.windows_device import HANDLE, MemoryDevice
from stillframe.testing.windows_transcript import Line, WindowsTranscript

DISK: Final = r"\\.\PhysicalDrive0"
_FIRST_HANDLE: Final = 0x100


@dataclass(slots=True, kw_only=True)
class MachineVolume:
    r"""A volume.

    Attributes:
        name: ``\\?\Volume{GUID}\``.
        number: Of its partition.
        paths: Where it is mounted.
        cluster_size: Of NTFS, bytes; 0: the volume is no NTFS.
        bits: What NTFS says is in use: a bit for each cluster, and for how many.
        cluster_count: Clusters of the volume.
        clear_text: What the volume shows where the disk shows something else; ``None``: what the disk shows.
        read_error: Every read of the volume fails so; 0 for none.
    """

    name: str
    number: int
    paths: tuple[str, ...] = ()
    cluster_size: int = 0
    cluster_count: int = 0
    bits: bytes | None = None
    clear_text: bytearray | None = None
    read_error: int = 0


@dataclass(slots=True, kw_only=True)
class _Device:
    path: str
    memory: MemoryDevice
    size: int
    volume: MachineVolume | None = None


class MachineDevices:
    """``DeviceCalls`` of a machine: its disk, its volumes, and their shadows.

    Args:
        disk: The bytes of disk 0; they may be changed while it is in use.
        entries: Its partitions as ``windows_documented.gpt_entry`` packs them.
        places: Where those partitions lie, by number.
        volumes: Its volumes.
    """

    def __init__(
        self, disk: bytearray, entries: Sequence[bytes], places: dict[int, Extent], volumes: Sequence[MachineVolume]
    ) -> None:
        self.disk = disk
        self.entries = list(entries)
        self.places = places
        self.volumes = list(volumes)
        self.is_mbr = False
        """Whether ``entries`` are of an MBR (``windows_documented.mbr_entry``)."""
        self.shadows: dict[str, bytes] = {}
        self.elsewhere: dict[str, object] = {}
        """Volumes on no partition: by name, the answer to the question where they lie, or an error."""
        self.device_numbers: dict[str, tuple[int, int]] = {}
        """By name of such a volume: kind of device and number of the disk."""
        self.on_read: Callable[[str], None] = lambda _: None
        self.bitmap_piece_size = 100  # bytes: the map comes in several pieces
        self._handles: dict[int, _Device] = {}
        self._next_handle = _FIRST_HANDLE

    @property
    def open_paths(self) -> list[str]:
        """What is open."""
        return [device.path for device in self._handles.values()]

    def view_of(self, volume: MachineVolume) -> memoryview:
        """The bytes of a volume, to be looked at or changed."""
        if volume.clear_text is not None:
            return memoryview(volume.clear_text)
        place = self.places[volume.number]
        return memoryview(self.disk)[place.start : place.end]

    def open_handle(self, path: str, *, unbuffered: bool) -> int:  # noqa: ARG002 - the seam says so
        """Any device of the machine."""
        device = self._device(path)
        if device is None:
            raise Win32Failure("CreateFileW", codes.ERROR_FILE_NOT_FOUND)
        self._next_handle += 1
        self._handles[self._next_handle] = device
        return self._next_handle

    def close_handle(self, handle: int) -> None:
        """Take it back."""
        del self._handles[handle]

    def read(self, handle: int, offset: int, buffer: memoryview) -> int:
        """Whole sectors into aligned memory; nothing of a shadow that is gone."""
        device = self._handles[handle]
        self.on_read(device.path)
        if "ShadowCopy" in device.path and device.path not in self.shadows:
            raise Win32Failure("ReadFile", codes.ERROR_DEV_NOT_EXIST)
        if device.volume is not None and device.volume.read_error:
            raise Win32Failure("ReadFile", device.volume.read_error)
        return device.memory.read(HANDLE, offset, buffer)

    def device_io_control(self, handle: int, code: int, given: bytes, size: int) -> bytes:
        """As a disk, volume or shadow answers."""
        device = self._handles[handle]
        answer = self._answer(device, code, given)
        if len(answer) > size:
            raise Win32Failure("DeviceIoControl", codes.ERROR_INSUFFICIENT_BUFFER)
        return answer

    def _device(self, path: str) -> _Device | None:
        if path == DISK:
            return _Device(path=path, memory=MemoryDevice(self.disk), size=len(self.disk))
        for volume in self.volumes:
            shadow = documented.shadow_device(volume.name)
            if path == volume.name.removesuffix("\\"):
                view = self.view_of(volume)
                return _Device(path=path, memory=MemoryDevice(view), size=len(view), volume=volume)
            if path == shadow and shadow in self.shadows:
                contents = self.shadows[shadow]
                return _Device(path=path, memory=MemoryDevice(contents), size=len(contents), volume=volume)
        for number, place in self.places.items():
            if path == rf"\\?\GLOBALROOT\Device\Harddisk0\Partition{number}":
                view = memoryview(self.disk)[place.start : place.end]
                return _Device(path=path, memory=MemoryDevice(view), size=len(view))
        if path + "\\" in self.elsewhere:
            return _Device(path=path, memory=MemoryDevice(b""), size=0)
        return None

    def _answer(self, device: _Device, code: int, given: bytes) -> bytes:
        if code == codes.IOCTL_DISK_GET_LENGTH_INFO:
            return struct.pack("<q", device.size)
        if device.path == DISK:
            return self._disk_answer(code)
        if device.path + "\\" in self.elsewhere:
            return self._elsewhere_answer(device.path + "\\", code)
        volume = device.volume
        if volume is None:
            raise Win32Failure("DeviceIoControl", codes.ERROR_INVALID_FUNCTION)
        if code == codes.IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS:
            place = self.places[volume.number]
            return documented.extents((0, place.start, place.size))
        if code == codes.FSCTL_GET_NTFS_VOLUME_DATA and volume.cluster_size:
            sectors = device.size // 512 - 1
            counts = (0x1234, sectors, volume.cluster_count, 0, 0)
            return struct.pack("<qqqqqIIIIqqqqq", *counts, 512, volume.cluster_size, 1024, 0, 65536, 4, 2, 4, 99)
        if code == codes.FSCTL_GET_VOLUME_BITMAP and volume.bits is not None:
            return self._bitmap(volume, struct.unpack("<q", given)[0])
        if code == codes.FSCTL_ALLOW_EXTENDED_DASD_IO and volume.cluster_size:
            return b""
        raise Win32Failure("DeviceIoControl", codes.ERROR_INVALID_FUNCTION)

    def _disk_answer(self, code: int) -> bytes:
        size = len(self.disk)
        answers = {
            codes.IOCTL_DISK_GET_DRIVE_GEOMETRY_EX: documented.geometry(size),
            codes.IOCTL_STORAGE_QUERY_PROPERTY: documented.description(
                "", "Made-up SSD", "SN 1", bus=17, removable=False
            ),
            codes.IOCTL_DISK_GET_DRIVE_LAYOUT_EX: documented.mbr_layout(self.entries)
            if self.is_mbr
            else documented.gpt_layout(self.entries, size=size),
        }
        if code not in answers:
            raise Win32Failure("DeviceIoControl", codes.ERROR_INVALID_FUNCTION)
        return answers[code]

    def _elsewhere_answer(self, name: str, code: int) -> bytes:
        answer = self.elsewhere[name]
        if code == codes.IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS and isinstance(answer, bytes):
            return answer
        if code == codes.IOCTL_STORAGE_GET_DEVICE_NUMBER and name in self.device_numbers:
            return struct.pack("<III", *self.device_numbers[name], 0)
        raise Win32Failure("DeviceIoControl", codes.ERROR_INVALID_FUNCTION)

    def _bitmap(self, volume: MachineVolume, cluster: int) -> bytes:
        """A piece of the map, from a whole byte on; the failure that there is more, with as much as was given."""
        first = cluster // 8 * 8
        if volume.bits is None or first >= volume.cluster_count:
            raise MachineRefusal(f"asked for cluster {cluster} of {volume.cluster_count}")
        head = struct.pack("<qq", first, volume.cluster_count - first)
        rest = volume.bits[first // 8 :]
        if len(rest) <= self.bitmap_piece_size:
            return head + rest
        raise Win32Failure("DeviceIoControl", codes.ERROR_MORE_DATA, head + rest[: self.bitmap_piece_size])


class WindowsMachine(MachineDevices):
    """``WindowsCalls`` of a machine; ``lines`` are what VSS is asked and answers, the rest as ``MachineDevices``."""

    def __init__(
        self, disk: bytearray, entries: Sequence[bytes], places: dict[int, Extent], volumes: Sequence[MachineVolume],
        lines: Sequence[Line] = (),
    ) -> None:  # fmt: skip
        super().__init__(disk, entries, places, volumes)
        self.transcript = WindowsTranscript(lines)
        self.registry: dict[str, tuple[str, ...]] = {}
        self.pauses: list[float] = []
        self.on_shadow: Callable[[], None] = lambda: None
        self.on_pause: Callable[[], None] = lambda: None
        self._added: list[str] = []

    def find_volumes(self) -> tuple[str, ...]:
        """Every volume."""
        return (*(volume.name for volume in self.volumes), *self.elsewhere)

    def volume_path_names(self, volume: str) -> tuple[str, ...]:
        """Where it is mounted."""
        return next((known.paths for known in self.volumes if known.name == volume), ())

    def device_names(self) -> tuple[str, ...]:
        """The disk, and some that are none."""
        return ("C:", "PhysicalDrive0", "NUL")

    def registry_values(self, key: str) -> tuple[RegistryValue, ...]:
        """What programs keep out of shadows."""
        wanted = key.endswith("FilesNotToSnapshot")
        return tuple(RegistryValue(name=n, texts=texts) for n, texts in self.registry.items()) if wanted else ()

    def start_com(self) -> None:
        """As in the transcript."""
        self.transcript.start_com()

    def create_backup_components(self) -> int:
        """As in the transcript."""
        return self.transcript.create_backup_components()

    def call_method(self, pointer: int, method: Method, arguments: tuple[ComValue, ...]) -> ComAnswer:
        """As in the transcript; shadows come and go with it."""
        answer = self.transcript.call_method(pointer, method, arguments)
        if method is com.START_SNAPSHOT_SET:
            self._added.clear()
        if method is com.ADD_TO_SNAPSHOT_SET and not answer.failed:
            self._added.append(str(arguments[0]))
        if method is com.DO_SNAPSHOT_SET and not answer.failed:
            for volume in self.volumes:
                if volume.name in self._added:
                    self.shadows[documented.shadow_device(volume.name)] = bytes(self.view_of(volume))
            self.on_shadow()
        if method in (com.DELETE_SNAPSHOTS, com.RELEASE):
            self.shadows.clear()
        return answer

    def pause(self, seconds: float) -> None:
        """Time in which the machine may write."""
        self.pauses.append(seconds)
        self.on_pause()
