"""Sidecars, settings and deeper maps: what the tests of whole runs do not look at one by one."""

import random
from datetime import timedelta

import numpy as np
import pytest

from stillframe.errors import Cancelled, DamagedError, Locked, StorageError
from stillframe.events import Finding, NoEvents, Notice, RecordedEvents
from stillframe.jobs.parity import renew, switch
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.verify import verify_image
from stillframe.repo.check import check_repository
from stillframe.repo.compaction import write_tables
from stillframe.repo.copying import Copier, open_entries
from stillframe.repo.expire import _announce, _needed_packs, apply_expire, plan_expire
from stillframe.repo.expire_view import look
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.parity.condition import parity_status, renew_parity
from stillframe.repo.parity.records import BLOCK, Geometry
from stillframe.repo.parity.replacing import finish_replacing, replace_healed
from stillframe.repo.parity.sidecars import covered_objects, current_setting, is_sidecar_whole, orphaned_sidecars
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import StoredNotice, build_record
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.session import begin_session
from stillframe.repo.walk import iter_leaves, iter_maps, referenced_chunks
from stillframe.store import MemoryStore, write_object
from stillframe.testing.clocks import FakeClock
from stillframe.testing.faulty_store import FullStore
from stillframe.testing.job_runs import job_context
from stillframe.testing.repositories import (
    BackupRun,
    Draft,
    make_owner,
    make_repository,
    read_image,
    reopen,
    store_image,
)
from stillframe.testing.rotten_store import BadSectors
from stillframe.testing.sample_repository import flipped, replace_object, sample_manifest

ANNA, ADMIN = make_owner("anna"), make_owner("admin")
SECRET = "several words"  # noqa: S105 - of a test
DRAFT = Draft(chunks=[1, 2, 3, None, 4], chunks_per_pack=2)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore) -> Repository:
    made = make_repository(store, passphrase=SECRET)
    switch(made, wanted=True, owner=ADMIN)
    return made


def again(store: MemoryStore) -> Repository:
    return reopen(store, clock=FakeClock(), passphrase=SECRET)


def sidecars(store: MemoryStore) -> set[str]:
    return {stored.name for stored in store.list(ObjectType.PARITY.folder)}


def test_every_object_that_may_have_parity_has_it(repository: Repository, store: MemoryStore) -> None:
    store_image(repository, ANNA, DRAFT)
    covered = {
        stored.name[-32:]
        for kind in (ObjectType.PACK, ObjectType.INDEX, ObjectType.IMAGE, ObjectType.SETTING)
        for stored in store.list(kind.folder)
    }
    assert {name[-32:] for name in sidecars(store)} == covered
    for one in covered_objects(repository.box):
        assert one.is_covered
        assert is_sidecar_whole(repository.box, one.kind, one.object_id, one.size)
        assert store.size(object_name(ObjectType.PARITY, one.object_id)) == Geometry(one.size).sidecar_size


def test_each_changed_byte_of_a_sidecar_is_noticed(repository: Repository, store: MemoryStore) -> None:
    store_image(repository, ANNA, DRAFT)
    one = next(found for found in covered_objects(repository.box) if found.kind is ObjectType.IMAGE)
    name = object_name(ObjectType.PARITY, one.object_id)
    raw = store.read(name)
    places = [*range(144), *range(200, len(raw) - 200, 997), *range(len(raw) - 110, len(raw))]
    for place in places:
        replace_object(store, name, flipped(raw, place))
        assert not is_sidecar_whole(repository.box, one.kind, one.object_id, one.size), place
    for other in (raw[:-1], raw + b"x", b""):
        replace_object(store, name, other)
        assert not is_sidecar_whole(repository.box, one.kind, one.object_id, one.size)


def test_without_the_wish_nothing_gets_parity(store: MemoryStore) -> None:
    store_image(make_repository(store), ANNA, DRAFT)
    assert sidecars(store) == set()
    assert not list(store.list(ObjectType.SETTING.folder))


