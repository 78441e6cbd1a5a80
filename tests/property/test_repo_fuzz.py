"""Whatever bytes lie in a repository: our own errors or a record, never another exception.

The ``fuzz_`` functions take any bytes; ``make fuzz`` runs them for longer.
"""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.errors import DamagedError, StillframeError
from stillframe.repo.blockmap import build_node, parse_node
from stillframe.repo.deletion_records import Retirement, SessionEnd, SessionRecord, TombstoneRecord
from stillframe.repo.format import ObjectType, object_name, parse_footer, parse_payload
from stillframe.repo.identity import FORMAT, NAMES, Identity, build_identity, read_identity
from stillframe.repo.keys import KeyRing
from stillframe.repo.objects import ObjectBox
from stillframe.repo.packs import PackReader
from stillframe.repo.patches import Base, expand_patch, make_patch
from stillframe.repo.records import Manifest, ProofRecord, R, build_record, parse_record
from stillframe.repo.recovery_key import format_recovery_key, parse_recovery_key
from stillframe.repo.rows import build_table, parse_table
from stillframe.store import MemoryStore
from stillframe.testing.sample_repository import replace_object, sample_manifest

REPOSITORY, OBJECT, MASTER = bytes(range(16)), bytes(range(16, 32)), bytes(range(64, 96))
PAYLOAD = b'{"what": "was written"}'
IDENTITY = Identity(
    format=FORMAT, id=REPOSITORY.hex(), created="2026-03-01T08:30:00Z", chunk_size=65_536, encryption="aes256"
)
RECOVERY = format_recovery_key(bytes(20))
BEFORE = b"".join(number.to_bytes(2, "big") for number in range(1000))
CHANGED = BEFORE[:700] + b"!" + BEFORE[701:]
PATCH = make_patch(Base(bytes(32), BEFORE), CHANGED, 1)


def fuzz_object(data: bytes) -> None:
    """Any bytes under any name are an error, unless they are exactly what was written."""
    box = ObjectBox(MemoryStore(), REPOSITORY, MASTER)
    for kind in (ObjectType.IMAGE, ObjectType.PACK):
        replace_object(box.store, object_name(kind, OBJECT), data)
    for copy in "ab":
        replace_object(box.store, object_name(ObjectType.KEY_SLOT, OBJECT, copy=copy), data)
    with contextlib.suppress(StillframeError):
        assert box.read(ObjectType.IMAGE, OBJECT).payload == PAYLOAD
    with contextlib.suppress(StillframeError):
        PackReader(box).read_table(OBJECT)
    for name in NAMES:
        replace_object(box.store, name, build_identity(IDENTITY))
    ring = KeyRing(box.store, read_identity(box.store, where="here"))
    ring.slots()
    with contextlib.suppress(StillframeError):
        ring.unlock(RECOVERY)
    parse_footer(data[-64:], object_size=len(data))
    with contextlib.suppress(DamagedError):
        parse_payload(data, thing="x")


def fuzz_table(data: bytes) -> None:
    """A table that is read is written back as the same bytes."""
    with contextlib.suppress(DamagedError):
        table = parse_table(data, thing="x")
        assert build_table(table) == data
        for row in range(len(table.rows)):
            place = table.location(row)
            assert 80 <= place.offset < place.offset + place.sealed_size <= 128 << 20
            assert 16 < place.sealed_size <= place.plain_size + 16 <= (4 << 20) + 16
            assert (len(place.base), place.base == place.chunk_id) == (32 * (place.kind == 2), False)


def fuzz_patch(data: bytes) -> None:
    """Any bytes in the place of a patch are damage, or become a chunk of the size that its row says."""
    for size in (1, len(CHANGED), 4 << 20):
        with contextlib.suppress(DamagedError):
            assert len(expand_patch(data, BEFORE, size, thing="x")) == size
    with contextlib.suppress(DamagedError):
        expand_patch(PATCH.frame, data, len(CHANGED), thing="x")


def fuzz_node(data: bytes) -> None:
    """A node that is read is written back as the same bytes, and has an id for every entry of kind DATA."""
    count = int.from_bytes(data[6:8], "little")
    for level in (0, 1, 5):
        with contextlib.suppress(DamagedError):
            node = parse_node(data, level=level, count=count)
            assert build_node(node) == data
            assert [bool(one) for one in node.entry_ids()] == [kind == 2 for kind in node.kinds.tolist()]


def fuzz_manifest(data: bytes) -> None:
    """JSON that is read as a record is written again as a record that says the same."""
    with contextlib.suppress(DamagedError):
        read_and_write_again(data, SessionRecord)
    with contextlib.suppress(DamagedError):
        read_and_write_again(data, TombstoneRecord)
    with contextlib.suppress(DamagedError):
        read_and_write_again(data, SessionEnd)
    with contextlib.suppress(DamagedError):
        read_and_write_again(data, Retirement)
    with contextlib.suppress(DamagedError):
        read_and_write_again(data, ProofRecord)
    with contextlib.suppress(DamagedError):  # also of a map whose kind and id do not belong together
        for disk in read_and_write_again(data, Manifest).disks:
            for stored in (disk.outside, *(part.blocks for part in disk.partitions)):
                stored.root()


