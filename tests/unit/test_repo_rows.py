"""Tables of rows, byte by byte from the format page, section 9, and their limits."""

import hashlib
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.errors import DamagedError
from stillframe.repo.rows import (
    EntryKind,
    Table,
    build_table,
    check_chunk_ids,
    ids_array,
    make_rows,
    parse_table,
    search_keys,
    sort_rows,
)

PACK = bytes(range(16))
PACK_MAX = 128 << 20
CHUNK_MAX = 4_194_304


def row(  # noqa: PLR0917 - in the order of the table
    chunk_id: bytes = bytes(range(32)),
    pack: int = 0,
    offset: int = 80,
    sealed: int = 116,
    plain: int = 100,
    tail: int = 0,
) -> bytes:
    """Section 9, the table of a row."""
    return chunk_id + struct.pack("<III", pack, offset, sealed) + plain.to_bytes(3, "little") + bytes([tail])


def table(*rows: bytes, packs: tuple[bytes, ...] = (PACK,)) -> bytes:
    """Section 9, the whole table: for each row of kind 2 the id of its base stands behind the rows, in their order."""
    bases = b"".join(b"base" + row_[4:32] for row_ in rows if row_[47] >> 4 == 2)
    return struct.pack("<II", len(packs), len(rows)) + b"".join(packs) + b"".join(rows) + bases


def test_a_table_is_that_of_the_page() -> None:
    entries = [
        (bytes(range(32)), 80, 116, 100, EntryKind.CHUNK, False),
        (bytes(range(1, 33)), 196, 40, CHUNK_MAX, EntryKind.NODE, True),
    ]
    expected = table(row(), row(bytes(range(1, 33)), 0, 196, 40, 0, 0x11))
    assert build_table(Table((PACK,), make_rows(entries))) == expected
    found = parse_table(expected, thing="x")
    assert found.packs == (PACK,)
    places = [found.location(number) for number in range(2)]
    assert [(p.chunk_id, p.offset, p.sealed_size, p.plain_size, p.kind, p.compressed) for p in places] == entries
    assert {place.pack_id for place in places} == {PACK}


def test_an_empty_table_is_one() -> None:
    assert build_table(Table((), make_rows([]))) == bytes(8)
    assert len(parse_table(bytes(8), thing="x").rows) == 0


VALID = {
    "shortest": row(sealed=17, plain=1),
    "longest stored": row(sealed=CHUNK_MAX + 16, plain=0),
    "longest but one": row(sealed=CHUNK_MAX + 15, plain=CHUNK_MAX - 1),
    "compressed to one byte": row(sealed=17, plain=0, tail=1),
    "compressed to its own size": row(sealed=116, plain=100, tail=1),
    "first place": row(offset=80),
    "last place": row(offset=PACK_MAX - 116),
    "node": row(tail=0x10),
    "patch": row(tail=0x21),
}
BAD = {
    "in the header": row(offset=79),
    "over the end": row(offset=PACK_MAX - 115),
    "offset overflows 32 bits": row(offset=0xFFFFFFFF),
    "sealed overflows": row(sealed=0xFFFFFFFF, tail=1),
    "no data": row(sealed=16, plain=1, tail=1),
    "nothing": row(sealed=0, plain=1, tail=1),
    "stored longer": row(sealed=117),
    "stored shorter": row(sealed=115),
    "compressed longer than plain": row(sealed=117, tail=1),
    "longer than the longest": row(sealed=CHUNK_MAX + 17, plain=0),
    "plain above the longest": row(sealed=CHUNK_MAX + 17, plain=CHUNK_MAX + 1),
    "plain above the longest, compressed": row(sealed=116, plain=CHUNK_MAX + 1, tail=1),
    "another pack": row(pack=1),
    "another codec": row(tail=2),
    "another kind": row(tail=0x30),
    "a patch that is stored as it is": row(tail=0x20),
    "highest kind": row(tail=0xF0),
}


@pytest.mark.parametrize("name", VALID)
def test_rows_at_their_limits_are_read(name: str) -> None:
    assert len(parse_table(table(VALID[name]), thing="x").rows) == 1


@pytest.mark.parametrize("name", BAD)
def test_rows_over_their_limits_are_damage(name: str) -> None:
    with pytest.raises(DamagedError, match="row 1 "):
        parse_table(table(row(), BAD[name]), thing="x")


@pytest.mark.parametrize("size", range(8 + 16 + 48))
def test_a_table_cut_short_anywhere_is_damage(size: int) -> None:
    with pytest.raises(DamagedError):
        parse_table(table(row())[:size], thing="x")