def test_the_newest_wish_counts(repository: Repository, store: MemoryStore) -> None:
    for wanted in (False, True, False):
        switch(repository, wanted=wanted, owner=ADMIN)
        found = current_setting(again(store).box)
        assert found is not None
        assert found.parity is wanted
    assert found is not None
    assert found.sequence == 4
    assert len(list(store.list(ObjectType.SETTING.folder))) == 1
    assert len(sidecars(store)) == 0  # that of the last one was not wanted


def test_an_older_wish_put_back_does_not_count(repository: Repository, store: MemoryStore) -> None:
    (stored,) = store.list(ObjectType.SETTING.folder)
    older = store.read(stored.name)
    switch(repository, wanted=False, owner=ADMIN)
    write_object(store, stored.name, older)
    assert not again(store).parity.is_wanted


@pytest.mark.usefixtures("repository")
def test_a_damaged_wish_is_a_finding_and_is_taken_away(store: MemoryStore) -> None:
    (stored,) = store.list(ObjectType.SETTING.folder)
    replace_object(store, stored.name, flipped(store.read(stored.name), 100))
    for name in sidecars(store):
        store.delete(name)
    assert not again(store).parity.is_wanted
    (finding,) = check_repository(again(store), events=NoEvents()).findings
    assert finding.thing == stored.name
    session = begin_session(again(store), ADMIN, "repair")
    report = repair_repository(session, events=NoEvents(), read_all=False)
    assert "stillframe parity on" in report.done[0].hint
    assert report.check.ok


def test_no_room_for_parity_is_a_notice_and_the_backup_goes_on(store: MemoryStore) -> None:
    class NoParity(MemoryStore):
        def create(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
            if name.startswith("parity/"):
                raise StorageError("no room", hint="Free some.")
            return super().create(name)

    store = NoParity()
    made = make_repository(store)
    events = RecordedEvents()
    made.box.events = events
    made.parity.decide(parity=True, machine=ADMIN.machine, clock=made.clock)
    image = store_image(made, ANNA, DRAFT)
    assert read_image(made, image.manifest) == DRAFT.contents()
    assert [event.code for event in events.events if isinstance(event, Notice)] == ["no-parity"]
    assert made.parity.failures > 3
    (note,) = check_repository(made, events=NoEvents()).notes
    assert (note.code, "parity renew" in note.hint) == ("no-parity", True)


def test_a_full_disk_is_no_torn_sidecar(repository: Repository, store: MemoryStore) -> None:
    store_image(repository, ANNA, DRAFT)
    for name in sidecars(store):
        store.delete(name)
    full = FullStore(store, 9000)
    limited = reopen(full, clock=FakeClock(), passphrase=SECRET)
    with pytest.raises(StorageError):
        renew_parity(limited, covered_objects(limited.box), events=NoEvents(), check=lambda: None)
    full.assert_fired()
    assert len(sidecars(store)) <= 1
    assert check_repository(again(store), events=NoEvents()).ok


def test_deleting_takes_the_parity_along(repository: Repository) -> None:
    first = store_image(repository, ANNA, DRAFT)
    clock = repository.clock
    assert isinstance(clock, FakeClock)
    clock.advance(timedelta(hours=1))
    store_image(repository, ANNA, Draft(chunks=[7, 8], chunks_per_pack=2))
    clock.advance(timedelta(days=3))
    for leaving in ([first.manifest.image], []):
        session = begin_session(repository, ADMIN, "expire")
        apply_expire(session, plan_expire(repository, forget=leaving, own_session=session.id, grace=timedelta(0)))
        session.end()
    assert orphaned_sidecars(repository.box) == []
    status = parity_status(repository)
    assert (status.missing, status.orphans) == (0, 0)


def test_orphans_are_a_note_and_go_with_expire(repository: Repository, store: MemoryStore) -> None:
    store_image(repository, ANNA, DRAFT)
    write_object(store, "parity/ab/" + "ab" * 16, b"whatever")
    assert "parity-orphaned" in {note.code for note in check_repository(repository, events=NoEvents()).notes}
    session = begin_session(repository, ADMIN, "expire")
    apply_expire(session, plan_expire(repository, own_session=session.id))
    session.end()
    assert "parity/ab/" + "ab" * 16 not in sidecars(store)
    assert check_repository(repository, events=NoEvents()).notes == ()


def test_a_renewal_can_be_stopped_and_does_not_run_beside_a_repair(repository: Repository, store: MemoryStore) -> None:
    store_image(repository, ANNA, DRAFT)
    for name in sidecars(store):
        store.delete(name)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        renew(again(store), job_context(ADMIN, cancel=cancel))
    assert not list(store.list(ObjectType.SESSION.folder))
    session = begin_session(again(store), ADMIN, "repair")
    with pytest.raises(Locked):
        renew(again(store), job_context(ANNA))
    session.end()
    assert renew(again(store), job_context(ANNA)).written == len(list(covered_objects(repository.box)))


def spoiled_manifest(repository: Repository, store: MemoryStore) -> tuple[str, bytes]:
    image = store_image(repository, ANNA, DRAFT).manifest.image
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image))
    raw = store.read(name)
    replace_object(store, name, flipped(raw, 200))
    return image, raw


