"""Small sealed objects in a store: every bit, every length, every wrong place."""

import pytest

from stillframe.errors import DamagedError, StillframeError
from stillframe.repo.format import OBJECT_SIZE_MAX, Footer, ObjectType, build_payload, object_name
from stillframe.repo.objects import ObjectBox, TornObject
from stillframe.store import MemoryStore, ObjectExists, ObjectMissing
from stillframe.testing.sample_repository import flipped, replace_object

REPOSITORY, OBJECT, MASTER = bytes(range(16)), bytes(range(16, 32)), bytes(range(64, 96))
NAME = object_name(ObjectType.IMAGE, OBJECT)
DATA = b'{"a small": "manifest"}'


def make_box() -> ObjectBox:
    return ObjectBox(MemoryStore(), REPOSITORY, MASTER)


@pytest.fixture
def box() -> ObjectBox:
    return make_box()


@pytest.mark.parametrize("data", [b"x", DATA, bytes(10_000)])
def test_what_was_written_is_read(box: ObjectBox, data: bytes) -> None:
    digest = box.write(ObjectType.IMAGE, OBJECT, data)
    opened = box.read(ObjectType.IMAGE, OBJECT)
    assert (opened.payload, opened.digest, opened.object_id) == (data, digest, OBJECT)
    assert digest == box.store.read(NAME)[-40:-8]
    assert list(box.ids(ObjectType.IMAGE)) == [OBJECT]
    assert list(box.ids(ObjectType.PROOF)) == []


def test_an_object_without_a_payload_is_refused_before_it_is_written(box: ObjectBox) -> None:
    with pytest.raises(ValueError, match="trailer of 24 bytes"):
        box.write(ObjectType.IMAGE, OBJECT, b"")
    assert list(box.ids(ObjectType.IMAGE)) == []


def test_any_flipped_bit_is_found() -> None:
    box = make_box()
    box.write(ObjectType.IMAGE, OBJECT, DATA)
    raw = box.store.read(NAME)
    for position in range(len(raw)):
        for bit in range(8):
            replace_object(box.store, NAME, flipped(raw, position, bit))
            with pytest.raises(DamagedError):
                box.read(ObjectType.IMAGE, OBJECT)


def test_a_shorter_object_is_torn_and_a_longer_one_is_damage() -> None:
    box = make_box()
    box.write(ObjectType.IMAGE, OBJECT, DATA)
    raw = box.store.read(NAME)
    for size in range(len(raw)):
        replace_object(box.store, NAME, raw[:size])
        with pytest.raises(TornObject):
            box.read(ObjectType.IMAGE, OBJECT)
    for longer in (raw + b"\0", raw + raw, raw + raw[-64:]):
        replace_object(box.store, NAME, longer)
        with pytest.raises(DamagedError):
            box.read(ObjectType.IMAGE, OBJECT)


def test_an_object_under_another_name_type_or_repository_is_damage(box: ObjectBox) -> None:
    box.write(ObjectType.IMAGE, OBJECT, DATA)
    raw = box.store.read(NAME)
    other = bytes(16)
    replace_object(box.store, object_name(ObjectType.IMAGE, other), raw)
    replace_object(box.store, object_name(ObjectType.PROOF, OBJECT), raw)
    for kind, object_id in ((ObjectType.IMAGE, other), (ObjectType.PROOF, OBJECT)):
        with pytest.raises(DamagedError, match="replaced"):
            box.read(kind, object_id)
    with pytest.raises(DamagedError, match="belongs to repository"):
        ObjectBox(box.store, other, MASTER).read(ObjectType.IMAGE, OBJECT)
    with pytest.raises(DamagedError):
        ObjectBox(box.store, REPOSITORY, bytes(32)).read(ObjectType.IMAGE, OBJECT)


def test_only_packs_and_key_slots_have_a_body(box: ObjectBox) -> None:
    header = box.new_header(ObjectType.IMAGE, OBJECT)
    head, body = header.build(), b"body"
    trailer = box.seal(header).close(build_payload(DATA), offset=84)
    footer = Footer.over(head, body, trailer, trailer_offset=84, trailer_size=len(trailer))
    replace_object(box.store, NAME, head + body + trailer + footer.build())
    with pytest.raises(DamagedError):
        box.read(ObjectType.IMAGE, OBJECT)


def test_an_object_too_large_is_not_read() -> None:
    class Pretender(MemoryStore):
        def size(self, name: str) -> int:
            return super().size(name) + OBJECT_SIZE_MAX

    store = Pretender()
    replace_object(store, NAME, b"x")
    with pytest.raises(DamagedError, match="more than the format allows"):
        ObjectBox(store, REPOSITORY, MASTER).read(ObjectType.IMAGE, OBJECT)
    assert not [done for done in store.operations if done.verb == "read"]


def test_salts_are_fresh_and_objects_are_never_written_again(box: ObjectBox) -> None:
    salts = {box.new_header(ObjectType.IMAGE, OBJECT).salt for _ in range(100)}
    assert len(salts) == 100
    box.write(ObjectType.IMAGE, OBJECT, DATA)
    with pytest.raises(ObjectExists):
        box.write(ObjectType.IMAGE, OBJECT, DATA)
    assert box.read(ObjectType.IMAGE, OBJECT).payload == DATA


def test_a_missing_object_is_missing_and_deleting_it_is_no_error(box: ObjectBox) -> None:
    box.delete(ObjectType.IMAGE, OBJECT)
    with pytest.raises(ObjectMissing):
        box.read(ObjectType.IMAGE, OBJECT)


def test_other_files_are_no_objects(box: ObjectBox) -> None:
    replace_object(box.store, "images/ab/readme", b"x")
    replace_object(box.store, "images/00/" + OBJECT.hex(), b"x")
    assert list(box.ids(ObjectType.IMAGE)) == []


def test_a_torn_object_is_damage_of_the_tree() -> None:
    assert issubclass(TornObject, DamagedError)
    assert issubclass(DamagedError, StillframeError)
