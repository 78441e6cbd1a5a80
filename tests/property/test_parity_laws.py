"""Laws of the erasure code and of healing: as many blocks as there are parity blocks may be lost from each stripe."""

import random

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.parity.code import POSITIONS_MAX, ROWS_MAX, Sums, matrix, products, solve
from stillframe.repo.parity.healing import Healer
from stillframe.repo.parity.records import BLOCK, Covered, Geometry, Record, find_records, make_records
from stillframe.store import MemoryStore, write_object

COVERED = Covered(bytes(range(16)), ObjectType.PACK, bytes(range(16, 32)))
NAME = object_name(ObjectType.PACK, COVERED.object_id)
SIDECAR = object_name(ObjectType.PARITY, COVERED.object_id)
SIZES = st.one_of(
    st.integers(1, 3 * BLOCK),
    st.integers(1, 3 * POSITIONS_MAX * BLOCK),
    st.sampled_from([n * BLOCK + d for n in (1, 7, 247, 248, 249, 496, 497, 744) for d in (-1, 0, 1)]),
)


def product(one: int, other: int) -> int:
    """By definition: as polynomials over GF(2), the rest after division by x^8 + x^4 + x^3 + x^2 + 1."""
    result = 0
    for bit in range(8):
        result ^= (one << bit) * (other >> bit & 1)
    for bit in reversed(range(8, 15)):
        if result >> bit & 1:
            result ^= 0x11D << (bit - 8)
    return result


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def records_of(raw: bytes) -> bytes:
    return make_records(lambda offset, length: raw[offset : offset + length], COVERED, Geometry(len(raw)))


def healed(raw: bytes, sidecar: bytes) -> bytes | None:
    """What parity makes of a damaged object; ``None`` without parity."""
    store = MemoryStore()
    write_object(store, NAME, raw)
    write_object(store, SIDECAR, sidecar)
    found = Healer(store, COVERED.repository_id).open(ObjectType.PACK, COVERED.object_id)
    return None if found is None else found.read(NAME)


def test_products_are_those_of_the_field() -> None:
    table = products()
    assert all(table[a, b] == product(a, b) for a in range(256) for b in range(256))


def test_the_matrix_is_that_of_the_page() -> None:
    """Each entry times (row + position) is one: an inverse needs no table to be tested."""
    weights = matrix()
    for row in range(ROWS_MAX):
        for position in range(POSITIONS_MAX):
            assert product(int(weights[row, position]), row ^ (ROWS_MAX + position)) == 1


@given(st.data())
def test_sums_are_the_products_added(data: st.DataObject) -> None:
    count, width = data.draw(st.integers(1, POSITIONS_MAX)), data.draw(st.integers(1, 5))
    blocks = np.frombuffer(noise(count * width, data.draw(st.integers(0, 99))), np.uint8).reshape(count, width)
    sums = Sums(width)
    cut = data.draw(st.integers(0, count))
    sums.add(cut, blocks[cut:])
    sums.add(0, blocks[:cut])
    expected = np.zeros((ROWS_MAX, width), np.uint8)
    for row in range(ROWS_MAX):
        for position in range(count):
            weight = int(matrix()[row, position])
            expected[row] ^= np.array([product(weight, int(byte)) for byte in blocks[position]], np.uint8)
    assert (sums.rows(ROWS_MAX) == expected).all()


@given(st.data())
def test_any_lost_blocks_come_back_from_any_as_many_rows(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, POSITIONS_MAX))
    blocks = np.frombuffer(noise(count * 16, 1), np.uint8).reshape(count, 16).copy()
    lost = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=min(count, ROWS_MAX), unique=True))
    rows = data.draw(st.permutations(range(ROWS_MAX)))[: len(lost)]
    whole, rest = Sums(16), Sums(16)
    whole.add(0, blocks)
    there = blocks.copy()
    there[lost] = 0
    rest.add(0, there)
    found = solve(rows, lost, (whole.rows(ROWS_MAX) ^ rest.rows(ROWS_MAX))[rows])
    assert (found == blocks[lost]).all()


@given(SIZES)
def test_the_geometry_deals_every_block_once(size: int) -> None:
    geometry = Geometry(size)
    assert (geometry.blocks - 1) * BLOCK < size <= geometry.blocks * BLOCK
    assert geometry.stripes * geometry.positions >= geometry.blocks > geometry.stripes * (geometry.positions - 1)
    assert 1 <= geometry.positions <= POSITIONS_MAX
    assert geometry.rows == min(8, geometry.positions + 1)
    covered = [n for first, last in geometry.pieces() for n in range(first, last)]
    assert covered == list(range(geometry.positions))