def test_a_manifest_keeps_its_name_its_bytes_and_so_its_digest(repository: Repository, store: MemoryStore) -> None:
    image, raw = spoiled_manifest(repository, store)
    fresh = again(store)
    replace_healed(fresh.box, ObjectType.IMAGE, bytes.fromhex(image))
    assert store.read(object_name(ObjectType.IMAGE, bytes.fromhex(image))) == raw
    assert not list(store.list("healed/"))


def test_what_is_not_whole_is_never_written(repository: Repository, store: MemoryStore) -> None:
    image, _ = spoiled_manifest(repository, store)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image))
    before = {stored.name: store.read(stored.name) for stored in store.list("")}
    sidecar = object_name(ObjectType.PARITY, bytes.fromhex(image))
    store.delete(sidecar)
    with pytest.raises(DamagedError, match="has no parity"):
        replace_healed(again(store).box, ObjectType.IMAGE, bytes.fromhex(image))
    # parity that was made of the damaged bytes "heals" to what is still damaged
    from stillframe.repo.parity.sidecars import write_sidecar

    write_sidecar(again(store).box, ObjectType.IMAGE, bytes.fromhex(image))
    with pytest.raises(DamagedError):
        replace_healed(again(store).box, ObjectType.IMAGE, bytes.fromhex(image))
    assert store.read(name) == before[name]
    assert not list(store.list("healed/"))


@pytest.mark.parametrize("primary", ["gone", "damaged", "whole"])
def test_a_repair_goes_on_where_the_last_one_stopped(repository: Repository, store: MemoryStore, primary: str) -> None:
    image, raw = spoiled_manifest(repository, store)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image))
    write_object(store, f"healed/{name}", raw)
    if primary == "gone":
        store.delete(name)
    elif primary == "whole":
        replace_object(store, name, raw)
    assert [kept.manifest.image for kept in again(store).images().images] == [image]
    assert "repair-cut-off" in {note.code for note in check_repository(again(store), events=NoEvents()).notes}
    assert list(finish_replacing(again(store).box)) == ([] if primary == "whole" else [name])
    assert store.read(name) == raw
    assert not list(store.list("healed/"))


@pytest.mark.parametrize("there", [True, False])
def test_a_copy_that_is_not_whole_never_replaces_anything(
    repository: Repository, store: MemoryStore, *, there: bool
) -> None:
    image, raw = spoiled_manifest(repository, store)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image))
    damaged = store.read(name)
    write_object(store, f"healed/{name}", raw[:-100])
    if not there:
        store.delete(name)
    assert list(finish_replacing(again(store).box)) == []
    assert {stored.name for stored in store.list("healed/")} == (set() if there else {f"healed/{name}"})
    assert not there or store.read(name) == damaged


def test_other_names_among_the_copies_are_left_alone(repository: Repository, store: MemoryStore) -> None:
    for name in ("healed/notes.txt", "healed/packs/ab/" + "ab" * 16):
        write_object(store, name, b"somebody's")
    assert list(finish_replacing(repository.box)) == []
    assert len(list(store.list("healed/"))) == 2


