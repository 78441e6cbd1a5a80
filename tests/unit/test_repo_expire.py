"""Forgetting and expiry: what goes, what waits, and that nothing needed ever goes, whoever runs beside it."""

from collections.abc import Callable
from datetime import timedelta
from itertools import product

import pytest

from stillframe.errors import DamagedError, Locked, RepositoryNotFound, StorageError, UnsupportedFormat
from stillframe.events import NoEvents
from stillframe.repo.check import check_repository
from stillframe.repo.expire import ExpirePlan, ExpireResult, apply_expire, plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.records import build_record
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner, begin_session
from stillframe.repo.usage import image_sizes
from stillframe.repo.walk import referenced_chunks
from stillframe.store import MemoryStore, write_object
from stillframe.testing.clocks import FakeClock
from stillframe.testing.repositories import (
    BackupRun,
    Draft,
    make_owner,
    make_repository,
    read_all_images,
    read_image,
    reopen,
    store_image,
)

DAY = timedelta(days=1)
NOW = timedelta(0)
ANNA, BERT = make_owner("anna"), make_owner("bert")
ADMIN = make_owner("admin")
FIRST = Draft(chunks=[1, 2, 3, 4], chunks_per_pack=2)
SECOND = Draft(chunks=[1, 2, 5, 6], chunks_per_pack=2)


def run_expire(
    repository: Repository, *, forget: list[str] | None = None, grace: timedelta = DAY, owner: Owner = ADMIN
) -> tuple[ExpirePlan, ExpireResult]:
    session = begin_session(repository, owner, "expire")
    plan = plan_expire(repository, own_session=session.id, forget=forget or [], grace=grace)
    result = apply_expire(session, plan)
    session.end()
    return plan, result


def packs(store: MemoryStore) -> set[str]:
    return {stored.name for stored in store.list(ObjectType.PACK.folder)}


def names(store: MemoryStore, kind: ObjectType) -> set[str]:
    return {stored.name for stored in store.list(kind.folder)}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore, clock: FakeClock) -> Repository:
    return make_repository(store, clock=clock)


def require_sound(repository: Repository) -> None:
    report = check_repository(repository, events=NoEvents())
    assert report.ok, report.findings


def test_a_forgotten_image_is_gone_and_its_tombstone_says_so(repository: Repository, store: MemoryStore) -> None:
    first, second = store_image(repository, ANNA, FIRST), store_image(repository, ANNA, SECOND)
    session = begin_session(repository, ADMIN, "forget")
    forget_images(session, [first.manifest.image])
    session.end()
    assert [image.manifest.image for image in repository.images().images] == [second.manifest.image]
    assert [image.sequence for record in repository.tombstones() for image in record.binned] == [1]
    require_sound(repository)
    with pytest.raises(RepositoryNotFound):
        forget_images(session, ["ab" * 16])
    assert len(names(store, ObjectType.TOMBSTONE)) == 1


def test_a_damaged_image_can_be_forgotten(repository: Repository, store: MemoryStore) -> None:
    first = store_image(repository, ANNA, FIRST)
    store_image(repository, ANNA, SECOND)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(first.manifest.image))
    raw = bytearray(store.read(name))
    raw[200] ^= 1
    store.delete(name)
    write_object(store, name, bytes(raw))
    assert not check_repository(repository, events=NoEvents()).ok
    with pytest.raises(DamagedError, match="nothing is deleted"):
        plan_expire(repository)
    run_expire(repository, forget=[first.manifest.image])
    require_sound(repository)


def test_expiry_takes_a_day_and_gives_everything_back(
    repository: Repository, store: MemoryStore, clock: FakeClock
) -> None:
    first = store_image(repository, ANNA, FIRST)
    alone = packs(store)
    second = store_image(repository, ANNA, SECOND)
    plan, result = run_expire(repository, forget=[first.manifest.image])
    assert (result.deleted, len(plan.dead_packs)) == (0, 2)  # chunks 3 and 4, and the node of the first image
    assert packs(store) >= alone
    clock.advance(DAY - timedelta(seconds=1))
    plan, result = run_expire(repository)
    assert (plan.ripe, result.deleted, len(plan.waiting)) == ((), 0, 1)
    clock.advance(timedelta(seconds=1))
    plan, result = run_expire(repository)
    assert (len(plan.ripe), result.deleted, result.bytes_freed) == (1, 2, plan.bytes_ripe)
    assert len(packs(store) & alone) == 1
    assert read_image(repository, second.manifest) == SECOND.contents()
    require_sound(repository)
    assert plan_expire(repository).is_empty


def test_a_grace_of_nothing_deletes_at_once_when_nobody_else_is_there(
    repository: Repository, store: MemoryStore
) -> None:
    first = store_image(repository, ANNA, FIRST)
    before = packs(store)
    _, result = run_expire(repository, forget=[first.manifest.image], grace=NOW)
    assert result.deleted == len(before)
    assert not packs(store)
    assert not names(store, ObjectType.INDEX)


