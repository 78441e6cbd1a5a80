"""An NTFS volume: its name, the bytes in use, and the files that may be left out.

Answers: "which bytes of this NTFS volume matter, and is that proven?" It puts the other modules of this folder
together. The map counts as proven when all of these hold; otherwise the volume is kept whole:

* the dirty flag is not set and no chkdsk is under way (Windows sets it when it finds something wrong),
* no system is hibernated in it (``hiberfil.sys``: hibernation, and "fast startup" after every shutdown),
* ``$LogFile`` is proven to hold nothing (Windows leaves this mark, and no dirty flag, after a power cut),
* every record of the master file table that is in use is whole, and no two of them share a cluster.

Clusters that a file has and ``$Bitmap`` calls free are added, with a notice. They show that a program without a
journal (ntfs-3g) was cut short. Since the journal holds nothing, what the table says is all that the next mount will
see, so table and bitmap together hold every byte of every file.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import LeftOutFile, UsedMap, Volume, raw_map
from stillframe.fs.ntfs.boot import NtfsBoot, find_boot
from stillframe.fs.ntfs.index import find_in_root
from stillframe.fs.ntfs.log import explain_unclean_log
from stillframe.fs.ntfs.mft import (
    BITMAP_INDEX,
    LOG_INDEX,
    VOLUME_INDEX,
    MasterFileTable,
    open_mft,
)
from stillframe.fs.ntfs.record import HINT, AttributeType, Reference
from stillframe.fs.ntfs.scan import scan_clusters
from stillframe.fs.ntfs.stream import Stream

# layout.h VOLUME_FLAGS: VOLUME_IS_DIRTY, VOLUME_CHKDSK_UNDERWAY.
_DIRTY: Final = 0x0001
_CHKDSK_UNDER_WAY: Final = 0x4000
# NT 4 wrote 1.2, Windows 2000 3.0, all since 3.1.
_VERSIONS: Final = frozenset({(1, 1), (1, 2), (3, 0), (3, 1)})
# PO_MEMORY_IMAGE signatures: hibr hibernated, rstr being resumed; all else, wake and zeros among it, is no system that
# will be resumed (ntfs-3g, ntfs_volume_check_hiberfile, knows hibr only). The log is asked all the same.
_HIBERNATED: Final = frozenset({b"hibr", b"HIBR", b"rstr", b"RSTR"})
_HIBERNATION_HEADER_SIZE: Final = 4096
_HIBERNATION_FILE: Final = "hiberfil.sys"
_LEFT_OUT: Final[dict[str, Literal["paging", "hibernation"]]] = {
    _HIBERNATION_FILE: "hibernation",
    "pagefile.sys": "paging",
    "swapfile.sys": "paging",
}
_BITMAP_READ_SIZE: Final = 1 << 20
_EXTENT_COUNT_MAX: Final = 1 << 25
_SHUTDOWN_HINT: Final = (
    "For a small image next time, shut Windows down fully with 'shutdown /s /t 0', or turn off fast startup."
)
_CHKDSK_HINT: Final = "For a small image next time, run 'chkdsk /f' on the volume in Windows, then shut down."


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFacts:
    """What record 3, ``$Volume``, says."""

    label: str
    version: tuple[int, int]
    flags: int


class NtfsFilesystem:
    """NTFS, as the seam ``Filesystem`` wants it."""

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is. A label that cannot be read is empty: the serial number names the volume."""
        boot = find_boot(reader)
        if boot is None:
            return None
        try:
            label = read_volume_facts(reader, open_mft(reader, boot)).label
        except DiskFormatError:
            label = ""
        return Volume(filesystem="ntfs", label=label, uuid=boot.uuid, block_size=boot.cluster_size)

    def used_map(self, reader: BlockReader) -> UsedMap:
        """The clusters in use, the tail behind the last cluster, and the verdict."""
        boot = _require_boot(reader)
        table = open_mft(reader, boot)
        notices = _describe_repairs(table)
        doubt = _find_doubt(reader, table)
        if doubt is not None:
            return raw_map(reader, *notices, doubt)
        used = read_bitmap(reader, table)
        mapped = scan_clusters(reader, table) | table.stream.extents
        missing = mapped - used
        if missing.size:
            notices += (
                Notice(
                    code="ntfs-map-extended",
                    message=f"{missing.size} bytes belong to files and were marked as free; they are kept",
                    hint="The volume was not unmounted properly. Run 'chkdsk /f' on it in Windows.",
                ),
            )
        kept = used | mapped | ExtentSet.of(Extent(boot.size, reader.size))
        return UsedMap(extents=kept, kind="used", notices=notices)

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:
        """The paging and hibernation files of the root directory."""
        table = open_mft(reader, _require_boot(reader))
        files: list[LeftOutFile] = []
        for name, file in sorted(find_in_root(reader, table, frozenset(_LEFT_OUT)).items()):
            stream = _open_contents(reader, table, file.reference)
            if stream is not None and stream.value is None:
                path, kind = f"/{file.name}", _LEFT_OUT[name]
                files.append(LeftOutFile(path=path, size=stream.size, extents=stream.extents, kind=kind))
        return tuple(files)