def test_a_table_with_bytes_to_spare_is_damage() -> None:
    with pytest.raises(DamagedError):
        parse_table(table(row()) + b"\0", thing="x")


def test_most_packs() -> None:
    packs = np.arange(65_537 * 2, dtype="<u8").tobytes()
    most = struct.pack("<II", 65_536, 1) + packs[: 65_536 * 16] + row(pack=65_535)
    assert parse_table(most, thing="x").location(0).pack_id == packs[65_535 * 16 : 65_536 * 16]
    with pytest.raises(DamagedError, match="65537 packs"):
        parse_table(struct.pack("<II", 65_537, 0) + packs, thing="x")


def test_most_rows() -> None:
    most = struct.pack("<II", 1, 1_000_000) + PACK + row() * 1_000_000
    assert len(parse_table(most, thing="x").rows) == 1_000_000
    with pytest.raises(DamagedError, match="1000001 rows"):
        parse_table(struct.pack("<II", 1, 1_000_001) + PACK + row() * 1_000_001, thing="x")


def test_counts_that_lie_are_damage() -> None:
    for counts in ((0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (1, 2), (2, 1)):
        with pytest.raises(DamagedError):
            parse_table(struct.pack("<II", *counts) + PACK + row(), thing="x")


def test_rows_sort_as_bytes_do_also_where_first_words_are_equal() -> None:
    ids = [bytes([number % 3]) * 8 + bytes([number * 7 % 251]) * 24 for number in range(200)]
    rows = make_rows([(chunk_id, 80, 116, 100, EntryKind.CHUNK, False) for chunk_id in ids])
    found = sort_rows(Table((PACK,), rows)).rows
    assert [one.tobytes() for one in found["id"]] == sorted(ids)
    assert (np.diff(search_keys(found["id"]).astype(object)) >= 0).all()


def patched_table(count: int) -> tuple[Table, dict[bytes, bytes]]:
    """Rows of which every third is a patch, and what each is made against."""
    ids = [hashlib.sha256(bytes([n])).digest() for n in range(count)]
    raw = table(*(row(one, offset=80 + n, tail=0x21 if n % 3 == 0 else 0) for n, one in enumerate(ids)))
    return parse_table(raw, thing="x"), {one: b"base" + one[4:] if n % 3 == 0 else b"" for n, one in enumerate(ids)}


def bases_of(found: Table) -> dict[bytes, bytes]:
    return {found.location(n).chunk_id: found.location(n).base for n in range(len(found.rows))}


@given(st.integers(0, 40), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_patches_keep_their_bases_in_any_order_and_in_any_part(count: int, chance: random.Random) -> None:
    made, expected = patched_table(count)
    assert bases_of(made) == expected
    assert bases_of(sort_rows(made)) == expected
    assert bases_of(parse_table(build_table(sort_rows(made)), thing="x")) == expected
    numbers = [chance.randrange(count) for _ in range(chance.randrange(2 * count + 1))] if count else []
    part = made.take(np.array(numbers, np.int64))
    assert [part.location(n) for n in range(len(numbers))] == [made.location(n) for n in numbers]
    mask = np.array([chance.random() < 0.5 for _ in range(count)], bool)
    assert bases_of(made.take(mask)) == {
        one: base for one, base in expected.items() if one in bases_of(made.take(mask))
    }
    assert len(made.take(mask).rows) == mask.sum()


def test_a_table_with_a_base_too_few_or_too_many_or_of_itself_is_damage() -> None:
    patch, chunk = row(tail=0x21), row(bytes(range(1, 33)), tail=1)
    good = table(chunk, patch, patch)
    assert parse_table(good, thing="x").location(2).base == b"base" + bytes(range(4, 32))
    for raw in (good[:-32], good[:-1], good + bytes(32), table(chunk) + bytes(32), good[:-64]):
        with pytest.raises(DamagedError, match="x: its table says 1 packs"):
            parse_table(raw, thing="x")
    with pytest.raises(DamagedError, match="row 2 is a patch of the chunk that it stands for"):
        parse_table(good[:-32] + bytes(range(32)), thing="x")
    with pytest.raises(ValueError, match="1 bases for 0 patches"):
        Table.of((PACK,), parse_table(table(chunk), thing="x").rows, ids_array(bytes(32)))


def test_chunk_ids_are_whole() -> None:
    assert check_chunk_ids(bytes(64)) == 2
    with pytest.raises(ValueError, match="63"):
        check_chunk_ids(bytes(63))
    assert ids_array(b"").shape == (0, 4)
