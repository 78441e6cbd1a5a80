"""Sets of chunk ids: laws against Python's own sets, in memory and in pieces on disk."""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.repo import id_sets
from stillframe.repo.id_sets import IdGathering, IdSet
from stillframe.repo.rows import Ids, ids_array

IDS = st.lists(st.integers(0, 40), max_size=60)
"""Few different ids, so that many come again."""


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_sets, "_PIECE", 50)
    monkeypatch.setattr(id_sets, "_SLICE", 20)
    monkeypatch.setattr(id_sets, "_WASTE", 120)


def chunk_id(number: int) -> bytes:
    """Ids of which some share their first 8 bytes, by which they are sought."""
    key = (number // 3 * 0x0123_4567_89AB_CDEF) % (1 << 64)
    return key.to_bytes(8, "big") + bytes(20) + number.to_bytes(4, "big")


def joined(numbers: list[int]) -> Ids:
    return ids_array(b"".join(map(chunk_id, numbers)))


def members(found: IdSet) -> list[bytes]:
    return [row.tobytes() for row in found.ids]


def batches(count: int, seed: int = 1) -> Iterator[list[int]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, 500, 37).tolist()


@given(IDS, IDS)
def test_a_set_is_as_pythons_own(inside: list[int], asked: list[int]) -> None:
    found = IdSet.of(joined(inside))
    assert members(found) == sorted(set(map(chunk_id, inside)))
    assert found.contains(joined(asked)).tolist() == [number in inside for number in asked]
    places = found.places(joined(asked)).tolist()
    for number, place in zip(asked, places, strict=True):
        assert place == -1 or found.ids[place].tobytes() == chunk_id(number)


@pytest.mark.usefixtures("small_pieces")
def test_what_is_gathered_in_pieces_is_as_pythons_own_set() -> None:
    gathering, wanted = IdGathering(), set[int]()
    for batch in batches(60):
        gathering.add(joined(batch))
        wanted.update(batch)
    found = gathering.finish()
    assert members(found) == sorted(map(chunk_id, wanted))
    everything = list(range(500))
    assert found.contains(joined(everything)).tolist() == [number in wanted for number in everything]


@pytest.mark.usefixtures("small_pieces")
def test_what_is_left_without_another_set() -> None:
    one, other = set(range(400)), set(range(100, 600, 3))
    left = IdSet.of(joined(sorted(one))).without(IdSet.of(joined(sorted(other))))
    assert members(left) == sorted(map(chunk_id, one - other))
    assert len(left.without(left)) == 0


@pytest.mark.usefixtures("small_pieces")
def test_pieces_that_hold_the_same_again_and_again_are_merged() -> None:
    gathering = IdGathering()
    for _ in range(200):
        gathering.add(joined(list(range(60))))
    assert sum(len(piece) for piece in gathering._pieces) <= 2 * 60 + 120
    assert len(gathering.finish()) == 60


@pytest.mark.usefixtures("small_pieces")
def test_without_room_for_temporary_files_the_set_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    gathering, wanted = IdGathering(), set[int]()
    for batch in batches(30, seed=2):
        gathering.add(joined(batch))
        wanted.update(batch)
    assert members(gathering.finish()) == sorted(map(chunk_id, wanted))


def test_nothing_gathered_is_the_empty_set() -> None:
    found = IdGathering().finish()
    assert len(found) == 0
    assert not found.contains(joined([1, 2])).any()


def test_a_large_set_takes_no_memory_of_its_own() -> None:
    """Two million ids are 64 MB and their keys 16; what is mapped can be taken away."""
    gathering, rng = IdGathering(), np.random.default_rng(5)
    for _ in range(20):
        gathering.add(rng.integers(0, 1 << 64, (110_000, 4), np.uint64))
    found = gathering.finish()
    assert len(found) == 2_200_000
    assert isinstance(_owner(found.ids), np.memmap)
    assert isinstance(_owner(found.keys), np.memmap)
    assert (found.keys[1:] >= found.keys[:-1]).all()


def _owner(array: Any) -> Any:
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    return array
