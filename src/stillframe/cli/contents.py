"""The page of contents of an image, as words and as fields.

Answers: "what did this backup save?" Pure: lines and fields out.
"""

from collections.abc import Iterator
from typing import Any, Final

from stillframe.jobs.inside.catalogue import FILE_SYSTEMS_READ
from stillframe.repo.records import Manifest, StoredCatalogue, StoredPartition, StoredSystem
from stillframe.systems import InstalledSystem
from stillframe.units import format_count, format_size

_INDENT: Final = " " * 14
_NO_FILES: Final = frozenset({"", "swap", "LVM2_member", "linux_raid_member", "jbd"})
"""Where nobody expects files: nothing is said of them. Names as ``blkid`` writes them."""


def contents_lines(manifest: Manifest) -> list[str]:
    """What is in an image, a paragraph for each volume with files."""
    lines: list[str] = []
    for disk in manifest.disks:
        for part in disk.partitions:
            found = [] if part.is_left_out else list(_partition_lines(part))
            if found:
                lines += ["", f"In disk {disk.number}, partition {part.number}:", *found]
            for inner in part.inside:
                place = f"In disk {disk.number}, partition {part.number}, volume {inner.name}:"
                found = list(_volume_lines(inner.installed, inner.catalogue, inner.filesystem))
                lines += ["", place, *found] if found else []
    return lines


def _partition_lines(part: StoredPartition) -> Iterator[str]:
    return _volume_lines(part.installed, part.catalogue, part.filesystem)


def _volume_lines(
    installed: StoredSystem | None, catalogue: StoredCatalogue | None, filesystem: str
) -> Iterator[str]:  # fmt: skip
    if installed is not None:
        yield from _system_lines(installed)
    if catalogue is not None:
        yield from _count_lines(catalogue)
    elif filesystem in FILE_SYSTEMS_READ:
        yield "Files         not counted when this image was made"
    elif filesystem not in _NO_FILES:
        yield f"Files         not counted: the files of {filesystem} are not read in this version"


def _system_lines(system: StoredSystem) -> Iterator[str]:
    yield f"System        {system_words(system)}"
    if system.host:
        yield f"Computer      {system.host}"
    if system.machine_id:
        yield f"Machine id    {system.machine_id}"
    if system.kernels:
        yield f"Kernels       {', '.join(system.kernels)}"
    if system.elsewhere:
        yield f"On others     {', '.join(system.elsewhere)} lie on partitions of their own"


def system_words(system: StoredSystem | InstalledSystem) -> str:
    """A system with its build and processor, as people say it."""
    more = [f"build {system.build}" if system.build else "", system.architecture]
    words = ", ".join(word for word in more if word)
    return f"{system.name} ({words})" if words else system.name


def _count_lines(counts: StoredCatalogue) -> Iterator[str]:
    least = "" if counts.complete else "; not all of them could be read"
    yield (
        f"Files         {format_count(counts.files, 'file')} in {format_count(counts.folders, 'folder')}, "
        f"{format_size(counts.bytes)}{least}"
    )
    label = "Most in       "
    for folder in counts.largest:
        yield f"{label}{format_size(folder.size):>8}  {folder.path} ({format_count(folder.files, 'file')})"
        label = _INDENT


def installed_fields(system: StoredSystem | InstalledSystem | None) -> dict[str, Any] | None:
    """An operating system."""
    if system is None:
        return None
    return {
        "family": system.family,
        "name": system.name,
        "version": system.version,
        "build": system.build,
        "edition": system.edition,
        "host": system.host,
        "machine_id": system.machine_id,
        "architecture": system.architecture,
        "kernels": list(system.kernels),
        "root": system.root,
        "elsewhere": list(system.elsewhere),
    }


def catalogue_fields(counts: StoredCatalogue | None) -> dict[str, Any] | None:
    """What a volume holds, in numbers."""
    if counts is None:
        return None
    return {
        "files": counts.files,
        "folders": counts.folders,
        "bytes": counts.bytes,
        "complete": counts.complete,
        "largest": [{"path": one.path, "size": one.size, "files": one.files} for one in counts.largest],
    }
