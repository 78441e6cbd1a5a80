"""The files of a FAT volume: every entry that is in use, as it is, and where the contents lie.

Answers: "what must be in a FAT volume that is to have the same files?" Entries are kept byte for byte, so that names,
times and attributes stay as they are, whatever wrote them. Deleted entries are left behind.

Sources: as ``fs.fat``; long names: Microsoft FAT specification (2005), section 7.
"""

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.fat import FatBoot, unpack_entries
from stillframe.fs.remade.chains import WINDOW, ClusterChains, ClusterRun, Entries
from stillframe.fs.remade.moved import Folder, Node, Piece, Tree, require_apart

HINT: Final = "Run chkdsk on the volume in Windows, or fsck.fat in Linux, and begin again with its disk."
ENTRY_SIZE: Final = 32
_FOLDER_SIZE_MAX: Final = 65536 * ENTRY_SIZE  # section 6: a folder has at most so many entries
_DELETED, _KANJI = 0xE5, 0x05
_LONG_NAME, _LABEL, _FOLDER = 0x0F, 0x08, 0x10
_LOWER_STEM, _LOWER_ENDING = 0x08, 0x10  # Linux fs/fat/fat.h: CASE_LOWER_BASE, CASE_LOWER_EXT, of Windows NT
_CLUSTER_HIGH, _CLUSTER_LOW, _SIZE = 20, 26, 28
DOTS: Final = (b".          ", b"..         ")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """One entry of a folder that names a file or folder."""

    offset: int
    name: str
    is_folder: bool
    cluster: int
    size: int


def read_fat_tree(reader: BlockReader, boot: FatBoot) -> Tree:
    """Read every folder.

    Raises:
        DiskFormatError: A file or folder cannot be read whole, by name.
        ReadFault: The device failed.
    """
    return _Reading(reader, boot).read()


