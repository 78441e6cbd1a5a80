"""A disk file as a source: raw, or of a program for virtual machines.

Answers: "which disk is in this file, may it be read, and did anybody write to it meanwhile?" A disk file cannot be held
still: while something may write to it, or to a file that it rests on, it is refused, or ``torn``.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from stillframe.block.formats.mapped import DiskFile
from stillframe.block.formats.opening import open_disk_file
from stillframe.capture.offline import OpenSource, writers_of
from stillframe.errors import DeviceError, SourceInUse
from stillframe.events import Notice
from stillframe.host.changes import ChangeStamp, change_stamp
from stillframe.host.disks import DiskFacts
from stillframe.host.file_locks import find_writer
from stillframe.host.mounts import Use

_NAMED_MAX: Final = 8

Stamps = tuple[tuple[str, ChangeStamp | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource(OpenSource):
    """A source that is read from files. ``stamps`` are those of all of them when it was opened."""

    stamps: Stamps = field(default=())

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that is read."""
        return tuple(path for path, _ in self.stamps)

    def stayed_still(self) -> bool:
        """Whether none of its files was written since it was opened, and nobody has one open for writing."""
        if self.consistency != "offline":
            return False
        return all(change_stamp(path) == stamp and not file_writers(path) for path, stamp in self.stamps)


def open_file_source(facts: DiskFacts, *, allow_torn: bool) -> FileSource:
    """Open a disk file for reading.

    Args:
        facts: Of the file, as ``host.disks.describe`` gives them.
        allow_torn: Copy it as it changes, when it is in use.

    Raises:
        SourceInUse: Something may write to it, or to a file that it rests on.
        DiskFormatError: It is of a known format and broken, or uses what is not read.
    """
    with open_disk_file(facts.path) as first:  # only to learn which files there are: stamps come before reading
        paths = first.paths
    writers = tuple(use for path in paths for use in file_writers(path))
    if writers and not allow_torn:
        raise SourceInUse(
            f"{facts.path} is in use: {in_words(writers)}; a disk file in use cannot be held still",
            hint="Shut the virtual machine down, or unmount it; if a device was made of it, name the device. "
            "'--allow-torn' copies it as it changes: such an image may be unusable and is never called good.",
        )
    stamps = tuple((path, change_stamp(path)) for path in paths)
    disk = open_disk_file(facts.path)
    if disk.paths != paths:
        disk.close()
        raise DeviceError(f"{facts.path} changed while it was opened", hint="Run it again.")
    return FileSource(
        facts=facts_of(facts, disk), reader=disk, consistency="torn" if writers else "offline",
        notices=(*_rests_on(disk), *(_torn_notice(facts, writers) if writers else ())), stamps=stamps,
    )  # fmt: skip


def facts_of(facts: DiskFacts, disk: DiskFile) -> DiskFacts:
    """The facts of the disk in a file: its size, its sectors, and the format where a disk has its model."""
    if disk.is_raw:
        return facts
    return replace(facts, size=disk.size, sector_size=disk.sector_size, model=f"{disk.format_name} file")


def file_writers(path: str) -> tuple[Use, ...]:
    """What may write to a file at this moment, as far as can be told."""
    holder = find_writer(path)
    seen = writers_of(path)
    return (*seen, Use(kind="holder", device=path, where=holder, read_write=True)) if holder else seen


def _rests_on(disk: DiskFile) -> tuple[Notice, ...]:
    """Which other files are read: whoever wrote the file chose them, and a person should see it."""
    others = disk.paths[1:]
    if not others:
        return ()
    names = ", ".join(others[:_NAMED_MAX]) + (
        f" and {len(others) - _NAMED_MAX} more" if len(others) > _NAMED_MAX else ""
    )
    return (Notice(code="reads-more-files", message=f"{disk.paths[0]} consists of more files, read too: {names}"),)


def _torn_notice(facts: DiskFacts, writers: tuple[Use, ...]) -> tuple[Notice, ...]:
    return (
        Notice(
            code="source-torn",
            message=f"{facts.path} was copied while in use ({in_words(writers)}): this image may be unusable",
            hint="Shut down or unmount what uses it and make another.",
        ),
    )


def in_words(uses: tuple[Use, ...]) -> str:
    """Who uses a source."""
    words = [
        f"{use.device} is mounted at {use.where}" if use.kind == "mounted" else f"{use.device} is used by {use.where}"
        for use in uses
    ]
    return "; ".join(words[:3]) + (f"; and {len(words) - 3} more" if len(words) > 3 else "")
