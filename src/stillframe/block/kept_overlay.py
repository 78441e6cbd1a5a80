"""Changes to a disk that are kept in a file, and can be opened again over the same image.

Answers: "may I stop the machine that runs from this image, and go on tomorrow?" What a flush has kept is never written
over: a changed block goes to another place, and the next flush makes it count. So a file that was cut off at any moment
shows the disk as it was at the last flush, and every block is checked when it is read.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stillframe.block import syscalls
from stillframe.block.base import BlockReader, Buffer, ExtentKind, KnownExtent, check_range
from stillframe.block.changed_blocks import ChangedBlocks
from stillframe.block.overlay_format import (
    BLOCK_PAGES,
    BLOCK_SIZE,
    ENTRIES_MAX,
    FIRST_RECORD_PAGE,
    MARK_PAGES,
    NO_PAGE,
    PAGE_SIZE,
    Entry,
    Record,
    Subject,
    build_header,
    build_mark,
    build_record,
    checksum,
    damage,
    parse_header,
    parse_mark,
    parse_record,
)
from stillframe.block.overlay_pages import Pages
from stillframe.errors import TargetError, UsageError
from stillframe.extents import Extent

_ZEROS: Final = bytes(BLOCK_SIZE)
_ZEROS_SUM: Final = checksum(_ZEROS)
_CREATE: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


class KeptOverlay(ChangedBlocks):
    """A ``BlockWriter`` over a reader, with its changes in a file; made by ``open_overlay``.

    Reads of changed blocks take turns; what shows through does not.
    """

    def __init__(self, inner: BlockReader, pages: Pages, overlay_id: bytes) -> None:
        super().__init__(inner, block_size=BLOCK_SIZE)
        self._pages = pages
        self._id = overlay_id
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[int, bytes]] = {}
        self._fresh: dict[int, int] = {}
        self._free: list[int] = []
        self._left: list[int] = []
        self._sequence = 0
        self._next_record = FIRST_RECORD_PAGE
        self._end = FIRST_RECORD_PAGE + 1
        self._failed: TargetError | None = None

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``. Raises ``DamagedError`` where a kept block is not what was written."""
        view = memoryview(buffer).cast("B")
        check_range(self.size, offset, len(view))
        for part, is_changed in self._parts(Extent(offset, offset + len(view))):
            into = view[part.start - offset : part.end - offset]
            if not is_changed:
                self._inner.read_into(part.start, into)
                continue
            for number, piece in _blocks(part):
                with self._lock:
                    block = self._block(number)
                start = piece.start - number * BLOCK_SIZE
                into[piece.start - part.start : piece.end - part.start] = block[start : start + piece.size]

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """Changed blocks are data; of the rest what the inner reader knows."""
        check_range(self.size, within.start, within.size)
        for part, is_changed in self._parts(within):
            if is_changed:
                yield KnownExtent(part, ExtentKind.DATA)
            else:
                yield from self._inner.known_extents(part)

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        """Write all of ``data``.

        Raises:
            TargetError: There is no room for it.
            DamagedError: A block that is changed in part is not what was written.
        """
        view = memoryview(data).cast("B")
        check_range(self.size, offset, len(view))
        with self._lock:
            for number, piece in _blocks(Extent(offset, offset + len(view))):
                self._write_block(number, piece, view[piece.start - offset : piece.end - offset])

    def zero(self, extent: Extent) -> None:
        """Make a range read as zeros; whole blocks take no room."""
        check_range(self.size, extent.start, extent.size)
        for part, is_changed in list(self._parts(extent)):
            for known in [KnownExtent(part, ExtentKind.DATA)] if is_changed else self._inner.known_extents(part):
                if known.kind is ExtentKind.DATA:
                    self._zero(known.extent)

    def flush(self) -> None:
        """Return when what was written would survive a power cut."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._fresh:
                try:
                    self._keep()
                except TargetError as error:
                    self._failed = error  # what fsync(2) could not write it may forget: a second try proves nothing
                    raise

    def replay(self) -> None:
        """Read what was kept. Called once, before anything else.

        Raises:
            DamagedError: Something that was kept is missing, or is not what was written.
        """
        marks = [parse_mark(self._pages.read(page), self._id) for page in MARK_PAGES]
        promised = max((mark for mark in marks if mark is not None), default=None)
        if promised is None:
            raise damage(self._pages.path, "nothing says how much of it was kept")
        size = os.fstat(self._pages.descriptor).st_size
        waiting: list[Record] = []
        seen: set[int] = set()
        page, reach = FIRST_RECORD_PAGE, FIRST_RECORD_PAGE + 1
        while True:
            number = self._sequence + len(waiting) + 1
            record = parse_record(self._pages.read(page), self._id, sequence=number, thing=self._pages.path)
            if record is None:
                break
            waiting.append(record)
            page = record.next_page
            reach = max([reach, page + 1, *(entry.page + BLOCK_PAGES for entry in record.entries if entry.page)])
            if record.is_last:
                self._take(waiting, size)
                seen.update(entry.page for one in waiting for entry in one.entries)
                self._next_record, self._end, waiting = page, reach, []
        if self._sequence < promised:
            raise damage(self._pages.path, f"record {self._sequence + 1} of {promised} is not what was written")
        self._end = max(self._end, -(-size // PAGE_SIZE))
        self._free = sorted(seen - {page for page, _ in self._kept.values()} - {NO_PAGE})

    def close(self) -> None:
        """Keep everything, and close the file; twice is once."""
        if self._pages.descriptor < 0:
            return
        try:
            self.flush()
            self._pages.sync()
        finally:
            os.close(self._pages.descriptor)
            self._pages.descriptor = -1

    def _take(self, records: list[Record], size: int) -> None:
        """Let the entries of one flush count."""
        for entry in (entry for record in records for entry in record.entries):
            if entry.block >= len(self._changed) or (entry.page and entry.page <= FIRST_RECORD_PAGE):
                raise damage(self._pages.path, f"it keeps block {entry.block} at page {entry.page}, which cannot be")
            if entry.page and (entry.page + BLOCK_PAGES) * PAGE_SIZE > size:
                raise damage(self._pages.path, f"it has {size} bytes and is cut short")
            self._kept[entry.block] = (entry.page, entry.checksum)
            self._changed[entry.block] = True
        self._sequence += len(records)

    def _block(self, number: int) -> bytes:
        """A changed block, whole; the lock is held."""
        fresh = self._fresh.get(number)
        page, expected = (fresh, b"") if fresh is not None else self._kept[number]
        if page == NO_PAGE:
            return _ZEROS
        raw = self._pages.read(page, BLOCK_PAGES)
        if len(raw) != BLOCK_SIZE or (expected and checksum(raw) != expected):
            raise damage(self._pages.path, f"what was kept of byte {number * BLOCK_SIZE} is not what was written")
        return raw

    def _write_block(self, number: int, piece: Extent, data: memoryview) -> None:
        """Write into one block; the lock is held."""
        skip = piece.start - number * BLOCK_SIZE
        page = self._fresh.get(number, NO_PAGE)
        if page != NO_PAGE:
            self._pages.write(page, data, skip=skip)
            return
        if len(data) < BLOCK_SIZE:
            whole = bytearray(self._block(number) if self._changed[number] else self._inner_block(number))
            whole[skip : skip + len(data)] = data
            data = memoryview(whole)
        page = self._room()
        self._pages.write(page, data)
        self._set_fresh(number, page)

    def _zero(self, extent: Extent) -> None:
        """Make a range zeros: whole blocks without writing any."""
        with self._lock:
            for number, piece in _blocks(extent):
                if piece.size == BLOCK_SIZE or (piece.end == self.size and piece.start == number * BLOCK_SIZE):
                    self._set_fresh(number, NO_PAGE)
                else:
                    self._write_block(number, piece, memoryview(_ZEROS)[: piece.size])

    def _set_fresh(self, number: int, page: int) -> None:
        before = self._fresh.get(number, NO_PAGE)
        if before not in (NO_PAGE, page):
            self._free.append(before)  # no flush has kept it
        kept, _ = self._kept.get(number, (NO_PAGE, b""))
        if number not in self._fresh and kept != NO_PAGE:
            self._left.append(kept)
        self._fresh[number] = page
        self._changed[number] = True

    def _inner_block(self, number: int) -> bytes:
        start = number * BLOCK_SIZE
        return self._inner.read_at(start, min(BLOCK_SIZE, self.size - start)).ljust(BLOCK_SIZE, b"\0")

    def _room(self) -> int:
        """A place for a block that no flush has kept anything in."""
        if self._free:
            return self._free.pop()
        page = self._end
        self._end += BLOCK_PAGES
        return page

    def _keep(self) -> None:
        """Make fresh blocks count: contents, then records, then the mark."""
        entries = [Entry(number, page, self._sum(page)) for number, page in sorted(self._fresh.items())]
        self._pages.sync()
        pieces = [entries[start : start + ENTRIES_MAX] for start in range(0, len(entries), ENTRIES_MAX)]
        page, sequence = self._next_record, self._sequence
        for number, piece in enumerate(pieces, start=1):
            sequence += 1
            record = Record(
                sequence=sequence, next_page=self._end, is_last=number == len(pieces), entries=piece
            )  # fmt: skip
            self._pages.write(page, build_record(self._id, record))
            page = self._end
            self._end += 1
        self._pages.sync()
        self._pages.write(MARK_PAGES[sequence % 2], build_mark(self._id, sequence))
        self._sequence, self._next_record = sequence, page
        self._kept.update((entry.block, (entry.page, entry.checksum)) for entry in entries)
        self._free += self._left
        self._fresh, self._left = {}, []

    def _sum(self, page: int) -> bytes:
        return _ZEROS_SUM if page == NO_PAGE else checksum(self._pages.read(page, BLOCK_PAGES))


@contextmanager
def open_overlay(path: str, inner: BlockReader, subject: Subject) -> Iterator[KeptOverlay]:
    """Changes that are kept in a file over one disk of an image; a new file when there is none.

    Args:
        path: The file. It grows by what is changed.
        inner: The disk as the image has it.
        subject: Which disk of which image that is.

    Raises:
        TargetError: The file belongs to another disk, another program has it open, or it cannot be made.
        DamagedError: It was cut short, or is not what was written.
        UnsupportedFormat: It was made by a newer version.
        UsageError: There is something else in its place.
    """
    if subject.size != inner.size:
        raise ValueError(f"the disk has {inner.size} bytes, not {subject.size}")
    overlay = _open(path, inner, subject)
    try:
        yield overlay
    finally:
        overlay.close()


def _open(path: str, inner: BlockReader, subject: Subject) -> KeptOverlay:
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path} is no file: changes cannot be kept there", hint="Name a file, or one to be made.")
    try:
        descriptor = os.open(path, _CREATE, 0o600)
    except OSError as error:
        raise TargetError(
            f"{path} cannot be opened for changes: {error.strerror}", hint="See that its folder is there and writable."
        ) from error
    try:
        overlay = _examine(Pages(descriptor, path), inner, subject)
        overlay.replay()
    except BaseException:
        os.close(descriptor)
        raise
    return overlay


def _examine(pages: Pages, inner: BlockReader, subject: Subject) -> KeptOverlay:
    """An overlay whose file is the right one; a new file gets its beginning."""
    if not syscalls.lock_file(pages.descriptor):
        raise TargetError(f"{pages.path} is in use by another program", hint="Stop that first: only one may write.")
    if os.fstat(pages.descriptor).st_size == 0:
        _make(pages, subject)
    overlay_id, found = parse_header(pages.read(0), thing=pages.path)
    if found != subject:
        raise TargetError(
            f"{pages.path} keeps changes to {found.words}, not to {subject.words}",
            hint="Serve that one, or keep the changes to this one in another file.",
        )
    return KeptOverlay(inner, pages, overlay_id)


def _make(pages: Pages, subject: Subject) -> None:
    """Write the beginning of a new file; it and its name would survive a power cut on return."""
    overlay_id = os.urandom(16)
    marks = build_mark(overlay_id, 0)
    pages.write(0, build_header(overlay_id, subject) + marks + marks)
    pages.sync()
    folder = os.open(os.path.dirname(os.path.abspath(pages.path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _blocks(extent: Extent) -> Iterator[tuple[int, Extent]]:
    """The parts of a range in each block, with the block's number."""
    for number in range(extent.start // BLOCK_SIZE, -(-extent.end // BLOCK_SIZE) if extent.size else 0):
        part = Extent(number * BLOCK_SIZE, (number + 1) * BLOCK_SIZE).clipped(extent)
        if part is not None:
            yield number, part
