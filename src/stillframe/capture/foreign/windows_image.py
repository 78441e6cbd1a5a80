"""Windows' own ``WindowsImageBackup`` as sources: each disk that its volumes were on, put together again.

Answers: "what did the disks look like?" Nothing is expanded: a disk is shown from a new table and from the VHD files
as they lie there. What cannot be known of the table is said.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from stillframe.block import AssembledReader, BlockReader, MemoryDisk, Piece
from stillframe.block.base import WrappedReader
from stillframe.block.formats.mapped import MappedDisk, ZeroMap
from stillframe.capture.diskfiles import FileSource, file_writers, in_words
from stillframe.capture.foreign.windows_image_folder import BackupFolder, ChosenBackup, find_backup
from stillframe.capture.foreign.windows_image_layout import PlannedDisk, plan_disks
from stillframe.capture.foreign.windows_image_volumes import OpenVolume, join_records, open_volume_file
from stillframe.capture.source import Consistency
from stillframe.disk.layout import read_layout
from stillframe.disk.new_table import build_table
from stillframe.errors import DiskFormatError, SourceInUse
from stillframe.events import Notice
from stillframe.host.changes import ChangeStamp, change_stamp
from stillframe.host.disks import DiskFacts

_NAMED_MAX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsImage:
    """A backup of Windows, open. ``notices`` are of the folder; those of each disk are its source's."""

    chosen: ChosenBackup
    sources: tuple[FileSource, ...]
    notices: tuple[Notice, ...]

    @property
    def made(self) -> datetime | None:
        """When it was made."""
        return self.chosen.backup.made


class RebuiltDisk(WrappedReader):
    """A disk put together from readers of several files, which it closes."""

    def __init__(self, inner: BlockReader, volumes: Sequence[OpenVolume]) -> None:
        super().__init__(inner)
        self._volumes = volumes

    def close(self) -> None:
        """Close every file; twice is once."""
        for volume in self._volumes:
            volume.close()


def open_windows_image(path: str, *, allow_torn: bool) -> WindowsImage | None:
    """The newest whole backup at a path, as disks; ``None`` where nothing there was made by Windows' backup.

    Args:
        path: ``WindowsImageBackup``, what contains it, the folder of a computer, or that of one backup.
        allow_torn: Copy it as it changes, when it is in use.

    Raises:
        UsageError: There are backups of several computers.
        DiskFormatError: A file is missing or damaged, or the volumes cannot be on one disk.
        SourceInUse: Somebody may write one of its files.
    """
    chosen = find_backup(path)
    if chosen is None:
        return None
    backup = chosen.backup
    writers = tuple(use for file in backup.files for use in file_writers(file.path))
    if writers and not allow_torn:
        raise SourceInUse(
            f"{backup.path} is in use: {in_words(writers)}",
            hint="Wait until it is complete, or detach the file where it is attached as a disk.",
        )
    specs = ((backup.specs, change_stamp(backup.specs)),) if backup.specs else ()
    with ExitStack() as stack:
        volumes = _open_volumes(backup, stack, allow_torn=allow_torn)
        planned = plan_disks(join_records(volumes))
        by_guid = {(volume.found.guid, volume.found.name): volume for volume in volumes}
        sources = []
        for number, disk in enumerate(planned, 1):
            inside = [by_guid[found.guid, found.name] for _, found in disk.places]
            sources.append(_make_source(f"{chosen.path}/disk{number}", disk, inside, specs))
        stack.pop_all()
    return WindowsImage(chosen=chosen, sources=tuple(sources), notices=_notices(chosen))


def _open_volumes(backup: BackupFolder, stack: ExitStack, *, allow_torn: bool) -> list[OpenVolume]:
    """Every volume; a file on which another one rests is no volume of its own."""
    opened = []
    for file in backup.files:
        volume = open_volume_file(file, backup, allow_torn=allow_torn)
        stack.callback(volume.close)
        opened.append(volume)
    below = {path for volume in opened for path in volume.paths[1:]}
    for volume in opened:
        if volume.paths[0] in below:
            volume.close()
    return [volume for volume in opened if volume.paths[0] not in below]


def _make_source(
    path: str, disk: PlannedDisk, volumes: Sequence[OpenVolume], specs: Sequence[tuple[str, ChangeStamp | None]]
) -> FileSource:
    layout = disk.layout
    pieces = [Piece(start=start, reader=one.reader) for (start, _), one in zip(disk.places, volumes, strict=True)]
    pieces += [
        Piece(start=patch.offset, reader=MemoryDisk(patch.data, sector_size=layout.sector_size))
        for patch in build_table(layout)
    ]
    empty = MappedDisk(ZeroMap(), size=layout.size, sector_size=layout.sector_size)
    reader = RebuiltDisk(AssembledReader(empty, pieces), volumes)
    if read_layout(reader).partitions != layout.partitions:
        raise DiskFormatError(f"{path}: the table that was made is not read as it was meant")
    names = [volume.file.access_path.rstrip("\\") for volume in volumes if volume.file.access_path]
    model = f"disk of {', '.join(names[:_NAMED_MAX])}" if names else f"disk of {len(volumes)} volumes"
    consistency: Consistency = "torn" if any(one.source.consistency == "torn" for one in volumes) else "offline"
    stamps = dict(stamp for volume in volumes for stamp in volume.source.stamps) | dict(specs)
    return FileSource(
        facts=DiskFacts(path=path, kind="file", size=layout.size, sector_size=layout.sector_size, model=model),
        reader=reader, consistency=consistency, stamps=tuple(stamps.items()),
        notices=(*disk.notices, *(notice for one in volumes for notice in (*one.source.notices, *one.clues.notices))),
    )  # fmt: skip


def _notices(chosen: ChosenBackup) -> tuple[Notice, ...]:
    """What a person should know of the folder."""
    backup, found = chosen.backup, list[Notice]()

    def note(code: str, message: str, hint: str = "") -> None:
        found.append(Notice(code=code, message=message, hint=hint))

    for words, others in (("newer, and files of it are missing", chosen.broken), ("older", chosen.older)):
        if others:
            names = ", ".join(one.rpartition("/")[2] for one in others[:_NAMED_MAX])
            names += f" and {len(others) - _NAMED_MAX} more" if len(others) > _NAMED_MAX else ""
            note("other-backups", f"not taken, as they are {words}: {names}", f"To import one, name it: {others[0]}")
    if backup.version_count > 1:
        note(
            "older-versions",
            f"Windows kept {backup.version_count} versions of this backup; only the newest is in these files",
            "The older ones are in shadow copies of the disk on which Windows keeps its backup: restore them there.",
        )
    if not backup.specs:
        note("list-missing", "BackupSpecs.xml is missing: every .vhd and .vhdx file of the folder was taken")
    elif backup.unlisted:
        note("not-listed", f"taken, though BackupSpecs.xml does not list it: {', '.join(backup.unlisted)}")
    return tuple(found)
