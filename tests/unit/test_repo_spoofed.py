"""Images that somebody made up or put elsewhere: none is listed, found as the latest, or read; a check names each.

CVE-2023-36811: an archiver took an archive for authentic whose tag was missing but whose key was a known one, so
whoever could write to its repository could make archives up. Here the attacker writes what he likes and knows no key;
then he is the thief of a put key, who may add images of one machine and tries to add others.
"""

import dataclasses
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import DamagedError, RepositoryNotFound, StillframeError
from stillframe.events import NoEvents
from stillframe.jobs.listing import find_image_id, list_images
from stillframe.repo.check import check_repository
from stillframe.repo.deletion_records import ForgottenImage, Retirement, Revocation, SessionEnd, TombstoneRecord
from stillframe.repo.ending import read_ends
from stillframe.repo.expire import apply_expire, plan_expire
from stillframe.repo.format import HEADER_SIZE, PUT_TYPES, Footer, Header, ObjectType, build_payload, object_name
from stillframe.repo.objects import ObjectBox
from stillframe.repo.packs import PackWriter
from stillframe.repo.parity.sidecars import SettingRecord, current_setting
from stillframe.repo.put.records import Grant, WarningRecord
from stillframe.repo.records import MachineName, Manifest, ProofRecord, StoredMap, build_record
from stillframe.repo.repository import Repository, StoredImage
from stillframe.repo.retirement import retirements
from stillframe.repo.rows import EntryKind, build_table
from stillframe.repo.sealing import OPEN_MASTER_KEY, Seal, make_id
from stillframe.repo.session import begin_session, open_sessions
from stillframe.repo.writing import ChunkNamer
from stillframe.store import MemoryStore
from stillframe.testing.put_machines import PutSide, add_put_machine, forge, make_owned, put_bytes, seal_object
from stillframe.testing.repositories import (
    CHUNK_SIZE,
    Draft,
    make_owner,
    make_repository,
    read_all_images,
    read_image,
    store_image,
    with_sequence,
)
from stillframe.testing.sample_repository import replace_object

ANNA, BERT = make_owner("anna"), make_owner("bert")
DRAFT = Draft(chunks=[1, 2, 3])
LATER = "2099-01-01T00:00:00Z"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def owned(store: MemoryStore) -> Repository:
    return make_owned(store)


@pytest.fixture
def real(owned: Repository) -> StoredImage:
    return store_image(owned, ANNA, DRAFT)


@pytest.fixture
def thief(owned: Repository, tmp_path: Path) -> PutSide:
    return add_put_machine(owned, cache=tmp_path / "cache")


def require_only(repository: Repository, *images: Manifest, named: str = "") -> None:
    """These images are all that is listed, found as the latest, or read; what was put there is named."""
    found = [listed.manifest.image for listed in list_images(repository, machine_id=None).images]
    assert sorted(found) == sorted(image.image for image in images)
    if images:
        newest = find_image_id(repository, "latest", machine_id=images[-1].machine.id)
        assert newest in {image.image for image in images if image.machine == images[-1].machine}
    assert read_all_images(repository) == {image.image: DRAFT.contents() for image in images}
    spoofed = named.rpartition("/")[2]
    if named.startswith(ObjectType.IMAGE.folder) and spoofed not in found:
        with pytest.raises(StillframeError):
            repository.image(bytes.fromhex(spoofed))
    report = check_repository(repository, events=NoEvents())
    if named:
        assert named in {finding.thing for finding in report.findings}, [one.message for one in report.findings]


def later(manifest: Manifest) -> Manifest:
    """The same image, as if it were made anew and last of all."""
    return dataclasses.replace(with_sequence(manifest, manifest.sequence + 1), created=LATER)


def with_header(raw: bytes, at: int, value: bytes) -> bytes:
    """An object with some bytes of its header changed, and a digest that is right for them."""
    head = raw[:at] + value + raw[at + len(value) : HEADER_SIZE]
    trailer = raw[HEADER_SIZE:-64]
    footer = Footer.over(head, trailer, trailer_offset=HEADER_SIZE, trailer_size=len(trailer))
    return head + trailer + footer.build()