def test_a_disk_that_spoils_what_is_written_keeps_the_damaged_object(store: MemoryStore) -> None:
    class Spoils(MemoryStore):
        spoiling = False

        def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            raw = super().read(name, offset, length)
            return flipped(raw, 5) if self.spoiling and name.startswith("healed/") else raw

    store = Spoils()
    made = make_repository(store, passphrase=SECRET)
    switch(made, wanted=True, owner=ADMIN)
    image, _ = spoiled_manifest(made, store)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image))
    before = store.read(name)
    store.spoiling = True
    with pytest.raises(StorageError, match="reads back otherwise"):
        replace_healed(again(store).box, ObjectType.IMAGE, bytes.fromhex(image))
    assert store.read(name) == before


def test_a_pack_whose_salt_is_wrong_opens_with_that_of_its_parity(repository: Repository, store: MemoryStore) -> None:
    image = store_image(repository, ANNA, DRAFT)
    for stored in list(store.list(ObjectType.PACK.folder)):
        replace_object(store, stored.name, flipped(store.read(stored.name), 60))
    assert read_image(again(store), image.manifest) == DRAFT.contents()


@pytest.mark.parametrize("blocks", [range(1), range(5), range(16)])
def test_sectors_of_the_sidecar_that_cannot_be_read_cost_only_themselves(
    repository: Repository, store: MemoryStore, blocks: range
) -> None:
    image = store_image(repository, ANNA, Draft(chunks=[*range(1, 25)], compress=False))
    pack = max(store.list(ObjectType.PACK.folder), key=lambda stored: stored.size).name
    geometry = Geometry(store.size(pack))
    assert (geometry.stripes, geometry.rows) == (2, 8)
    sidecar = object_name(ObjectType.PARITY, bytes.fromhex(pack[-32:]))
    bad = BadSectors(store, {sidecar: blocks, pack: {3} if len(blocks) < 16 else set()})
    assert read_image(reopen(bad, clock=FakeClock(), passphrase=SECRET), image.manifest)[: 24 * 65536] == b"".join(
        [Draft(chunks=[*range(1, 25)]).contents()]
    )


@pytest.mark.parametrize("covered", [False, True])
def test_what_has_parity_was_complete_once_whatever_its_end_says(
    repository: Repository, store: MemoryStore, *, covered: bool
) -> None:
    """A manifest that lost more than parity brings back is damage, and stops deletion; it is no torn write."""
    words = random.Random(1).randbytes(8000).hex()
    notices = tuple(StoredNotice(code="x", message=words[at : at + 4000]) for at in range(0, 16_000, 4000))
    image = sample_manifest(notices=notices)
    repository.box.write(ObjectType.IMAGE, bytes.fromhex(image.image), build_record(image))
    name, sidecar = (object_name(kind, bytes.fromhex(image.image)) for kind in (ObjectType.IMAGE, ObjectType.PARITY))
    geometry = Geometry(store.size(name))
    assert geometry.rows == geometry.positions + 1 > 2
    replace_object(store, name, store.read(name)[:100])
    assert [one.manifest.image for one in again(store).images().images] == [image.image]
    kept = 80 + geometry.record_size if covered else 80
    replace_object(store, sidecar, store.read(sidecar)[:kept])
    report = check_repository(again(store), events=NoEvents())
    listed = again(store).images()
    assert listed.images == ()
    if covered:
        assert [(finding.thing, finding.code) for finding in report.findings] == [(name, "damaged")]
        assert len(listed.findings) == 1
        with pytest.raises(DamagedError, match="nothing is deleted"):
            plan_expire(again(store))
    else:
        assert report.findings == listed.findings == ()
        assert {note.code for note in report.notes} == {"torn-object", "no-parity"}