@given(st.data())
def test_as_many_lost_blocks_as_rows_come_back_in_each_stripe(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    raw, geometry = noise(size, size), Geometry(size)
    sidecar, spoiled = bytearray(records_of(raw)), bytearray(raw)
    chance = random.Random(data.draw(st.integers(0, 1 << 30)))
    for stripe in range(geometry.stripes):
        blocks = range(stripe, geometry.blocks, geometry.stripes)
        gone = chance.randint(0, min(geometry.rows, len(blocks)))
        for block in chance.sample(blocks, gone):
            end = min(size, (block + 1) * BLOCK)
            spoiled[block * BLOCK : end] = bytes(end - block * BLOCK)
        spare = chance.randint(0, geometry.rows - max(1, gone))
        for row in chance.sample(range(geometry.rows), spare):
            at = (row * geometry.stripes + stripe) * geometry.record_size + chance.randrange(geometry.record_size)
            sidecar[at] ^= 1
    assert healed(bytes(spoiled), bytes(sidecar)) == raw


@given(st.data())
def test_more_than_that_is_never_returned_as_good(data: st.DataObject) -> None:
    size = data.draw(st.integers(20 * BLOCK, 60 * BLOCK))
    raw, geometry = noise(size, size), Geometry(size)
    gone = data.draw(st.lists(st.integers(0, geometry.blocks - 2), min_size=9, max_size=12, unique=True))
    spoiled = bytearray(raw)
    for block in gone:
        spoiled[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
    store = MemoryStore()
    write_object(store, NAME, bytes(spoiled))
    write_object(store, SIDECAR, records_of(raw))
    found = Healer(store, COVERED.repository_id).open(ObjectType.PACK, COVERED.object_id)
    assert found is not None
    assert sorted(found.lost) == sorted(gone)
    assert found.patches == {}


@given(st.binary(max_size=300), st.integers(0, 33_000), st.integers(0, 33_000))
def test_records_are_found_wherever_they_lie(before: bytes, start: int, cut: int) -> None:
    raw = noise(9 * BLOCK, 5)
    whole = records_of(raw)
    shifted = before + whole[: len(whole) - cut] + b"SFPARITY" * 20
    found = list(find_records(shifted, COVERED))
    geometry = Geometry(len(raw))
    assert len(found) == (len(whole) - cut) // geometry.record_size
    spoiled = shifted[:start] + b"\xa5" + shifted[start:]  # and everything behind moves by one
    assert len(list(find_records(spoiled, COVERED))) >= len(found) - 1


def test_parity_that_was_forged_heals_nothing() -> None:
    """Its digest is right, its parity is not: what comes out has not the checksum of the block."""
    raw = noise(9 * BLOCK, 5)
    sidecar, size = records_of(raw), Geometry(len(raw)).record_size
    forged = []
    for at in range(0, len(sidecar), size):
        head, contents = sidecar[at : at + 48], sidecar[at + 64 : at + size - 1] + b"!"
        forged.append(head + blake3(COVERED.repository_id + head + contents).digest(16) + contents)
    store = MemoryStore()
    write_object(store, NAME, bytes(BLOCK) + raw[BLOCK:])
    write_object(store, SIDECAR, b"".join(forged))
    found = Healer(store, COVERED.repository_id).open(ObjectType.PACK, COVERED.object_id)
    assert found is not None
    assert (found.patches, found.lost) == ({}, (0,))


@pytest.mark.parametrize("other", [Covered(bytes(16), COVERED.kind, COVERED.object_id),
                                   Covered(COVERED.repository_id, ObjectType.IMAGE, COVERED.object_id),
                                   Covered(COVERED.repository_id, COVERED.kind, bytes(16))])  # fmt: skip
def test_records_of_another_object_do_not_count(other: Covered) -> None:
    assert list(find_records(records_of(noise(5000, 1)), other)) == []


def fuzz_parity_records(data: bytes) -> None:
    """Whatever bytes are looked through for records, nothing but records comes out."""
    for record in find_records(data, COVERED):
        assert isinstance(record, Record)


@given(st.binary(max_size=500), st.lists(st.integers(0, 300), max_size=6))
def test_looking_for_records_survives_anything(data: bytes, cuts: list[int]) -> None:
    pieces = [b"SFPARITY" + data[cut:] for cut in cuts]
    fuzz_parity_records(b"".join(pieces) + data)