def read_and_write_again(data: bytes, kind: type[R]) -> R:
    record = parse_record(data, kind, thing="x")
    assert parse_record(build_record(record), kind, thing="x") == record
    return record


def fuzz_identity(data: bytes) -> None:
    """Any identity file is read, or refused by an error of ours."""
    for other in (data, build_identity(IDENTITY)):
        store = MemoryStore()
        replace_object(store, NAMES[0], data)
        replace_object(store, NAMES[1], other)
        with contextlib.suppress(StillframeError):
            found = read_identity(store, where="here")
            assert found.identity.chunk_size in {1 << power for power in range(16, 23)}


def written_object() -> bytes:
    box = ObjectBox(MemoryStore(), REPOSITORY, MASTER)
    box.write(ObjectType.IMAGE, OBJECT, PAYLOAD)
    return box.store.read(object_name(ObjectType.IMAGE, OBJECT))


def a_table() -> bytes:
    head = (1).to_bytes(4, "little") + (3).to_bytes(4, "little") + OBJECT
    row = bytes(32) + bytes(4) + (80).to_bytes(4, "little") + (116).to_bytes(4, "little") + (100).to_bytes(4, "little")
    return head + row * 2 + row[:-1] + bytes([0x21]) + b"base" * 8


def spoiled(good: bytes) -> st.SearchStrategy[bytes]:
    """The same bytes with some pieces replaced, cut out, or put in."""
    edit = st.tuples(st.integers(0, len(good)), st.integers(0, 8), st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        raw = good
        for place, gone, new in edits:
            raw = raw[:place] + new + raw[place + gone :]
        return raw

    return st.lists(edit, max_size=4).map(apply)


def leaves(whole: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every field of a JSON value."""
    children = whole.items() if isinstance(whole, dict) else enumerate(whole) if isinstance(whole, list) else ()
    return [path] * bool(path) + [found for key, value in children for found in leaves(value, (*path, key))]


MANIFEST = json.loads(build_record(sample_manifest()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def manifests_with_one_field_replaced(draw: st.DrawFn) -> bytes:
    whole = json.loads(json.dumps(MANIFEST))
    *above, last = draw(st.sampled_from(leaves(MANIFEST)))
    place = whole
    for key in above:
        place = place[key]
    place[last] = draw(JSON)
    return json.dumps(whole).encode("utf-8", "surrogatepass")


WRITTEN = written_object()


@given(st.binary(max_size=300) | spoiled(WRITTEN))
def test_objects(data: bytes) -> None:
    fuzz_object(data)


@given(st.binary(max_size=200) | spoiled(a_table()))
def test_tables(data: bytes) -> None:
    fuzz_table(data)


@given(st.binary(max_size=200) | spoiled(PATCH.frame) | spoiled(BEFORE))
def test_patches(data: bytes) -> None:
    fuzz_patch(data)


@given(st.binary(max_size=200) | spoiled(b"SFMN\x01\x00\x05\x00" + bytes([0, 2, 1, 2, 4]) + bytes(range(64))))
def test_nodes(data: bytes) -> None:
    fuzz_node(data)


@given(st.binary(max_size=200) | spoiled(build_record(sample_manifest())) | manifests_with_one_field_replaced())
def test_manifests(data: bytes) -> None:
    fuzz_manifest(data)


@given(st.binary(max_size=200) | spoiled(build_identity(IDENTITY)))
def test_identities(data: bytes) -> None:
    fuzz_identity(data)


@given(st.text() | st.text("SF1-0OIL", min_size=38, max_size=50))
def test_recovery_keys(text: str) -> None:
    with contextlib.suppress(StillframeError):
        assert len(parse_recovery_key(text)) == 20


@given(st.binary(min_size=20, max_size=20))
@settings(max_examples=50)
def test_recovery_keys_are_read_back(secret: bytes) -> None:
    assert parse_recovery_key(format_recovery_key(secret)) == secret


@pytest.mark.parametrize("good", [WRITTEN, a_table(), build_record(sample_manifest()), build_identity(IDENTITY)])
def test_the_seeds_of_the_fuzzers_are_good(good: bytes) -> None:
    accepted = 0
    box = ObjectBox(MemoryStore(), REPOSITORY, MASTER)
    replace_object(box.store, object_name(ObjectType.IMAGE, OBJECT), good)
    with contextlib.suppress(StillframeError):
        accepted += box.read(ObjectType.IMAGE, OBJECT).payload == PAYLOAD
    with contextlib.suppress(DamagedError):
        accepted += len(parse_table(good, thing="x").rows)
    with contextlib.suppress(DamagedError):
        accepted += parse_record(good, Manifest, thing="x").sequence
    store = MemoryStore()
    replace_object(store, NAMES[0], good)
    with contextlib.suppress(StillframeError):
        accepted += read_identity(store, where="here").identity == IDENTITY
    assert accepted