def test_a_grace_of_nothing_waits_for_every_other_session(repository: Repository, store: MemoryStore) -> None:
    first = store_image(repository, ANNA, FIRST)
    other = begin_session(repository, BERT, "verify")
    before = packs(store)
    run_expire(repository, forget=[first.manifest.image], grace=NOW)
    assert packs(store) == before
    other.end()
    run_expire(repository, grace=NOW)
    assert not packs(store)


def test_a_mostly_dead_pack_is_copied_and_goes(repository: Repository, store: MemoryStore, clock: FakeClock) -> None:
    first = store_image(repository, ANNA, Draft(chunks=[1, 2, 3, 4]))
    second = store_image(repository, ANNA, Draft(chunks=[1, 5]))
    old = packs(store)
    plan, result = run_expire(repository, forget=[first.manifest.image])
    assert [found.live * 4 // found.total for found in plan.repack] == [1]
    assert (result.announced, result.deleted) == (2, 0)
    clock.advance(2 * DAY)
    _, result = run_expire(repository)
    assert result.deleted == 2
    assert len(packs(store) & old) == 2  # what the second image stored
    assert read_image(repository, second.manifest) == Draft(chunks=[1, 5]).contents()
    require_sound(repository)


def test_a_copy_that_rots_before_the_deletion_keeps_the_original(
    repository: Repository, store: MemoryStore, clock: FakeClock
) -> None:
    first = store_image(repository, ANNA, Draft(chunks=[1, 2, 3, 4]))
    second = store_image(repository, ANNA, Draft(chunks=[1, 5]))
    old = packs(store)
    run_expire(repository, forget=[first.manifest.image])
    (copied,) = packs(store) - old
    raw = bytearray(store.read(copied))
    raw[120] ^= 4
    store.delete(copied)
    write_object(store, copied, bytes(raw))
    clock.advance(2 * DAY)
    _, result = run_expire(repository)
    assert len(result.kept) == 1
    assert read_image(reopen(store, clock=clock), second.manifest) == Draft(chunks=[1, 5]).contents()


def test_nothing_is_deleted_while_an_image_needs_an_unknown_feature(repository: Repository) -> None:
    image = store_image(repository, ANNA, FIRST).manifest
    raw = build_record(image).replace(b'"features":[]', b'"features":["patch"]')
    repository.box.delete(ObjectType.IMAGE, bytes.fromhex(image.image))
    repository.box.write(ObjectType.IMAGE, bytes.fromhex(image.image), raw)
    with pytest.raises(UnsupportedFormat, match="patch"):
        plan_expire(repository)


def test_a_lost_node_stops_expiry(repository: Repository, store: MemoryStore) -> None:
    image = store_image(repository, ANNA, FIRST).manifest
    node = repository.load_index().copies(bytes.fromhex(image.disks[0].partitions[0].blocks.id))[0]
    store.delete(object_name(ObjectType.PACK, node.pack_id))
    with pytest.raises(DamagedError, match="disk 1, partition 1"):
        plan_expire(repository)


def test_packs_of_a_run_at_work_are_left_alone(repository: Repository) -> None:
    run = BackupRun(repository, BERT, FIRST)
    run.write_chunks()
    plan, result = run_expire(repository, grace=NOW)
    assert (plan.dead_packs, result.announced) == ((), 0)
    assert "bert" in plan.waiting[0].why
    added = run.commit()
    run.end()
    assert read_image(repository, added.manifest) == FIRST.contents()


def test_torn_objects_go_when_nobody_is_at_work(repository: Repository, store: MemoryStore) -> None:
    store_image(repository, ANNA, FIRST)
    torn = [f"{kind.folder}ab/{'ab' * 16}" for kind in ObjectType if kind is not ObjectType.KEY_SLOT]
    for name in torn:
        write_object(store, name, b"STILLFRM" + bytes(90))
    other = begin_session(repository, BERT, "backup")
    run_expire(repository)
    assert {stored.name for stored in store.list("")} >= set(torn)
    other.end()
    run_expire(repository)
    assert not {stored.name for stored in store.list("")} & set(torn)
    require_sound(repository)


def test_a_torn_manifest_beside_a_gap_stops_expiry(repository: Repository, store: MemoryStore) -> None:
    first = store_image(repository, ANNA, FIRST)
    store_image(repository, ANNA, SECOND)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(first.manifest.image))
    raw = store.read(name)
    store.delete(name)
    write_object(store, name, raw[:-100])
    with pytest.raises(DamagedError, match="may be this one"):
        plan_expire(repository)


def test_a_session_of_another_machine_counts_until_it_expires(
    repository: Repository, store: MemoryStore, clock: FakeClock
) -> None:
    first = store_image(repository, ANNA, FIRST)
    begin_session(repository, BERT, "verify")  # and dies
    run_expire(repository, forget=[first.manifest.image])
    clock.advance(14 * DAY)
    _, result = run_expire(repository)
    assert result.deleted == 0
    clock.advance(timedelta(days=1, seconds=1))
    _, result = run_expire(repository)
    assert result.deleted > 0
    assert not names(store, ObjectType.SESSION)


def test_two_expiries_do_not_run_at_once(repository: Repository) -> None:
    begin_session(repository, BERT, "expire")
    with pytest.raises(Locked):
        begin_session(repository, ANNA, "expire")