def test_of_packs_that_a_run_left_only_what_opens_is_adopted(repository: Repository, store: MemoryStore) -> None:
    run = BackupRun(repository, ANNA, Draft(chunks=[1, 2, 3, 4], compress=False))
    run.write_chunks()
    packs = sorted(store.list(ObjectType.PACK.folder), key=lambda stored: stored.size)
    replace_object(store, packs[-1].name, flipped(store.read(packs[-1].name), 200))
    run.end()
    fresh = again(store)
    image = store_image(fresh, ANNA, Draft(chunks=[1, 2, 3, 4], compress=False))
    for name in sidecars(store):
        store.delete(name)
    assert read_image(again(store), image.manifest) == Draft(chunks=[1, 2, 3, 4]).contents()


@pytest.mark.parametrize("spoil", [False, True])
def test_bytes_that_need_parity_never_let_another_copy_go(
    repository: Repository, store: MemoryStore, *, spoil: bool
) -> None:
    image = store_image(repository, ANNA, DRAFT)
    first = set(repository.stored_packs())
    copier = Copier(repository)
    for pack in sorted(first):
        table = repository.packs.read_table(pack)
        places = [table.location(row) for row in range(len(table.rows))]
        for place, data in open_entries(repository.packs, places, pack_size=1 << 30):
            assert isinstance(data, bytes)
            copier.add(place, data)
    write_tables(repository, copier.finish())
    second = set(repository.stored_packs()) - first
    session = begin_session(repository, ADMIN, "expire")
    _announce(session, sorted(second))
    if spoil:
        for pack in first:
            name = object_name(ObjectType.PACK, pack)
            replace_object(store, name, flipped(store.read(name), 100))
    fresh = again(store)
    assert read_image(fresh, image.manifest) == DRAFT.contents()
    view = look(fresh, own_session=session.id)
    needed = referenced_chunks(ChunkReader(view.index, fresh.packs), (one.manifest for one in view.images))
    assert _needed_packs(fresh, view, needed, second) == (second if spoil else set())


def deep_draft() -> Draft:
    """A map of two levels with three leaves, of 40 chunks that come again and again."""
    return Draft(chunks=[n % 40 + 1 + 40 * (n // 1024) for n in range(2100)], chunks_per_pack=10)


def test_a_damaged_leaf_hides_nothing_behind_it(store: MemoryStore) -> None:
    """Of a map of two levels: the bad leaf is named, the leaves behind it are read, and a backup brings all back."""
    made = make_repository(store)
    image = store_image(made, ANNA, deep_draft())
    index, reader = made.load_index(), made.reader()
    place = next(place for place in iter_maps(image.manifest) if place.partition_number == 1)
    leaves = dict(iter_leaves(reader, place))
    assert len(leaves) == 3
    bad_leaf, last = next(iter(leaves)), list(leaves.values())[2]
    assert not isinstance(last, DamagedError)
    bad_chunk = last.ids[:32]
    for chunk_id in (bad_leaf, bad_chunk):
        (where,) = index.copies(chunk_id)
        name = object_name(ObjectType.PACK, where.pack_id)
        replace_object(store, name, flipped(store.read(name), where.offset + 5))
    events = RecordedEvents()
    result = verify_image(
        reopen(store, clock=made.clock), image.manifest, quick=False, context=job_context(ANNA, events)
    )
    assert not result.ok
    (proof,) = made.proofs()
    assert set(proof.bad_chunks) == {bad_leaf.hex(), bad_chunk.hex()}
    lost = next(event.message for event in events.events if isinstance(event, Finding))
    assert f"at bytes 0 to {1024 * 65536}" in lost
    clock = made.clock
    assert isinstance(clock, FakeClock)
    clock.advance(timedelta(hours=1))
    new = store_image(reopen(store, clock=clock), ANNA, deep_draft())
    for one in (image, new):
        assert verify_image(reopen(store, clock=clock), one.manifest, quick=False, context=job_context(ANNA)).ok


def test_checksums_are_of_whole_blocks() -> None:
    from blake3 import blake3

    from stillframe.repo.parity.records import checksums

    blocks = np.arange(2 * BLOCK, dtype=np.uint32).astype(np.uint8).reshape(2, BLOCK)
    assert checksums(blocks).tobytes() == b"".join(blake3(row.tobytes()).digest(4) for row in blocks)
