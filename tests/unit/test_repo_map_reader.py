"""Random reads of a stored map: what was stored, from any number of threads, each chunk expanded once."""

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from stillframe.block import ExtentKind
from stillframe.errors import DamagedError
from stillframe.extents import Extent
from stillframe.repo.blockmap import FANOUT, Entry, Kind, MapRoot
from stillframe.repo.chunk_cache import GROUP, ChunkCache
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.map_reader import MapReader
from stillframe.repo.packs import Fetch
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.repo.rows import Location
from stillframe.store import MemoryStore
from stillframe.testing.block_contract import check_known_extents, check_range_errors, check_size
from stillframe.testing.repositories import CHUNK_SIZE, Draft, make_owner, make_repository, store_image

NUMBERS: list[int | None] = [*range(40), *[None] * 30, 3, 3, *range(100, 130), *[None] * (2 * FANOUT), 7, 8, None, 9]
DRAFT = Draft(chunks=NUMBERS, chunks_per_pack=7)
CONTENTS = DRAFT.contents()


class CountingReader(ChunkReader):
    """Counts how often each chunk is expanded."""

    def __init__(self, inner: ChunkReader) -> None:
        super().__init__(inner.index, inner.packs)
        self.counts: Counter[bytes] = Counter()
        self.fetches = 0
        self._counting = threading.Lock()

    def fetch(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
        with self._counting:
            self.fetches += 1
            self.counts.update(place.chunk_id for place in fetch.locations)
        return super().fetch(fetch)


@pytest.fixture(scope="module")
def stored() -> tuple[Repository, Manifest]:
    repository = make_repository(MemoryStore())
    return repository, store_image(repository, make_owner(), DRAFT).manifest


def root_of(manifest: Manifest) -> MapRoot:
    return manifest.disks[0].partitions[0].blocks.root()


def open_map(
    stored: tuple[Repository, Manifest], *, threads: int, size_max: int = 1 << 30
) -> tuple[MapReader, CountingReader]:
    chunks = CountingReader(stored[0].reader())
    cache = ChunkCache(chunks, size_max=size_max, threads=threads)
    return MapReader(root_of(stored[1]), chunks, chunk_size=CHUNK_SIZE, cache=cache), chunks


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("size_max", [0, 3 * CHUNK_SIZE, 1 << 30])
def test_reads_of_several_threads_give_what_was_stored(
    stored: tuple[Repository, Manifest], threads: int, size_max: int
) -> None:
    reader, _ = open_map(stored, threads=threads, size_max=size_max)

    def read_many(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(60):
            start = choose.choice([choose.randrange(len(CONTENTS)), choose.randrange(120) * CHUNK_SIZE])
            length = min(choose.choice([0, 1, 512, 4096, CHUNK_SIZE, 300_000, 3_000_000]), len(CONTENTS) - start)
            assert reader.read_at(start, length) == CONTENTS[start : start + length]
            buffer = bytearray(length)
            reader.read_into(start, buffer)
            assert buffer == CONTENTS[start : start + length]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(read_many, range(6)))


def test_the_contract_of_readers_holds(stored: tuple[Repository, Manifest]) -> None:
    reader, _ = open_map(stored, threads=2)
    for check in (check_size, check_range_errors, check_known_extents):
        check(reader, CONTENTS)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_chunk_is_expanded_once_however_many_ask(stored: tuple[Repository, Manifest], threads: int) -> None:
    reader, chunks = open_map(stored, threads=threads)
    gate = threading.Barrier(6)

    def read_all(step: int) -> None:
        gate.wait()
        for start in range(0, 110 * CHUNK_SIZE, step):
            assert reader.read_at(start, step) == CONTENTS[start : start + step]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(read_all, [CHUNK_SIZE, CHUNK_SIZE, 2 * CHUNK_SIZE, 5 * CHUNK_SIZE, 11 * CHUNK_SIZE, CHUNK_SIZE]))
    data = {number for number in NUMBERS[:110] if number is not None}
    asked = [count for chunk_id, count in chunks.counts.items() if chunk_id not in chunks._nodes]
    assert set(asked) == {1}
    assert len(asked) >= len(data)


def test_chunks_side_by_side_in_a_pack_are_one_read(stored: tuple[Repository, Manifest]) -> None:
    reader, chunks = open_map(stored, threads=0)
    reader.read_at(0, 1)
    before = chunks.fetches
    reader.read_at(CHUNK_SIZE, 6 * CHUNK_SIZE)  # the rest of the first pack
    assert chunks.fetches == before + 1


