"""What every ``BlockReader`` and ``BlockWriter`` obeys, as checks that any implementation is run through.

A check takes a reader and the bytes it must show, or a writer and a copy of its bytes that the check keeps in step.
A failed check is an ``AssertionError`` with words. ``contents(size)`` makes bytes in which no two sectors are equal.
"""

import mmap
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from stillframe.block.base import BlockReader, BlockWriter, ExtentKind
from stillframe.extents import Extent

_EDGES: Final = (0, 1, 511, 512, 513, 4095, 4096, 4097, 8191, 8192)


def contents(size: int, *, seed: int = 1) -> bytes:
    """Bytes that differ from sector to sector, the same for the same seed; no block of 4096 is all zeros."""
    return random.Random(seed).randbytes(size)  # noqa: S311  no secret, a pattern


def check_size(reader: BlockReader, expected: bytes) -> None:
    """The size is right and the sector size is one of the two that exist."""
    assert reader.size == len(expected), f"size {reader.size}, not {len(expected)}"
    assert reader.sector_size in (512, 4096), f"sector size {reader.sector_size}"


def check_read_at(reader: BlockReader, expected: bytes) -> None:
    """Reads of every alignment are full and right, empty ones and the very end too."""
    assert reader.read_at(0, reader.size) == expected, "the whole differs"
    assert reader.read_at(reader.size, 0) == b"", "an empty read at the end is allowed"
    for start, length in _ranges(reader.size):
        got = reader.read_at(start, length)
        assert type(got) is bytes, f"read_at gives {type(got).__name__}"
        assert got == expected[start : start + length], f"bytes [{start}, {start + length}) differ"


def check_read_into(reader: BlockReader, expected: bytes) -> None:
    """A buffer is filled wherever it lies in memory, and nothing beside it is touched."""
    page = memoryview(mmap.mmap(-1, len(expected) + 2 * mmap.PAGESIZE))
    for start, length in _ranges(reader.size):
        for shift in (0, 1, 512):
            page[:] = b"\xa5" * len(page)
            reader.read_into(start, page[shift : shift + length])
            assert page[shift : shift + length] == expected[start : start + length], f"[{start}, +{length}) differs"
            assert page[:shift] == b"\xa5" * shift, "bytes before the buffer were touched"
            assert page[shift + length :][:512] == b"\xa5" * 512, "bytes after the buffer were touched"
    plain = bytearray(min(1000, reader.size))
    reader.read_into(0, plain)
    assert plain == expected[: len(plain)], "a bytearray was filled wrongly"


def check_range_errors(reader: BlockReader, expected: bytes) -> None:
    """A range outside the reader is a ``ValueError``, whichever way it is asked for."""
    size = len(expected)
    for offset, length in ((-1, 1), (0, size + 1), (size, 1), (size + 1, 0), (1, -1), (size - 1, 2)):
        _expect_value_error(reader.read_at, offset, length)
        if length >= 0:
            _expect_value_error(reader.read_into, offset, bytearray(length))
    for extent in (Extent(0, size + 1), Extent(size, size + 1), Extent(size + 1, size + 1)):
        _expect_value_error(lambda within: list(reader.known_extents(within)), extent)


