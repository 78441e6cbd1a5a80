"""ext2, ext3 and ext4 as a ``Filesystem``: the verdict whether the map of used blocks may be trusted.

Answers: "which bytes of this volume matter, and is that proven?" A clean volume's bitmaps are read as they are. When
the journal has yet to be replayed, it is replayed in memory and the union of both views is kept: bitmaps on the disk
alone would call the blocks of fsynced files free. Whatever is uncertain is stored whole. It never writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.block import BlockReader, OverlayReader, ReadFault
from stillframe.crc32c import crc32c
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.fs.base import LeftOutFile, UsedMap, Volume, raw_map
from stillframe.fs.ext.bitmaps import read_used
from stillframe.fs.ext.groups import CHECK_HINT, GroupTable, metadata_extents, read_groups
from stillframe.fs.ext.inode import read_inode, read_runs
from stillframe.fs.ext.journal import JOURNAL_HINT, JOURNAL_SUPERBLOCK_SIZE, JournalSuperblock
from stillframe.fs.ext.recovery import JournalFile, Replay, read_replay
from stillframe.fs.ext.superblock import (
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
    UNSUPPORTED_INCOMPAT,
    UNSUPPORTED_RO_COMPAT,
    Compat,
    Incompat,
    RoCompat,
    State,
    Superblock,
    parse_superblock,
)
from stillframe.fs.ext.swapfiles import find_swap_files
from stillframe.units import format_size

_NEWER_HINT: Final = "A newer Stillframe may know it."
_NOT_OF_STATE: Final = frozenset({"ext-unknown-feature", "ext-unsupported-feature", "ext-truncated"})


class ExtFilesystem:
    """ext2, ext3, ext4, and the external journal of one (``jbd``)."""

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is; ``None`` when it is not ext."""
        superblock = _read_superblock(reader)
        if superblock is None:
            return None
        return Volume(
            filesystem=superblock.kind,
            label=superblock.label,
            uuid=superblock.uuid_text,
            block_size=superblock.block_size,
        )

    def used_map(self, reader: BlockReader) -> UsedMap:
        """The bytes in use: proven by a clean volume, or by its journal replayed in memory; otherwise all of them."""
        superblock = _read_superblock(reader)
        if superblock is None:
            raise DiskFormatError("ext superblock: there is none at byte 1024", hint="Ask identify first.")
        refusal = _refusal(superblock, reader)
        if refusal is not None:
            return raw_map(reader, refusal)
        try:
            if Incompat.RECOVER in superblock.incompat:
                return _recovered_map(reader, superblock)
            return _clean_map(reader, superblock)
        except DiskFormatError as error:
            return raw_map(reader, _notice("ext-contradiction", error.message, error.hint))
        except ReadFault as fault:
            return raw_map(reader, _notice("ext-unreadable", fault.message, fault.hint or CHECK_HINT))

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:
        """Swap files of a clean volume's root directory; their header page is kept."""
        superblock = _read_superblock(reader)
        if superblock is None or Incompat.RECOVER in superblock.incompat or _refusal(superblock, reader) is not None:
            return ()
        try:
            table = read_groups(reader, superblock)
            files = find_swap_files(reader, superblock, table)
            if not files:
                return ()
            own = read_used(reader, superblock, table, strict=True) - metadata_extents(superblock, table)
        except (DiskFormatError, ReadFault):
            return ()
        # A swap file over blocks that are free or metadata shows a damaged volume, and then nothing is left out.
        return files if all((file.extents - own).size == 0 for file in files) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedVolume:
    """A volume as the next mount would see it.

    Attributes:
        view: Its bytes: the journal replayed and empty, the superblock no longer asking for it.
        transactions_count: Transactions that were in the log.
        blocks_count: Blocks that they change.
        fast_commits: Whether fast commits follow them, which are not replayed: the newest changes are not in ``view``.
    """

    view: BlockReader
    transactions_count: int
    blocks_count: int
    fast_commits: bool