def test_a_run_whose_session_was_taken_away_does_not_commit(repository: Repository, store: MemoryStore) -> None:
    run = BackupRun(repository, ANNA, FIRST)
    run.write_chunks()
    run.end()
    with pytest.raises(StorageError, match="gone or damaged"):
        run.commit()
    assert not names(store, ObjectType.IMAGE)


def test_a_forgotten_manifest_that_is_put_back_is_taken_away_again(repository: Repository, store: MemoryStore) -> None:
    first = store_image(repository, ANNA, FIRST)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(first.manifest.image))
    raw = store.read(name)
    run_expire(repository, forget=[first.manifest.image], grace=NOW)
    assert not names(store, ObjectType.IMAGE)
    write_object(store, name, raw)
    assert plan_expire(repository).put_back == (first.manifest.image,)
    run_expire(repository)
    assert not names(store, ObjectType.IMAGE)


# Interleavings. A writer has four steps and an expiry three; the clock goes on between them as the steps say.

WriterStep = Callable[[], object]


class Race:
    """Bert stores an image that shares chunks with one of Anna's, while Anna's is forgotten and expires."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), FakeClock()
        self.repository = make_repository(self.store, clock=self.clock)
        self.victim = store_image(self.repository, ANNA, FIRST)
        self.runs: list[BackupRun] = []

    def begin(self) -> None:
        self.runs.append(BackupRun(reopen(self.store, clock=self.clock), BERT, SECOND))

    def write(self) -> None:
        self.runs[-1].write_chunks()

    def commit(self) -> None:
        self.runs[-1].commit()

    def end(self) -> None:
        self.runs[-1].end()

    def announce(self) -> None:
        self.expire(forget=[self.victim.manifest.image])

    def sweep(self) -> None:
        self.clock.advance(3 * DAY)
        self.expire()

    def expire(self, forget: list[str] | None = None, grace: timedelta = DAY) -> None:
        repository = reopen(self.store, clock=self.clock)
        there = {image.manifest.image for image in repository.images().images}
        run_expire(repository, forget=[name for name in forget or [] if name in there], grace=grace)

    def require_nothing_lost(self) -> None:
        repository = reopen(self.store, clock=self.clock)
        require_sound(repository)
        contents = read_all_images(repository)
        assert SECOND.contents() in contents.values()


def interleavings(first: list[str], second: list[str]) -> list[list[str]]:
    if not first or not second:
        return [first + second]
    return [[first[0], *rest] for rest in interleavings(first[1:], second)] + [
        [second[0], *rest] for rest in interleavings(first, second[1:])
    ]


ORDERS = interleavings(["begin", "write", "commit", "end"], ["announce", "sweep", "sweep"])


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_writer_and_an_expiry_in_any_order_lose_nothing(order: list[str]) -> None:
    race = Race()
    for step in order:
        getattr(race, step)()
    race.require_nothing_lost()
    race.clock.advance(3 * DAY)
    race.expire()
    race.require_nothing_lost()


@pytest.mark.parametrize(("before", "impatient"), list(product(range(5), [True, False])))
def test_an_impatient_expiry_waits_for_a_writer(before: int, *, impatient: bool) -> None:
    race = Race()
    steps = [race.begin, race.write, race.commit, race.end]
    for step in steps[:before]:
        step()
    race.expire([race.victim.manifest.image], grace=NOW if impatient else DAY)
    for step in steps[before:]:
        step()
    race.expire(grace=NOW)
    race.require_nothing_lost()


def test_the_rescue_copies_what_was_announced_meanwhile() -> None:
    race = Race()
    race.begin()
    race.write()
    before = packs(race.store)
    race.announce()
    race.commit()
    race.end()
    assert len(packs(race.store) - before) == 1
    race.sweep()
    race.require_nothing_lost()


def test_a_run_that_relied_on_packs_that_went_does_not_commit() -> None:
    race = Race()
    race.begin()
    race.write()
    session = f"{ObjectType.SESSION.folder}{race.runs[0].session.id[:2]}/{race.runs[0].session.id}"
    raw = race.store.read(session)
    race.store.delete(session)  # a storage that shows not everything to everybody
    race.announce()
    race.sweep()
    write_object(race.store, session, raw)
    with pytest.raises(DamagedError):
        race.commit()
    assert not names(race.store, ObjectType.IMAGE)


def test_sizes_are_those_of_the_packs_less_their_frames(repository: Repository) -> None:
    first = store_image(repository, ANNA, FIRST).manifest
    reader = repository.reader()
    tables = list(reader.index.tables())
    assert image_sizes(reader)([first]) == [sum(int(table.rows["sealed"].sum()) for table in tables)]
    second = store_image(repository, ANNA, SECOND).manifest
    reader = repository.reader()
    everything = sum(int(table.rows["sealed"].sum()) for table in reader.index.tables())
    assert image_sizes(reader)([second, first])[-1] == everything
    assert image_sizes(reader)([first, second])[-1] == everything
    assert image_sizes(reader)([]) == []
    assert len(referenced_chunks(reader, [first, second])) == 6 + 2  # chunks 1 to 6, and two nodes