def check_known_extents(reader: BlockReader, expected: bytes) -> None:
    """Known extents cover what was asked for in order, without gap; what is called zero or a hole reads as zeros."""
    size = reader.size
    for start, end in ((0, size), (0, 0), (size, size), (1, size - 1), (4096, 8192), (4095, 4097), (size // 2, size)):
        position = start
        for known in reader.known_extents(Extent(start, end)):
            assert known.extent.start == position, f"gap or overlap at {position}: {known}"
            assert known.extent.size > 0, f"empty extent: {known}"
            position = known.extent.end
            if known.kind is not ExtentKind.DATA:
                there = expected[known.extent.start : known.extent.end]
                assert there.count(0) == len(there), f"{known} holds data"
        assert position == end, f"[{start}, {end}) is covered up to {position} only"


def check_threads(reader: BlockReader, expected: bytes) -> None:
    """Several threads read at once and each gets its own bytes."""

    def read_many(seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311
        for _ in range(40):
            start = choose.randrange(len(expected))
            length = choose.randrange(min(20_000, len(expected) - start) + 1)
            assert reader.read_at(start, length) == expected[start : start + length], f"[{start}, +{length}) differs"

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_many, range(4)))


def check_writes(writer: BlockWriter, model: bytearray) -> None:
    """What is written is read back, its neighbours stay as they were, at every alignment, for every buffer type."""
    for number, (start, length) in enumerate(_ranges(writer.size)):
        new = contents(length, seed=number)
        kinds: tuple[bytes | bytearray | memoryview, ...] = (new, bytearray(new), _in_page(new), _in_page(new, shift=1))
        writer.write_at(start, kinds[number % 4])
        model[start : start + length] = new
        assert writer.read_at(0, writer.size) == model, f"after writing [{start}, +{length})"
    writer.flush()


def check_zero(writer: BlockWriter, model: bytearray) -> None:
    """A zeroed range reads as zeros, whatever its ends; its neighbours stay as they were."""
    for start, length in _ranges(writer.size):
        writer.zero(Extent(start, start + length))
        model[start : start + length] = bytes(length)
        assert writer.read_at(0, writer.size) == model, f"after zeroing [{start}, +{length})"
        new = contents(writer.size, seed=start + length)
        writer.write_at(0, new)
        model[:] = new
    writer.zero(Extent(0, writer.size))
    model[:] = bytes(len(model))
    assert writer.read_at(0, writer.size) == model, "after zeroing everything"


def check_write_range_errors(writer: BlockWriter, model: bytearray) -> None:
    """A write outside the writer is a ``ValueError`` and changes nothing, not even the part that lies inside."""
    size = len(model)
    for offset, length in ((-1, 1), (size - 1, 2), (size, 1), (0, size + 1), (size + 1, 0)):
        _expect_value_error(writer.write_at, offset, b"x" * length)
    for extent in (Extent(size - 1, size + 1), Extent(0, size + 1), Extent(size + 1, size + 1)):
        _expect_value_error(writer.zero, extent)
    assert writer.read_at(0, size) == model, "a refused write changed something"


def check_neighbour_threads(writer: BlockWriter, model: bytearray) -> None:
    """Two threads that write ranges which touch inside one sector do not undo each other."""
    new = contents(min(len(model), 16384), seed=77)
    gate = threading.Barrier(2)

    def write_every_other(first: int) -> None:
        gate.wait()
        for start in range(first * 100, len(new), 200):
            writer.write_at(start, new[start : start + 100])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write_every_other, (0, 1)))
    model[: len(new)] = new
    assert writer.read_at(0, writer.size) == model, "neighbouring writes undid each other"


READER_CHECKS: Final[tuple[Callable[[BlockReader, bytes], None], ...]] = (
    check_size,
    check_read_at,
    check_read_into,
    check_range_errors,
    check_known_extents,
    check_threads,
)

WRITER_CHECKS: Final[tuple[Callable[[BlockWriter, bytearray], None], ...]] = (
    check_writes,
    check_zero,
    check_write_range_errors,
    check_neighbour_threads,
)


def _ranges(size: int) -> list[tuple[int, int]]:
    """Ranges (start, length) around every kind of edge, all inside ``[0, size)``."""
    starts = [*_EDGES, size // 2, size // 2 + 1, size - 4097, size - 4096, size - 512, size - 1]
    lengths = (0, 1, 100, 512, 4096, 5000, size)
    return [(start, min(length, size - start)) for start in starts if 0 <= start < size for length in lengths]


def _in_page(data: bytes, *, shift: int = 0) -> memoryview:
    """The bytes in memory that starts on a page, or ``shift`` bytes after it."""
    page = memoryview(mmap.mmap(-1, len(data) + shift + 1))
    page[shift : shift + len(data)] = data
    return page[shift : shift + len(data)]


def _expect_value_error(call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except ValueError:
        return
    raise AssertionError(f"a range outside must be a ValueError: {str(arguments)[:100]}")
