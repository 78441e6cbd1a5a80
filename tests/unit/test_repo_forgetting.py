"""Forgotten images that come back, machines that retire, sessions that are ended, and storage that only lets add."""

from collections.abc import Callable
from datetime import timedelta
from unittest.mock import patch

import pytest

from stillframe.errors import RepositoryNotFound, Retired, StorageError, UsageError
from stillframe.events import NoEvents
from stillframe.repo.announcements import read_records
from stillframe.repo.check import check_repository
from stillframe.repo.deletion_records import SessionEnd, SessionRecord
from stillframe.repo.ending import Ending, end_sessions, require_right_to_delete, write_end
from stillframe.repo.expire import ExpirePlan, apply_expire, plan_expire
from stillframe.repo.forgetting import bring_back, forget_images
from stillframe.repo.forgotten import judge_ends
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.proofs import write_proof
from stillframe.repo.records import ProofRecord
from stillframe.repo.repository import Repository
from stillframe.repo.retirement import list_machines, retire_machine, unretire_machine
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Session, begin_session
from stillframe.repo.writing import ImageWriter
from stillframe.store import DeletionRefused, MemoryStore, write_object
from stillframe.testing.clocks import FakeClock
from stillframe.testing.interleaving import SteppedJob
from stillframe.testing.odd_stores import AddOnlyStore
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

DAY, NOW = timedelta(days=1), timedelta(0)
ANNA, BERT, ADMIN = make_owner("anna"), make_owner("bert"), make_owner("admin")
FIRST = Draft(chunks=[1, 2, 3, 4], chunks_per_pack=2)
SECOND = Draft(chunks=[1, 2, 5, 6], chunks_per_pack=2)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore, clock: FakeClock) -> Repository:
    return make_repository(store, clock=clock)


def in_session(repository: Repository, verb: str, work: Callable[[Session], object]) -> None:
    session = begin_session(repository, ADMIN, verb)
    try:
        work(session)
    finally:
        session.end()


def forget(repository: Repository, image: str) -> None:
    in_session(repository, "forget", lambda session: forget_images(session, [image]))


def undo(repository: Repository, image: str) -> None:
    in_session(repository, "undelete", lambda session: bring_back(session, [image]))


def expire(repository: Repository, *, grace: timedelta = DAY, undelete: timedelta = 7 * DAY) -> ExpirePlan:
    session = begin_session(repository, ADMIN, "expire")
    plan = plan_expire(repository, own_session=session.id, grace=grace, undelete=undelete)
    apply_expire(session, plan)
    session.end()
    return plan


def listed(repository: Repository) -> list[str]:
    return [image.manifest.image for image in repository.images().images]


def require_sound(repository: Repository) -> None:
    report = check_repository(repository, events=NoEvents())
    assert report.ok, report.findings


def test_a_forgotten_image_comes_back_as_it_was(repository: Repository, clock: FakeClock) -> None:
    first, second = store_image(repository, ANNA, FIRST), store_image(repository, ANNA, SECOND)
    proof = ProofRecord(
        proof=make_id().hex(), image=first.manifest.image, created="2026-03-01T08:30:00Z", machine=ANNA.machine,
        kind="read-back", ok=True, bytes=1,
    )  # fmt: skip
    write_proof(repository, proof)
    forget(repository, first.manifest.image)
    assert listed(repository) == [second.manifest.image]
    with pytest.raises(RepositoryNotFound, match="was forgotten") as told:
        repository.image(bytes.fromhex(first.manifest.image))
    assert f"forget --undo {first.manifest.image[:8]}" in told.value.hint
    for _ in range(3):
        clock.advance(2 * DAY)
        assert expire(repository).dead_packs == ()
    undo(repository, first.manifest.image)
    assert set(listed(repository)) == {first.manifest.image, second.manifest.image}
    assert repository.image(bytes.fromhex(first.manifest.image)) == first
    assert repository.proofs() == (proof,)
    assert read_image(repository, first.manifest) == FIRST.contents()
    for _ in range(3):
        clock.advance(30 * DAY)
        expire(repository)
    assert read_all_images(repository) == {
        first.manifest.image: FIRST.contents(), second.manifest.image: SECOND.contents()
    }  # fmt: skip
    require_sound(repository)


def test_after_the_period_it_is_too_late_and_the_room_comes_back(
    repository: Repository, store: MemoryStore, clock: FakeClock
) -> None:
    first, second = store_image(repository, ANNA, FIRST), store_image(repository, ANNA, SECOND)
    before = len(list(store.list("packs/")))
    forget(repository, first.manifest.image)
    clock.advance(7 * DAY)
    plan = expire(repository)
    assert [image.image for image in plan.purge] == [first.manifest.image]
    assert len(list(store.list("packs/"))) == before
    with pytest.raises(RepositoryNotFound, match="too late"):
        undo(repository, first.manifest.image)
    require_sound(repository)
    clock.advance(DAY)
    expire(repository)
    assert len(list(store.list("packs/"))) == before - 2
    assert len(list(store.list("images/"))) == 1
    assert read_image(repository, second.manifest) == SECOND.contents()
    with pytest.raises(RepositoryNotFound):
        undo(repository, first.manifest.image)
    require_sound(repository)
    assert plan_expire(repository).is_empty


