"""Walking block maps: the same chunks as a plain walk in order finds, however the tree is shared or damaged."""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.errors import DamagedError
from stillframe.extents import ExtentSet
from stillframe.repo.blockmap import FANOUT, Kind, MapBuilder, MapRoot, Span, iter_spans
from stillframe.repo.id_sets import IdSet
from stillframe.repo.packs import Fetch
from stillframe.repo.reading import ChunkReader
from stillframe.repo.repository import Repository
from stillframe.repo.rows import EntryKind, Ids, Location, ids_array
from stillframe.repo.session import begin_session
from stillframe.repo.walk import MapPlace, MapSurvey, iter_maps, referenced_chunks
from stillframe.repo.writing import ImageWriter
from stillframe.store import MemoryStore
from stillframe.testing.repositories import CHUNK_SIZE, Draft, make_owner, make_repository, store_image


def store_map(repository: Repository, ids: Sequence[bytes], size: int) -> MapRoot:
    """A map with these ids, which need not be stored; an empty one is a chunk that is not in use."""
    session = begin_session(repository, make_owner(), "backup")
    writer = ImageWriter(session, domain=bytes(16), level=1)
    lane = writer.lane()

    def store_node(raw: bytes) -> bytes:
        node_id = writer.namer.name(raw)
        lane.add(node_id, raw, EntryKind.NODE)
        return node_id

    builder = MapBuilder(size, CHUNK_SIZE, store_node)
    for first in range(0, len(ids), FANOUT):
        part = ids[first : first + FANOUT]
        builder.add_leaf(np.array([Kind.DATA if one else Kind.UNUSED for one in part], np.uint8), b"".join(part))
    root = builder.finish()
    lane.close()
    writer.flush()
    session.end()
    return root


def plain_ids(root: MapRoot, reader: ChunkReader) -> list[bytes]:
    """Every entry by ``iter_spans``, the walk that a restore makes."""
    found: list[bytes] = []
    for span in iter_spans(root, CHUNK_SIZE, reader.read_node):
        found += span.leaf.entry_ids() if span.leaf is not None else [b""] * span.count
    return found


def some_ids(count: int, *, seed: int, share: float = 0.7) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(32) if chance.random() < share else b"" for _ in range(count)]


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore())


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 3000])
def test_a_survey_finds_what_a_plain_walk_finds(repository: Repository, count: int) -> None:
    size = count * CHUNK_SIZE - 100
    ids = some_ids(count, seed=count)
    root = store_map(repository, ids, size)
    reader = repository.reader()
    assert plain_ids(root, reader) == ids
    lost = set(random.Random(count).sample([one for one in ids if one], k=min(50, count // 2)))

    def is_lost(asked: Ids) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.array([one.tobytes() in lost for one in asked], bool)

    place = MapPlace(disk_number=1, partition_number=1, root=root, chunk_size=CHUNK_SIZE)
    expected = ExtentSet.from_mask(np.array([one in lost for one in ids], bool), unit=CHUNK_SIZE)
    assert MapSurvey(reader, is_lost).lost_bytes(place) == ExtentSet(expected.starts, np.minimum(expected.ends, size))


def test_a_lost_node_loses_its_part_of_the_map(repository: Repository) -> None:
    ids = some_ids(3000, seed=3)
    root = store_map(repository, ids, 3000 * CHUNK_SIZE)
    spans: list[Span] = list(iter_spans(root, CHUNK_SIZE, repository.reader().read_node))

    class Forgetful(ChunkReader):
        def fetch(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
            for place, data in super().fetch(fetch):
                yield place, DamagedError("gone") if place.chunk_id == spans[1].node_id else data

    reader = Forgetful(repository.load_index(), repository.packs)
    survey = MapSurvey(reader, lambda asked: np.zeros(len(asked), bool))
    place = MapPlace(disk_number=1, partition_number=None, root=root, chunk_size=CHUNK_SIZE)
    (lost,) = survey.lost_bytes(place)
    assert (lost.start, lost.end) == (1024 * CHUNK_SIZE, 2048 * CHUNK_SIZE)


def test_references_are_nodes_and_chunks_each_once(repository: Repository) -> None:
    owner = make_owner()
    first = store_image(repository, owner, Draft(chunks=[*range(1, 20), 1, 2])).manifest
    second = store_image(repository, owner, Draft(chunks=[*range(1, 20), 1, 2])).manifest
    reader = repository.reader()
    found = referenced_chunks(reader, [first, second])
    (place,) = [place for place in iter_maps(first) if place.root.root.kind is Kind.DATA]
    expected = {*plain_ids(place.root, reader), place.root.root.id}
    assert {one.tobytes() for one in found.ids} == expected
    assert len(found) == 20


def test_shared_nodes_are_read_once(repository: Repository) -> None:
    owner, reads = make_owner(), 0
    images = [store_image(repository, owner, Draft(chunks=[1, 2, 3])).manifest for _ in range(5)]

    class Counting(ChunkReader):
        def fetch(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
            nonlocal reads
            reads += len(fetch.locations)
            return super().fetch(fetch)

    referenced_chunks(Counting(repository.load_index(), repository.packs), images)
    assert reads == 1


IDS = st.lists(
    st.tuples(st.sampled_from([b"\0" * 8, b"\xff" * 8, b"abcdefgh"]), st.binary(min_size=24, max_size=24)).map(b"".join)
    | st.binary(min_size=32, max_size=32),
    max_size=30,
)


@settings(deadline=None)
@given(first=IDS, second=IDS)
def test_a_set_of_ids_is_a_set_even_where_first_words_are_equal(first: list[bytes], second: list[bytes]) -> None:
    ids, other = IdSet.of(ids_array(b"".join(first))), IdSet.of(ids_array(b"".join(second)))
    assert [one.tobytes() for one in ids.ids] == sorted(set(first))
    assert ids.contains(ids_array(b"".join(second))).tolist() == [one in set(first) for one in second]
    assert [one.tobytes() for one in (ids | other).ids] == sorted({*first, *second})
    assert [ids.ids[place].tobytes() for place in ids.places(ids_array(b"".join(first)))] == first