# --- Without any key -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewrite", [False, True])
def test_a_manifest_under_another_id(owned: Repository, real: StoredImage, *, rewrite: bool) -> None:
    """Copied as it is, or with the id in its header made right."""
    new = make_id()
    raw = owned.box.store.read(object_name(ObjectType.IMAGE, bytes.fromhex(real.manifest.image)))
    name = object_name(ObjectType.IMAGE, new)
    put_bytes(owned.box.store, name, with_header(raw, 32, new) if rewrite else raw)
    require_only(owned, real.manifest, named=name)


@pytest.mark.parametrize("kind", [ObjectType.SESSION, ObjectType.PROOF, ObjectType.SESSION_END, ObjectType.KEPT_TABLE])
def test_an_object_of_another_type_as_a_manifest(owned: Repository, real: StoredImage, kind: ObjectType) -> None:
    """Its payload is a manifest word by word: only the type differs."""
    new = later(real.manifest)
    object_id = bytes.fromhex(new.image)
    raw = seal_object(owned.box, kind, object_id, build_record(new))
    name = object_name(ObjectType.IMAGE, object_id)
    put_bytes(owned.box.store, name, raw)
    require_only(owned, real.manifest, named=name)
    replace_object(owned.box.store, name, with_header(raw, 10, bytes([ObjectType.IMAGE])))
    require_only(owned, real.manifest, named=name)


def test_a_manifest_of_another_repository(owned: Repository, real: StoredImage) -> None:
    """The passphrase may even be the same."""
    other = make_owned(MemoryStore())
    foreign = store_image(other, ANNA, DRAFT).manifest
    name = object_name(ObjectType.IMAGE, bytes.fromhex(foreign.image))
    raw = other.box.store.read(name)
    put_bytes(owned.box.store, name, raw)
    require_only(owned, real.manifest, named=name)
    replace_object(owned.box.store, name, with_header(raw, 16, owned.box.repository_id))
    require_only(owned, real.manifest, named=name)


def test_an_object_of_a_repository_without_encryption(owned: Repository, real: StoredImage) -> None:
    """Its key is known to everybody: that is what the archiver of the CVE was made to use."""
    new = later(real.manifest)
    known = ObjectBox(owned.box.store, owned.box.repository_id, OPEN_MASTER_KEY)
    known.write(ObjectType.IMAGE, bytes.fromhex(new.image), build_record(new))
    require_only(owned, real.manifest, named=object_name(ObjectType.IMAGE, bytes.fromhex(new.image)))


@pytest.mark.parametrize("key", [bytes(32), b"\xff" * 32])
def test_a_manifest_sealed_with_a_known_key(owned: Repository, real: StoredImage, key: bytes) -> None:
    new = later(real.manifest)
    object_id = bytes.fromhex(new.image)
    header = owned.box.new_header(ObjectType.IMAGE, object_id)
    trailer = Seal(header, key).close(build_payload(build_record(new)), offset=HEADER_SIZE)
    name = object_name(ObjectType.IMAGE, object_id)
    put_bytes(owned.box.store, name, _with_trailer(header, trailer))
    require_only(owned, real.manifest, named=name)


@pytest.mark.parametrize("tag", [b"", bytes(16), b"\xff" * 16])
def test_a_manifest_without_a_tag_or_with_a_made_up_one(owned: Repository, real: StoredImage, tag: bytes) -> None:
    new = later(real.manifest)
    object_id = bytes.fromhex(new.image)
    name = object_name(ObjectType.IMAGE, object_id)
    header = owned.box.new_header(ObjectType.IMAGE, object_id)
    put_bytes(owned.box.store, name, _with_trailer(header, build_payload(build_record(new)) + tag))
    require_only(owned, real.manifest, named=name)


