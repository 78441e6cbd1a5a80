"""The files of an exFAT volume: every set of entries that is in use, as it is, and where the contents lie.

Answers: "what must be in an exFAT volume that is to have the same files?" Sets are kept byte for byte but for their
cluster, their checksum and, of a folder, its size. What this program does not know is refused, never dropped.

Source: Microsoft, "exFAT file system specification" 1.00, sections in the comments.
"""

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.exfat import ExfatBoot
from stillframe.fs.remade.chains import WINDOW, ClusterChains, ClusterRun, Entries
from stillframe.fs.remade.moved import Folder, Node, Piece, Tree, require_apart

HINT: Final = "Run chkdsk on the volume in Windows, or fsck.exfat in Linux, and begin again with its disk."
ENTRY_SIZE: Final = 32
END_OF_CHAIN: Final = 0xFFFFFFFF
_IN_USE: Final = 0x80  # 6.2.1
BITMAP, UPCASE, _LABEL, _GUID, _FILE, _STREAM, _NAME, _VENDOR, _VENDOR_CLUSTERS = (
    0x81, 0x82, 0x83, 0xA0, 0x85, 0xC0, 0xC1, 0xE0, 0xE1,
)  # fmt: skip
_NO_LABEL: Final = _LABEL & ~_IN_USE
_OF_ROOT: Final = frozenset({BITMAP, UPCASE, _LABEL, _NO_LABEL, _GUID})
_FOLDER_ATTRIBUTE: Final = 0x10  # 7.4.4
_HAS_CLUSTERS, _IS_ONE_RUN = 1, 2  # 6.3.4: AllocationPossible, NoFatChain
_FOLDER_SIZE_MAX: Final = 256 << 20  # 7.4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExfatTree:
    """The files, and the table of capital letters, which is a file of its own.

    Attributes:
        tree: Folders and files. The root has the entries of bitmap and table too.
        upcase_pieces: Where the table lies.
    """

    tree: Tree
    upcase_pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """One entry that names clusters."""

    offset: int
    name: str
    is_folder: bool
    is_one_run: bool
    cluster: int
    size: int


def set_checksum(entries: bytes) -> int:
    """The checksum of a set of entries (section 6.3.3); its own field does not count."""
    checksum = 0
    for index, byte in enumerate(entries):
        if index not in (2, 3):
            checksum = ((checksum & 1) << 15 | checksum >> 1) + byte & 0xFFFF
    return checksum


def read_exfat_tree(reader: BlockReader, boot: ExfatBoot) -> ExfatTree:
    """Read every folder.

    Raises:
        DiskFormatError: A file or folder cannot be read whole, by name, or is of a kind that is not known.
        ReadFault: The device failed.
    """
    return _Reading(reader, boot).read()


