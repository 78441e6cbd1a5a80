r"""What a Windows needs in order to start from another place, or from a disk with another identity.

Answers: "which bytes of this disk must change, and which cannot be helped?" Looks at the disk as its partitions were
written to it, with what became of them, and gives patches; it writes nothing. Everything is replaced in place by
something of the same size, so no file system is mounted, and what is outside of the patches stays as it is.

A volume that was not closed is never changed: what its journal still holds would come back over the change. A registry
file that was not closed is changed together with what waits in its logs, when they fit to it (``hive_repair``). When a
Windows is hibernated on the disk, nothing is changed at all: if its start were repaired, it would go on where it
stopped, and write to where its partitions were. The fallback boot file of UEFI would be a new file, so it is only asked
for. No real Windows was ever started after this; what is known of its records comes from the sources that
``windows_disks`` and the others name.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from stillframe.block import BlockReader, WindowReader
from stillframe.block.edits import Edit, build_sectors, find_mismatch, order_edits
from stillframe.disk import Layout, Partition, Patch
from stillframe.errors import Cancelled, DiskFormatError, StillframeError
from stillframe.events import Notice
from stillframe.fs.base import Volume
from stillframe.fs.boot_moved import move_boot_sectors
from stillframe.fs.files.lookup import FileLookup, open_lookup
from stillframe.fs.files.placed import place_file
from stillframe.fs.ntfs import explain_unclean, holds_resumable, is_hibernated
from stillframe.fs.registry import identify
from stillframe.systems.hive import Hive
from stillframe.systems.hive_logs import read_logs
from stillframe.systems.hive_repair import HIVE_SIZE_REPAIRED_MAX, rewrite_with_logs
from stillframe.systems.registry_moves import move_boot_store, move_mounted_devices
from stillframe.systems.text_moves import TEXT_SIZE_MAX, move_boot_ini, move_reagent
from stillframe.systems.windows import SHUT_DOWN
from stillframe.systems.windows_moves import MovedPartition, Moves, Rewriting, left_out

_READS_MAX: Final = 200_000
"""Cells of one hive that are read: the largest known to be looked through has some ten thousand."""
_WHOLE_MAX: Final = 8 << 20
_WITH_FILES: Final = frozenset({"ntfs", "vfat"})
_LOADER: Final = "/EFI/Microsoft/Boot/bootmgfw.efi"
_FALLBACKS: Final = ("bootx64.efi", "bootia32.efi", "bootaa64.efi", "bootarm.efi")
_UNCLEAN: Final = {
    "ntfs-log-not-clean": "it was not closed",
    "ntfs-dirty": "it is marked as dirty",
    "ntfs-version": "its NTFS is of a version that is not known",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What must be written so that Windows starts.

    Attributes:
        patches: Whole sectors inside of partitions, in order, none next to another.
        done: What they do and where, as sentences.
        not_done: What stays as it is although it may be wrong, with the next step.
    """

    patches: tuple[Patch, ...]
    done: tuple[str, ...]
    not_done: tuple[Notice, ...]


def plan_windows_repair(
    reader: BlockReader, layout: Layout, moves: Moves, *, resized: frozenset[int] = frozenset()
) -> Repair:
    """Say what must change on a disk so that the Windows on it finds its partitions.

    It holds for the disk as it was copied: on one that was repaired already, records may be moved a second time. Only
    records of this disk are followed. Files are found by The Sleuth Kit, in this process.

    Args:
        reader: The disk, its partitions where they are now; a target that was written, or an overlay.
        layout: Of that disk; its table need not be written yet.
        moves: What became of the partitions that were taken over. Others are not looked into.
        resized: Numbers of partitions that ``ntfsresize`` has just marked, so that Windows checks them when it starts;
            they were clean before.

    Raises:
        ValueError: ``moves`` names a partition that the layout does not have, or another scheme: a bug of the caller.
    """
    if layout.scheme != moves.scheme:
        raise ValueError(f"moves of a {moves.scheme} disk for a {layout.scheme} layout")
    by_start = {partition.extent.start: partition for partition in layout.partitions}
    missing = [moved.new.start for moved in moves.partitions if moved.new.start not in by_start]
    if missing:
        raise ValueError(f"no partition begins at byte {missing[0]}")
    notices = [left_out(f"several partitions have the GUID {guid}: their records stay") for guid in moves.ambiguous]
    edits, done = list[Edit](), list[str]()
    opened = [(moved, by_start[moved.new.start]) for moved in moves.partitions]
    asleep = () if moves.is_nothing else tuple(_iter_hibernated(reader, [partition for _, partition in opened]))
    if asleep:
        return Repair(patches=(), done=(), not_done=(*notices, *asleep))
    for moved, partition in opened:
        is_marked = partition.number in resized
        window = WindowReader(reader, partition.extent)
        found = _repair_partition(window, partition, moved, moves, is_marked=is_marked)
        edits += [edit.shifted(partition.extent.start) for edit in found.edits]
        done += found.done
        notices += found.notices
    sectors = build_sectors(reader, order_edits(edits, what="this disk"), sector_size=layout.sector_size)
    patches = tuple(Patch(offset=offset, data=data) for offset, data in sectors)
    return Repair(patches=patches, done=tuple(done), not_done=tuple(dict.fromkeys(notices)))