def _with_trailer(header: Header, trailer: bytes) -> bytes:
    head = header.build()
    footer = Footer.over(head, trailer, trailer_offset=HEADER_SIZE, trailer_size=len(trailer))
    return head + trailer + footer.build()


def test_an_entry_of_a_pack_as_a_manifest(owned: Repository, real: StoredImage) -> None:
    """Whoever can put a file on a machine can have any bytes stored as a chunk: a manifest as well."""
    new = later(real.manifest)
    object_id = bytes.fromhex(new.image)
    writer = PackWriter(owned.box, None)
    payload = build_payload(build_record(new))
    writer.add(bytes(32), payload)
    writer.finish()
    raw = owned.box.store.read(object_name(ObjectType.PACK, writer.pack_id))
    head, entry = raw[:HEADER_SIZE], raw[HEADER_SIZE : HEADER_SIZE + len(payload) + 16]
    name = object_name(ObjectType.IMAGE, object_id)
    for header in (head, head[:10] + bytes([ObjectType.IMAGE]) + head[11:32] + object_id + head[48:]):
        footer = Footer.over(header, entry, trailer_offset=HEADER_SIZE, trailer_size=len(entry))
        owned.box.store.delete(name)
        put_bytes(owned.box.store, name, header + entry + footer.build())
        require_only(owned, real.manifest, named=name)


@pytest.mark.parametrize("by_put_key", [False, True])
def test_a_cipher_byte_that_was_changed(owned: Repository, thief: PutSide, *, by_put_key: bool) -> None:
    image = thief.store_image(DRAFT) if by_put_key else store_image(owned, ANNA, DRAFT).manifest
    kept = store_image(owned, BERT, DRAFT).manifest
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image.image))
    raw = owned.box.store.read(name)
    assert raw[11] == 1 + by_put_key
    replace_object(owned.box.store, name, with_header(raw, 11, bytes([2 - by_put_key])))
    require_only(owned, kept, named=name)


def test_a_put_key_in_a_repository_that_is_open_to_everybody(thief: PutSide) -> None:
    """Its private key would be known to everybody, and so would each secret."""
    store = MemoryStore()
    opened = make_repository(store)
    kept = store_image(opened, ANNA, DRAFT).manifest
    credential = dataclasses.replace(thief.credential, repository=opened.identity.id)
    object_id = forge(dataclasses.replace(thief, store=store, credential=credential), ObjectType.IMAGE, b"{}")
    require_only(opened, kept, named=object_name(ObjectType.IMAGE, object_id))


def test_a_chunk_that_was_exchanged_for_another_is_never_returned(owned: Repository) -> None:
    """Two entries of one pack change places."""
    real = store_image(owned, ANNA, dataclasses.replace(DRAFT, compress=False))
    index = owned.load_index()
    pack_id = max(owned.stored_packs().items(), key=lambda pack: pack[1])[0]
    name = object_name(ObjectType.PACK, pack_id)
    raw = owned.box.store.read(name)
    places = [place for place in index.locations_in(pack_id) if place.kind == 0]
    one, other = next((a, b) for a, b in pairwise(places) if a.sealed_size == b.sealed_size)
    changed = bytearray(raw)
    changed[one.offset : one.offset + one.sealed_size] = raw[other.offset : other.offset + other.sealed_size]
    changed[other.offset : other.offset + other.sealed_size] = raw[one.offset : one.offset + one.sealed_size]
    replace_object(owned.box.store, name, bytes(changed))
    with pytest.raises(DamagedError):
        read_image(owned, real.manifest)


# --- With the put key of one machine ---------------------------------------------------------------------------------