class _Reading:
    """One walk through a volume, a folder before those in it."""

    def __init__(self, reader: BlockReader, boot: ExfatBoot) -> None:
        self._reader = reader
        self._boot = boot
        self._chains = ClusterChains(
            self._load, cluster_count=boot.cluster_count, end_from=END_OF_CHAIN, name="exFAT FAT", hint=HINT
        )
        self._taken: list[Piece] = []
        self._clusters_left = boot.cluster_count

    def read(self) -> ExfatTree:
        """Everything."""
        root = self._read_root()
        folders, nodes = list[Folder](), list[Node]()
        waiting = deque([("", 0, root)])
        index_next = 1
        while waiting:
            path, parent, raw = waiting.popleft()
            entries, named = _split(path, raw)
            number = len(folders)
            folders.append(Folder(path=path, parent=parent, entries=entries))
            for one in named:
                where = f"{path}/{one.name}"
                pieces = self._pieces(where, one)
                if not one.is_folder:
                    nodes.append(Node(number, one.offset, one.size, pieces, -1))
                    continue
                if one.size > _FOLDER_SIZE_MAX:
                    raise DiskFormatError(f"exFAT folder {where}: {one.size} bytes cannot be", hint=HINT)
                waiting.append((where, number, b"".join(self._reader.read_at(*piece) for piece in pieces)))
                nodes.append(Node(number, one.offset, 0, (), index_next))
                index_next += 1
        _entry_of(root, BITMAP)
        upcase = _entry_of(root, UPCASE)
        pieces = self._pieces("the table of capital letters", _parse(upcase, 0, "", is_folder=False, has_flags=False))
        require_apart(self._taken, "exFAT volume", HINT)
        sized = (
            node if node.child < 0 else node._replace(size=max(len(folders[node.child].entries), 1)) for node in nodes
        )
        tree = Tree(folders=tuple(folders), nodes=tuple(sized))
        return ExfatTree(tree=tree, upcase_pieces=pieces)

    def _load(self, number: int) -> Entries:
        boot = self._boot
        count = min(WINDOW, boot.cluster_count + 2 - number * WINDOW)
        raw = self._reader.read_at(boot.table_start + number * WINDOW * 4, count * 4) if count > 0 else b""
        return np.frombuffer(raw, "<u4").astype(np.uint32)

    def _read_root(self) -> bytes:
        most = _FOLDER_SIZE_MAX // self._boot.cluster_size + 1
        runs = self._take("/", self._boot.root_cluster, most, is_one_run=False)
        if sum(count for _, count in runs) == most:
            raise DiskFormatError("exFAT folder /: its chain does not end", hint=HINT)
        return b"".join(self._reader.read_at(*self._bytes_of(run)) for run in runs)

    def _pieces(self, path: str, one: _Named) -> tuple[Piece, ...]:
        """Where contents lie, cut at their size."""
        needed = -(-one.size // self._boot.cluster_size)
        if not needed:
            return ()
        runs = self._take(path, one.cluster, needed, is_one_run=one.is_one_run)
        found = sum(count for _, count in runs)
        if found < needed:
            raise DiskFormatError(
                f"exFAT file {path}: its chain has {found} clusters, expected {needed} for {one.size} bytes", hint=HINT
            )
        pieces, left = list[Piece](), one.size
        for start, size in map(self._bytes_of, runs):
            pieces.append((start, min(size, left)))
            left -= size
        return tuple(pieces)

    def _take(self, path: str, cluster: int, most: int, *, is_one_run: bool) -> list[ClusterRun]:
        """The clusters of a file; together no more than there are."""
        self._clusters_left -= most if is_one_run else 0
        if self._clusters_left < 0:
            raise DiskFormatError(f"exFAT file {path}: files have more clusters than there are", hint=HINT)
        if is_one_run:
            if not 2 <= cluster <= self._boot.cluster_count + 2 - most:
                raise DiskFormatError(f"exFAT file {path}: it begins at cluster {cluster:#x}", hint=HINT)
            runs = [(cluster, most)]
        else:
            try:
                runs = self._chains.runs(cluster, count_max=min(most, self._clusters_left + 1))
            except DiskFormatError as error:
                raise DiskFormatError(f"exFAT file {path}: {error.message}", hint=HINT) from error
            self._clusters_left -= sum(count for _, count in runs)
        self._taken += map(self._bytes_of, runs)
        return runs

    def _bytes_of(self, run: ClusterRun) -> Piece:
        first, count = run
        size = self._boot.cluster_size
        return self._boot.heap_start + (first - 2) * size, count * size


def _entry_of(root: bytes, kind: int) -> bytes:
    """The one entry of a kind in the root folder."""
    found = [entry for _, entry in iter_entries(root) if entry[0] == kind]
    if len(found) != 1:
        raise DiskFormatError(f"exFAT root folder: {len(found)} entries of type {kind:#x}, expected 1", hint=HINT)
    return found[0]


def iter_entries(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Entries up to the end of the folder, with their places."""
    for at in range(0, len(raw) - ENTRY_SIZE + 1, ENTRY_SIZE):
        if not raw[at]:
            return
        yield at, raw[at : at + ENTRY_SIZE]


def _split(path: str, raw: bytes) -> tuple[bytes, list[_Named]]:
    """The entries of a folder that are in use, without gaps, and what they name."""
    kept, named = bytearray(), list[_Named]()
    end = 0
    for at, entry in iter_entries(raw):
        kind = entry[0]
        if at < end:
            continue
        if not path and kind in _OF_ROOT:
            kept += entry
        elif kind == _FILE:
            end = at + (1 + entry[1]) * ENTRY_SIZE
            whole = raw[at:end]
            named += _parse_set(path, whole, len(kept))
            kept += whole
        elif kind & _IN_USE:
            raise DiskFormatError(f"exFAT folder {path or '/'}: an entry of type {kind:#x} is not known", hint=HINT)
    return bytes(kept), named


def _parse_set(path: str, whole: bytes, offset: int) -> Iterator[_Named]:
    """What a set of entries names: the file, and what vendors may have added to it."""
    count = whole[1]
    name = b"".join(whole[at + 2 : at + 32] for at in range(2 * ENTRY_SIZE, len(whole), ENTRY_SIZE)
                    if whole[at] == _NAME)  # fmt: skip
    if not 2 <= count <= 18 or len(whole) != (1 + count) * ENTRY_SIZE or whole[ENTRY_SIZE] != _STREAM:
        raise DiskFormatError(f"exFAT folder {path or '/'}: a set of {count} entries is broken", hint=HINT)
    text = name[: 2 * whole[ENTRY_SIZE + 3]].decode("utf-16-le", "replace")
    (said,) = struct.unpack_from("<H", whole, 2)
    if said != set_checksum(whole):
        raise DiskFormatError(f"exFAT file {path}/{text}: the checksum of its entries is wrong", hint=HINT)
    (attributes,) = struct.unpack_from("<H", whole, 4)
    yield _parse(
        whole[ENTRY_SIZE:], offset + ENTRY_SIZE, text, is_folder=bool(attributes & _FOLDER_ATTRIBUTE), has_flags=True
    )
    for at in range(2 * ENTRY_SIZE, len(whole), ENTRY_SIZE):
        if whole[at] == _VENDOR_CLUSTERS:
            yield _parse(whole[at:], offset + at, text, is_folder=False, has_flags=True)
        elif whole[at] not in (_NAME, _VENDOR) and whole[at] & _IN_USE:
            raise DiskFormatError(f"exFAT file {path}/{text}: an entry of type {whole[at]:#x} is not known", hint=HINT)


def _parse(entry: bytes, offset: int, name: str, *, is_folder: bool, has_flags: bool) -> _Named:
    flags = entry[1] if has_flags else _HAS_CLUSTERS
    cluster, size = struct.unpack_from("<IQ", entry, 20)
    return _Named(
        offset=offset, name=name, is_folder=is_folder, is_one_run=bool(flags & _IS_ONE_RUN), cluster=cluster,
        size=size if flags & _HAS_CLUSTERS else 0,
    )  # fmt: skip
