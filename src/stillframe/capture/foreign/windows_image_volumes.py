r"""The volumes of a backup that Windows made, each from its VHD or VHDX file.

Answers: "which bytes are this volume, what is it for, and where did Windows say that it lay?" The file is a disk with
one partition, which is the volume. Where it goes is decided in ``windows_image_layout``.

Of what the records of Windows say, that which names the volume itself counts most: ``\??\Volume{GUID}``, then its
letter, then its name where that is made of its place, then what starts from it by the BCD.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from stillframe.block import BlockReader, CachedReader, ExtentKind, WindowReader
from stillframe.block.formats.mapped import DiskFile
from stillframe.capture.diskfiles import FileSource, open_file_source
from stillframe.capture.foreign.windows_image_folder import BackupFolder, VolumeFile, require_inside
from stillframe.capture.foreign.windows_image_layout import FoundVolume, Role
from stillframe.disk.layout import read_layout
from stillframe.errors import DiskFormatError, MachineRefusal
from stillframe.events import Notice
from stillframe.extents import Extent
from stillframe.fs.base import Volume
from stillframe.fs.boot_place import BootPlace, read_boot_place
from stillframe.fs.files.lookup import open_lookup
from stillframe.fs.registry import identify
from stillframe.host.apart import call_apart
from stillframe.host.disks import describe
from stillframe.systems.windows_disks import PartitionRecord, VolumeClues, parse_volume_guid, read_clues

_FORMATS: Final = frozenset({"VHD", "VHDX"})
_RESERVED_TYPE: Final = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"  # Microsoft reserved: it holds no volume
_READ: Final = frozenset({"ntfs", "vfat"})
_PADDING_MAX: Final = 16 << 20
"""A VHD is rounded up to whole cylinders, of at most 255 * 63 sectors."""
_DISK_SECTORS: Final = (512, 4096)
_ROLE_NAMES: Final[dict[Role, str]] = {
    "esp": "the EFI system volume", "boot": "the system volume", "recovery": "the recovery volume",
}  # fmt: skip
_COPY_AGAIN: Final = "Copy the file again, from the disk on which Windows made it."


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVolume:
    """A volume whose file is open. ``found`` is what is known of it; ``source`` is its file."""

    file: VolumeFile
    source: FileSource
    reader: BlockReader
    found: FoundVolume
    clues: VolumeClues = field(default_factory=VolumeClues)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that is read for it, its own first."""
        return self.source.paths

    def close(self) -> None:
        """Close its files."""
        self.source.reader.close()


def open_volume_file(file: VolumeFile, backup: BackupFolder, *, allow_torn: bool) -> OpenVolume:
    """Open the file of a volume, and look at what is in it. The caller closes it.

    Raises:
        DiskFormatError: It is no VHD or VHDX, is damaged, or holds no partition or several.
        SourceInUse: Something may write to it.
    """
    source = open_file_source(describe(file.path), allow_torn=allow_torn)
    try:
        return _look(file, backup, source)
    except BaseException:
        source.reader.close()
        raise


def _look(file: VolumeFile, backup: BackupFolder, source: FileSource) -> OpenVolume:
    disk = source.reader
    if not isinstance(disk, DiskFile) or disk.format_name not in _FORMATS:
        raise DiskFormatError(
            f"{file.path} is no VHD or VHDX file: it is damaged, or was cut off while it was copied", hint=_COPY_AGAIN
        )
    for path in disk.paths:
        require_inside(backup.path, path)
    deque(disk.known_extents(Extent(0, disk.size)), maxlen=0)  # a file that was cut off is found before it is read
    place = _only_partition(disk, file.path)
    whole = WindowReader(disk, place)
    volume = identify(whole).volume
    boot = read_boot_place(whole, volume.filesystem)
    reader = WindowReader(disk, Extent(place.start, place.start + _size(whole, boot)))
    clues = _read_clues(reader, volume, file, backup)
    # Windows may write into the boot sector where the volume lies in the file: that says nothing of its disk.
    start = boot.start if boot and boot.start != place.start else None
    role = _role(volume, clues)
    found = FoundVolume(
        name=file.name if file.access_path else _ROLE_NAMES.get(role, file.name), guid=file.guid, size=reader.size,
        sector_size=boot.sector_size if boot and boot.sector_size in _DISK_SECTORS else disk.sector_size,
        filesystem=volume.filesystem, role=role, starts_bios=clues.has_bootmgr, boot_start=start,
    )  # fmt: skip
    return OpenVolume(file=file, source=source, reader=reader, found=found, clues=clues)


def join_records(volumes: Sequence[OpenVolume]) -> tuple[FoundVolume, ...]:
    """What is known of each volume, with the best record of its place."""
    mounted: dict[str, PartitionRecord] = {}
    systems = [volume for volume in volumes if volume.clues.has_windows]
    for volume in volumes:
        for name, seen in volume.clues.mounted:
            if len(systems) == 1 or not name.startswith("\\DosDevices"):  # each Windows has letters of its own
                mounted.setdefault(name, seen)
    booted = _booted(volumes, systems)
    told = [record for volume in volumes for record in _told_by_store(volume.clues)]
    named = {volume.file: _named_record(volume.file, mounted, told) for volume in volumes}
    found = list[FoundVolume]()
    for volume in volumes:
        record, other = named[volume.file], booted.get(volume.file)
        if record is None and other not in named.values():
            record = other
        doubt = 0 if record in mounted.values() else 1 if record == parse_volume_guid(volume.file.guid) else 2
        found.append(replace(volume.found, record=record and _with_disk(record, told), doubt=doubt))
    return tuple(found)