Wrong = Callable[[Manifest, Manifest], Manifest]
OTHERS_NAME = MachineName(id="ab" * 16, name="a server")
WRONG: dict[str, Wrong] = {
    "the machine of another": lambda mine, real: dataclasses.replace(mine, machine=real.machine),
    "the id of another": lambda mine, real: dataclasses.replace(
        mine, machine=MachineName(id=real.machine.id, name=mine.machine.name)
    ),
    "the name of another": lambda mine, real: dataclasses.replace(
        mine, machine=MachineName(id=mine.machine.id, name=real.machine.name)
    ),
    "the end of another name": lambda mine, _: dataclasses.replace(
        mine, machine=MachineName(id=mine.machine.id, name="web [put 00000000]")
    ),
    "the domain of another": lambda mine, real: dataclasses.replace(mine, domain=real.domain),
    "the session of another": lambda mine, real: dataclasses.replace(mine, session=real.session),
    "another image id": lambda mine, real: dataclasses.replace(mine, image=real.image),
    "all of another": lambda _, real: real,
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_thief_of_a_put_key_cannot_pass_for_another(
    owned: Repository, real: StoredImage, thief: PutSide, what: str
) -> None:
    mine = thief.store_image(DRAFT)
    object_id = ObjectId(thief)
    new = dataclasses.replace(mine, image=object_id.hex, created=LATER, sequence=2)
    forge(thief, ObjectType.IMAGE, build_record(WRONG[what](new, real.manifest)), object_id=object_id.raw)
    require_only(owned, real.manifest, mine, named=object_name(ObjectType.IMAGE, object_id.raw))
    finding = next(one for one in owned.images().findings if one.thing == object_id.hex)
    assert "key remove" in finding.hint


class ObjectId:
    """A new id of a put-only machine."""

    def __init__(self, side: PutSide) -> None:
        self.raw = make_id()[:8] + side.credential.machine_id[8:]
        self.hex = self.raw.hex()


def test_a_thief_cannot_use_the_names_of_another_put_machine(owned: Repository, thief: PutSide) -> None:
    other = add_put_machine(owned, "other")
    theirs, mine = other.store_image(DRAFT), thief.store_image(DRAFT)
    object_id = ObjectId(other)
    new = dataclasses.replace(theirs, image=object_id.hex, created=LATER, sequence=2)
    forge(thief, ObjectType.IMAGE, build_record(new), object_id=object_id.raw)
    require_only(owned, theirs, mine, named=object_name(ObjectType.IMAGE, object_id.raw))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sequence": 1}, "sequence-twice"),
        ({"sequence": 9}, "images-missing"),
        ({"sequence": 2, "previous": "ab" * 32}, "chain-broken"),
    ],
)
def test_a_wrong_number_is_named_and_hides_no_image(
    owned: Repository, real: StoredImage, thief: PutSide, changes: dict[str, Any], code: str
) -> None:
    """Only of its own machine it can say so."""
    mine, object_id = thief.store_image(DRAFT), ObjectId(thief)
    new = dataclasses.replace(mine, image=object_id.hex, created=LATER, **changes)
    forge(thief, ObjectType.IMAGE, build_record(new), object_id=object_id.raw)
    require_only(owned, real.manifest, mine, new)
    found = [one for one in check_repository(owned, events=NoEvents()).findings if one.code == code]
    assert len(found) == 1
    assert mine.machine.name in found[0].message


def test_what_a_put_key_made_cannot_be_replayed(owned: Repository, thief: PutSide) -> None:
    mine, object_id = thief.store_image(DRAFT), ObjectId(thief)
    raw = owned.box.store.read(object_name(ObjectType.IMAGE, bytes.fromhex(mine.image)))
    name = object_name(ObjectType.IMAGE, object_id.raw)
    put_bytes(owned.box.store, name, raw)
    require_only(owned, mine, named=name)
    replace_object(owned.box.store, name, with_header(raw, 32, object_id.raw))
    require_only(owned, mine, named=name)


