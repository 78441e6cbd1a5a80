"""Single files of a volume, and where each of their bytes lies.

Answers: "which bytes of the volume must be written so that these bytes of this file change, and nothing else?" for
files whose size stays. On NTFS the places come from our own parser and the contents from The Sleuth Kit, so that two
readers must agree before a byte is named. What cannot be changed in place is said with its reason.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.edits import Edit
from stillframe.errors import DiskFormatError
from stillframe.fs.files.lookup import FileLookup
from stillframe.fs.files.sleuthkit import DATA_TYPES, HINT, Entry
from stillframe.fs.ntfs.places import FilePlaces, Piece, locate_contents

_PIECES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFile:
    """A file that exists.

    Attributes:
        path: From the root of its volume, with ``/``.
        size: Bytes.
        pieces: Where they lie, in order.
        flaw: Why it cannot be changed in place; empty when it can.
    """

    path: str
    size: int
    pieces: tuple[Piece, ...]
    flaw: str

    def spread(self, edits: Iterable[Edit]) -> Iterator[Edit]:
        """Edits of the file as edits of its volume.

        Raises:
            DiskFormatError: One of them leaves the file.
        """
        for edit in edits:
            position = edit.offset
            index = max(bisect_right(self.pieces, position, key=lambda piece: piece.offset) - 1, 0)
            while position < edit.extent.end and index < len(self.pieces):
                piece = self.pieces[index]
                stop = min(edit.extent.end, piece.offset + piece.size)
                part = slice(position - edit.offset, stop - edit.offset)
                start = piece.start + position - piece.offset
                yield Edit(offset=start, old=edit.old[part], new=edit.new[part])
                position, index = stop, index + 1
            if position != edit.extent.end:
                raise DiskFormatError(f"{self.path}: its byte {position} lies nowhere", hint=HINT)


def place_file(reader: BlockReader, filesystem: str, files: FileLookup, path: str) -> PlacedFile | None:
    """Find a file, and say where it lies; ``None`` when there is no such file.

    Args:
        reader: The partition.
        filesystem: What is in it; only files of ``ntfs`` and ``vfat`` are placed.
        files: The same volume.
        path: From its root.

    Raises:
        StillframeError: It cannot be read.
    """
    entry = files.find(path)
    if entry is None or not entry.is_file:
        return None
    if entry.fault is not None:
        raise entry.fault
    match filesystem:
        case "ntfs":
            places = locate_contents(reader, entry.number)
        case "vfat":
            places = _runs(files, entry)
        case _:
            places = FilePlaces(flaw=f"files of {filesystem} are not changed in place")
    if not places.flaw and sum(piece.size for piece in places.pieces) < entry.size:
        places = FilePlaces(flaw="not all of it lies on the volume")
    return PlacedFile(path=path, size=entry.size, pieces=places.pieces, flaw=places.flaw)


def _runs(files: FileLookup, entry: Entry) -> FilePlaces:
    """The clusters of a file of FAT, by the library."""
    stream = next((one for one in files.read_streams(entry) if one.type in DATA_TYPES and not one.name), None)
    if stream is None or stream.is_compressed or len(stream.runs) > _PIECES_MAX:
        return FilePlaces(flaw="nothing says where it lies")
    covered = 0
    for run in stream.runs:
        if run.offset != covered:
            return FilePlaces(flaw="nothing says where a part of it lies")
        covered += run.size
    return FilePlaces(pieces=tuple(Piece(*run) for run in stream.runs))
