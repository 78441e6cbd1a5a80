"""The edge to The Sleuth Kit: folders and streams of a volume as records of our own.

Answers: "what does this folder hold, and where do the bytes of that file lie?" Everything that pytsk3 gives is turned
into plain records here; nothing above knows it. The library is loaded when the first volume is opened.

It is C code that reads whatever the volume says, so it is asked only for volumes that our own parsers took, and for
the two questions that decide what a backup holds only where the used map was proven.

Source: The Sleuth Kit 4.15, tsk/fs/tsk_fs.h; pytsk3 20260715, tsk3.h.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError, StillframeError
from stillframe.fs.base import Volume
from stillframe.fs.files.names import show_name
from stillframe.fs.files.reserved import EXT_SYSTEM_COUNT
from stillframe.fs.files.sleuthkit_image import open_image, take_fault

# tsk_fs.h: TSK_FS_NAME_FLAG_ENUM, TSK_FS_META_TYPE_ENUM, TSK_FS_ATTR_FLAG_ENUM, TSK_FS_ATTR_RUN_FLAG_ENUM,
# TSK_FS_ATTR_TYPE_ENUM.
_NAME_ALLOCATED: Final = 0x01
_META_REGULAR, _META_FOLDER, _META_VIRTUAL = 1, 2, 10
MADE_UP: Final = frozenset({10, 11})
"""``Facts.kind`` of what the library shows as files and folders and is none: tables, boot sectors, lost files."""
_ATTRIBUTE_OUTSIDE, _ATTRIBUTE_COMPRESSED = 0x02, 0x20
_RUN_FILLER_OR_SPARSE: Final = 0x01 | 0x02
DATA_TYPES: Final = frozenset({1, 128, 4352})
"""Contents of a file: TSK_FS_ATTR_TYPE_DEFAULT of ext, FAT and exFAT, ..._NTFS_DATA, ..._HFS_DATA (the data fork)."""
FILE_NAME_TYPE: Final = 48
"""TSK_FS_ATTR_TYPE_NTFS_FNAME: one for each name of a file, with the namespace in its byte 0x41."""

_NTFS_SYSTEM_COUNT: Final = 24  # ntfs-3g layout.h, FILE_first_user
# tsk_exfatfs.h and fatxxfs_dent.c: entries of the root folder that are no files, and the names they are given.
_FAT_MADE_UP: Final = frozenset({
    b"$EMPTY_VOLUME_LABEL", b"$VOLUME_GUID", b"$ALLOC_BITMAP", b"$UPCASE_TABLE", b"$TEX_FAT",
    b"$ACCESS_CONTROL_TABLE",
})  # fmt: skip
_HFS_PLUS_USER_FIRST: Final = 16  # TN1150, kHFSFirstUserCatalogNodeID
# TN1150, "Hard Links"; the second one is of Mac OS X 10.5. The library writes NUL as "^".
_HFS_PLUS_PRIVATE: Final = (b"^^^^HFS+ Private Data", b".HFS+ Private Directory Data")
_LABEL_ENDING: Final = b" (Volume Label Entry)"
# Windows keeps what it compressed itself (CompactOS) in a stream of this name.
_COMPRESSED_STREAM: Final = "WofCompressedData"
_DOS_NAMESPACE: Final = 2  # layout.h, FILE_NAME_DOS
_NAMESPACE_OFFSET: Final = 0x41
# error.cpp of pytsk3: what its codes become.
_LIBRARY_ERRORS: Final = (OSError, RuntimeError, SystemError, MemoryError)
HINT: Final = "Check the volume with the tools of its own system: chkdsk in Windows, fsck in Linux."

_Answer = TypeVar("_Answer")


class Run(NamedTuple):
    """A piece of a stream, in bytes: where in the stream, where in the partition, how long."""

    offset: int
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One attribute of a file that lies in blocks of its own; holes are no runs.

    Attributes:
        type: The Sleuth Kit's number for it, see ``DATA_TYPES``.
        name: Empty for the main contents.
        size: Bytes.
        is_compressed: Whether the bytes on the disk are not the contents.
        runs: In the order of the contents.
        number: The library's, which tells streams of one type apart.
        is_inside: Whether it lies in the file's own record; then it has no runs.
    """

    type: int
    name: str
    size: int
    is_compressed: bool
    runs: tuple[Run, ...]
    number: int = 0
    is_inside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A name in a folder, and the file that it names.

    Attributes:
        name: As ``show_name`` writes it.
        number: Of the inode or record; names with one number are one file.
        size: Bytes of the main contents.
        links: How many names the file has, as it says itself; on NTFS, short names for DOS count too.
        is_file, is_folder: Neither for links, devices and what cannot be read.
        is_system: Whether the file belongs to the file system itself.
        fault: Why it cannot be read, or not whole.
        handle: The library's object.
    """

    name: str
    number: int
    size: int
    links: int
    is_file: bool
    is_folder: bool
    is_system: bool
    fault: StillframeError | None
    handle: Any


class Facts(NamedTuple):
    """What a file says of itself beside its contents.

    Attributes:
        kind: The Sleuth Kit's number for files, folders, links, devices.
        changed_ns: When its contents were last written, in nanoseconds since 1970.
        mode, owner, group: As Linux counts them.
        link: What a link names, where its record holds that.
    """

    kind: int
    changed_ns: int
    mode: int
    owner: int
    group: int
    link: bytes


LINK: Final = 6
"""``Facts.kind`` of a link: TSK_FS_META_TYPE_LNK."""


def read_facts(entry: Entry) -> Facts:
    """What a file that has no ``fault`` says of itself."""
    meta = entry.handle.info.meta
    return Facts(
        int(meta.type), meta.mtime * 1_000_000_000 + meta.mtime_nano, int(meta.mode), meta.uid, meta.gid,
        meta.link or b"",
    )  # fmt: skip


class SleuthVolume:
    """A volume opened by the library. For one thread."""

    def __init__(self, image: Any, filesystem: Any, *, reader: BlockReader, volume: Volume) -> None:
        """Use ``open_volume``."""
        self._image = image
        self._filesystem = filesystem
        self._reader = reader
        self._volume = volume
        self.name: Final = _name_of(volume)
        self.block_size: Final = int(filesystem.info.block_size)
        self.root: Final = int(filesystem.info.root_inum)

    def iter_folder(self, number: int, on_fault: Callable[[StillframeError], None]) -> Iterator[Entry]:
        """The names in a folder that are in use, without ``.`` and ``..``.

        They come one by one: the library's objects of a large folder would fill the memory. What cannot be read is
        told to ``on_fault``, and the listing goes on where it can.
        """
        what = f"folder {number}"
        folder, fault = self.ask(lambda: self._filesystem.open_dir(inode=number), what)
        if fault is not None:
            on_fault(fault)
        names = iter(()) if folder is None else iter(folder)
        while True:
            handle, fault = self.ask(lambda: next(names, None), what)
            if handle is None:
                if fault is not None:
                    on_fault(fault)
                return
            entry = self._read_entry(handle, fault, in_root=number == self.root)
            if entry is not None:
                yield entry

    def open_root(self) -> Entry | None:
        """The root folder itself; ``None`` when it cannot be read."""
        root = self.open_number(self.root)
        return root if root is not None and root.is_folder else None

    def open_number(self, number: int) -> Entry | None:
        """What belongs to the file system and is found by its number, not by a name; ``None`` when nothing is there.

        What cannot be read has a ``fault``.
        """
        handle, fault = self.ask(lambda: self._filesystem.open_meta(inode=number), f"file {number}")
        meta = None if handle is None else handle.info.meta
        if meta is None and fault is None:
            return None
        kind = 0 if meta is None else int(meta.type)
        return Entry(
            name="", number=number, size=0 if meta is None else meta.size, links=1, is_file=kind == _META_REGULAR,
            is_folder=kind == _META_FOLDER, is_system=True, fault=fault, handle=handle,
        )  # fmt: skip

    def read_streams(self, entry: Entry, *, with_inside: bool = False) -> tuple[Stream, ...]:
        """The streams of a file that lie in blocks of their own, or with those inside its record too.

        Raises:
            StillframeError: What lies where cannot be read: the reader's own error, or ``DiskFormatError``.
        """
        if entry.fault is not None:
            raise entry.fault
        streams, fault = self.ask(lambda: tuple(self._iter_streams(entry, with_inside)), f"file {entry.number}")
        if fault is not None:
            raise fault
        assert streams is not None
        return streams

    def read_start(self, entry: Entry, size_max: int) -> bytes:
        """The first bytes of a file's main contents, at most ``size_max``.

        Raises:
            StillframeError: As ``read_streams``.
        """
        wanted = min(entry.size, size_max)
        if not wanted:
            return b""
        data, fault = self.ask(lambda: bytes(entry.handle.read_random(0, wanted)), f"file {entry.number}")
        if fault is not None:
            raise fault
        return data or b""

    def count_names(self, entry: Entry) -> int:
        """How many names a file has, without those for DOS, which only shorten another one.

        Raises:
            StillframeError: As ``read_streams``.
        """
        if self._volume.filesystem != "ntfs":
            return entry.links
        spaces, fault = self.ask(lambda: self._read_namespaces(entry.handle), f"file {entry.number}")
        if fault is not None:
            raise fault
        assert spaces is not None
        return max(len(spaces), entry.links) - spaces.count(_DOS_NAMESPACE)

    def read_bytes(self, entry: Entry, offset: int, size: int, *, stream: tuple[int, int] | None = None) -> bytes:
        """Bytes of a file as a program would read them; fewer at its end.

        Args:
            entry: The file.
            offset: In the stream.
            size: Bytes that are wanted.
            stream: Type and number of one stream; the main contents by default.

        Raises:
            StillframeError: As ``read_streams``.
        """
        if entry.fault is not None:
            raise entry.fault
        which = () if stream is None else stream
        data, fault = self.ask(lambda: entry.handle.read_random(offset, size, *which), f"file {entry.number}")
        if fault is not None:
            raise fault
        return bytes(data or b"")

    def ask(self, question: Callable[[], _Answer], what: str) -> tuple[_Answer | None, StillframeError | None]:
        """The library's answer, and what went wrong on the way; it may answer although it could not read all.

        Raises:
            BaseException: What the reader raised, when it is no read error: a person who pressed Ctrl-C, a bug.
        """
        answer, fault = None, None
        self._image.fault = None
        try:
            answer = question()
        except StillframeError as error:
            fault = error
        except _LIBRARY_ERRORS as error:
            fault = DiskFormatError(f"{self.name}, {what}: {error}", hint=HINT)
        return answer, take_fault(self._image) or fault

    def _read_entry(self, handle: Any, fault: StillframeError | None, *, in_root: bool) -> Entry | None:
        """The entry of one name; ``None`` when it is deleted or names the folder itself or the one above."""
        label, meta = handle.info.name, handle.info.meta
        raw: bytes = label.name
        if raw in (b"", b".", b"..") or not int(label.flags) & _NAME_ALLOCATED:
            return None
        number, kind = int(label.meta_addr), 0 if meta is None else int(meta.type)
        return Entry(
            name=show_name(raw),
            number=number,
            size=0 if meta is None else meta.size,
            links=0 if meta is None else meta.nlink,
            is_file=kind == _META_REGULAR,
            is_folder=kind == _META_FOLDER,
            is_system=self._is_system(raw, number, in_root=in_root),
            fault=fault,
            handle=handle,
        )

    def _is_system(self, raw: bytes, number: int, *, in_root: bool) -> bool:
        match self._volume.filesystem:
            case "ntfs":
                return number < _NTFS_SYSTEM_COUNT
            case "vfat" | "exfat":
                return in_root and (raw in _FAT_MADE_UP or raw.endswith(_LABEL_ENDING))
            case "hfsplus":
                return number < _HFS_PLUS_USER_FIRST or (in_root and raw.startswith(_HFS_PLUS_PRIVATE))
            case _:
                return number < EXT_SYSTEM_COUNT

    def _iter_streams(self, entry: Entry, with_inside: bool) -> Iterator[Stream]:
        unit, size = self.block_size, self._reader.size
        if not entry.handle.max_attr and entry.size and int(entry.handle.info.meta.type) != _META_VIRTUAL:
            # tsk_fs_file_attr_getsize: what lists the blocks could not be read, and the error is forgotten. A table
            # that the library shows as a file has no blocks where it is smaller than one: exFAT's $FAT1.
            raise DiskFormatError(f"{self.name}, file {entry.number}: nothing says where its contents are", hint=HINT)
        for attribute in entry.handle:
            facts = attribute.info
            flags = int(facts.flags)
            is_inside = not flags & _ATTRIBUTE_OUTSIDE
            if is_inside and not with_inside:
                continue
            runs = tuple(
                Run(run.offset * unit, run.addr * unit, run.len * unit)
                for run in (() if is_inside else attribute)
                if not int(run.flags) & _RUN_FILLER_OR_SPARSE
            )
            if any(run.start + run.size > size for run in runs):
                raise DiskFormatError(f"{self.name}, file {entry.number}: it leaves the volume", hint=HINT)
            name = show_name(facts.name or b"")
            compressed = bool(flags & _ATTRIBUTE_COMPRESSED) or name == _COMPRESSED_STREAM
            yield Stream(
                type=int(facts.type), name=name, size=facts.size, is_compressed=compressed, runs=runs,
                number=int(facts.id), is_inside=is_inside,
            )  # fmt: skip

    def _read_namespaces(self, handle: Any) -> list[int]:
        """The namespace of each name of an NTFS file."""
        numbers = [int(one.info.id) for one in handle if int(one.info.type) == FILE_NAME_TYPE]
        raws = [handle.read_random(_NAMESPACE_OFFSET, 1, FILE_NAME_TYPE, number) for number in numbers]
        return [raw[0] if raw else 0 for raw in raws]


def open_volume(reader: BlockReader, volume: Volume) -> SleuthVolume:
    """Open a volume that ``support`` says the library reads rightly.

    Raises:
        StillframeError: It cannot be read: the reader's own error, or ``DiskFormatError``.
    """
    import pytsk3  # noqa: PLC0415 12 MB that most verbs do not need

    types = {
        "ntfs": pytsk3.TSK_FS_TYPE_NTFS, "vfat": pytsk3.TSK_FS_TYPE_FAT_DETECT, "exfat": pytsk3.TSK_FS_TYPE_EXFAT,
        "hfsplus": pytsk3.TSK_FS_TYPE_HFS,
    }  # fmt: skip
    image = open_image(reader)
    try:
        filesystem = pytsk3.FS_Info(image, type=types.get(volume.filesystem, pytsk3.TSK_FS_TYPE_EXT_DETECT))
    except _LIBRARY_ERRORS as error:
        fault = take_fault(image)
        if fault is not None:
            raise fault from error
        raise DiskFormatError(f"{_name_of(volume)}: {error}", hint=HINT) from error
    return SleuthVolume(image, filesystem, reader=reader, volume=volume)


def _name_of(volume: Volume) -> str:
    return f"{volume.filesystem} volume {(volume.label or volume.uuid)!r}"