class _Reading:
    """One walk through a volume, a folder before those in it."""

    def __init__(self, reader: BlockReader, boot: FatBoot) -> None:
        self._reader = reader
        self._boot = boot
        self._chains = ClusterChains(
            self._load, cluster_count=boot.cluster_count, end_from=boot.bad_mark + 1, name="FAT table", hint=HINT
        )
        self._folders: list[Folder] = []
        self._nodes: list[Node] = []
        self._taken: list[Piece] = []
        self._clusters_left = boot.cluster_count

    def read(self) -> Tree:
        """Everything."""
        waiting = deque([("", 0, self._boot.root_cluster)])
        index_next = 1
        while waiting:
            path, parent, cluster = waiting.popleft()
            raw = self._read_folder(path, cluster)
            entries, named = _split(raw, is_wide=self._boot.bits == 32)
            number = len(self._folders)
            self._folders.append(Folder(path=path, parent=parent, entries=entries))
            for one in named:
                where = f"{path}/{one.name}"
                if one.is_folder:
                    waiting.append((where, number, one.cluster))
                    self._nodes.append(Node(number, one.offset, 0, (), index_next))
                    index_next += 1
                elif one.size:
                    self._nodes.append(Node(number, one.offset, one.size, self._pieces(where, one), -1))
                else:
                    self._nodes.append(Node(number, one.offset, 0, (), -1))
        require_apart(self._taken, "FAT volume", HINT)
        nodes = tuple(
            node if node.child < 0 else node._replace(size=max(len(self._folders[node.child].entries), 1))
            for node in self._nodes
        )
        return Tree(folders=tuple(self._folders), nodes=nodes)

    def _load(self, number: int) -> Entries:
        """A window of the first table; the others are the same, or the volume is not read."""
        boot = self._boot
        count = min(WINDOW, boot.cluster_count + 2 - number * WINDOW)
        if count <= 0:
            return unpack_entries(b"", 32)
        start, size = number * WINDOW * boot.bits // 8, -(-count * boot.bits // 8)
        raw = self._reader.read_at(boot.table_start + start, size)
        return unpack_entries(raw + bytes(-len(raw) % 3) if boot.bits == 12 else raw, boot.bits)[:count]

    def _read_folder(self, path: str, cluster: int) -> bytes:
        boot = self._boot
        if not path and boot.bits != 32:
            return self._reader.read_at(boot.root_start, boot.root_size)
        most = _FOLDER_SIZE_MAX // boot.cluster_size + 1
        runs = self._take(path or "/", cluster, most)
        if sum(count for _, count in runs) == most:
            raise DiskFormatError(f"FAT folder {path or '/'}: its chain does not end", hint=HINT)
        return b"".join(self._reader.read_at(*self._bytes_of(run)) for run in runs)

    def _pieces(self, path: str, one: _Named) -> tuple[Piece, ...]:
        """Where the contents of a file lie, cut at its size."""
        needed = -(-one.size // self._boot.cluster_size)
        runs = self._take(path, one.cluster, needed)
        found = sum(count for _, count in runs)
        if found < needed:
            raise DiskFormatError(
                f"FAT file {path}: its chain has {found} clusters, expected {needed} for {one.size} bytes", hint=HINT
            )
        pieces, left = list[Piece](), one.size
        for start, size in map(self._bytes_of, runs):
            pieces.append((start, min(size, left)))
            left -= size
        return tuple(pieces)

    def _take(self, path: str, cluster: int, most: int) -> list[ClusterRun]:
        """The clusters of a file; together no more than there are."""
        try:
            runs = self._chains.runs(cluster, count_max=min(most, self._clusters_left + 1))
        except DiskFormatError as error:
            raise DiskFormatError(f"FAT file {path}: {error.message}", hint=HINT) from error
        self._clusters_left -= sum(count for _, count in runs)
        if self._clusters_left < 0:
            raise DiskFormatError(f"FAT file {path}: files have more clusters than there are", hint=HINT)
        self._taken += map(self._bytes_of, runs)
        return runs

    def _bytes_of(self, run: ClusterRun) -> Piece:
        first, count = run
        size = self._boot.cluster_size
        return self._boot.data_start + (first - 2) * size, count * size


def _split(raw: bytes, *, is_wide: bool) -> tuple[bytes, list[_Named]]:
    """The entries of a folder that are in use, without gaps, and what they name."""
    kept, named = bytearray(), list[_Named]()
    long = list[bytes]()
    for at in range(0, len(raw) - ENTRY_SIZE + 1, ENTRY_SIZE):
        entry = raw[at : at + ENTRY_SIZE]
        if not entry[0]:
            break
        if entry[0] == _DELETED:
            long.clear()
        elif entry[11] & 0x3F == _LONG_NAME:
            long.append(entry)
        else:
            kept += b"".join(long)
            if entry[:11] not in DOTS and not entry[11] & _LABEL:
                named.append(_parse(entry, len(kept), _name_of(entry, long), is_wide=is_wide))
            kept += entry
            long.clear()
    return bytes(kept), named


def _parse(entry: bytes, offset: int, name: str, *, is_wide: bool) -> _Named:
    low, size = struct.unpack_from("<HI", entry, _CLUSTER_LOW)
    # In FAT12 and FAT16 these two bytes are OS/2's: the number of its extended attributes.
    high = struct.unpack_from("<H", entry, _CLUSTER_HIGH)[0] if is_wide else 0
    return _Named(offset=offset, name=name, is_folder=bool(entry[11] & _FOLDER), cluster=high << 16 | low, size=size)


def _name_of(entry: bytes, long: list[bytes]) -> str:
    """A name for messages."""
    text = b"".join(_iter_name(long)).decode("utf-16-le", "replace").split("\0")[0]
    if text:
        return text
    raw = (b"\xe5" if entry[0] == _KANJI else entry[:1]) + entry[1:11]
    stem, ending = raw[:8].decode("cp850").rstrip(), raw[8:].decode("cp850").rstrip()
    stem = stem.lower() if entry[12] & _LOWER_STEM else stem
    ending = ending.lower() if entry[12] & _LOWER_ENDING else ending
    return f"{stem}.{ending}" if ending else stem


def _iter_name(long: list[bytes]) -> Iterator[bytes]:
    for entry in reversed(long):
        yield entry[1:11] + entry[14:26] + entry[28:32]
