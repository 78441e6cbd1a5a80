"""Parity healed by a second program, written from section 16 of the format page alone: small, slow, without numpy.

It shares nothing with the product but the hash library: it looks for records by their magic, does the arithmetic of the
field by its definition, and eliminates by Gauss. What it heals must be what was stored, of every type of object.
"""

import random
import struct

import pytest
from blake3 import blake3

from stillframe.repo.format import ObjectType
from stillframe.store import MemoryStore
from stillframe.testing.job_runs import ANNA
from stillframe.testing.repositories import Draft, make_repository, store_image

BLOCK = 4096


def times(one: int, other: int) -> int:
    """Multiply as polynomials over GF(2), and divide by x^8 + x^4 + x^3 + x^2 + 1."""
    result = 0
    while other:
        if other & 1:
            result ^= one
        one <<= 1
        if one & 0x100:
            one ^= 0x11D
        other >>= 1
    return result


TIMES = [[times(one, other) for other in range(256)] for one in range(256)]
INVERSE = [0] + [next(b for b in range(256) if TIMES[a][b] == 1) for a in range(1, 256)]


def scaled(factor: int, block: bytes) -> bytes:
    return block.translate(bytes(TIMES[factor]))


def added(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")


def weight(row: int, position: int) -> int:
    return INVERSE[row ^ (8 + position)]


Records = dict[tuple[int, int], tuple[list[bytes], bytes]]


def records_of(sidecar: bytes, repository_id: bytes) -> tuple[int, Records]:
    """The length that most records say, and by (stripe, row) the checksums and the parity block of those."""
    found: dict[int, Records] = {}
    at = sidecar.find(b"SFPARITY")
    while at >= 0:
        head = sidecar[at : at + 64]
        if len(head) == 64:
            length, stripe, row, _, positions = struct.unpack("<QIBBH", head[8:24])
            rest = sidecar[at + 64 : at + 64 + 4 * positions + BLOCK]
            if blake3(repository_id + head[:48] + rest).digest()[:16] == head[48:]:
                sums = [rest[4 * n : 4 * n + 4] for n in range(positions)]
                found.setdefault(length, {})[stripe, row] = sums, rest[-BLOCK:]
        at = sidecar.find(b"SFPARITY", at + 1)
    return max(found.items(), key=lambda item: len(item[1]))


def heal(raw: bytes, sidecar: bytes, repository_id: bytes) -> bytes:
    length, records = records_of(sidecar, repository_id)
    n = -(-length // BLOCK)
    stripes = -(-n // 248)
    padded = raw[:length].ljust(n * BLOCK, b"\0")
    blocks = [padded[b * BLOCK : (b + 1) * BLOCK] for b in range(n)]
    for stripe in range(stripes):
        rows = sorted(row for s, row in records if s == stripe)
        if not rows:
            continue
        sums = records[stripe, rows[0]][0]
        mine = range(stripe, n, stripes)
        lost = [j for j, b in enumerate(mine) if blake3(blocks[b]).digest()[:4] != sums[j]]
        assert len(rows) >= len(lost), "too much is lost"
        rows = rows[: len(lost)]
        left = [[weight(i, j) for j in lost] for i in rows]
        right = []
        for i in rows:
            rest = records[stripe, i][1]
            for j, b in enumerate(mine):
                if j not in lost:
                    rest = added(rest, scaled(weight(i, j), blocks[b]))
            right.append(rest)
        for position, block in zip(lost, eliminated(left, right), strict=True):
            blocks[mine[position]] = block
    return b"".join(blocks)[:length]


def eliminated(left: list[list[int]], right: list[bytes]) -> list[bytes]:
    for pivot in range(len(left)):
        factor = INVERSE[left[pivot][pivot]]
        left[pivot] = [TIMES[factor][value] for value in left[pivot]]
        right[pivot] = scaled(factor, right[pivot])
        for other in range(len(left)):
            factor = left[other][pivot]
            if other != pivot and factor:
                left[other] = [a ^ TIMES[factor][b] for a, b in zip(left[other], left[pivot], strict=True)]
                right[other] = added(right[other], scaled(factor, right[pivot]))
    return right


@pytest.fixture(scope="module")
def stored() -> tuple[bytes, MemoryStore]:
    store = MemoryStore()
    repository = make_repository(store, passphrase="several words")  # noqa: S106 - of a test
    repository.parity.decide(parity=True, machine=ANNA.machine, clock=repository.clock)
    store_image(repository, ANNA, Draft(chunks=[*range(1, 30)], compress=False))
    return repository.box.repository_id, store


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [ObjectType.PACK, ObjectType.INDEX, ObjectType.IMAGE, ObjectType.SETTING])
def test_what_the_second_program_heals_is_what_was_stored(
    stored: tuple[bytes, MemoryStore], kind: ObjectType, seed: int
) -> None:
    repository_id, store = stored
    for name in sorted(one.name for one in store.list(kind.folder)):
        whole, sidecar = store.read(name), bytearray(store.read(f"parity/{name[-35:]}"))
        chance = random.Random(seed)
        raw, n = bytearray(whole), -(-len(whole) // BLOCK)
        stripes = -(-n // 248)
        rows = min(8, -(-n // stripes) + 1)
        for stripe in range(stripes):
            mine = range(stripe, n, stripes)
            for block in chance.sample(mine, min(len(mine), rows - 1)):
                end = min(len(raw), (block + 1) * BLOCK)
                raw[block * BLOCK : end] = chance.randbytes(end - block * BLOCK)
        sidecar[80 + chance.randrange(1000)] ^= 1  # of the first record
        sidecar[-104:] = b""
        assert heal(bytes(raw), bytes(sidecar), repository_id) == whole
        if seed == 0:
            assert heal(whole + b"appended", bytes(sidecar), repository_id) == whole


def test_sizes_are_those_of_the_page(stored: tuple[bytes, MemoryStore]) -> None:
    """Header, R x S records of 64 + 4 K + 4,096 bytes, a sealed payload of 8 + 16 + 16 bytes, footer."""
    _, store = stored
    names = [one.name for one in store.list("") if f"parity/{one.name[-35:]}" != one.name]
    covered = [name for name in names if any(one.name == f"parity/{name[-35:]}" for one in store.list("parity/"))]
    assert len(covered) > 4
    for name in covered:
        n = -(-store.size(name) // BLOCK)
        s = -(-n // 248)
        k = -(-n // s)
        expected = 80 + min(8, k + 1) * s * (64 + 4 * k + 4096) + 40 + 64
        assert store.size(f"parity/{name[-35:]}") == expected