def read_shadow_map(reader: BlockReader, said_used: ExtentSet) -> UsedMap:
    """The bytes in use, of a Windows shadow of a volume that is mounted.

    In a shadow ``$LogFile`` is in use, so it proves nothing, and what it may still hold is not replayed here. Two
    things stand in for it. Windows writes out the file system's buffers before it makes a shadow, so ``$Bitmap`` and
    the file table are as new as the shadow. And NTFS has the shadow itself mounted: the map that it gives is that after
    its own look at the log. What any of the three has in use is kept: ``$Bitmap``, the table, and what NTFS says.

    None of that has been seen on a Windows. A dirty volume is kept whole. ``hiberfil.sys`` is not asked: the system
    that has this volume in use is running.

    Args:
        reader: The shadow, of the size of the partition.
        said_used: Bytes of the clusters that NTFS, asked at the shadow, calls used.

    Raises:
        DiskFormatError: The structures contradict each other, or what NTFS said is of another volume.

    Source: learn.microsoft.com, "Volume Shadow Copy Service", "How a Shadow Copy Is Created" (buffers are flushed,
    then the file system is frozen); FSCTL_GET_VOLUME_BITMAP.
    """
    boot = _require_boot(reader)
    table = open_mft(reader, boot)
    doubt = _find_flaw(read_volume_facts(reader, table))
    if doubt is not None:
        return raw_map(reader, *_describe_repairs(table), doubt)
    outside = said_used - ExtentSet.of(Extent(0, boot.cluster_count * boot.cluster_size))
    if not len(said_used) or len(outside):
        raise DiskFormatError("NTFS: the map that Windows gave is not of this volume", hint=HINT)
    kept = read_bitmap(reader, table) | scan_clusters(reader, table) | table.stream.extents | said_used
    kept |= ExtentSet.of(Extent(boot.size, reader.size))
    return UsedMap(extents=kept, kind="used", notices=_describe_repairs(table))


def read_volume_facts(reader: BlockReader, table: MasterFileTable) -> VolumeFacts:
    """Read label, version and flags.

    Raises:
        DiskFormatError: ``$Volume`` lacks them.
    """
    record = table.read_record(reader, VOLUME_INDEX)
    facts = table.open_stream(reader, record, AttributeType.VOLUME_FACTS)
    if facts is None or facts.value is None or len(facts.value) < 12:
        raise DiskFormatError("NTFS $Volume: version and flags are missing", hint=HINT)
    name = table.open_stream(reader, record, AttributeType.VOLUME_NAME)
    label = b"" if name is None or name.value is None else name.value
    return VolumeFacts(
        label=label.decode("utf-16-le", "replace"),
        version=(facts.value[8], facts.value[9]),
        flags=int.from_bytes(facts.value[10:12], "little"),
    )


def read_bitmap(reader: BlockReader, table: MasterFileTable) -> ExtentSet:
    """The bytes that ``$Bitmap`` calls used; a part of it that was never written counts as used.

    Raises:
        DiskFormatError: It is missing, too short or not readable.
    """
    boot = table.boot
    record = table.read_record(reader, BITMAP_INDEX)
    bitmap = table.open_stream(reader, record, AttributeType.DATA)
    needed = (boot.cluster_count + 7) // 8
    if bitmap is None or bitmap.size < needed:
        found = 0 if bitmap is None else bitmap.size
        raise DiskFormatError(f"NTFS $Bitmap: {found} bytes, expected at least {needed}", hint=HINT)
    written = min(bitmap.initialised_size, needed)
    pieces = [ExtentSet.of(Extent(written * 8 * boot.cluster_size, max(boot.size, written * 8 * boot.cluster_size)))]
    extent_count = 0
    for offset in range(0, written, _BITMAP_READ_SIZE):
        piece = bitmap.read_at(reader, offset, min(_BITMAP_READ_SIZE, written - offset))
        count = min(len(piece) * 8, boot.cluster_count - offset * 8)
        base = offset * 8 * boot.cluster_size
        pieces.append(ExtentSet.from_bitmap(piece, count=count, unit=boot.cluster_size, base=base))
        extent_count += len(pieces[-1])
        if extent_count > _EXTENT_COUNT_MAX:
            raise DiskFormatError(f"NTFS $Bitmap: more than {_EXTENT_COUNT_MAX} pieces", hint=HINT)
    starts = np.concatenate([piece.starts for piece in pieces])
    used = ExtentSet.from_arrays(starts, np.concatenate([piece.ends for piece in pieces]))
    if not used.contains(Extent(0, boot.cluster_size)):
        raise DiskFormatError("NTFS $Bitmap: the cluster of the boot sector is marked as free", hint=HINT)
    return used