def _booted(volumes: Sequence[OpenVolume], systems: Sequence[OpenVolume]) -> dict[VolumeFile, PartitionRecord]:
    """Which volumes the BCD can only mean: its own, the only Windows, the only recovery environment."""
    found = {volume.file: volume.clues.loader for volume in volumes if volume.clues.has_store and volume.clues.loader}
    recoveries = [volume for volume in volumes if volume.found.role == "recovery"]
    for meant, records in (
        (systems, {record for volume in volumes for record in volume.clues.systems}),
        (recoveries, {record for volume in volumes for record in volume.clues.recoveries}),
    ):
        if len(meant) == len(records) == 1:
            found.setdefault(meant[0].file, records.pop())
    return found


def _told_by_store(clues: VolumeClues) -> Iterator[PartitionRecord]:
    """Everything that a BCD names."""
    yield from ([clues.loader] if clues.loader else [])
    yield from (*clues.systems, *clues.recoveries)


def _with_disk(record: PartitionRecord, told: Sequence[PartitionRecord]) -> PartitionRecord:
    """With the GUID of its disk: ``MountedDevices`` names only the partition, the BCD both."""
    if record.scheme == "gpt" and not record.disk:
        return next((one for one in told if one.guid == record.guid), record)
    return record


def _named_record(
    file: VolumeFile, mounted: dict[str, PartitionRecord], told: Sequence[PartitionRecord]
) -> PartitionRecord | None:
    """What a record names by the volume's own name. On GPT disks a volume is mostly named by its partition's GUID."""
    found = [mounted[name] for name in _names_of(file) if name in mounted]
    of_place = parse_volume_guid(file.guid)
    by_guid = [record for record in told if record.guid and record.guid == file.guid.upper()]
    return next(iter([*found, *([of_place] if of_place else []), *by_guid]), None)


def _names_of(file: VolumeFile) -> tuple[str, ...]:
    """What a volume is called in ``MountedDevices``, the surest first."""
    names = (f"\\??\\Volume{{{file.guid}}}",) if file.guid else ()
    letter = file.name if file.name[1:] == ":" else ""
    return (*names, f"\\DosDevices\\{letter}") if letter else names


def _only_partition(disk: BlockReader, path: str) -> Extent:
    """Where the volume is in its file.

    Raises:
        DiskFormatError: There is no table, or there are several partitions.
    """
    try:
        layout = read_layout(disk)
    except DiskFormatError as error:
        raise DiskFormatError(f"{path}: {error.message}", hint=_COPY_AGAIN) from error
    found = [part.extent for part in layout.partitions if part.type != _RESERVED_TYPE]
    if len(found) != 1:
        words = f"{len(found)} partitions" if layout.scheme != "none" else "no partition table"
        raise DiskFormatError(
            f"{path} has {words}; the file of a volume has one partition",
            hint=f"If it is a disk of another kind, import it by itself: name {path}.",
        )
    return found[0]


def _size(whole: BlockReader, boot: BootPlace | None) -> int:
    """Bytes of a volume: its partition without what only fills it up to whole cylinders, which is known to be zeros."""
    if boot is None or boot.size >= whole.size or whole.size - boot.size > _PADDING_MAX:
        return whole.size
    rest = Extent(boot.size, whole.size)
    for known in whole.known_extents(rest):
        here = known.extent
        if known.kind is ExtentKind.DATA and any(whole.read_at(here.start, here.size)):
            return whole.size
    return boot.size


def _read_clues(reader: BlockReader, volume: Volume, file: VolumeFile, backup: BackupFolder) -> VolumeClues:
    """What the files of the volume tell; a volume that cannot be read tells nothing, with a notice."""
    names = tuple(name for one in backup.files for name in _names_of(one))
    if volume.filesystem not in _READ:
        return VolumeClues()

    def look() -> VolumeClues | None:
        files = open_lookup(CachedReader(reader), volume)
        return read_clues(files, names) if files is not None else None

    try:
        found = call_apart(look, what=f"looking for Windows in {file.path}")
    except MachineRefusal as error:
        return VolumeClues(notices=(Notice(code="volume-not-read", message=error.message, hint=error.hint),))
    if found is None:
        words = "its files cannot be read, so that they do not tell where volumes lay"
        return VolumeClues(notices=(Notice(code="volume-not-read", message=f"{file.path}: {words}"),))
    notices = tuple(replace(notice, message=f"{file.name}: {notice.message}") for notice in found.notices)
    return replace(found, notices=notices)


def _role(volume: Volume, clues: VolumeClues) -> Role:
    if clues.is_esp and volume.filesystem == "vfat":
        return "esp"
    if clues.has_windows:
        return "windows"
    if clues.has_bootmgr or clues.has_store:
        return "boot"
    return "recovery" if clues.has_winre else "data"
