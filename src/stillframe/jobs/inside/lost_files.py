"""From lost bytes of an image to the files they belonged to.

Answers: "this range cannot be restored: which of my files is that?" The file system is read from the image itself, so
it works when the source is long gone. Where the lost bytes are those that say which file lies where, it says so.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from stillframe.block import CachedReader
from stillframe.errors import MachineRefusal
from stillframe.events import Finding
from stillframe.fs.files import Found, LostFile, open_files
from stillframe.fs.registry import identify
from stillframe.host.apart import call_apart
from stillframe.repo.losses import LostPart
from stillframe.repo.map_reader import MapReader
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest, StoredPartition
from stillframe.units import format_count, format_size

_NAMES_SHOWN: Final = 100
_HINT: Final = "An older or newer image may hold them whole: 'stillframe images' lists what there is."


def name_lost_files(chunks: ChunkReader, manifest: Manifest, parts: Iterable[LostPart]) -> Iterator[Finding]:
    """One finding for each partition that has lost bytes, with the files they belonged to."""
    stored = {(disk.number, part.number): (disk, part) for disk in manifest.disks for part in disk.partitions}
    for lost in parts:
        found = stored.get((lost.disk_number, lost.partition_number or 0))
        if found is not None and found[1].filesystem:
            disk, part = found
            words = _words(chunks, manifest, part, lost, sector_size=disk.sector_size)
            yield Finding(
                code="files-lost", message=f"image {manifest.image[:8]}, {lost.place}: {words}", hint=_HINT,
                thing=manifest.image,
            )  # fmt: skip


def _words(chunks: ChunkReader, manifest: Manifest, part: StoredPartition, lost: LostPart, *, sector_size: int) -> str:
    reader = CachedReader(
        MapReader(part.blocks.root(), chunks, chunk_size=manifest.chunk_size, sector_size=sector_size),
        page_size=manifest.chunk_size,
    )

    def find() -> Found[LostFile] | None:
        files = open_files(reader, identify(reader).volume)
        return files.name_lost(lost.lost) if files is not None else None

    try:
        found = call_apart(find, what="reading the files of a damaged image")
    except MachineRefusal as error:
        return f"which files have lost bytes cannot be told: {error.message}"
    if found is None:
        name = part.filesystem or "this volume"
        return f"which files have lost bytes cannot be told: the files of {name} are not read in this version"
    if not found.records:
        return "no file has lost bytes" if found.is_complete else "which files have lost bytes cannot be told"
    shown = "; ".join(_file_words(file) for file in found.records[:_NAMES_SHOWN])
    more = len(found.records) - _NAMES_SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    partly = "" if found.is_complete else "; there may be others, as not all folders could be read"
    return f"{format_count(len(found.records), 'file')} with lost bytes: {shown}{rest}{partly}"


def _file_words(file: LostFile) -> str:
    if file.is_folder:
        return f"{file.path} (a folder: what it lists)"
    return f"{file.path} ({format_size(file.bytes_lost)} of {format_size(file.size)})"