def replay_volume(reader: BlockReader) -> ReplayedVolume | None:
    """A volume whose journal was replayed, with nothing written; ``None`` when it asks for none.

    Raises:
        DiskFormatError: It is no ext, or its journal cannot be replayed: what the files hold now cannot be told.
        ReadFault: The device failed.
    """
    superblock = _read_superblock(reader)
    if superblock is None:
        raise DiskFormatError("ext superblock: there is none at byte 1024", hint="Ask identify first.")
    if Incompat.RECOVER not in superblock.incompat:
        return None
    table = read_groups(reader, superblock)
    journal, log = _open_journal(reader, superblock, table)
    replay = read_replay(journal, log, blocks_count=superblock.blocks_count)
    size = superblock.block_size
    view = OverlayReader(reader, block_size=size, blocks=replay.blocks)
    _require_same_layout(superblock, _read_superblock(view))
    ends = _clear_recover(view.read_at(superblock.superblock_block * size, size), place=SUPERBLOCK_OFFSET % size)
    own = int(journal.places(np.zeros(1, np.int64))[0])
    emptied = _empty_journal(journal.block(0), log, transactions_count=replay.transactions_count)
    last: Mapping[int, bytes] = {superblock.superblock_block: ends, own: emptied}
    return ReplayedVolume(
        view=OverlayReader(view, block_size=size, blocks=last), transactions_count=replay.transactions_count,
        blocks_count=len(replay.blocks), fast_commits=replay.fast_commits,
    )  # fmt: skip


def leave_unreplayed(reader: BlockReader) -> BlockReader:
    """A volume as it stands on the disk, though its superblock asks for a replay: some of its files may be old."""
    superblock = _read_superblock(reader)
    if superblock is None or Incompat.RECOVER not in superblock.incompat:
        return reader
    size, number = superblock.block_size, superblock.superblock_block
    block = _clear_recover(reader.read_at(number * size, size), place=SUPERBLOCK_OFFSET % size)
    return OverlayReader(reader, block_size=size, blocks={number: block})


def explain_unclean(reader: BlockReader) -> Notice | None:
    """Why the files of a volume may not be what the next mount would show; ``None`` when nothing says so."""
    superblock = _read_superblock(reader)
    notice = None if superblock is None else _refusal(superblock, reader)
    return notice if notice is not None and notice.code not in _NOT_OF_STATE else None


def _clear_recover(block: bytes, *, place: int) -> bytes:
    """The block of the superblock, which no longer asks for a replay. Source: ``struct ext4_super_block``."""
    raw = bytearray(block[place : place + SUPERBLOCK_SIZE])
    incompat = int.from_bytes(raw[96:100], "little") & ~int(Incompat.RECOVER)
    raw[96:100] = incompat.to_bytes(4, "little")
    if int.from_bytes(raw[100:104], "little") & RoCompat.METADATA_CSUM:
        raw[1020:1024] = crc32c(bytes(raw[:1020])).to_bytes(4, "little")
    return block[:place] + bytes(raw) + block[place + SUPERBLOCK_SIZE :]


def _empty_journal(block: bytes, log: JournalSuperblock, *, transactions_count: int) -> bytes:
    """The journal's first block as Linux leaves it: ``jbd2_journal_recover``, ``jbd2_mark_journal_empty``."""
    raw = bytearray(block[:JOURNAL_SUPERBLOCK_SIZE])
    raw[24:28] = ((log.sequence + transactions_count + 1) & 0xFFFFFFFF).to_bytes(4, "big")
    raw[28:32] = bytes(4)
    if log.has_block_checksums:
        raw[252:256] = bytes(4)
        raw[252:256] = crc32c(bytes(raw)).to_bytes(4, "big")
    return bytes(raw) + block[JOURNAL_SUPERBLOCK_SIZE:]


def _require_whole(replay: Replay) -> Replay:
    if replay.fast_commits:
        message = "ext journal: it holds fast commits, which this version does not replay"
        raise DiskFormatError(message, hint=JOURNAL_HINT)
    return replay


def _require_same_layout(before: Superblock, after: Superblock | None) -> Superblock:
    if after is None or after.geometry != before.geometry:
        raise DiskFormatError("ext journal: it changes the layout of the file system", hint=JOURNAL_HINT)
    return after


def replay_journal(reader: BlockReader, superblock: Superblock, table: GroupTable) -> Replay:
    """What replaying the volume's own journal comes to, with nothing written.

    Raises:
        DiskFormatError: There is no journal inside the volume, or it cannot be trusted.
    """
    journal, log = _open_journal(reader, superblock, table)
    return read_replay(journal, log, blocks_count=superblock.blocks_count)


def _read_superblock(reader: BlockReader) -> Superblock | None:
    if reader.size < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE:
        return None
    return parse_superblock(reader.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE))


