"""Put keys: what their machines can and cannot do, and what the owner does to them."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stillframe.errors import DamagedError, PutOnly, Retired, StorageError, UsageError, WrongKey
from stillframe.events import NoEvents
from stillframe.repo import forgetting
from stillframe.repo.check import check_repository
from stillframe.repo.expire import apply_expire, plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.format import HEADER_SIZE, ObjectType, object_name
from stillframe.repo.identity import NAMES
from stillframe.repo.packs import Fetch, PackWriter
from stillframe.repo.proofs import write_proof
from stillframe.repo.put.credential import (
    SEQUENCE_MAX,
    ImageNames,
    build_credential,
    derive_credential,
    parse_credential,
)
from stillframe.repo.put.grants import list_grants, new_credential, revoke
from stillframe.repo.put.machine import PutBox, open_to_put
from stillframe.repo.put.warnings import new_warning, warned_machines, write_warning
from stillframe.repo.records import ProofRecord
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.retirement import list_machines, open_records, retire_machine, unretire_machine
from stillframe.repo.rows import build_table
from stillframe.repo.sealing import chunk_id_key, make_id
from stillframe.repo.session import Session, begin_session
from stillframe.store import MemoryStore
from stillframe.testing.odd_stores import AddOnlyStore
from stillframe.testing.put_machines import PutSide, add_put_machine, make_owned
from stillframe.testing.repositories import (
    BackupRun,
    Draft,
    make_owner,
    make_repository,
    read_all_images,
    read_image,
    store_image,
)
from stillframe.testing.sample_repository import flipped, replace_object

DORA = make_owner("dora")
FIRST = Draft(chunks=[1, 2, 3], chunks_per_pack=1)
LATER = Draft(chunks=[1, 2, 4], chunks_per_pack=1)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def owned(store: MemoryStore) -> Repository:
    return make_owned(store)


@pytest.fixture
def web(owned: Repository, tmp_path: Path) -> PutSide:
    return add_put_machine(owned, cache=tmp_path / "cache")


def warnings(store: MemoryStore) -> list[str]:
    return [stored.name for stored in store.list(ObjectType.WARNING.folder)]


def expire(repository: Repository, *, grace: timedelta = timedelta(0)) -> None:
    session = begin_session(repository, DORA, "expire")
    try:
        apply_expire(session, plan_expire(repository, own_session=session.id, grace=grace))
    finally:
        session.end()


def forget(repository: Repository, image: str) -> None:
    session = begin_session(repository, DORA, "forget")
    forget_images(session, [image])
    session.end()


# --- Adding and not reading ------------------------------------------------------------------------------------------


def test_its_images_are_the_owners_to_read(owned: Repository, web: PutSide) -> None:
    first, later = web.store_image(FIRST), web.store_image(LATER)
    assert [image.manifest for image in owned.images().images] == [first, later]
    assert read_all_images(owned) == {first.image: FIRST.contents(), later.image: LATER.contents()}
    assert (first.sequence, later.sequence) == (1, 2)
    assert later.previous == owned.images().images[0].digest.hex()
    assert later.bytes_added < first.bytes_added
    report = check_repository(owned, events=NoEvents())
    assert (report.findings, report.notes) == ((), ())
    assert [known.machine.name for known in list_machines(owned)] == [web.credential.machine_name.name]


def test_it_reads_nothing_of_others_nor_of_its_own_past(owned: Repository, web: PutSide) -> None:
    other = store_image(owned, make_owner("anna"), FIRST).manifest
    mine = web.store_image(FIRST)
    put = web.open()
    for image in (other, mine):
        with pytest.raises(PutOnly):
            put.box.read(ObjectType.IMAGE, bytes.fromhex(image.image))
        with pytest.raises(PutOnly):
            put.image(bytes.fromhex(image.image))
    for pack_id in put.stored_packs():
        with pytest.raises(PutOnly):
            put.packs.read_table(pack_id)
    for run_id in put.box.ids(ObjectType.INDEX):
        with pytest.raises(PutOnly):
            put.read_run(run_id)
    for refused in (put.images, put.forgotten, lambda: put.box.master_key):
        with pytest.raises(PutOnly, match="reads none"):
            refused()
    assert put.put is not None
    with pytest.raises(PutOnly, match="domain"):
        put.put.chunk_key(bytes(16))


def test_it_makes_only_what_a_machine_at_work_makes(owned: Repository, web: PutSide) -> None:
    web.store_image(FIRST)
    kinds = {
        kind
        for kind in ObjectType
        for stored in owned.box.store.list(kind.folder)
        if kind is not ObjectType.KEY_SLOT and owned.box.store.read(stored.name, 11, 1) == b"\x02"
    }
    assert kinds == {ObjectType.PACK, ObjectType.INDEX, ObjectType.IMAGE}


def test_the_file_of_a_key_is_what_the_page_says(owned: Repository, web: PutSide) -> None:
    """Computed again with the primitives alone; nothing that is stored is needed for it."""
    credential, master = web.credential, owned.box.master_key

    def hkdf(info: bytes) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=bytes(32), info=info).derive(master)

    here, machine = owned.box.repository_id, bytes.fromhex(credential.machine)
    assert machine.startswith(b"put-only")
    private = X25519PrivateKey.from_private_bytes(hkdf(b"stillframe/v1/put" + here))
    assert credential.public == private.public_key().public_bytes_raw().hex()
    assert credential.secret == hkdf(b"stillframe/v1/put-secret" + here + machine).hex()
    assert credential.chunks == chunk_id_key(master, here, machine).hex()
    again = derive_credential(master, owned.found_identity, machine_id=machine, label="web", created=credential.created)
    assert again == credential
    assert parse_credential(build_credential(credential).encode(), where="here") == credential


@pytest.mark.parametrize("raw", [b"", b"{}", b"SF1-AAAA", b"\xff" * 9, b"x" * 70_000])
def test_what_is_no_put_key_is_refused(raw: bytes) -> None:
    with pytest.raises(UsageError, match="not the file of a put key"):
        parse_credential(raw, where="here")


def test_a_key_that_names_another_kind_of_machine_is_none(web: PutSide) -> None:
    text = build_credential(dataclasses.replace(web.credential, machine="11" * 16))
    with pytest.raises(UsageError):
        parse_credential(text.encode(), where="here")


@pytest.mark.parametrize("label", ["", "x" * 151])
def test_a_label_is_there_and_short(owned: Repository, label: str) -> None:
    with pytest.raises(UsageError, match="put key"):
        new_credential(owned, label)


def test_a_repository_that_is_open_to_everybody_has_no_put_keys(store: MemoryStore) -> None:
    with pytest.raises(UsageError, match="not encrypted"):
        new_credential(make_repository(store), "web")


def test_a_key_of_another_repository_opens_nothing(web: PutSide) -> None:
    other = MemoryStore()
    make_owned(other)
    with pytest.raises(WrongKey, match="this put key is for repository"):
        web.open(other)


def test_an_identity_that_was_changed_is_noticed(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    for name in NAMES:
        replace_object(store, name, store.read(name).replace(b"65536", b"131072"))
    with pytest.raises(DamagedError, match="was changed since this put key was made"):
        web.open()
    assert owned.identity.chunk_size == 65_536


# --- Going on counting -----------------------------------------------------------------------------------------------


def test_without_its_table_all_is_stored_again_and_the_number_goes_on(owned: Repository, web: PutSide) -> None:
    bare = dataclasses.replace(web, cache="")
    first, second = bare.store_image(FIRST), bare.store_image(FIRST)
    assert (first.sequence, second.sequence) == (1, 2)
    assert second.bytes_added == first.bytes_added
    assert second.previous == owned.image(bytes.fromhex(first.image)).digest.hex()
    assert read_all_images(owned)[second.image] == FIRST.contents()


def test_only_machine_and_owner_can_tell_numbers_from_names(owned: Repository, web: PutSide) -> None:
    names, other = ImageNames(web.credential), ImageNames(add_put_machine(owned).credential)
    made = [names.make(number) for number in (1, 2, 1000, SEQUENCE_MAX)]
    assert [names.sequence(name) for name in made] == [1, 2, 1000, SEQUENCE_MAX]
    assert [other.sequence(name) for name in made] == [0, 0, 0, 0]
    assert len({names.make(1) for _ in range(50)}) > 45
    strangers = [os.urandom(8) + made[0][8:] for _ in range(2000)]
    assert sum(names.sequence(name) > 0 for name in strangers) <= 2
    assert names.newest(made[:3]) == (1000, made[2])
    assert names.newest([]) == (0, b"")


def test_a_number_that_was_seen_elsewhere_counts_too(owned: Repository, web: PutSide) -> None:
    web.store_image(FIRST)
    again = open_to_put(web.store, web.credential, where="here", last_sequence=7, clock=owned.clock)
    assert again.put is not None
    assert again.put.next_link().sequence == 8


def test_what_a_killed_run_stored_is_used_again(owned: Repository, web: PutSide) -> None:
    run = BackupRun(web.open(), web.owner, FIRST)
    run.write_chunks()  # and then the power fails: no index run, no manifest
    image = web.store_image(FIRST)
    assert image.bytes_added == 0
    assert read_image(owned, image) == FIRST.contents()


# --- Relying on what may go ------------------------------------------------------------------------------------------


def test_a_pack_that_is_gone_is_stored_anew(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    first = web.store_image(FIRST)
    for pack_id in owned.stored_packs():
        store.delete(object_name(ObjectType.PACK, pack_id))
    again = web.store_image(FIRST)
    assert again.bytes_added == first.bytes_added
    assert read_image(owned, again) == FIRST.contents()


def test_a_pack_that_was_announced_dead_is_not_relied_on(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    first = web.store_image(FIRST)
    forget(owned, first.image)
    expire(owned, grace=timedelta(days=1))
    assert len(warnings(store)) == 1
    again = web.store_image(FIRST)
    assert again.bytes_added >= first.bytes_added
    owned.clock.advance(timedelta(days=3))  # type: ignore[attr-defined]
    expire(owned, grace=timedelta(days=1))
    assert read_all_images(owned) == {again.image: FIRST.contents()}
    assert warnings(store) == []


def test_a_run_that_relies_on_what_is_announced_meanwhile_stops(owned: Repository, web: PutSide) -> None:
    first = web.store_image(FIRST)
    put = web.open()
    run = BackupRun(put, web.owner, FIRST)
    run.write_chunks()
    forget(owned, first.image)
    expire(owned, grace=timedelta(days=1))
    with pytest.raises(StorageError, match="relies on were announced dead"):
        run.write_manifest()
    run.end()
    assert owned.images().images == ()
    again = web.store_image(FIRST)
    assert read_image(owned, again) == FIRST.contents()


def test_a_run_that_does_not_rely_on_it_goes_on(owned: Repository, web: PutSide) -> None:
    first = web.store_image(FIRST)
    run = BackupRun(web.open(), web.owner, Draft(chunks=[7, 8]))
    run.write_chunks()
    forget(owned, first.image)
    expire(owned, grace=timedelta(days=1))
    image = run.write_manifest()
    run.end()
    assert read_all_images(owned) == {image.image: Draft(chunks=[7, 8]).contents()}


@pytest.mark.parametrize("is_warned", [True, False])
def test_without_warnings_an_image_would_be_lost(
    owned: Repository, web: PutSide, monkeypatch: pytest.MonkeyPatch, *, is_warned: bool
) -> None:
    """It begins two days after a pack was announced dead, and sleeps behind its last look while the pack goes."""
    first = web.store_image(FIRST)
    forget(owned, first.image)
    if not is_warned:
        monkeypatch.setattr(forgetting, "warn", lambda *_, **__: None)
    expire(owned, grace=timedelta(days=1))
    owned.clock.advance(timedelta(days=2))  # type: ignore[attr-defined]
    run = BackupRun(web.open(), web.owner, FIRST)
    run.write_chunks()
    look = run.writer._rescue

    def look_and_sleep(relied_on: Callable[[], Iterable[bytes]]) -> None:
        look(relied_on)
        expire(owned, grace=timedelta(days=1))

    monkeypatch.setattr(run.writer, "_rescue", look_and_sleep)
    image = run.write_manifest()
    run.end()
    if is_warned:
        assert read_image(owned, image) == FIRST.contents()
    else:
        with pytest.raises(DamagedError):
            read_image(owned, image)


@pytest.mark.parametrize("kind", [ObjectType.TOMBSTONE, ObjectType.SESSION_END, ObjectType.RETIREMENT])
def test_a_warning_is_there_before_what_it_repeats(
    owned: Repository, web: PutSide, store: MemoryStore, kind: ObjectType
) -> None:
    first = web.store_image(FIRST)
    session = begin_session(web.open(), web.owner, "backup")
    forget(owned, first.image)
    store.operations.clear()
    if kind is ObjectType.TOMBSTONE:
        session.end()
        expire(owned, grace=timedelta(days=1))
    else:
        retire_machine(owned, web.owner.machine, DORA.machine)
    made = [done.name.split("/")[0] + "/" for done in store.operations if done.verb == "commit"]
    assert ObjectType.WARNING.folder in made[: made.index(kind.folder)]


def test_a_damaged_warning_makes_it_rely_on_nothing_older(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    first = web.store_image(FIRST)
    write_warning(owned, new_warning(owned, web.credential.machine_id, "ab" * 16))
    (name,) = warnings(store)
    replace_object(store, name, flipped(store.read(name), HEADER_SIZE + 3))
    second = web.store_image(FIRST)
    assert second.bytes_added == first.bytes_added
    assert web.store_image(FIRST).bytes_added > 0  # each time anew: nothing says which packs came after it
    assert name in {finding.thing for finding in check_repository(owned, events=NoEvents()).findings}


def test_a_repair_says_again_what_a_damaged_warning_may_have_said(
    owned: Repository, web: PutSide, store: MemoryStore
) -> None:
    gone, stays = web.store_image(FIRST), web.store_image(Draft(chunks=[7, 8]))
    forget(owned, gone.image)
    expire(owned, grace=timedelta(days=1))
    (name,) = warnings(store)
    replace_object(store, name, flipped(store.read(name), HEADER_SIZE + 3))
    session = begin_session(owned, DORA, "repair")
    done = repair_repository(session, events=NoEvents(), read_all=False).done
    session.end()
    assert "warning-renewed" in {notice.code for notice in done}
    assert name not in warnings(store)
    assert web.store_image(Draft(chunks=[7, 8])).bytes_added == 0
    assert web.store_image(FIRST).bytes_added >= gone.bytes_added
    assert read_image(owned, stays) == Draft(chunks=[7, 8]).contents()


def test_a_warning_that_is_damaged_while_it_works_stops_it(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    web.store_image(FIRST)
    run = BackupRun(web.open(), web.owner, FIRST)
    run.write_chunks()
    write_warning(owned, new_warning(owned, web.credential.machine_id, "ab" * 16))
    (name,) = warnings(store)
    replace_object(store, name, flipped(store.read(name), HEADER_SIZE + 3))
    with pytest.raises(StorageError):
        run.write_manifest()
    assert len(owned.images().images) == 1


def test_a_torn_warning_says_nothing(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    """Whoever was writing it had announced nothing yet."""
    web.store_image(FIRST)
    write_warning(owned, new_warning(owned, web.credential.machine_id, "ab" * 16))
    (name,) = warnings(store)
    replace_object(store, name, store.read(name)[:100])
    assert web.store_image(FIRST).bytes_added == 0


def test_what_a_proof_found_bad_is_stored_anew(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    first = web.store_image(FIRST)
    bad = next(row["id"].tobytes().hex() for table in owned.load_index().tables() for row in table.rows)
    proof = ProofRecord(
        proof=make_id().hex(), image=first.image, created=first.created, machine=DORA.machine, kind="read-back",
        ok=False, bytes=1, bad_chunks=(bad,),
    )  # fmt: skip
    write_proof(owned, proof)
    assert len(warnings(store)) == 1
    assert 0 < web.store_image(FIRST).bytes_added < first.bytes_added


def test_warnings_are_for_one_machine_each(owned: Repository, web: PutSide, tmp_path: Path) -> None:
    other = add_put_machine(owned, "other", cache=tmp_path / "other")
    assert warned_machines(owned) == {web.credential.machine_id, other.credential.machine_id}
    mine, theirs = web.store_image(FIRST), other.store_image(FIRST)
    assert theirs.bytes_added == mine.bytes_added  # nothing is shared
    forget(owned, mine.image)
    expire(owned, grace=timedelta(days=1))
    assert len(warnings(owned.box.store)) == 1  # type: ignore[arg-type]
    assert other.store_image(FIRST).bytes_added == 0


# --- Sessions that others end ----------------------------------------------------------------------------------------


def test_a_run_whose_session_was_ended_does_not_succeed(owned: Repository, web: PutSide) -> None:
    run = BackupRun(web.open(), web.owner, FIRST)
    run.write_chunks()
    retire_machine(owned, web.owner.machine, DORA.machine)
    with pytest.raises(StorageError, match="was ended by another machine"):
        run.write_manifest()
    with pytest.raises(Retired, match="web"):
        web.store_image(FIRST)
    unretire_machine(owned, web.owner.machine, DORA.machine)
    image = web.store_image(FIRST)
    assert read_all_images(owned) == {image.image: FIRST.contents()}


def test_a_manifest_that_comes_after_the_end_of_its_session_does_not_count(
    owned: Repository, web: PutSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = BackupRun(web.open(), web.owner, FIRST)
    run.write_chunks()
    retire_machine(owned, web.owner.machine, DORA.machine)
    monkeypatch.setattr(Session, "require_fresh", lambda _self: None)  # it slept behind its last look
    with pytest.raises(StorageError, match="was ended"):
        run.write_manifest()
    assert owned.images().images == ()


def test_where_nothing_may_be_deleted_it_ends_its_own_session(owned: Repository, web: PutSide) -> None:
    add_only = dataclasses.replace(web, store=AddOnlyStore(owned.box.store))
    image = add_only.store_image(FIRST)
    assert open_records(owned) == ()
    assert [one.manifest for one in owned.images().images] == [image]
    assert len(list(owned.box.ids(ObjectType.SESSION))) == 1
    expire(owned)
    assert list(owned.box.ids(ObjectType.SESSION)) == []
    assert read_image(owned, image) == FIRST.contents()


# --- Keys that are taken away ----------------------------------------------------------------------------------------


def test_what_comes_after_a_key_was_taken_away_does_not_count(
    owned: Repository, web: PutSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = web.store_image(FIRST)
    open_before = web.open()
    revocation = revoke(owned, web.credential.machine, DORA.machine)
    assert revocation.kept == (kept.image,)
    with pytest.raises(PutOnly, match="taken away"):
        web.open()
    refused = BackupRun(open_before, web.owner, FIRST)
    with pytest.raises(StorageError, match="was ended"):
        refused.write_manifest()
    refused.end()
    monkeypatch.setattr("stillframe.repo.put.machine.Warnings.ends", lambda _self: ())  # the thief does not care
    run = BackupRun(open_before, web.owner, LATER)
    run.write_chunks()
    late = run.write_manifest()
    assert [image.manifest.image for image in owned.images().images] == [kept.image]
    assert read_all_images(owned) == {kept.image: FIRST.contents()}
    report = check_repository(owned, events=NoEvents())
    assert [note.code for note in report.notes if late.image[:8] in note.message] == ["image-void"]
    expire(owned)  # its session is left open, to hold deletion up: nobody waits for it
    assert late.image not in {image_id.hex() for image_id in owned.box.ids(ObjectType.IMAGE)}
    assert read_all_images(owned) == {kept.image: FIRST.contents()}


def test_a_run_at_work_when_its_key_is_taken_away_is_ended(owned: Repository, web: PutSide) -> None:
    run = BackupRun(web.open(), web.owner, FIRST)
    run.write_chunks()
    revoke(owned, web.credential.machine, DORA.machine)
    with pytest.raises(StorageError, match="was ended"):
        run.write_manifest()
    assert open_records(owned) == ()
    assert [known.revoked is not None for known in list_grants(owned)] == [True]
    assert warned_machines(owned) == set()


def test_two_who_take_a_key_away_keep_what_both_saw(owned: Repository, web: PutSide) -> None:
    first = web.store_image(FIRST)
    revoke(owned, web.credential.machine, DORA.machine)
    revoke(owned, web.credential.machine, DORA.machine)
    assert [image.manifest.image for image in owned.images().images] == [first.image]


def test_a_machine_whose_grant_is_gone_adds_nothing(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    """Nobody would warn it of what is deleted."""
    first = web.store_image(FIRST)
    run = BackupRun(web.open(), web.owner, FIRST)
    run.write_chunks()
    store.delete(object_name(ObjectType.GRANT, web.credential.machine_id))
    with pytest.raises(StorageError, match="was ended"):
        run.write_manifest()
    with pytest.raises(PutOnly):
        web.open()
    assert read_all_images(owned) == {first.image: FIRST.contents()}  # a grant holds nothing that reading needs


def test_a_damaged_grant_still_names_its_machine(owned: Repository, web: PutSide, store: MemoryStore) -> None:
    name = object_name(ObjectType.GRANT, web.credential.machine_id)
    replace_object(store, name, flipped(store.read(name), HEADER_SIZE + 3))
    assert warned_machines(owned) == {web.credential.machine_id}
    image = web.store_image(FIRST)
    assert read_image(owned, image) == FIRST.contents()
    assert name in {finding.thing for finding in check_repository(owned, events=NoEvents()).findings}


# --- Sealing ---------------------------------------------------------------------------------------------------------


def test_every_object_has_a_key_pair_of_its_own(owned: Repository, web: PutSide) -> None:
    box = PutBox(owned.box.store, web.credential)
    salts = {box.new_header(ObjectType.PACK, box.make_id()).salt for _ in range(100)}
    assert len(salts) == 100
    for salt in salts:
        X25519PublicKey.from_public_bytes(salt)


@pytest.mark.parametrize("what", ["no secret", "the key of another machine", "another public key"])
def test_nobody_without_the_secret_makes_what_opens(owned: Repository, web: PutSide, what: str) -> None:
    other, public = add_put_machine(owned, "other").credential, X25519PrivateKey.generate().public_key()
    credential = {
        "no secret": dataclasses.replace(web.credential, secret="00" * 32),
        "the key of another machine": dataclasses.replace(other, machine=web.credential.machine),
        "another public key": dataclasses.replace(web.credential, public=public.public_bytes_raw().hex()),
    }[what]
    stranger = PutBox(owned.box.store, credential)
    object_id = make_id()[:8] + web.credential.machine_id[8:]
    stranger.write(ObjectType.IMAGE, object_id, b"{}")
    with pytest.raises(DamagedError, match="not those that were written"):
        owned.box.read(ObjectType.IMAGE, object_id)


# Points of small order. Source: RFC 7748, section 6.1 (the all-zero check), and the list of https://cr.yp.to/ecdh.html.
SMALL = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("point", SMALL)
def test_a_public_key_of_small_order_is_refused(owned: Repository, web: PutSide, point: bytes) -> None:
    """With it everybody would know the shared secret, whatever the private half is."""
    image = web.store_image(FIRST)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image.image))
    raw = owned.box.store.read(name)
    header = dataclasses.replace(
        PutBox(owned.box.store, web.credential).new_header(ObjectType.IMAGE, bytes.fromhex(image.image)), salt=point
    )
    assert header.build()[:48] == raw[:48]
    with pytest.raises(DamagedError, match="no public key"):
        owned.box.seal(header)


def test_entries_are_believed_only_where_they_are_what_their_id_says(owned: Repository, web: PutSide) -> None:
    """A row of a put key that gives other bytes for an id does not win over the good copy, wherever it stands."""
    image = web.store_image(FIRST)
    good = owned.load_index()
    ids = [row["id"].tobytes() for table in good.tables() for row in table.rows]
    box = PutBox(owned.box.store, web.credential)
    writer = PackWriter(box, None)
    for chunk_id in ids:
        writer.add(chunk_id, b"poison" * 100)
    table = writer.finish()
    run_id = bytes(8) + web.credential.machine_id[8:]  # the first in order
    box.write(ObjectType.INDEX, run_id, build_table(table))
    index = owned.load_index()
    assert {place.pack_id for chunk_id in ids for place in index.copies(chunk_id)} >= {writer.pack_id}
    assert read_image(owned, image) == FIRST.contents()
    for place in index.locations_in(writer.pack_id):
        ((_, found),) = owned.packs.fetch(Fetch(place.pack_id, (place,)))
        assert isinstance(found, DamagedError)
        assert "other bytes under this id" in found.message


def test_its_packs_say_the_same_as_its_index_runs(owned: Repository, web: PutSide) -> None:
    image = web.store_image(FIRST)
    for run_id in list(owned.box.ids(ObjectType.INDEX)):
        owned.box.delete(ObjectType.INDEX, run_id)
    assert read_image(owned, image) == FIRST.contents()