def _iter_hibernated(reader: BlockReader, partitions: Sequence[Partition]) -> Iterator[Notice]:
    """What says that a Windows will go on from where it stopped. A volume that is broken says nothing."""
    for partition in partitions:
        window = WindowReader(reader, partition.extent)
        try:
            is_asleep = _is_hibernated(window, identify(window).volume)
        except Cancelled:
            raise
        except StillframeError:
            continue
        if is_asleep:
            message = (
                f"partition {partition.number}: Windows is hibernated in it, or was shut down with fast startup; "
                "nothing on the disk is changed, because it would go on and write to where its partitions were"
            )
            yield Notice(code="windows-hibernated", message=message, hint=SHUT_DOWN)


def _is_hibernated(window: WindowReader, volume: Volume) -> bool:
    if volume.filesystem == "ntfs":
        return is_hibernated(window)
    files = open_lookup(window, volume) if volume.filesystem == "vfat" else None
    return files is not None and holds_resumable(files.read_file("/hiberfil.sys", 0, 4) or b"")


def _repair_partition(
    window: WindowReader, partition: Partition, moved: MovedPartition, moves: Moves, *, is_marked: bool
) -> Rewriting:
    """One partition. What goes wrong in it costs only its own repair."""
    name = f"partition {partition.number}"
    try:
        identified = identify(window)
        if identified.notices and not moves.is_nothing:
            message = f"what is in it cannot be told, and is not changed ({identified.notices[0].message})"
            return _unread(name, message, identified.notices[0].hint)
        volume = identified.volume
        parts = list(_iter_rewritings(window, volume, partition, moved, moves))
        notices = [
            replace(notice, message=f"{where}: {notice.message}") for where, one in parts for notice in one.notices
        ]
        edits = order_edits((edit for _, one in parts for edit in one.edits), what=name)
        done = tuple(f"{where}: {sentence}" for where, one in parts for sentence in one.done)
        refusal = _refuse(window, volume, edits, name, is_marked=is_marked) if edits else None
    except Cancelled:
        raise
    except StillframeError as error:
        return _unread(name, f"it cannot be read, and nothing in it is changed ({error.message})", error.hint)
    if refusal is not None:
        return Rewriting(notices=(*notices, refusal))
    return Rewriting(edits=edits, done=done, notices=tuple(notices))


def _unread(name: str, message: str, hint: str) -> Rewriting:
    return Rewriting(notices=(Notice(code="windows-not-repaired", message=f"{name}: {message}", hint=hint),))


def _refuse(
    window: WindowReader, volume: Volume, edits: tuple[Edit, ...], name: str, *, is_marked: bool
) -> Notice | None:
    """Why a volume must not be changed although it should be; ``None`` when it may."""
    doubt = explain_unclean(window) if volume.filesystem == "ntfs" else None
    if doubt is not None and not (is_marked and doubt.code == "ntfs-dirty"):
        message = f"{name}: {_UNCLEAN.get(doubt.code, doubt.message)}; what names partitions in it is not changed"
        return Notice(code="windows-not-closed", message=message, hint=SHUT_DOWN)
    wrong = find_mismatch(window, edits)
    if wrong is not None:
        message = f"{name}: two ways to read its byte {wrong.offset} do not agree; nothing in it is changed"
        return Notice(code="windows-not-repaired", message=message, hint="Run chkdsk on it in Windows.")
    return None


def _iter_rewritings(
    window: WindowReader, volume: Volume, partition: Partition, moved: MovedPartition, moves: Moves
) -> Iterator[tuple[str, Rewriting]]:
    """What changes in a volume, in bytes of it, each with the name of what it is."""
    name = f"partition {partition.number}"
    yield name, _move_boot(window, volume, partition, moved)
    if volume.filesystem == "BitLocker" and not moves.is_nothing:
        message = "it is encrypted by BitLocker, and what names partitions in it is not changed"
        hint = "Once that Windows has started, look at its drive letters, and run 'reagentc /info'."
        yield name, Rewriting(notices=(Notice(code="windows-not-repaired", message=message, hint=hint),))
    if volume.filesystem not in _WITH_FILES:
        return
    files = open_lookup(window, volume)
    if files is None:
        if not moves.is_nothing:
            message = "its files are not read here, and what names partitions in them is not changed"
            yield name, Rewriting(notices=(Notice(code="windows-not-repaired", message=message),))
        return
    if volume.filesystem == "vfat" and files.find(_LOADER) is not None:
        yield name, _ask_for_fallback(files)
    for path, move in _FILES.items() if not moves.is_nothing else ():
        yield f"{name}, {path}", _rewrite(_Opened(window, volume.filesystem, files), path, move, moves)