def test_an_image_can_be_forgotten_again(repository: Repository, clock: FakeClock) -> None:
    image = store_image(repository, ANNA, FIRST).manifest.image
    for _ in range(3):
        forget(repository, image)
        assert listed(repository) == []
        undo(repository, image)
        assert listed(repository) == [image]
    with pytest.raises(RepositoryNotFound, match="not forgotten"):
        undo(repository, image)
    forget(repository, image)
    clock.advance(8 * DAY)
    assert [found.image for found in expire(repository).purge] == [image]


def test_an_image_that_is_brought_back_while_it_is_let_go_stays(repository: Repository, clock: FakeClock) -> None:
    """The undoing began before the tombstone, and writes after it."""
    image = store_image(repository, ANNA, FIRST).manifest
    forget(repository, image.image)
    clock.advance(8 * DAY)
    session = begin_session(repository, BERT, "undelete")
    forgotten = repository.forgotten()
    expire(repository, grace=NOW)
    with_old_look = type(repository).forgotten
    type(repository).forgotten = lambda _self: forgotten  # type: ignore[method-assign, assignment]
    try:
        bring_back(session, [image.image])
    finally:
        type(repository).forgotten = with_old_look  # type: ignore[method-assign]
    session.end()
    for _ in range(3):
        clock.advance(2 * DAY)
        expire(repository)
    assert read_all_images(repository) == {image.image: FIRST.contents()}
    require_sound(repository)


def test_an_image_that_was_bad_when_it_was_forgotten_goes_at_once(repository: Repository, store: MemoryStore) -> None:
    first = store_image(repository, ANNA, FIRST).manifest
    name = object_name(ObjectType.IMAGE, bytes.fromhex(first.image))
    raw = bytearray(store.read(name))
    raw[200] ^= 1
    store.delete(name)
    write_object(store, name, bytes(raw))
    forget(repository, first.image)
    require_sound(repository)
    expire(repository, grace=NOW)
    assert not list(store.list("images/"))


def test_what_a_run_writes_after_its_session_was_ended_does_not_count(
    repository: Repository, store: MemoryStore, clock: FakeClock
) -> None:
    run = BackupRun(repository, BERT, FIRST)
    run.write_chunks()
    write = repository.box.write

    def late(kind: ObjectType, object_id: bytes, data: bytes) -> bytes:
        if kind is ObjectType.IMAGE:  # it looked at everything, and sleeps for weeks
            clock.advance(20 * DAY)
            there = reopen(store, clock=clock)
            for _ in range(3):
                clock.advance(2 * DAY)
                expire(there)
            assert not list(store.list("packs/"))
            clock.set_boottime(0)
        return write(kind, object_id, data)

    repository.box.write = late  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="ended by another machine"):
        run.commit()
    repository = reopen(store, clock=clock)
    assert len(list(store.list("images/"))) == 1
    assert repository.images().images == ()
    report = check_repository(repository, events=NoEvents())
    assert report.ok
    assert [note.code for note in report.notes] == ["image-void"]
    expire(repository)
    assert not list(store.list("images/"))
    require_sound(repository)


def test_a_manifest_that_was_there_when_its_session_was_ended_counts(repository: Repository, clock: FakeClock) -> None:
    run = BackupRun(repository, BERT, FIRST)
    run.write_chunks()
    image = run.commit().manifest  # and then the machine dies
    clock.advance(16 * DAY)
    for _ in range(3):
        plan = expire(repository)
        clock.advance(2 * DAY)
    assert plan.is_empty
    assert read_all_images(repository) == {image.image: FIRST.contents()}


def test_several_ends_of_a_session_leave_what_all_name() -> None:
    def end(*kept: str, final: bool = True) -> SessionEnd:
        return SessionEnd(
            end="00" * 16, session="aa" * 16, machine=ANNA.machine, by=BERT.machine, created="2026-03-01T00:00:00Z",
            why="expired", final=final, kept=kept,
        )  # fmt: skip

    one, two = "01" * 16, "02" * 16
    announced = judge_ends([end(final=False)])
    assert announced.is_touched("aa" * 16)
    assert not announced.has_ended("aa" * 16)
    assert announced.counts("aa" * 16, one)
    ended = judge_ends([end(one, two), end(final=False), end(one)])
    assert (ended.counts("aa" * 16, one), ended.counts("aa" * 16, two)) == (True, False)
    assert ended.counts("bb" * 16, two)