def _records(thief: PutSide, real: Manifest) -> dict[ObjectType, object]:
    """What a put key may not make, each in a form that would do harm."""
    me, own = thief.credential.machine_name, ObjectId(thief).hex
    gone = (ForgottenImage(image=real.image, machine=real.machine.id, sequence=real.sequence),)
    return {
        ObjectType.TOMBSTONE: TombstoneRecord(tombstone=own, created=LATER, machine=me, images=gone),
        ObjectType.PROOF: ProofRecord(
            proof=own, image=real.image, created=LATER, machine=me, kind="read-back", ok=True, bytes=1
        ),
        ObjectType.SETTING: SettingRecord(setting=own, sequence=99, created=LATER, machine=me, parity=True),
        ObjectType.RETIREMENT: Retirement(retirement=own, machine=real.machine, by=me, created=LATER),
        ObjectType.REVOCATION: Revocation(revocation=own, grant=thief.credential.machine, by=me, created=LATER),
        ObjectType.GRANT: Grant(grant=own, label="more", created=LATER, by=me),
        ObjectType.WARNING: WarningRecord(warning=own, created=LATER, repeats=own),
    }


def test_a_put_key_makes_nothing_that_deletes_or_proves(owned: Repository, real: StoredImage, thief: PutSide) -> None:
    records = _records(thief, real.manifest)
    for kind, record in records.items():
        object_id = ObjectId(thief)
        header = dataclasses.replace(_put_header(thief, object_id.raw), kind=kind)
        trailer = Seal(header, bytes(32)).close(build_payload(build_record(record)), offset=HEADER_SIZE)
        name = object_name(kind, object_id.raw)
        put_bytes(owned.box.store, name, _with_trailer(header, trailer))
        with pytest.raises(DamagedError, match="a put key may not make"):
            owned.box.read(kind, object_id.raw)
        assert name in {finding.thing for finding in check_repository(owned, events=NoEvents()).findings}
    require_only(owned, real.manifest)
    assert (owned.tombstones(), owned.proofs(), current_setting(owned.box)) == ((), (), None)
    assert retirements(owned) == {}
    assert set(records).isdisjoint(PUT_TYPES)


def _put_header(thief: PutSide, object_id: bytes) -> Header:
    from stillframe.repo.put.machine import PutBox

    return PutBox(thief.store, thief.credential).new_header(ObjectType.IMAGE, object_id)


def test_a_put_key_ends_no_session_of_others(owned: Repository, real: StoredImage, thief: PutSide) -> None:
    """Nothing of what an ended session wrote counts but what the end names: it would take images of others away."""
    me = thief.credential.machine_name
    for machine, by in ((ANNA.machine, me), (me, ANNA.machine), (me, me)):
        object_id = ObjectId(thief)
        end = SessionEnd(
            end=object_id.hex, session=real.manifest.session, machine=machine, by=by, created=LATER, why="done"
        )
        forge(thief, ObjectType.SESSION_END, build_record(end), object_id=object_id.raw)
        require_only(owned, real.manifest, named=object_name(ObjectType.SESSION_END, object_id.raw))
    assert not read_ends(owned).has_ended(real.manifest.session)


def test_a_put_key_takes_no_record_of_others_away(owned: Repository, real: StoredImage, thief: PutSide) -> None:
    """An end is taken away under the id that it says it has."""
    me, object_id = thief.credential.machine_name, ObjectId(thief)
    end = SessionEnd(end="ab" * 16, session=object_id.hex, machine=me, by=me, created=LATER, why="done")
    forge(thief, ObjectType.SESSION_END, build_record(end), object_id=object_id.raw)
    require_only(owned, real.manifest, named=object_name(ObjectType.SESSION_END, object_id.raw))