def _move_boot(window: WindowReader, volume: Volume, partition: Partition, moved: MovedPartition) -> Rewriting:
    old, new = moved.old.start, moved.new.start
    found = move_boot_sectors(window, volume.filesystem, old_start=old, new_start=new)
    # Those of a logical partition may count from the record before it: nobody knows which Windows wants.
    notices = () if partition.logical else found.notices
    done = f"its boot sectors say where it begins now: byte {new}, not {old}"
    return Rewriting(edits=found.edits, done=(done,) if found.edits else (), notices=notices)


class _Opened(NamedTuple):
    """A volume whose files can be read."""

    window: WindowReader
    filesystem: str
    files: FileLookup


def _rewrite(volume: _Opened, path: str, move: "_Move", moves: Moves) -> Rewriting:
    """One file, as edits of its volume. What goes wrong in it costs only its own repair."""
    try:
        placed = place_file(volume.window, volume.filesystem, volume.files, path)
        if placed is None:
            return Rewriting()
        found = move(_Bytes(volume.files, path, placed.size), moves)
        edits = tuple(placed.spread(order_edits(found.edits, what=path))) if not placed.flaw else ()
    except Cancelled:
        raise
    except StillframeError as error:
        return _broken(error.message, error.hint)
    if found.edits and placed.flaw:
        refusal = _broken(placed.flaw, "Start the recovery environment of that Windows, and its 'Startup Repair'.")
        return Rewriting(notices=(*found.notices, *refusal.notices))
    return replace(found, edits=edits)


def _ask_for_fallback(files: FileLookup) -> Rewriting:
    """What starts from this disk on another mainboard, where no entry of the firmware names it."""
    names = {name.lower() for name in files.list_names("/EFI/Boot")}
    if names.intersection(_FALLBACKS):
        return Rewriting()
    message = f"it has no fallback boot file: only a computer whose firmware has an entry for {_LOADER} starts from it"
    hint = r"Copy \EFI\Microsoft\Boot\bootmgfw.efi to \EFI\Boot\bootx64.efi, or choose the file in the firmware."
    return Rewriting(notices=(Notice(code="efi-fallback-missing", message=message, hint=hint),))


class _Bytes:
    """The bytes of a file, small ones read at once."""

    def __init__(self, files: FileLookup, path: str, size: int) -> None:
        self._files = files
        self._path = path
        self._left = _READS_MAX
        self._whole = (files.read_file(path, 0, size) or b"") if size <= _WHOLE_MAX else None
        self.size = size

    def read(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes.

        Raises:
            DiskFormatError: Too much of the file was asked for: what it holds leads in circles.
        """
        self._left -= 1
        if self._left < 0:
            raise DiskFormatError(f"{self._path}: it leads in circles", hint="Run chkdsk on its volume in Windows.")
        if self._whole is not None:
            return self._whole[offset : offset + size]
        return self._files.read_file(self._path, offset, size) or b""

    def read_logs(self) -> tuple[bytes, ...]:
        """The logs of a registry file."""
        return read_logs(self._files.read_file, self._path)

    def read_whole(self) -> bytes:
        """All its bytes."""
        return self._files.read_file(self._path, 0, self.size) or b""

    def hold(self, whole: bytes) -> None:
        """Have it read as if it were these bytes."""
        self._whole = whole


_Move = Callable[[_Bytes, Moves], Rewriting]


def _hive(move: Callable[[Hive, Moves], Rewriting]) -> _Move:
    def move_file(contents: _Bytes, moves: Moves) -> Rewriting:
        def move_closed(whole: bytes) -> Rewriting:
            contents.hold(whole)
            closed = Hive.open(contents.read)
            return move(closed, moves) if closed else Rewriting()

        hive = Hive.open(contents.read)
        if hive is None:
            return _broken("it is no registry file", "An older image may have it whole.")
        logs = contents.read_logs() if hive.is_dirty and contents.size <= HIVE_SIZE_REPAIRED_MAX else ()
        return rewrite_with_logs(contents.read_whole(), logs, move_closed) if any(logs) else move(hive, moves)

    return move_file


def _text(move: Callable[[bytes, Moves], Rewriting]) -> _Move:
    def move_file(contents: _Bytes, moves: Moves) -> Rewriting:
        if contents.size > TEXT_SIZE_MAX:
            return _broken(f"{contents.size} bytes are too many for it", "An older image may have it whole.")
        return move(contents.read(0, TEXT_SIZE_MAX), moves)

    return move_file


def _broken(message: str, hint: str) -> Rewriting:
    notice = Notice(code="windows-not-repaired", message=f"it is not changed: {message}", hint=hint)
    return Rewriting(notices=(notice,))


_FILES: Final[dict[str, _Move]] = {
    "/EFI/Microsoft/Boot/BCD": _hive(move_boot_store),
    "/Boot/BCD": _hive(move_boot_store),
    "/Windows/System32/config/SYSTEM": _hive(move_mounted_devices),
    "/WINNT/System32/config/SYSTEM": _hive(move_mounted_devices),
    "/Windows/System32/Recovery/ReAgent.xml": _text(move_reagent),
    "/Recovery/WindowsRE/ReAgent.xml": _text(move_reagent),
    "/boot.ini": _text(move_boot_ini),
}
"""Every file that names partitions by place or identity. Names are compared without regard to case."""