def _refusal(superblock: Superblock, reader: BlockReader) -> Notice | None:
    """Why the superblock alone forbids to trust any map; ``None`` when it does not."""
    for name, flags, known, unsupported in (
        ("incompat", superblock.incompat, sum(Incompat), UNSUPPORTED_INCOMPAT),
        ("ro_compat", superblock.ro_compat, sum(RoCompat), UNSUPPORTED_RO_COMPAT),
    ):
        if flags & ~known:
            message = f"The volume uses an {name} feature this program does not know: {flags & ~known:#x}."
            return _notice("ext-unknown-feature", message, _NEWER_HINT)
        if flags & unsupported:
            message = f"The volume uses an {name} feature that is not read: {(flags & unsupported).name}."
            return _notice("ext-unsupported-feature", message, "Nothing needs to be done: it is stored whole.")
    if not superblock.checksum_good:
        return _notice("ext-checksum", "The checksum of the superblock is wrong.", CHECK_HINT)
    if superblock.size > reader.size:
        message = f"The file system is {format_size(superblock.size)}, its partition {format_size(reader.size)}."
        return _notice("ext-truncated", message, CHECK_HINT)
    if superblock.state & State.ERROR:
        return _notice("ext-errors", "The file system has noted errors in itself.", CHECK_HINT)
    if not superblock.state & State.VALID or superblock.state & State.ORPHANS:
        message = "The file system was not cleanly unmounted, and has no journal that would repair it."
        return _notice("ext-not-clean", message, CHECK_HINT)
    return None


def _clean_map(reader: BlockReader, superblock: Superblock) -> UsedMap:
    table = read_groups(reader, superblock)
    if _has_own_journal(superblock):
        _, log = _open_journal(reader, superblock, table)
        if log.start:
            message = "ext journal: it is not empty, but the superblock says that it needs no replay"
            raise DiskFormatError(message, hint=CHECK_HINT)
    return UsedMap(extents=read_used(reader, superblock, table, strict=True), kind="used")


def _recovered_map(reader: BlockReader, superblock: Superblock) -> UsedMap:
    """The union of the maps before and after the journal is replayed."""
    table = read_groups(reader, superblock)
    before = read_used(reader, superblock, table, strict=False)
    replay = _require_whole(replay_journal(reader, superblock, table))
    view = OverlayReader(reader, block_size=superblock.block_size, blocks=replay.blocks)
    replayed = _require_same_layout(superblock, _read_superblock(view))
    refusal = _refusal(replayed, view)
    if refusal is not None:
        return raw_map(reader, refusal)
    after = read_used(view, replayed, read_groups(view, replayed), strict=True)
    notice = _notice(
        "ext-journal-replayed",
        f"The volume was not unmounted. Its journal ({replay.transactions_count} transactions, "
        f"{len(replay.blocks)} blocks) was replayed in memory to find the blocks in use; the source was not changed.",
        "Nothing needs to be done: the restored volume replays its journal when it is mounted.",
    )
    return UsedMap(extents=before | after, kind="used", notices=(notice,))


def _has_own_journal(superblock: Superblock) -> bool:
    return Compat.HAS_JOURNAL in superblock.compat and bool(superblock.journal_inode) and not superblock.journal_device


def _open_journal(
    reader: BlockReader, superblock: Superblock, table: GroupTable
) -> tuple[JournalFile, JournalSuperblock]:
    if not _has_own_journal(superblock):
        raise DiskFormatError("ext journal: it lies on another device", hint=JOURNAL_HINT)
    inode = read_inode(reader, superblock, table, superblock.journal_inode)
    blocks_count = inode.size // superblock.block_size
    runs = read_runs(reader, superblock, inode)
    if not inode.is_file or blocks_count == 0 or not runs.covers(blocks_count):
        raise DiskFormatError(
            f"ext journal: inode {inode.number} is no file whose {blocks_count} blocks are all there",
            hint=JOURNAL_HINT,
        )
    journal = JournalFile(reader, runs, block_size=superblock.block_size, blocks_count=blocks_count)
    log = journal.superblock()
    if log.error:
        raise DiskFormatError(f"ext journal: it notes error {log.error} of the file system", hint=CHECK_HINT)
    return journal, log


def _notice(code: str, message: str, hint: str) -> Notice:
    return Notice(code=code, message=message, hint=hint)