def test_a_tombstone_waits_for_who_was_at_work_whatever_the_clocks_say(
    repository: Repository, clock: FakeClock
) -> None:
    """Its session says that it began in ten years; it did not."""
    image = store_image(repository, ANNA, FIRST).manifest.image
    run = BackupRun(reopen(repository.box.store, clock=FakeClock(clock.now() + 3650 * DAY)), BERT, FIRST)
    run.write_chunks()
    forget(repository, image)
    expire(repository, undelete=NOW)
    clock.advance(2 * DAY)
    plan = expire(repository, undelete=NOW)
    assert plan.ripe == ()
    assert "bert" in plan.waiting[0].why
    run.commit()
    run.end()
    for _ in range(2):
        clock.advance(2 * DAY)
        expire(repository, undelete=NOW)
    assert list(read_all_images(repository).values()) == [FIRST.contents()]


def test_a_tombstone_that_a_wrong_clock_dated_into_the_future_ripens(
    repository: Repository, store: MemoryStore, clock: FakeClock
) -> None:
    image = store_image(repository, ANNA, FIRST).manifest.image
    forget(repository, image)
    wrong = reopen(store, clock=FakeClock(clock.now() + 400 * DAY))
    expire(wrong, undelete=NOW)
    for _ in range(2):
        expire(repository)
        clock.advance(DAY)
    expire(repository)
    assert not list(store.list("packs/"))


def test_what_was_announced_dead_and_is_needed_is_copied_before_it_goes(
    repository: Repository, store: MemoryStore, clock: FakeClock
) -> None:
    image = store_image(repository, ANNA, FIRST).manifest
    old = {stored.name for stored in store.list("packs/")}
    run = BackupRun(repository, BERT, FIRST)
    run.write_chunks()
    forget(repository, image.image)
    expire(repository, undelete=NOW)
    ImageWriter._rescue = lambda self, relied_on: None  # type: ignore[method-assign] # noqa: ARG005
    try:
        added = run.commit()
    finally:
        ImageWriter._rescue = RESCUE  # type: ignore[method-assign]
    run.end()
    clock.advance(2 * DAY)
    expire(repository)
    assert not old.intersection(stored.name for stored in store.list("packs/"))
    assert read_image(repository, added.manifest) == FIRST.contents()
    require_sound(repository)


RESCUE = ImageWriter._rescue


def test_whoever_reads_finds_what_was_copied_meanwhile(repository: Repository, clock: FakeClock) -> None:
    first = store_image(repository, ANNA, Draft(chunks=[1, 2, 3, 4]))
    second = store_image(repository, ANNA, Draft(chunks=[1, 5]))
    reader = repository.reader()  # knows the old packs
    forget(repository, first.manifest.image)
    for _ in range(3):
        expire(reopen(repository.box.store, clock=clock), undelete=NOW)
        clock.advance(2 * DAY)
    node = second.manifest.disks[0].partitions[0].blocks.root().root.id
    ids = [reader.read_node(node)[10:][at : at + 32] for at in (0, 32)]
    assert b"".join(reader.read(one) for one in ids) == Draft(chunks=[1, 5]).contents()


def test_a_retired_machine_holds_nothing_up_and_is_told(repository: Repository, clock: FakeClock) -> None:
    image = store_image(repository, ANNA, FIRST).manifest.image
    run = BackupRun(repository, BERT, SECOND)
    run.write_chunks()
    forget(repository, image)
    expire(repository, undelete=NOW)
    clock.advance(2 * DAY)
    assert expire(repository, undelete=NOW).ripe == ()
    (known,) = [one for one in list_machines(repository) if one.machine.name == "bert"]
    assert [record.verb for record in known.sessions] == ["backup"]
    assert known.retired is None
    in_session(repository, "retire", lambda _: retire_machine(repository, BERT.machine, ADMIN.machine))
    for _ in range(2):
        expire(repository, undelete=NOW)
        clock.advance(2 * DAY)
    assert repository.images().images == ()
    assert not list(repository.box.store.list("packs/"))
    with pytest.raises(StorageError, match="retired"):
        run.commit()
    with pytest.raises(Retired, match="bert, this machine, was retired") as told:
        store_image(repository, BERT, SECOND)
    assert "retire --undo bert" in told.value.hint
    assert repository.sessions() == ()
    unretire_machine(repository, BERT.machine, ADMIN.machine)
    with pytest.raises(UsageError, match="not retired"):
        unretire_machine(repository, BERT.machine, ADMIN.machine)
    added = store_image(repository, BERT, SECOND)
    assert read_image(repository, added.manifest) == SECOND.contents()
    require_sound(repository)


