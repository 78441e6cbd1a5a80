"""Packs: every bit, every length, entries in another place, and reads that are grouped."""

import hashlib
import struct
from functools import partial
from itertools import pairwise

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stillframe.errors import DamagedError, RepositoryError, StorageError
from stillframe.repo import packs as packs_module
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.objects import ObjectBox, TornObject
from stillframe.repo.packs import Fetch, PackReader, PackWriter, compressor, open_entry, plan_fetches
from stillframe.repo.rows import EntryKind, Location, Table, build_table
from stillframe.repo.sealing import derive_key
from stillframe.store import MemoryStore
from stillframe.testing.sample_repository import flipped, replace_object

REPOSITORY, MASTER = bytes(range(16)), bytes(range(64, 96))
NOISE = hashlib.shake_256(b"noise").digest(300)
CHUNKS = {bytes([1]) * 32: NOISE, bytes([2]) * 32: b"a" * 5000, bytes([3]) * 32: b"x"}
CHUNK_MAX = 4_194_304


def make_box() -> ObjectBox:
    return ObjectBox(MemoryStore(), REPOSITORY, MASTER)


def write_pack(box: ObjectBox, chunks: dict[bytes, bytes]) -> Table:
    writer = PackWriter(box, compressor(3))
    for chunk_id, plain in chunks.items():
        writer.add(chunk_id, plain)
    return writer.finish()


def places_of(table: Table) -> list[Location]:
    return [table.location(row) for row in range(len(table.rows))]


def name_of(table: Table) -> str:
    return object_name(ObjectType.PACK, table.packs[0])


def read_back(box: ObjectBox, table: Table) -> dict[bytes, bytes | DamagedError]:
    reader = PackReader(box)
    return {place.chunk_id: data for fetch in plan_fetches(places_of(table)) for place, data in reader.fetch(fetch)}


def test_what_was_added_is_read() -> None:
    box = make_box()
    table = write_pack(box, CHUNKS)
    assert read_back(box, table) == CHUNKS
    own = PackReader(box).read_table(table.packs[0])
    assert build_table(own) == build_table(table)


def test_an_entry_is_sealed_as_the_page_says() -> None:
    box = make_box()
    table = write_pack(box, CHUNKS)
    raw = box.store.read(name_of(table))
    pack_id, salt = table.packs[0], raw[48:80]
    key = derive_key(MASTER, salt=salt, info=b"stillframe/v1/object" + REPOSITORY + b"\x01")
    offset = 80
    for place, (chunk_id, plain) in zip(places_of(table), CHUNKS.items(), strict=True):
        additional = b"STILLFRM" + bytes([1, 0, 1, 1, 0, 0, 0, 0]) + REPOSITORY + pack_id
        additional += struct.pack("<Q", offset) + chunk_id
        sealed = raw[offset : offset + place.sealed_size]
        packed = AESGCM(key).decrypt(offset.to_bytes(12, "big"), sealed, additional)
        opened = zstandard.ZstdDecompressor().decompress(packed) if place.compressed else packed
        assert (place.offset, opened, place.plain_size) == (offset, plain, len(plain))
        offset += place.sealed_size
    assert struct.unpack("<Q", raw[-64:-56]) == (offset,)


def pretend(size: int, _plain: bytes | bytearray | memoryview) -> bytes:
    return b"p" * size


def test_compression_only_where_it_saves_a_thirty_second() -> None:
    box = make_box()
    plain = bytes(3200)
    for size, compressed in ((3099, True), (3100, False), (3200, False), (5000, False)):
        writer = PackWriter(box, partial(pretend, size))
        writer.add(bytes(32), plain)
        place = writer.finish().location(0)
        assert place.compressed is compressed
        assert place.sealed_size == (size if compressed else 3200) + 16


def test_a_pack_that_stores_as_is_compresses_nothing() -> None:
    assert compressor(None) is None
    box = make_box()
    writer = PackWriter(box, None)
    assert writer.add(bytes(32), bytes(1000), EntryKind.NODE) == 1016
    table = writer.finish()
    assert table.location(0).kind is EntryKind.NODE
    assert read_back(box, table) == {bytes(32): bytes(1000)}


def test_offsets_strictly_increase_over_batches_and_the_largest_chunk_fits_anywhere() -> None:
    box = make_box()
    writer = PackWriter(box, None)
    sizes = [1, (1 << 20) - 80 - 33, CHUNK_MAX, 1, (1 << 20) - 18, CHUNK_MAX, CHUNK_MAX]
    chunks = {bytes([number]) * 32: bytes([number]) * size for number, size in enumerate(sizes)}
    for chunk_id, plain in chunks.items():
        writer.add(chunk_id, plain)
    table = writer.finish()
    places = places_of(table)
    for place, after in pairwise(places):
        assert place.offset + place.sealed_size == after.offset
    assert read_back(box, table) == chunks
    own = PackReader(box).read_table(table.packs[0])
    assert [place.plain_size for place in places_of(own)] == sizes


def test_a_pack_is_full_by_bytes_or_by_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "PACK_SIZE", 1000)
    monkeypatch.setattr(packs_module, "_ENTRIES_MAX", 3)
    by_size, by_count = PackWriter(make_box(), None), PackWriter(make_box(), None)
    by_size.add(bytes(32), bytes(903))
    assert not by_size.is_full
    by_size.add(bytes(32), b"x")
    assert by_size.is_full
    for number in range(3):
        assert not by_count.is_full, number
        by_count.add(bytes(32), b"x")
    assert by_count.is_full


def test_an_abandoned_pack_leaves_nothing() -> None:
    box = make_box()
    writer = PackWriter(box, None)
    writer.add(bytes(32), b"x")
    writer.abandon()
    assert list(box.store.list("")) == []


