"""A repair brings back what it can, says what is lost, deletes no pack and no manifest, and can be run again."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from stillframe.errors import StorageError
from stillframe.events import NoEvents
from stillframe.extents import Extent, ExtentSet
from stillframe.repo.check import check_repository
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.repair import RepairReport, repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.rows import Table, build_table
from stillframe.repo.session import begin_session
from stillframe.store import MemoryStore, write_object
from stillframe.testing.clocks import FakeClock
from stillframe.testing.faulty_store import FailingReads
from stillframe.testing.repositories import (
    CHUNK_SIZE,
    Draft,
    make_owner,
    make_repository,
    read_all_images,
    read_image,
    reopen,
    store_image,
)

ANNA, ADMIN = make_owner("anna"), make_owner("admin")
SECRET = "several words"  # noqa: S105 - of a test
FIRST = Draft(chunks=[1, 2, 3, 4, None, 5], chunks_per_pack=2)
SECOND = Draft(chunks=[1, 2, 6, 7, None, 5], chunks_per_pack=2)


@pytest.fixture(scope="module")
def original() -> MemoryStore:
    store = MemoryStore()
    repository = make_repository(store, passphrase=SECRET)
    store_image(repository, ANNA, FIRST)
    repository.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    store_image(repository, ANNA, SECOND)
    return store


@pytest.fixture
def store(original: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    for stored in original.list(""):
        write_object(copy, stored.name, original.read(stored.name))
    return copy


def open_it(store: MemoryStore | FailingReads) -> Repository:
    return reopen(store, clock=FakeClock(), passphrase=SECRET)


def repair(store: MemoryStore | FailingReads, *, read_all: bool = False) -> RepairReport:
    session = begin_session(open_it(store), ADMIN, "repair")
    try:
        return repair_repository(session, events=NoEvents(), read_all=read_all)
    finally:
        session.end()


def names(store: MemoryStore, kind: ObjectType) -> list[str]:
    return sorted(stored.name for stored in store.list(kind.folder))


def change(store: MemoryStore, name: str, edit: Callable[[bytes], bytes]) -> None:
    raw = edit(store.read(name))
    store.delete(name)
    write_object(store, name, raw)


def flip(at: int) -> Callable[[bytes], bytes]:
    def flipped(raw: bytes) -> bytes:
        place = at % len(raw)
        return raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :]

    return flipped


def contents(store: MemoryStore) -> list[bytes]:
    return list(read_all_images(open_it(store)).values())


def pack_with(store: MemoryStore, number: int) -> str:
    """The pack that holds chunk ``number`` of the first image."""
    repository = open_it(store)
    first = repository.images().images[0].manifest
    reader = repository.reader()
    raw = reader.read(bytes.fromhex(first.disks[0].partitions[0].blocks.id))
    chunk_id = raw[8 + 6 + 32 * (number - 1) :][:32]  # section 8: 6 entries, the first four of kind DATA
    return object_name(ObjectType.PACK, reader.index.copies(chunk_id)[0].pack_id)


def test_a_healthy_repository_is_not_touched(store: MemoryStore) -> None:
    before = {stored.name for stored in store.list("")}
    report = repair(store, read_all=True)
    assert report.done == ()
    assert report.check.ok
    assert {stored.name for stored in store.list("")} == before


def test_without_any_index_it_is_made_anew_from_the_packs(store: MemoryStore) -> None:
    for name in names(store, ObjectType.INDEX):
        store.delete(name)
    assert not check_repository(open_it(store), events=NoEvents()).ok
    assert repair(store).check.ok
    assert contents(store) == [FIRST.contents(), SECOND.contents()]
    assert repair(store).done == ()


@pytest.mark.parametrize("edit", [flip(100), flip(-1), flip(-30), lambda raw: raw[:200], lambda _: b""])
def test_a_bad_index_run_is_replaced(store: MemoryStore, edit: Callable[[bytes], bytes]) -> None:
    bad = names(store, ObjectType.INDEX)
    for name in bad:
        change(store, name, edit)
    assert repair(store).check.ok
    assert not set(bad) & set(names(store, ObjectType.INDEX))
    assert contents(store) == [FIRST.contents(), SECOND.contents()]


def test_rows_that_point_elsewhere_are_put_right(store: MemoryStore) -> None:
    repository = open_it(store)
    for run_id in list(repository.box.ids(ObjectType.INDEX)):
        table = repository.read_run_strictly(run_id)
        rows = table.rows.copy()
        rows["offset"][:1] += 1
        repository.box.delete(ObjectType.INDEX, run_id)
        repository.box.write(ObjectType.INDEX, run_id, build_table(Table(table.packs, rows)))
    report = repair(store)
    assert "index-wrong" not in {finding.code for finding in report.check.findings}
    for name in names(store, ObjectType.INDEX):
        store.delete(name)
    assert repair(store).check.ok


@pytest.mark.parametrize("edit", [flip(-1), flip(-30), flip(-70), lambda raw: raw[:-40]])
def test_a_pack_with_a_bad_end_gives_up_its_chunks(store: MemoryStore, edit: Callable[[bytes], bytes]) -> None:
    name = pack_with(store, 3)
    change(store, name, edit)
    report = repair(store)
    assert report.check.ok, report.check.findings
    assert name in names(store, ObjectType.PACK)
    assert contents(store) == [FIRST.contents(), SECOND.contents()]
    assert repair(store).done == ()


def test_a_pack_cut_in_half_gives_up_what_is_left(store: MemoryStore) -> None:
    name = pack_with(store, 3)
    change(store, name, lambda raw: raw[: 80 + 1400])
    report = repair(store)
    first = next(state for state in report.check.images if not state.is_whole)
    assert first.lost[0].lost == ExtentSet.of(Extent(3 * CHUNK_SIZE, 4 * CHUNK_SIZE))
    assert sum(state.is_whole for state in report.check.images) == 1
    assert repair(store).done == ()


def test_a_lost_pack_leaves_the_index_and_a_full_backup_heals_the_image(store: MemoryStore) -> None:
    store.delete(pack_with(store, 3))
    report = repair(store)
    assert {finding.code for finding in report.check.findings} == {"image-lost"}
    assert "backup --kind full" in report.check.findings[0].hint
    store_image(open_it(store), ANNA, FIRST)
    assert check_repository(open_it(store), events=NoEvents()).ok
    assert contents(store).count(FIRST.contents()) == 2


def test_reading_all_finds_what_has_rotted(store: MemoryStore) -> None:
    change(store, pack_with(store, 3), flip(150))
    assert repair(store).check.ok  # names and tables are right
    report = repair(store, read_all=True)
    lost = [state.lost[0].lost for state in report.check.images if not state.is_whole]
    assert lost == [ExtentSet.of(Extent(2 * CHUNK_SIZE, 3 * CHUNK_SIZE))]
    assert repair(store, read_all=True).done == ()
    assert [note.code for note in repair(store).done] == []  # what was found bad does not come back
    store_image(open_it(store), ANNA, FIRST)
    assert check_repository(open_it(store), events=NoEvents()).ok
    assert contents(store).count(FIRST.contents()) == 2


@pytest.mark.parametrize("name", ["stillframe.json", "stillframe-copy.json"])
@pytest.mark.parametrize("edit", [flip(10), lambda raw: raw[:9], lambda _: b""])
def test_the_second_copy_of_the_identity_comes_back(
    store: MemoryStore, name: str, edit: Callable[[bytes], bytes]
) -> None:
    right = store.read(name)
    change(store, name, edit)
    report = repair(store)
    assert [note.code for note in report.done] == ["identity-copy"]
    assert store.read(name) == right


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("edit", [flip(100), lambda raw: raw[:9], None])
def test_the_second_copy_of_a_key_slot_comes_back(
    store: MemoryStore, copy: int, edit: Callable[[bytes], bytes] | None
) -> None:
    name = names(store, ObjectType.KEY_SLOT)[copy]
    right = store.read(name)
    if edit is None:
        store.delete(name)
    else:
        change(store, name, edit)
    report = repair(store)
    assert [note.code for note in report.done] == ["key-slot-copy"]
    assert store.read(name) == right
    assert report.check.ok


def test_no_pack_and_no_manifest_is_ever_deleted(store: MemoryStore) -> None:
    before = names(store, ObjectType.PACK) + names(store, ObjectType.IMAGE)
    for name in before[::2]:
        change(store, name, flip(90))
    for name in before[1::2]:
        change(store, name, lambda raw: raw[:100])
    repair(store, read_all=True)
    assert set(before) <= {stored.name for stored in store.list("")}


def test_a_damaged_record_that_no_image_needs_is_taken_away(store: MemoryStore) -> None:
    repository = open_it(store)
    session = begin_session(repository, make_owner("bert"), "verify")
    change(store, f"sessions/{session.id[:2]}/{session.id}", flip(-30))
    assert [note.code for note in repair(store).done] == ["record-deleted"]
    assert names(store, ObjectType.SESSION) == []


def test_what_cannot_be_read_today_stays_in_the_index(store: MemoryStore) -> None:
    name = pack_with(store, 3)
    failing = FailingReads(store, {name: None})
    report = repair(failing, read_all=True)
    failing.assert_fired()
    assert not report.check.ok
    assert name in {finding.thing for finding in report.check.findings}
    assert check_repository(open_it(store), events=NoEvents()).ok
    assert contents(store) == [FIRST.contents(), SECOND.contents()]


def test_a_disk_that_goes_away_meanwhile_costs_nothing(store: MemoryStore) -> None:
    class Unplugged(MemoryStore):
        def size(self, name: str) -> int:
            if name.startswith("packs/"):
                self.delete(name)
            return super().size(name)

    unplugged = Unplugged()
    for stored in store.list(""):
        write_object(unplugged, stored.name, store.read(stored.name))
    runs = names(unplugged, ObjectType.INDEX)
    with pytest.raises(StorageError, match="a moment ago"):
        repair(unplugged)
    assert names(unplugged, ObjectType.INDEX) == runs


def test_repair_needs_its_own_session(store: MemoryStore) -> None:
    session = begin_session(open_it(store), ADMIN, "backup")
    with pytest.raises(ValueError, match="session of its own"):
        repair_repository(session, events=NoEvents(), read_all=False)


def test_images_read_back_after_everything_that_can_be_mended_was_broken(store: MemoryStore) -> None:
    for name in [*names(store, ObjectType.INDEX), "stillframe.json", names(store, ObjectType.KEY_SLOT)[0]]:
        change(store, name, lambda raw: raw[: len(raw) // 2])
    report = repair(store)
    assert report.check.ok
    repository = open_it(store)
    assert [read_image(repository, image.manifest) for image in repository.images().images] == [
        FIRST.contents(),
        SECOND.contents(),
    ]
