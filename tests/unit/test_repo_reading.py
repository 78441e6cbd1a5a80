"""Reading by id: another copy where one is damaged, and what is whole where a read fails."""

import hashlib

import pytest

from stillframe.errors import DamagedError, StorageError
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.index import ChunkIndex
from stillframe.repo.objects import ObjectBox
from stillframe.repo.packs import PackReader, PackWriter
from stillframe.repo.reading import ChunkReader
from stillframe.repo.rows import Table
from stillframe.repo.sealing import make_id
from stillframe.store import MemoryStore
from stillframe.testing.sample_repository import flipped, replace_object

CHUNKS = {hashlib.sha256(bytes([n])).digest(): bytes([n]) * 1000 for n in range(8)}


class BadSectors(MemoryStore):
    """Reads that touch a bad byte fail, as on a disk."""

    bad: tuple[str, int] | None = None

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        raw = super().read(name, offset, length)
        if self.bad is not None and self.bad[0] == name and offset <= self.bad[1] < offset + len(raw):
            raise StorageError("the disk cannot read that")
        return raw


class Shelf:
    """Packs with the same chunks, and an index of them."""

    def __init__(self, copies: int) -> None:
        self.store = BadSectors()
        self.box = ObjectBox(self.store, bytes(range(16)), bytes(range(32)))
        self.index = ChunkIndex()
        self.tables = [self._write() for _ in range(copies)]

    def _write(self) -> Table:
        writer = PackWriter(self.box, None)
        for chunk_id, data in CHUNKS.items():
            writer.add(chunk_id, data)
        table = writer.finish()
        self.index.add(make_id(), table)
        return table

    def name(self, number: int) -> str:
        return object_name(ObjectType.PACK, self.tables[number].packs[0])

    def spoil(self, number: int, position: int) -> None:
        replace_object(self.store, self.name(number), flipped(self.store.read(self.name(number)), position))

    def read_all(self) -> dict[bytes, bytes | DamagedError]:
        reader = ChunkReader(self.index, PackReader(self.box))
        fetches, missing = reader.plan(list(CHUNKS) * 2)
        assert missing == []
        found = [(place.chunk_id, data) for fetch in fetches for place, data in reader.fetch(fetch)]
        assert len(found) == len(CHUNKS)
        return dict(found)


def lost(found: dict[bytes, bytes | DamagedError]) -> list[int]:
    for chunk_id, data in found.items():
        assert isinstance(data, DamagedError) or data == CHUNKS[chunk_id]
    return [n for n, chunk_id in enumerate(CHUNKS) if isinstance(found[chunk_id], DamagedError)]


def test_chunks_are_read_each_once() -> None:
    assert Shelf(2).read_all() == CHUNKS


def test_nothing_asked_is_nothing_read() -> None:
    shelf = Shelf(1)
    assert ChunkReader(shelf.index, PackReader(shelf.box)).plan([]) == ([], [])


def test_chunks_that_no_run_knows_are_named() -> None:
    shelf = Shelf(1)
    reader = ChunkReader(shelf.index, PackReader(shelf.box))
    fetches, missing = reader.plan([bytes(32), next(iter(CHUNKS)), bytes(32)])
    assert (len(fetches), missing) == (1, [bytes(32)])
    with pytest.raises(DamagedError, match="in no index run"):
        reader.read(bytes(32))


@pytest.mark.parametrize("position", [0, 8, 11, 20, 40, 60, 80, 1500])
def test_a_copy_with_a_flipped_bit_anywhere_is_replaced_by_another(position: int) -> None:
    shelf = Shelf(2)
    for number in range(2):
        shelf = Shelf(2)
        shelf.spoil(number, position)
        assert shelf.read_all() == CHUNKS
        reader = ChunkReader(shelf.index, PackReader(shelf.box))
        assert all(reader.read(chunk_id) == data for chunk_id, data in CHUNKS.items())


def test_what_has_no_whole_copy_is_an_error_and_the_rest_is_read() -> None:
    shelf = Shelf(2)
    shelf.spoil(0, 80 + 1016 * 3)
    shelf.spoil(1, 80 + 1016 * 3)
    assert lost(shelf.read_all()) == [3]
    with pytest.raises(DamagedError):
        ChunkReader(shelf.index, PackReader(shelf.box)).read(list(CHUNKS)[3])


def test_copies_damaged_in_different_places_give_everything() -> None:
    shelf = Shelf(2)
    shelf.spoil(0, 80 + 1016 * 3)
    shelf.spoil(1, 80 + 1016 * 5)
    assert shelf.read_all() == CHUNKS


def test_a_pack_that_is_gone_is_replaced_by_another_or_an_error_for_each() -> None:
    shelf = Shelf(2)
    shelf.store.delete(shelf.name(0))
    assert shelf.read_all() == CHUNKS
    shelf.store.delete(shelf.name(1))
    assert lost(shelf.read_all()) == list(range(8))


def test_a_bad_sector_costs_one_chunk_not_the_whole_read() -> None:
    shelf = Shelf(1)
    shelf.store.bad = (shelf.name(0), 80 + 1016 * 4 + 500)
    assert lost(shelf.read_all()) == [4]


def test_a_pack_cut_short_gives_what_is_left_of_it() -> None:
    shelf = Shelf(1)
    replace_object(shelf.store, shelf.name(0), shelf.store.read(shelf.name(0))[: 80 + 1016 * 5 + 1])
    assert lost(shelf.read_all()) == [5, 6, 7]


def test_a_pack_whose_header_is_unreadable_is_an_error_for_each() -> None:
    shelf = Shelf(1)
    shelf.spoil(0, 0)
    assert lost(shelf.read_all()) == list(range(8))


def test_nodes_are_kept_for_the_next_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillframe.repo.reading._NODES_CACHED", 2)
    shelf = Shelf(1)
    reader = ChunkReader(shelf.index, PackReader(shelf.box))
    one, two, three, *_ = CHUNKS
    for chunk_id in (one, two, one, three, one):
        assert reader.read_node(chunk_id) == CHUNKS[chunk_id]
    shelf.store.delete(shelf.name(0))
    assert reader.read_node(one) == CHUNKS[one]
    assert reader.read_node(three) == CHUNKS[three]
    with pytest.raises(DamagedError):
        reader.read_node(two)