@pytest.mark.parametrize("changes", [{"verb": "repair"}, {"session": ""}, {"machine": ANNA.machine}])
def test_a_put_key_holds_nobody_up_with_a_session_that_is_not_its_own(
    owned: Repository, thief: PutSide, changes: dict[str, Any]
) -> None:
    """Of a repair it would lock everybody out; under the id of another one it would end that."""
    begun = begin_session(owned, ANNA, "backup")
    session = begin_session(thief.open(), thief.owner, "backup")
    record, object_id = session.record, ObjectId(thief)
    if "session" in changes:
        changes = {"session": begun.id, "expires": record.started}
    record = dataclasses.replace(record, **{"session": object_id.hex, **changes})
    forge(thief, ObjectType.SESSION, build_record(record), object_id=object_id.raw)
    session.end()
    assert [one.session for one in open_sessions(owned, BERT)] == [begun.id]
    expiring = begin_session(owned, BERT, "expire")  # takes the forged one away, and nothing else
    apply_expire(expiring, plan_expire(owned, own_session=expiring.id))
    expiring.end()
    assert [one.session for one in open_sessions(owned, BERT)] == [begun.id]
    begun.require_fresh()
    begun.end()


def test_a_put_key_indexes_no_pack_of_others(owned: Repository, real: StoredImage, thief: PutSide) -> None:
    """It could make a pack that an image needs look as if nothing of it was needed."""
    table = next(iter(owned.load_index().tables()))
    object_id = forge(thief, ObjectType.INDEX, build_table(table))
    assert owned.read_run(object_id) is None
    require_only(owned, real.manifest, named=object_name(ObjectType.INDEX, object_id))


def test_a_map_that_says_of_itself_that_it_is_huge_costs_nothing(
    owned: Repository, real: StoredImage, thief: PutSide
) -> None:
    """Four nodes that each name the next one 1,024 times: 64 PiB of one chunk. Nobody walks them one by one."""
    put = thief.open()
    namer, box = ChunkNamer(put, thief.credential.machine_id), put.box
    writer = PackWriter(box, None)
    data = b"again" * 1000 + bytes(CHUNK_SIZE - 5000)
    chunk_id = namer.name(data)
    writer.add(chunk_id, data)
    for level in range(4):
        node = struct.pack("<4sBBH", b"SFMN", 1, level, 1024) + b"\x02" * 1024 + chunk_id * 1024
        chunk_id = namer.name(node)
        writer.add(chunk_id, node, EntryKind.NODE)
    box.write(ObjectType.INDEX, box.make_id(), build_table(writer.finish()))
    mine, size = thief.store_image(DRAFT), 1024**4 * CHUNK_SIZE
    (disk,) = mine.disks
    part = dataclasses.replace(disk.partitions[0], size=size, blocks=StoredMap(size=size, kind=2, id=chunk_id.hex()))
    outside = StoredMap(size=size + (2 << 20), kind=0)
    disk = dataclasses.replace(disk, size=size + (2 << 20), outside=outside, partitions=(part,))
    object_id = ObjectId(thief)
    new = dataclasses.replace(mine, image=object_id.hex, sequence=2, disks=(disk,), previous="")
    forge(thief, ObjectType.IMAGE, build_record(new), object_id=object_id.raw)
    assert check_repository(owned, events=NoEvents()).ok
    expiring = begin_session(owned, BERT, "expire")
    plan = plan_expire(owned, own_session=expiring.id)
    expiring.end()
    assert plan.dead_packs == ()
    assert read_image(owned, real.manifest) == DRAFT.contents()


def test_nobody_shares_chunks_with_a_put_machine(owned: Repository, thief: PutSide) -> None:
    """Whoever saves the same disk with the passphrase stores all of it himself."""
    theirs = thief.store_image(DRAFT)
    mine = store_image(owned, ANNA, DRAFT).manifest
    assert mine.bytes_added >= theirs.bytes_added
    for pack_id in owned.stored_packs():
        if pack_id.hex()[16:] == thief.credential.machine[16:]:
            owned.box.delete(ObjectType.PACK, pack_id)
    assert read_image(owned, mine) == DRAFT.contents()


def test_an_image_that_is_gone_cannot_be_listed_by_word_of_a_spoofed_one(owned: Repository) -> None:
    with pytest.raises(RepositoryNotFound):
        find_image_id(owned, "latest", machine_id=ANNA.machine.id)
