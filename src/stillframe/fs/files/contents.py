"""Files and their contents by The Sleuth Kit.

Answers: "what is in this folder and in this file?" as ``source.FileSource``. Contents that the library would give as
something else than what a program reads there (encrypted by EFS, compressed by Windows itself, links of Windows) are
not given, and the reason is in the entry.

Source: The Sleuth Kit 4.15, tsk/fs/tsk_fs.h; compressed NTFS (LZNT1) is expanded by the library.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from stillframe.block import BlockReader, ReadFault
from stillframe.errors import DiskFormatError, StillframeError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import Volume
from stillframe.fs.ext import EXT_NAMES
from stillframe.fs.files.names import CASE_FREE, show_name
from stillframe.fs.files.reparse import SIZE_MAX, parse_reparse
from stillframe.fs.files.sleuthkit import DATA_TYPES, HINT, Entry, SleuthVolume, open_volume
from stillframe.fs.files.source import FILE, FOLDER, LINK, OTHER, Content, FileEntry, OnFault
from stillframe.fs.files.support import gives_files

# tsk_fs.h: TSK_FS_META_TYPE_ENUM. 10 and 11 are made up by the library.
_KINDS: Final = {1: FILE, 2: FOLDER, 3: "pipe", 4: "device", 5: "device", 6: LINK, 8: "socket"}
_MADE_UP: Final = frozenset({10, 11})
_ORPHANS: Final = b"$OrphanFiles"
_REPARSE: Final = 192  # TSK_FS_ATTR_TYPE_NTFS_REPARSE
_HFS_COMPRESSED: Final = 4355  # TSK_FS_ATTR_TYPE_HFS_COMP_REC
# tsk_fs.h: TSK_FS_ATTR_FLAG_ENUM, TSK_FS_ATTR_RUN_FLAG_ENUM.
_ATTRIBUTE_ENCRYPTED, _ATTRIBUTE_COMPRESSED, _ATTRIBUTE_OUTSIDE = 0x10, 0x20, 0x02
_RUN_FILLER, _RUN_SPARSE = 0x01, 0x02
_WOF_STREAM: Final = "WofCompressedData"
_LEFT_OUT_HINT: Final = "'stillframe show' lists what was left out of an image."
_LINK_SIZE_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class _Place:
    """Which attribute of which file a stream is."""

    file: Any
    number: int
    type: int
    id: int


class SleuthFiles:
    """The files of a volume that The Sleuth Kit reads rightly. Use ``open_contents``."""

    def __init__(self, sleuth: SleuthVolume, volume: Volume, left_out: ExtentSet) -> None:
        self._sleuth = sleuth
        self._left_out = left_out
        self._volume = volume
        self._is_ntfs: Final = volume.filesystem == "ntfs"
        self._is_hfs_plus: Final = volume.filesystem == "hfsplus"
        self._has_modes: Final = volume.filesystem in EXT_NAMES or self._is_hfs_plus
        self._unit: Final = sleuth.block_size

    @property
    def ignores_case(self) -> bool:
        """Whether capital and small letters are the same in names."""
        return self._volume.filesystem in CASE_FREE

    def open_root(self) -> FileEntry:
        """The root folder; ``DiskFormatError`` when it cannot be read."""
        root = self._sleuth.open_number(self._sleuth.root)
        if root is None or root.handle is None or not root.is_folder:
            fault = None if root is None else root.fault
            raise fault or DiskFormatError(f"{self._sleuth.name}: its root folder cannot be read", hint=HINT)
        return self._build(b"", root)

    def iter_folder(self, folder: FileEntry, on_fault: OnFault) -> Iterator[FileEntry]:
        """What is in a folder; see ``FileSource``."""
        for entry in self._sleuth.iter_folder(folder.number, on_fault):
            meta = entry.handle.info.meta
            raw: bytes = entry.handle.info.name.name
            if entry.is_system or raw == _ORPHANS or (meta is not None and int(meta.type) in _MADE_UP):
                continue
            yield self._build(_composed(raw) if self._is_hfs_plus else raw, entry)

    def read_contents(self, entry: FileEntry) -> tuple[Content, ...]:
        """The streams of a file; see ``FileSource``."""
        if entry.refusal:
            raise DiskFormatError(entry.refusal, hint=HINT)
        found, fault = self._sleuth.ask(lambda: tuple(self._iter_contents(entry)), f"file {entry.number}")
        if fault is not None:
            raise fault
        contents = sorted(found or (), key=lambda one: one.name)
        if entry.size and not (contents and not contents[0].name):
            message = f"{self._sleuth.name}, file {entry.number}: nothing says where its contents are"
            raise DiskFormatError(message, hint=HINT)
        return tuple(contents)

    def read_at(self, content: Content, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of a stream; see ``FileSource``."""
        place: _Place = content.handle
        what = f"file {place.number}"
        raw, fault = self._sleuth.ask(lambda: place.file.read_random(offset, length, place.type, place.id), what)
        if fault is not None:
            raise fault
        if raw is None or len(raw) != length:
            found = 0 if raw is None else len(raw)
            message = f"{self._sleuth.name}, {what}: {found} bytes at {offset}, expected {length}"
            raise DiskFormatError(message, hint=HINT)
        return bytes(raw)

    def read_attributes(self, entry: FileEntry) -> tuple[tuple[str, bytes], ...]:
        """None: the library does not give them."""
        del entry
        return ()

    def _build(self, raw: bytes, entry: Entry) -> FileEntry:
        meta = entry.handle.info.meta
        if meta is None:
            refusal = entry.fault.message if entry.fault is not None else "nothing is known of it but its name"
            return FileEntry(raw, OTHER, entry.number, 0, 0, 0, None, 0, 0, 0, b"", (), refusal, entry.handle)
        kind = _KINDS.get(int(meta.type), OTHER)
        target, refusal = b"", entry.fault.message if entry.fault is not None else ""
        streams: tuple[str, ...] = ()
        if kind == LINK:
            target, refusal = self._read_link(entry, meta)
        elif self._is_hfs_plus and not refusal:
            refusal = self._refuse_compressed(entry)
        elif self._is_ntfs and not refusal:
            kind, target, streams, refusal = self._look_at_attributes(entry, kind)
        return FileEntry(
            raw, kind, entry.number, int(meta.size), _time(meta.mtime, meta.mtime_nano),
            _time(meta.atime, meta.atime_nano), int(meta.mode) & 0o7777 if self._has_modes else None, int(meta.uid),
            int(meta.gid), int(meta.nlink), target, streams, refusal, entry.handle,
        )  # fmt: skip

    def _read_link(self, entry: Entry, meta: Any) -> tuple[bytes, str]:
        """Where a link of ext leads: the library has short ones at hand, of long ones the contents are read."""
        if not 0 < meta.size < _LINK_SIZE_MAX:
            return b"", f"its link has {meta.size} bytes, expected 1 to {_LINK_SIZE_MAX - 1}"
        size = int(meta.size)
        target: bytes | None = meta.link
        fault = entry.fault
        if not target:
            target, fault = self._sleuth.ask(lambda: bytes(entry.handle.read_random(0, size)), f"link {entry.number}")
        if fault is not None or target is None or len(target) != size:
            return b"", _words(fault)
        return target, ""

    def _refuse_compressed(self, entry: Entry) -> str:
        """Why a file of HFS+ is not given, if it is not."""
        types, fault = self._sleuth.ask(lambda: {int(one.info.type) for one in entry.handle}, f"file {entry.number}")
        if types is None or fault is not None:
            return _words(fault)
        return "it is compressed by macOS, which is not undone here" if _HFS_COMPRESSED in types else ""

    def _look_at_attributes(self, entry: Entry, kind: str) -> tuple[str, bytes, tuple[str, ...], str]:
        """What an NTFS file really is: kind, target of a link, names of its streams, why it is not given."""

        def look() -> tuple[str, bytes, tuple[str, ...], str]:
            names: list[str] = []
            target, refusal, real = b"", "", kind
            for attribute in entry.handle:
                facts = attribute.info
                number = int(facts.type)
                if number == _REPARSE:
                    raw = entry.handle.read_random(0, min(facts.size, SIZE_MAX), _REPARSE, facts.id)
                    found = parse_reparse(raw)
                    target = found.target or b""
                    real = LINK if found.target is not None else kind
                    refusal = "" if kind == FOLDER else found.refusal  # a folder of OneDrive lists what is in it
                elif number in DATA_TYPES:
                    if int(facts.flags) & _ATTRIBUTE_ENCRYPTED:
                        refusal = "it is encrypted by Windows (EFS), and only its owner's Windows can read it"
                    if facts.name:
                        names.append(show_name(facts.name))
            if _WOF_STREAM in names and not refusal:
                refusal = "it is compressed by Windows itself (CompactOS)"
            return real, target, tuple(names), refusal

        answer, fault = self._sleuth.ask(look, f"file {entry.number}")
        if answer is None or fault is not None:
            return kind, b"", (), _words(fault)
        return answer

    def _iter_contents(self, entry: FileEntry) -> Iterator[Content]:
        for attribute in entry.handle:
            facts = attribute.info
            kind, flags, size = int(facts.type), int(facts.flags), int(facts.size)
            if kind not in DATA_TYPES:
                continue
            pieces: tuple[Extent, ...] = (Extent(0, size),) if size else ()
            if flags & _ATTRIBUTE_OUTSIDE and len(self._left_out):
                self._require_there(attribute)
            if flags & _ATTRIBUTE_OUTSIDE and not flags & _ATTRIBUTE_COMPRESSED:
                pieces = tuple(self._iter_pieces(attribute, entry, size))
            name = show_name(facts.name or b"")
            if entry.kind == FOLDER and not name:
                continue
            place = _Place(entry.handle, entry.number, kind, int(facts.id))
            yield Content(name=name, size=size, pieces=pieces, handle=place)

    def _require_there(self, attribute: Any) -> None:
        """Raise ``ReadFault`` when bytes of a stream were left out of the image, and read as zeros."""
        unit = self._unit
        for run in attribute:
            if not int(run.flags) & (_RUN_FILLER | _RUN_SPARSE):
                gone = self._left_out.clipped(Extent(run.addr * unit, (run.addr + run.len) * unit))
                for first in gone:
                    raise ReadFault(f"byte {first.start} was left out of the image", extent=first, hint=_LEFT_OUT_HINT)

    def _iter_pieces(self, attribute: Any, entry: FileEntry, size: int) -> Iterator[Extent]:
        """Where a stream has bytes; what no run covers is read too, so that the library says what is wrong."""
        unit, end = self._unit, 0
        for run in attribute:
            flags, start = int(run.flags), run.offset * unit
            end = max(end, start + run.len * unit)
            if flags & _RUN_FILLER and self._is_ntfs:
                message = f"{self._sleuth.name}, file {entry.number}: a piece of its list of pieces is missing"
                raise DiskFormatError(message, hint=HINT)
            if not flags & (_RUN_FILLER | _RUN_SPARSE) and start < size:
                yield Extent(start, min(start + run.len * unit, size))
        if end < size:
            yield Extent(end, size)


def open_contents(reader: BlockReader, volume: Volume, *, left_out: ExtentSet | None = None) -> SleuthFiles | None:
    """The files of a volume with their contents; ``None`` where The Sleuth Kit does not read it rightly.

    Args:
        reader: The partition; what was left out of an image is zeros in it: the library reads more than it needs.
        volume: What ``registry.identify`` said of it.
        left_out: Bytes that were left out: files that have some of them cannot be read.

    Raises:
        DiskFormatError: The volume is broken.
        ReadFault: The device failed.
    """
    if not gives_files(reader, volume):
        return None
    return SleuthFiles(open_volume(reader, volume), volume, left_out or ExtentSet.empty())


def _composed(raw: bytes) -> bytes:
    """A name as people type it and as Linux shows it: HFS+ keeps letters and their accents apart."""
    return unicodedata.normalize("NFC", raw.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _time(seconds: int, rest: int) -> int:
    return int(seconds) * 1_000_000_000 + int(rest)


def _words(fault: StillframeError | None) -> str:
    return "it cannot be read" if fault is None else fault.message