def test_any_flipped_bit_of_a_pack_is_found_and_never_returned() -> None:
    box = make_box()
    table = write_pack(box, CHUNKS)
    raw, (pack_id,) = box.store.read(name_of(table)), table.packs
    body = range(80, int.from_bytes(raw[-64:-56], "little"))
    for position in range(len(raw)):
        replace_object(box.store, name_of(table), flipped(raw, position, position % 8))
        if position in body:
            found = read_back(box, table)
            damaged = [place.chunk_id for place in places_of(table) if isinstance(found[place.chunk_id], DamagedError)]
            (hit,) = [p.chunk_id for p in places_of(table) if p.offset <= position < p.offset + p.sealed_size]
            assert damaged == [hit]
            assert all(found[chunk_id] == CHUNKS[chunk_id] for chunk_id in CHUNKS if chunk_id != hit)
        else:
            with pytest.raises(DamagedError):
                PackReader(box).read_table(pack_id)
        if position < 80:
            assert nothing_opens(box, table), position


def nothing_opens(box: ObjectBox, table: Table) -> bool:
    try:
        return all(isinstance(data, DamagedError) for data in read_back(box, table).values())
    except RepositoryError:
        return True


def test_any_other_length_of_a_pack_is_torn() -> None:
    box = make_box()
    table = write_pack(box, CHUNKS)
    raw = box.store.read(name_of(table))
    for size in range(len(raw)):
        replace_object(box.store, name_of(table), raw[:size])
        with pytest.raises(TornObject):
            PackReader(box).read_table(table.packs[0])
    replace_object(box.store, name_of(table), raw[: places_of(table)[-1].offset])
    with pytest.raises(StorageError):
        read_back(box, table)


def test_an_entry_moved_within_its_pack_is_damage() -> None:
    box = make_box()
    table = write_pack(box, {bytes([n]) * 32: hashlib.sha256(bytes([n])).digest() for n in range(2)})
    first, second = places_of(table)
    raw = box.store.read(name_of(table))
    one = raw[first.offset : first.offset + first.sealed_size]
    two = raw[second.offset : second.offset + second.sealed_size]
    replace_object(box.store, name_of(table), raw[:80] + two + one + raw[80 + len(one + two) :])
    assert all(isinstance(data, DamagedError) for data in read_back(box, table).values())


def test_an_entry_copied_to_another_pack_or_repository_or_asked_by_another_id_is_damage() -> None:
    box = make_box()
    table, other = write_pack(box, CHUNKS), write_pack(box, CHUNKS)
    raw, twin = box.store.read(name_of(table)), box.store.read(name_of(other))
    body_end = int.from_bytes(raw[-64:-56], "little")
    replace_object(box.store, name_of(other), twin[:80] + raw[80:body_end] + twin[body_end:])
    assert all(isinstance(data, DamagedError) for data in read_back(box, other).values())
    replace_object(box.store, name_of(other), raw)
    with pytest.raises(DamagedError, match="replaced"):
        read_back(box, other)
    place = places_of(table)[0]
    wrong = Location(
        chunk_id=bytes(32), pack_id=place.pack_id, offset=place.offset, sealed_size=place.sealed_size,
        plain_size=place.plain_size, kind=place.kind, compressed=place.compressed,
    )  # fmt: skip
    ((_, data),) = PackReader(box).fetch(Fetch(place.pack_id, (wrong,)))
    assert isinstance(data, DamagedError)
    stranger = ObjectBox(MemoryStore(), bytes(16), MASTER)
    replace_object(stranger.store, name_of(table), raw)
    with pytest.raises(DamagedError, match="belongs to repository"):
        read_back(stranger, table)


def test_a_table_of_another_pack_in_the_trailer_is_damage() -> None:
    box = make_box()
    for table in (
        Table((bytes(16),), write_pack(box, CHUNKS).rows),
        Table((bytes(16), bytes(16)), write_pack(box, CHUNKS).rows),
    ):
        writer = PackWriter(box, None)
        forge_table(writer, table)
        with pytest.raises(DamagedError, match="not that of this pack"):
            PackReader(box).read_table(writer.pack_id)


def test_a_row_that_points_into_the_trailer_is_damage() -> None:
    box = make_box()
    writer = PackWriter(box, None)
    writer.add(bytes(32), bytes(100))
    rows = write_pack(box, {bytes(32): NOISE}).rows
    forge_table(writer, Table((writer.pack_id,), rows))
    with pytest.raises(DamagedError, match="not that of this pack"):
        PackReader(box).read_table(writer.pack_id)


def forge_table(writer: PackWriter, table: Table) -> None:
    """Finish a pack, sealed with the right key, with a table that is not its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs_module, "build_table", lambda _own: build_table(table))
        writer.finish()


def test_a_decompressed_entry_has_the_length_its_row_says() -> None:
    box = make_box()
    table = write_pack(box, {bytes(32): b"a" * 5000})
    place = table.location(0)
    raw = box.store.read(name_of(table), place.offset, place.sealed_size)
    seal = PackReader(box)._seal_of(place.pack_id)
    assert open_entry(seal, place, raw) == b"a" * 5000
    for plain_size in (1, 4999, 5001, CHUNK_MAX):
        wrong = Location(
            chunk_id=place.chunk_id, pack_id=place.pack_id, offset=place.offset, sealed_size=place.sealed_size,
            plain_size=plain_size, kind=place.kind, compressed=True,
        )  # fmt: skip
        with pytest.raises(DamagedError, match="decompress"):
            open_entry(seal, wrong, raw)
