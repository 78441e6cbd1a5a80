"""A disk that stands for an image of itself: its maps say what is kept, and its chunks are what is there."""

import tracemalloc

import pytest

from stillframe.block import BlockReader, ExtentKind, MemoryDisk
from stillframe.block.formats.mapped import MappedDisk, ZeroMap
from stillframe.errors import DeviceError
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.cloning.source_chunks import SourceChunks
from stillframe.jobs.saving.chunking import KeptRange
from stillframe.repo.blockmap import FANOUT, Kind, iter_spans
from stillframe.repo.chunk_cache import ChunkCache
from stillframe.repo.map_reader import MapReader
from stillframe.testing.block_contract import check_known_extents, check_range_errors, check_size
from stillframe.testing.disk_builder import fill_with_noise
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault

CHUNK = 4096
SIZE = (2 * FANOUT + 700) * CHUNK + 512
KEPT = ExtentSet.of(
    Extent(0, 3000), Extent(5 * CHUNK, 9 * CHUNK + 17), Extent(FANOUT * CHUNK - 1, FANOUT * CHUNK + 1),
    Extent(SIZE - 700, SIZE),
)  # fmt: skip
LEFT_OUT = ExtentSet.of(Extent(20 * CHUNK, 21 * CHUNK))


def noisy() -> MemoryDisk:
    disk = MemoryDisk(bytes(SIZE))
    fill_with_noise(disk, Extent(0, SIZE), 5)
    return disk


def chunks_of(reader: BlockReader, kept: ExtentSet = KEPT) -> SourceChunks:
    nothing = KeptRange(reader=MemoryDisk(b""), kept=ExtentSet.empty(), excluded=ExtentSet.empty())
    return SourceChunks(
        [nothing, KeptRange(reader=reader, kept=kept, excluded=LEFT_OUT, start=1000)], chunk_size=CHUNK
    )  # fmt: skip


def test_what_is_kept_is_there_and_nothing_else() -> None:
    disk = noisy()
    expected = bytearray(SIZE)
    for extent in KEPT:
        expected[extent.start : extent.end] = disk.read_at(extent.start, extent.size)
    chunks = chunks_of(disk)
    for cache in (None, ChunkCache(chunks, threads=2)):
        reader = MapReader(chunks.root(1), chunks, chunk_size=CHUNK, cache=cache)
        check_size(reader, bytes(expected))
        check_range_errors(reader, bytes(expected))
        check_known_extents(reader, bytes(expected))
        assert reader.read_at(0, SIZE) == expected
        assert reader.read_at(FANOUT * CHUNK - 100, 200) == expected[FANOUT * CHUNK - 100 : FANOUT * CHUNK + 100]
    data = [one.extent for one in reader.known_extents(Extent(0, SIZE)) if one.kind is ExtentKind.DATA]
    assert sum(extent.size for extent in data) < 12 * CHUNK
    assert MapReader(chunks.root(0), chunks, chunk_size=CHUNK).size == 0


def test_what_is_left_out_is_known_as_that() -> None:
    chunks = chunks_of(noisy())
    kinds = {
        span.first + number: kind
        for span in iter_spans(chunks.root(1), CHUNK, chunks.read_node)
        for number, kind in enumerate(span.leaf.kinds.tolist() if span.leaf else [span.kind] * span.count)
    }
    assert len(kinds) == 2 * FANOUT + 701
    assert [number for number, kind in kinds.items() if kind == Kind.EXCLUDED] == [20]
    assert [number for number, kind in kinds.items() if kind == Kind.DATA] == [
        0, 5, 6, 7, 8, 9, FANOUT - 1, FANOUT, 2 * FANOUT + 699, 2 * FANOUT + 700
    ]  # fmt: skip
    assert set(kinds.values()) == {Kind.EXCLUDED, Kind.DATA, Kind.UNUSED}


def test_a_hole_of_a_sparse_file_is_zeros_that_nobody_reads() -> None:
    disk = MappedDisk(ZeroMap(), size=SIZE, sector_size=512)
    chunks = chunks_of(disk)
    spans = list(iter_spans(chunks.root(1), CHUNK, chunks.read_node))
    assert {int(kind) for span in spans if span.leaf for kind in span.leaf.kinds} == {
        Kind.EXCLUDED, Kind.ZERO, Kind.UNUSED
    }  # fmt: skip


def test_a_byte_that_cannot_be_read_is_named_by_its_place_on_the_disk() -> None:
    disk = FaultyDisk(noisy(), [PlannedFault(extent=Extent(6 * CHUNK, 6 * CHUNK + 512))])
    chunks = chunks_of(disk)
    reader = MapReader(chunks.root(1), chunks, chunk_size=CHUNK)
    assert reader.read_at(0, 100) == disk.read_at(0, 100)
    with pytest.raises(DeviceError, match=f"byte {6 * CHUNK + 1000}"):
        reader.read_at(0, 10 * CHUNK)


def test_sixteen_tebibytes_take_no_room_in_memory() -> None:
    size, chunk = 16 << 40, 262_144
    kept = ExtentSet.from_extents(Extent(n << 38, (n << 38) + 5 * chunk) for n in range(64))
    disk = MappedDisk(ZeroMap(), size=size, sector_size=512)
    chunks = SourceChunks([KeptRange(reader=disk, kept=kept, excluded=ExtentSet.empty())], chunk_size=chunk)
    tracemalloc.start()
    try:
        leaves = sum(span.leaf is not None for span in iter_spans(chunks.root(0), chunk, chunks.read_node))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert leaves == 64  # of 65,536: where nothing is kept, no leaf is made
    assert peak < 4 << 20
