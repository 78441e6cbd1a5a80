"""What the next mount of an ext3 or ext4 volume would write from its journal, without writing anything.

Answers: "how will this volume look after its journal was replayed?" The answer is a mapping from blocks to their new
contents, for an ``OverlayReader``; contents stay in the journal and are read when asked for, so memory grows with the
number of blocks in the live log, not with their size. Fast commits are noticed, never replayed.

It follows the three passes of Linux ``fs/jbd2/recovery.c`` (``do_one_pass``): where the log ends, what was revoked,
what is written. Where Linux would fail to mount, this raises; transactions behind the end of the log are ignored.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.crc32c import CRC32C, crc32_be, crc32c, crc_rows
from stillframe.fs.ext.inode import BlockRuns
from stillframe.fs.ext.journal import (
    JOURNAL_HINT,
    JOURNAL_MAGIC,
    JOURNAL_SUPERBLOCK_SIZE,
    BlockType,
    Commit,
    JournalCompat,
    JournalIncompat,
    JournalSuperblock,
    Tag,
    is_block_intact,
    is_commit_intact,
    parse_commit,
    parse_header,
    parse_journal_superblock,
    parse_revokes,
    parse_tags,
)

LOG_BLOCKS_MAX: Final = 1 << 20
"""Blocks of a live log that are followed (4 GiB of 4 KiB); bounds time and memory."""
REVOKES_MAX: Final = 1 << 20
"""Revoked blocks that are kept in mind."""
_FAST_COMMIT_HEAD: Final = 9  # EXT4_FC_TAG_HEAD, Linux fs/ext4/fast_commit.h
_SEQUENCE_MASK: Final = 0xFFFFFFFF


class JournalFile:
    """The blocks of a journal that is a file of the volume, by their number inside the journal."""

    def __init__(self, reader: BlockReader, runs: BlockRuns, *, block_size: int, blocks_count: int) -> None:
        self._reader = reader
        self._runs = runs
        self._block_size = block_size
        self.blocks_count = blocks_count

    def superblock(self) -> JournalSuperblock:
        """Read and parse the journal's superblock."""
        raw = self.read(np.zeros(1, np.int64)).tobytes()[:JOURNAL_SUPERBLOCK_SIZE]
        return parse_journal_superblock(raw, blocks_max=self.blocks_count, block_size=self._block_size)

    def block(self, number: int) -> bytes:
        """One block."""
        return self.read(np.array([number], np.int64)).tobytes()

    def places(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where some blocks lie, as blocks of the volume."""
        return self._runs.places(numbers)

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Some blocks, a row each. Neighbours on the volume are one read."""
        size = self._block_size
        places = self._runs.places(numbers)
        rows = np.empty((len(numbers), size), np.uint8)
        cuts = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(numbers)]
        for first, end in itertools.pairwise(cuts):
            self._reader.read_into(int(places[first]) * size, rows[first:end].data.cast("B"))
        return rows