def explain_unclean(reader: BlockReader) -> Notice | None:
    """Why the files of a volume may not be what the next mount would show; ``None`` when nothing says so.

    Raises:
        DiskFormatError: The volume is broken.
    """
    return _find_doubt(reader, open_mft(reader, _require_boot(reader)))


def is_hibernated(reader: BlockReader) -> bool:
    """Whether the volume holds a system that will be resumed, or is in use by one, whatever else is wrong with it.

    Raises:
        DiskFormatError: The volume is broken.
    """
    return _is_hibernated(reader, open_mft(reader, _require_boot(reader)))


def holds_resumable(head: bytes) -> bool:
    """Whether a ``hiberfil.sys`` that begins like this will be resumed."""
    return head[:4] in _HIBERNATED


def _require_boot(reader: BlockReader) -> NtfsBoot:
    boot = find_boot(reader)
    if boot is None:
        raise DiskFormatError("NTFS boot sector: not found", hint=HINT)
    return boot


def _open_contents(reader: BlockReader, table: MasterFileTable, reference: Reference) -> Stream | None:
    return table.open_stream(reader, table.read_file(reader, reference), AttributeType.DATA)


def _describe_repairs(table: MasterFileTable) -> tuple[Notice, ...]:
    """What was read from a copy because the original is broken."""
    notices: list[Notice] = []
    if table.boot.from_backup:
        message = "The NTFS boot sector is broken; its copy at the end of the volume was used"
        notices.append(Notice(code="ntfs-backup-boot", message=message, hint="Windows cannot mount it like this."))
    if table.from_mirror:
        message = "The first record of the NTFS master file table is broken; its copy in $MFTMirr was used"
        notices.append(Notice(code="ntfs-mirror-used", message=message, hint=HINT))
    return tuple(notices)


def _find_doubt(reader: BlockReader, table: MasterFileTable) -> Notice | None:
    """The first reason not to trust ``$Bitmap``."""
    flaw = _find_flaw(read_volume_facts(reader, table))
    if flaw is not None:
        return flaw
    if _is_hibernated(reader, table):
        message = "Windows is hibernated or was shut down with fast startup; the volume is kept whole"
        return Notice(code="ntfs-hibernated", message=message, hint=_SHUTDOWN_HINT)
    log = table.open_stream(reader, table.read_record(reader, LOG_INDEX), AttributeType.DATA)
    reason = "it is missing" if log is None else explain_unclean_log(reader, log)
    if reason is not None:
        message = f"The NTFS volume was not closed properly ($LogFile: {reason}); it is kept whole"
        return Notice(code="ntfs-log-not-clean", message=message, hint=_SHUTDOWN_HINT)
    return None


def _find_flaw(facts: VolumeFacts) -> Notice | None:
    """What the volume says against itself, mounted or not."""
    if facts.version not in _VERSIONS:
        major, minor = facts.version
        message = f"NTFS version {major}.{minor} is not known; the volume is kept whole"
        return Notice(code="ntfs-version", message=message, hint="A newer Stillframe may know it.")
    if facts.flags & (_DIRTY | _CHKDSK_UNDER_WAY):
        message = "The NTFS volume is marked as dirty; it is kept whole"
        return Notice(code="ntfs-dirty", message=message, hint=_CHKDSK_HINT)
    return None


def _is_hibernated(reader: BlockReader, table: MasterFileTable) -> bool:
    """Whether ``hiberfil.sys`` holds a system that will be resumed."""
    file = find_in_root(reader, table, frozenset({_HIBERNATION_FILE})).get(_HIBERNATION_FILE)
    if file is None:
        return False
    contents = _open_contents(reader, table, file.reference)
    if contents is None or not contents.is_plain or contents.size < _HIBERNATION_HEADER_SIZE:
        # ntfs-3g: a short one marks a volume that another, hibernated system has in use.
        return True
    return holds_resumable(contents.read_at(reader, 0, 4))