def test_memory_stays_within_the_limit(stored: tuple[Repository, Manifest]) -> None:
    reader, _ = open_map(stored, threads=2, size_max=5 * CHUNK_SIZE)
    for start in range(0, 110 * CHUNK_SIZE, CHUNK_SIZE):
        reader.read_at(start, CHUNK_SIZE)
    cache = reader._cache
    assert sum(len(data) for data in cache._kept.values()) == cache._size <= 5 * CHUNK_SIZE


def test_who_reads_on_gets_the_next_chunks_in_advance(stored: tuple[Repository, Manifest]) -> None:
    reader, chunks = open_map(stored, threads=1)
    for number in range(3):
        reader.read_at(number * CHUNK_SIZE, CHUNK_SIZE)
    pool = reader._cache._pool
    assert pool is not None
    pool.shutdown(wait=True)
    assert len(reader._cache._kept) >= 3 + GROUP
    again, others = open_map(stored, threads=1)
    for number in (30, 5, 17, 2):
        again.read_at(number * CHUNK_SIZE + 100, 1000)
    assert again._cache._pool is None
    assert len(again._cache._kept) == 4
    assert others.fetches < chunks.fetches + 4


def test_what_is_known_is_merged_and_no_chunk_is_read_for_it(stored: tuple[Repository, Manifest]) -> None:
    reader, chunks = open_map(stored, threads=2)
    known = list(reader.known_extents(Extent(0, reader.size)))
    edges = [0, 40, 70, 102, 102 + 2 * FANOUT, 104 + 2 * FANOUT, 105 + 2 * FANOUT, 106 + 2 * FANOUT]
    assert [one.extent.end for one in known] == [edge * CHUNK_SIZE for edge in edges[1:]]
    assert [one.kind for one in known] == [ExtentKind.DATA, ExtentKind.HOLE] * 3 + [ExtentKind.DATA]
    assert chunks.counts.keys() <= chunks._nodes.keys()


def test_a_huge_hole_is_one_extent_found_at_once() -> None:
    chunks = ChunkReader(make_repository(MemoryStore()).load_index(), make_repository(MemoryStore()).packs)
    size = (1 << 50) + 77
    reader = MapReader(MapRoot(size, Entry(Kind.UNUSED)), chunks, chunk_size=CHUNK_SIZE)
    assert [(one.extent, one.kind) for one in reader.known_extents(Extent(5, size))] == [
        (Extent(5, size), ExtentKind.HOLE)
    ]
    assert reader.read_at(size - 10, 10) == bytes(10)


def test_a_lost_pack_is_an_error_where_it_is_and_nowhere_else() -> None:
    repository = make_repository(MemoryStore())
    manifest = store_image(repository, make_owner(), DRAFT).manifest
    index = repository.load_index()
    victim = next(iter(sorted(index.packs())))
    lost = {place.chunk_id for place in index.locations_in(victim)}
    reader = MapReader(root_of(manifest), repository.reader(), chunk_size=CHUNK_SIZE)
    places = reader._leaves.places(0, 40)
    bad = [number for number, place in enumerate(places) if place is not None and place.chunk_id in lost]
    repository.box.store.delete(object_name(ObjectType.PACK, victim))
    for number in range(40):
        if number in bad:
            with pytest.raises(DamagedError):
                reader.read_at(number * CHUNK_SIZE, CHUNK_SIZE)
        else:
            start = number * CHUNK_SIZE
            assert reader.read_at(start, CHUNK_SIZE) == CONTENTS[start : start + CHUNK_SIZE]


def test_a_map_that_says_another_size_than_its_chunks_is_damaged(stored: tuple[Repository, Manifest]) -> None:
    repository, manifest = stored
    root = replace(root_of(manifest), size=len(CONTENTS) - 5)
    reader = MapReader(root, repository.reader(), chunk_size=CHUNK_SIZE)
    with pytest.raises(DamagedError, match="has 65536 bytes, and 65531 belong there"):
        reader.read_at(root.size - 10, 10)


def test_a_child_process_reads_though_threads_were_at_work(stored: tuple[Repository, Manifest]) -> None:
    reader, _ = open_map(stored, threads=2)
    for number in range(4):
        reader.read_at(number * CHUNK_SIZE, CHUNK_SIZE)
    pool = reader._cache._pool
    assert pool is not None
    pool.shutdown(wait=True)
    child = os.fork()
    if child == 0:
        right = reader.read_at(0, 80 * CHUNK_SIZE) == CONTENTS[: 80 * CHUNK_SIZE]
        os._exit(0 if right else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