class JournalBlocks(Mapping[int, bytes]):
    """New contents by block of the volume, read from the journal at the moment they are asked for."""

    def __init__(self, journal: JournalFile, places: Mapping[int, tuple[int, bool]]) -> None:
        self._journal = journal
        self._places = places

    def __getitem__(self, block: int) -> bytes:
        number, escaped = self._places[block]
        contents = self._journal.block(number)
        return JOURNAL_MAGIC.to_bytes(4, "big") + contents[4:] if escaped else contents

    def __contains__(self, block: object) -> bool:
        return block in self._places

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What replaying a journal comes to.

    Attributes:
        blocks: New contents by block of the volume.
        transactions_count: Committed transactions in the log.
        fast_commits: Whether fast commits follow them, whose changes are not in ``blocks``.
    """

    blocks: JournalBlocks
    transactions_count: int
    fast_commits: bool


@dataclass(slots=True)
class _Transaction:
    """What one transaction announced: tags, the log blocks that hold their contents, and revoked blocks."""

    sequence: int
    tags: list[Tag] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    revoked: list[int] = field(default_factory=list)


def read_replay(journal: JournalFile, superblock: JournalSuperblock, *, blocks_count: int) -> Replay:
    """Follow the log and find the newest committed contents of every block in it.

    Args:
        journal: The journal's blocks.
        superblock: Of the journal.
        blocks_count: Blocks of the volume.

    Raises:
        DiskFormatError: A checksum inside a committed transaction is wrong, the log is longer than this program
            follows, or a block belongs outside the volume.
    """
    transactions = _LogScan(journal, superblock).committed() if superblock.start else []
    revoked: dict[int, int] = {}
    for order, transaction in enumerate(transactions):
        revoked.update(dict.fromkeys(transaction.revoked, order))
    places: dict[int, tuple[int, bool]] = {}
    for order, transaction in enumerate(transactions):
        pairs = zip(transaction.tags, transaction.places, strict=True)
        kept = [(tag, place) for tag, place in pairs if revoked.get(tag.block, -1) < order]
        _check_tags(journal, superblock, transaction.sequence, kept)
        for tag, place in kept:
            if tag.block >= blocks_count:
                raise _broken(f"transaction {transaction.sequence} changes block {tag.block} of {blocks_count}")
            places[tag.block] = (place, tag.escaped)
    end_sequence = (superblock.sequence + len(transactions)) & _SEQUENCE_MASK
    return Replay(
        blocks=JournalBlocks(journal, places),
        transactions_count=len(transactions),
        fast_commits=bool(superblock.start) and _has_fast_commits(journal, superblock, end_sequence),
    )


class _LogScan:
    """The first pass: follows the log block by block until it ends."""

    def __init__(self, journal: JournalFile, superblock: JournalSuperblock) -> None:
        self._journal = journal
        self._superblock = superblock
        self._position = superblock.start
        self._steps_left = min(superblock.end - superblock.first, LOG_BLOCKS_MAX)
        self._revokes_left = REVOKES_MAX
        self._current = _Transaction(superblock.sequence)
        self._doubtful = False
        self._old_checksum = 0xFFFFFFFF
        self._last_commit_seconds = 0

    def committed(self) -> list[_Transaction]:
        """Every transaction that was committed, in order."""
        transactions: list[_Transaction] = []
        while True:
            block = self._journal.block(self._position)
            header = parse_header(block)
            if header is None or header.sequence != self._current.sequence:
                return transactions
            self._take(1)
            if header.kind == BlockType.DESCRIPTOR:
                self._add_tags(block)
            elif header.kind == BlockType.REVOKE:
                self._add_revokes(block)
            elif header.kind == BlockType.COMMIT:
                if not self._is_committed(block):
                    return transactions
                transactions.append(self._current)
                self._current = _Transaction((self._current.sequence + 1) & _SEQUENCE_MASK)
                self._old_checksum = 0xFFFFFFFF
            else:
                return transactions

    def _take(self, count: int) -> list[int]:
        """Go on by some blocks, round the end of the log, at most once through all of it."""
        if count > self._steps_left:
            raise _broken(f"its log has no end within the blocks that are followed (at most {LOG_BLOCKS_MAX})")
        self._steps_left -= count
        first, length = self._superblock.first, self._superblock.end - self._superblock.first
        start = self._position - first
        self._position = first + (start + count) % length
        return [first + (start + step) % length for step in range(count)]

    def _add_tags(self, block: bytes) -> None:
        self._doubtful |= not is_block_intact(self._superblock, block)
        tags = parse_tags(self._superblock, block)
        places = self._take(len(tags))
        if JournalCompat.CHECKSUM in self._superblock.compat:
            rows = self._journal.read(np.array(places, np.int64))
            self._old_checksum = crc32_be(block + rows.tobytes(), seed=self._old_checksum)
        self._current.tags += tags
        self._current.places += places

    def _add_revokes(self, block: bytes) -> None:
        if not is_block_intact(self._superblock, block):
            self._doubtful = True
            return
        revoked = parse_revokes(self._superblock, block)
        self._revokes_left -= len(revoked)
        if self._revokes_left < 0:
            raise _broken(f"more than {REVOKES_MAX} blocks are revoked in it")
        self._current.revoked += revoked

    def _is_committed(self, block: bytes) -> bool:
        """Whether a commit block ends its transaction; ``False`` when the log ended before it."""
        commit = parse_commit(block)
        intact = is_commit_intact(self._superblock, block) and self._is_old_checksum_right(commit)
        if self._doubtful or not intact:
            if commit.seconds < self._last_commit_seconds:
                return False  # left over from an earlier round through the log
            if not self._doubtful and JournalIncompat.ASYNC_COMMIT in self._superblock.incompat:
                return False  # written before its blocks were, which this feature allows
            raise _broken(f"the checksum of transaction {self._current.sequence} is wrong")
        self._last_commit_seconds = commit.seconds
        return True

    def _is_old_checksum_right(self, commit: Commit) -> bool:
        """The checksum over a whole transaction, of journals before CRC-32C (``JBD2_FEATURE_COMPAT_CHECKSUM``)."""
        if JournalCompat.CHECKSUM not in self._superblock.compat:
            return True
        written = (commit.checksum_type, commit.checksum_size, commit.checksum)
        return written in ((1, 4, self._old_checksum), (0, 0, 0))  # 1: JBD2_CRC32_CHKSUM


def _check_tags(
    journal: JournalFile, superblock: JournalSuperblock, sequence: int, kept: list[tuple[Tag, int]]
) -> None:
    """Compare each block's checksum with its tag's. Source: ``jbd2_block_tag_csum_verify``."""
    if not superblock.has_block_checksums:
        return
    seed = crc32c(sequence.to_bytes(4, "big"), seed=superblock.checksum_seed)
    mask = np.uint32(0xFFFFFFFF if JournalIncompat.CSUM_V3 in superblock.incompat else 0xFFFF)
    for first in range(0, len(kept), 256):
        few = kept[first : first + 256]
        rows = journal.read(np.array([place for _, place in few], np.int64))
        found = crc_rows(rows, seeds=np.full(len(few), seed, np.uint32), polynomial=CRC32C) & mask
        wrong = np.flatnonzero(found != np.array([tag.checksum for tag, _ in few], np.uint32))
        if len(wrong):
            block = few[int(wrong[0])][0].block
            raise _broken(f"the checksum of block {block} in transaction {sequence} is wrong")


def _has_fast_commits(journal: JournalFile, superblock: JournalSuperblock, sequence: int) -> bool:
    """Whether the fast-commit area may hold something newer than the last transaction.

    Every series of fast commits begins a block with a head that names the transaction it belongs to; older ones are
    left over. Source: Linux ``fs/ext4/fast_commit.c``, ``ext4_fc_replay_scan``, ``struct ext4_fc_head``.
    """
    for number in range(superblock.end, superblock.blocks_count):
        block = journal.block(number)
        tag, transaction = int.from_bytes(block[0:2], "little"), int.from_bytes(block[8:12], "little")
        behind = (sequence - transaction) & _SEQUENCE_MASK
        if tag == _FAST_COMMIT_HEAD and not 0 < behind < 1 << 31:
            return True
    return False


def _broken(what: str) -> DiskFormatError:
    return DiskFormatError(f"ext journal: {what}", hint=JOURNAL_HINT)