def test_machines_are_listed_with_what_they_have(repository: Repository) -> None:
    first, second = store_image(repository, ANNA, FIRST), store_image(repository, ANNA, SECOND)
    retire_machine(repository, BERT.machine, ADMIN.machine)
    anna, bert = list_machines(repository)
    assert (anna.machine, anna.images, anna.last) == (ANNA.machine, 2, second.manifest)
    assert first.manifest.sequence < second.manifest.sequence
    assert bert.retired is not None
    assert (bert.images, bert.last, bert.retired.by) == (0, None, ADMIN.machine)


# Storage that lets objects be added, and none be deleted.


@pytest.fixture
def add_only(store: MemoryStore, clock: FakeClock) -> Repository:
    make_repository(store, clock=clock)
    return reopen(AddOnlyStore(store), clock=clock)


def test_backups_work_where_nothing_may_be_deleted(add_only: Repository, store: MemoryStore, clock: FakeClock) -> None:
    for draft in (FIRST, SECOND, FIRST):  # the session that lies there is no lock
        store_image(add_only, ANNA, draft)
        store_image(add_only, BERT, draft)
    assert len(list(store.list("sessions/"))) == 6
    ends = list(read_records(add_only.box, ObjectType.SESSION_END, SessionEnd))
    assert {end.kept for end in ends} == {(image,) for image in listed(add_only)}
    assert set(read_all_images(add_only).values()) == {FIRST.contents(), SECOND.contents()}
    assert all(not known.sessions for known in list_machines(add_only))
    require_sound(add_only)
    owner = reopen(store, clock=clock)  # who may delete takes away what lies there
    expire(owner)
    assert not list(store.list("sessions/"))
    assert not list(store.list("ended/"))
    require_sound(owner)


def test_a_killed_run_on_such_storage_is_ended_by_the_next(add_only: Repository) -> None:
    run = BackupRun(add_only, make_owner("anna", process="dead"), FIRST)
    run.write_chunks()
    next_one = make_owner("anna", process="next")
    next_one = type(next_one)(machine=next_one.machine, boot_id="later", process="next", is_alive=next_one.is_alive)
    image = store_image(add_only, next_one, FIRST)
    assert read_image(add_only, image.manifest) == FIRST.contents()
    with pytest.raises(StorageError):
        run.commit()


def test_who_may_not_delete_is_told_and_nothing_changes(add_only: Repository, store: MemoryStore) -> None:
    image = store_image(add_only, ANNA, FIRST).manifest.image
    before = {kind: len(list(store.list(kind.folder))) for kind in (ObjectType.TOMBSTONE, ObjectType.IMAGE)}
    with pytest.raises(DeletionRefused, match="only lets this machine add: nothing was changed"):
        require_right_to_delete(add_only, ADMIN.machine, "'expire'")
    assert {kind: len(list(store.list(kind.folder))) for kind in before} == before
    assert listed(add_only) == [image]
    assert all(not known.sessions for known in list_machines(add_only))
    require_right_to_delete(reopen(store, clock=FakeClock()), ADMIN.machine, "'expire'")
    assert len(list(store.list("sessions/"))) == 2  # of the backup and of the first try; the second left nothing


def test_an_end_that_is_cut_off_is_no_end(repository: Repository) -> None:
    run = BackupRun(repository, BERT, FIRST)
    run.write_chunks()
    ending = Ending(run.session.id, BERT.machine, "expired")
    write_end(repository, ending, ADMIN.machine, final=False)
    with pytest.raises(StorageError):  # it is about to happen: nobody can say whether the image would count
        run.commit()
    assert not repository.forgotten().ends.has_ended(run.session.id)
    end_sessions(repository, [ending], ADMIN.machine)
    assert repository.forgotten().ends.has_ended(run.session.id)
    assert repository.sessions() == ()
    assert isinstance(run.session.record, SessionRecord)


def test_a_run_that_commits_while_its_session_is_being_ended_is_told(
    repository: Repository, store: MemoryStore, clock: FakeClock
) -> None:
    """After what it wrote was listed, and before the end names that: without the announcement it would never know."""
    run = BackupRun(repository, BERT, FIRST)
    run.write_chunks()
    ending = Ending(run.session.id, BERT.machine, "expired")
    job = SteppedJob(store, lambda seen: end_sessions(reopen(seen, clock=clock), [ending], ADMIN.machine))
    ends = 0
    while ends < 2:
        job.step()
        ends += job.next is not None and job.next.verb == "create" and job.next.name.startswith("ended/")
    with patch.object(Session, "require_fresh"), pytest.raises(StorageError, match="ended by another machine"):
        run.commit()
    while not job.is_over:
        job.step()
    assert job.ended_well
    assert repository.images().images == ()
    require_sound(repository)
