"""The power goes at every operation of every run: nothing older is lost, and the next run completes.

The law: after a crash anywhere, with anything that a FAT32 disk may show of the object that was open, the repository
opens, a check finds nothing but notes, every older image reads back as it was, and the run can be done again.
"""

import sys
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest

from stillframe.errors import WrongKey
from stillframe.events import Finding, NoEvents
from stillframe.repo.check import CheckReport, check_repository
from stillframe.repo.expire import apply_expire, plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.format import ObjectType
from stillframe.repo.parity.condition import renew_parity
from stillframe.repo.parity.sidecars import covered_objects
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.session import begin_session
from stillframe.store import MemoryStore, Store, write_object
from stillframe.testing.clocks import FakeClock
from stillframe.testing.faulty_store import Crash, CrashingStore, Tear
from stillframe.testing.repositories import (
    CHEAP,
    Draft,
    Processes,
    chunk_bytes,
    make_owner,
    make_repository,
    read_all_images,
    reopen,
    store_image,
)

OLD, NEW = "old words", "new words"
DAY = timedelta(days=1)
FIRST = Draft(chunks=[1, 2, 3, 4, None, 5], chunks_per_pack=3, name="a")
SECOND = Draft(chunks=[1, 6, 7, 8, None, 5], chunks_per_pack=2, name="a")  # leaves a third of FIRST's first pack alive
THIRD = Draft(chunks=[1, 2, 6, 8, 9, 10], chunks_per_pack=2, name="a")
TEARS = [Tear.KEPT, Tear.PREFIX, Tear.ZERO_TAIL, Tear.ZERO_HOLE, Tear.EMPTY, Tear.VANISHED]

Job = Callable[[Repository, str], None]


def clone(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    for stored in store.list(""):
        write_object(copy, stored.name, store.read(stored.name))
    return copy


def bury(repository: Repository) -> None:
    """Begin something after the process died: its session is taken away."""
    owner = make_owner(process="next", processes=Processes(dead={"dying"}))
    begin_session(repository, owner, "forget").end()


def backup(repository: Repository, process: str) -> None:
    store_image(repository, make_owner(process=process), THIRD)


def forget(repository: Repository, process: str) -> None:
    session = begin_session(repository, make_owner(process=process), "forget")
    oldest = min(repository.images().images, key=lambda image: image.manifest.sequence)
    if len(repository.images().images) > 1:
        forget_images(session, [oldest.manifest.image])
    session.end()


def expire(repository: Repository, process: str, grace: timedelta = DAY) -> None:
    session = begin_session(repository, make_owner(process=process), "expire")
    images = sorted(repository.images().images, key=lambda image: image.manifest.sequence)
    plan = plan_expire(
        repository, own_session=session.id, forget=[image.manifest.image for image in images[:-1]], grace=grace
    )
    apply_expire(session, plan)
    session.end()


def expire_at_once(repository: Repository, process: str) -> None:
    expire(repository, process, timedelta(0))


def repair(repository: Repository, process: str) -> None:
    session = begin_session(repository, make_owner(process=process), "repair")
    repair_repository(session, events=NoEvents(), read_all=True)
    session.end()


def prepared(*, drafts: tuple[Draft, ...] = (FIRST, SECOND), parity: bool = False) -> tuple[MemoryStore, FakeClock]:
    store, clock = MemoryStore(), FakeClock()
    repository = make_repository(store, clock=clock)
    if parity:
        repository.parity.decide(parity=True, machine=make_owner().machine, clock=clock)
    for draft in drafts:
        store_image(repository, make_owner(), draft)
        clock.advance(timedelta(hours=1))
    return store, clock


def announced() -> tuple[MemoryStore, FakeClock]:
    """A repository in which packs were announced dead more than a day ago."""
    store, clock = prepared()
    repository = reopen(store, clock=clock)
    assert plan_expire(repository, forget=[repository.images().images[0].manifest.image]).repack
    expire(repository, "before")
    clock.advance(3 * DAY)
    return store, clock


def wrecked() -> tuple[MemoryStore, FakeClock]:
    """A repository without its index, with a torn pack and half an identity."""
    store, clock = prepared()
    for stored in list(store.list(ObjectType.INDEX.folder)):
        store.delete(stored.name)
    write_object(store, "index/00/" + "00" * 16, b"STILLFRM" + bytes(100))
    write_object(store, "packs/00/" + "00" * 16, b"STILLFRM" + bytes(100))
    store.delete("stillframe-copy.json")
    return store, clock


def covered() -> tuple[MemoryStore, FakeClock]:
    """As ``prepared``, and every object has parity."""
    return prepared(parity=True)


def covered_and_announced() -> tuple[MemoryStore, FakeClock]:
    store, clock = covered()
    expire(reopen(store, clock=clock), "before")
    clock.advance(3 * DAY)
    return store, clock


def rotten() -> tuple[MemoryStore, FakeClock]:
    """A piece of every pack, index run, manifest and setting has rotted away."""
    store, clock = covered()
    for kind in (ObjectType.PACK, ObjectType.INDEX, ObjectType.IMAGE, ObjectType.SETTING):
        for number, stored in enumerate(sorted(store.list(kind.folder))):
            raw = bytearray(store.read(stored.name))
            start = len(raw) - 90 if number % 2 else 100
            raw[start : start + 80] = bytes(80)
            store.delete(stored.name)
            write_object(store, stored.name, bytes(raw))
    return store, clock


def renew(repository: Repository, process: str) -> None:
    session = begin_session(repository, make_owner(process=process), "parity")
    renew_parity(repository, covered_objects(repository.box), events=NoEvents(), check=lambda: None)
    session.end()


def without_sidecars() -> tuple[MemoryStore, FakeClock]:
    store, clock = covered()
    for number, stored in enumerate(sorted(store.list(ObjectType.PARITY.folder))):
        raw = store.read(stored.name)
        store.delete(stored.name)
        if number % 2:
            write_object(store, stored.name, raw[: len(raw) // 2])
    return store, clock


def only_the_torn_object(finding: Finding, left_open: set[str]) -> bool:
    """With zeros in its middle a torn object cannot be told from a damaged one: it may be named, and nothing else."""
    return finding.thing in left_open


def examine(repository: Repository, left_open: set[str], *, was_healthy: bool) -> CheckReport:
    report = check_repository(repository, events=NoEvents())
    if was_healthy:
        others = [found for found in report.findings if not only_the_torn_object(found, left_open)]
        assert not others, others
        assert all(state.is_whole for state in report.images)
    return report


def sweep(
    prepare: Callable[[], tuple[MemoryStore, FakeClock]], job: Job, *, tear: Tear, was_healthy: bool = True,
    late: bool = False, undelete: bool = False,
) -> None:  # fmt: skip
    original, clock = prepare()
    counted = CrashingStore(clone(original))
    job(reopen(counted, clock=clock), "dying")
    assert counted.operations > 3
    for moment in range(counted.operations):
        inner = clone(original)
        expected = whole_images(inner, clock, was_healthy=was_healthy)
        with CrashingStore(inner, moment, tear=tear, seed=moment, late=late, undelete=undelete) as store:
            with pytest.raises(Crash):
                job(reopen(store, clock=clock), "dying")
            store.assert_fired()
        check_wreck(inner, clock, expected, job, was_healthy=was_healthy, tear=tear)


def whole_images(store: MemoryStore, clock: FakeClock, *, was_healthy: bool) -> Mapping[str, bytes]:
    """What the images hold before anything goes wrong; of a wrecked repository what a repair brings back."""
    copy = clone(store)
    if not was_healthy:
        repair(reopen(copy, clock=clock), "early")
        assert set(read_all_images(reopen(copy, clock=clock)).values()) == {FIRST.contents(), SECOND.contents()}
    return read_all_images(reopen(copy, clock=clock))


def check_wreck(
    inner: MemoryStore, clock: FakeClock, expected: Mapping[str, bytes], job: Job, *, was_healthy: bool, tear: Tear
) -> None:
    may_look_damaged = tear in {Tear.ZERO_HOLE, Tear.ANY}
    left_open = {done.name for done in inner.operations if done.verb == "abandon" and may_look_damaged}
    repository = reopen(inner, clock=clock)
    report = examine(repository, left_open, was_healthy=was_healthy)
    listed = {image.manifest.image: image.manifest for image in repository.images().images}
    forgotten = set(repository.images().forgotten)
    for image_id in set(expected) - forgotten:
        assert image_id in listed, f"image {image_id} is gone"
    if was_healthy:
        for image_id, contents in read_all_images(repository).items():
            assert expected.get(image_id, THIRD.contents()) == contents
    bury(repository)
    never_were = [finding.thing[-32:] for finding in report.findings if finding.thing.startswith("images/")]
    if was_healthy and never_were:
        session = begin_session(repository, make_owner(process="next"), "forget")
        forget_images(session, never_were)
        session.end()
    if report.findings:
        repair(repository, "next")
    job(reopen(inner, clock=clock), "next")
    after = reopen(inner, clock=clock)
    final = check_repository(after, events=NoEvents())
    assert final.ok, final.findings
    for image_id, contents in read_all_images(after).items():
        assert expected.get(image_id, THIRD.contents()) == contents


@pytest.mark.parametrize("tear", TEARS)
def test_a_backup_that_is_cut_off_loses_nothing(tear: Tear) -> None:
    sweep(prepared, backup, tear=tear)


@pytest.mark.parametrize("late", [False, True])
def test_a_backup_that_is_cut_off_after_an_effect_loses_nothing(*, late: bool) -> None:
    sweep(prepared, backup, tear=Tear.ANY, late=late, undelete=True)


@pytest.mark.parametrize("tear", [Tear.KEPT, Tear.PREFIX, Tear.EMPTY, Tear.VANISHED])
@pytest.mark.parametrize("undelete", [False, True])
def test_a_forget_that_is_cut_off_loses_nothing(tear: Tear, *, undelete: bool) -> None:
    sweep(prepared, forget, tear=tear, undelete=undelete)


@pytest.mark.variants(3)
@pytest.mark.parametrize("tear", TEARS)
@pytest.mark.parametrize("undelete", [False, True])
def test_an_expiry_that_is_cut_off_while_it_announces_loses_nothing(tear: Tear, *, undelete: bool) -> None:
    sweep(prepared, expire, tear=tear, undelete=undelete)


@pytest.mark.variants(3)
@pytest.mark.parametrize("tear", TEARS)
@pytest.mark.parametrize("undelete", [False, True])
def test_an_expiry_that_is_cut_off_while_it_deletes_loses_nothing(tear: Tear, *, undelete: bool) -> None:
    sweep(announced, expire, tear=tear, undelete=undelete)


@pytest.mark.variants(1)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("undelete", [False, True])
def test_both_phases_at_once_that_are_cut_off_lose_nothing(*, late: bool, undelete: bool) -> None:
    sweep(prepared, expire_at_once, tear=Tear.PREFIX, late=late, undelete=undelete)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[MemoryStore, FakeClock]]:
    """As ``prepared``, with chunks that rest as patches; what a backup saves then are patches too."""
    first = Draft(chunks=[1001, 1002, 1003, 1004, None, 1005], chunks_per_pack=3, name="a")
    second = Draft(chunks=[1001, 2002, 2003, 2004, None, 1006], chunks_per_pack=2, name="a", patches=True)
    third = Draft(chunks=[1001, 3002, 2003, 3004, 1009, 2006], chunks_per_pack=2, name="a", patches=True)
    for name, draft in (("FIRST", first), ("SECOND", second), ("THIRD", third)):
        monkeypatch.setattr(sys.modules[__name__], name, draft)
    return lambda: prepared(drafts=(first, second))


@pytest.mark.variants(2)
@pytest.mark.parametrize("job", [backup, expire, expire_at_once])
@pytest.mark.parametrize("tear", [Tear.PREFIX, Tear.ZERO_HOLE])
def test_runs_with_patches_that_are_cut_off_lose_nothing(
    patched: Callable[[], tuple[MemoryStore, FakeClock]], job: Job, tear: Tear
) -> None:
    store, clock = patched()
    backup(reopen(store, clock=clock), "before")
    tables = list(reopen(store, clock=clock).load_index().tables())
    assert sum(len(table.patches) for table in tables) >= 3 + 3
    sweep(patched, job, tear=tear, undelete=job is expire)


@pytest.mark.parametrize("tear", TEARS)
def test_a_repair_that_is_cut_off_can_be_run_again(tear: Tear) -> None:
    sweep(wrecked, repair, tear=tear, was_healthy=False)


@pytest.mark.variants(2)
@pytest.mark.parametrize("tear", TEARS)
def test_a_backup_with_parity_that_is_cut_off_loses_nothing(tear: Tear) -> None:
    sweep(covered, backup, tear=tear)


@pytest.mark.variants(1)
@pytest.mark.parametrize("tear", [Tear.KEPT, Tear.ANY])
def test_an_expiry_with_parity_that_is_cut_off_loses_nothing(tear: Tear) -> None:
    sweep(covered, expire, tear=tear, undelete=True)
    sweep(covered_and_announced, expire, tear=tear, undelete=True)


@pytest.mark.variants(2)
@pytest.mark.parametrize("tear", [*TEARS, Tear.ANY])
def test_a_repair_of_what_has_rotted_can_be_cut_off(tear: Tear) -> None:
    sweep(rotten, repair, tear=tear, was_healthy=False, undelete=tear in {Tear.KEPT, Tear.ANY})


@pytest.mark.parametrize("tear", TEARS)
def test_images_can_be_read_at_every_moment_of_such_a_repair(tear: Tear) -> None:
    """Also by whoever does not repair: what rotted is there to be healed, or the good copy is."""
    original, clock = rotten()
    expected = sorted((FIRST.contents(), SECOND.contents()))
    counted = CrashingStore(clone(original))
    repair(reopen(counted, clock=clock), "dying")
    for moment in range(counted.operations):
        inner, late = clone(original), (moment + TEARS.index(tear)) % 2 == 1
        with CrashingStore(inner, moment, tear=tear, seed=moment, late=late) as store, pytest.raises(Crash):
            repair(reopen(store, clock=clock), "dying")
        assert sorted(read_all_images(reopen(inner, clock=clock)).values()) == expected, moment
        assert reopen(inner, clock=clock).parity.is_wanted, moment


@pytest.mark.variants(2)
@pytest.mark.parametrize("tear", TEARS)
def test_a_renewal_of_parity_that_is_cut_off_loses_nothing(tear: Tear) -> None:
    sweep(without_sidecars, renew, tear=tear)


def pack_bytes(store: MemoryStore) -> int:
    return sum(stored.size for stored in store.list(ObjectType.PACK.folder))


def test_the_run_after_a_killed_backup_stores_little_again() -> None:
    original, clock = prepared()
    counted = CrashingStore(clone(original))
    backup(reopen(counted, clock=clock), "dying")
    whole = clone(original)
    backup(reopen(whole, clock=clock), "only")
    needed = pack_bytes(whole) - pack_bytes(original)
    largest = max(stored.size for stored in whole.list(ObjectType.PACK.folder))
    for moment in range(counted.operations - 1):
        inner = clone(original)
        with CrashingStore(inner, moment, tear=Tear.PREFIX, seed=moment) as store, pytest.raises(Crash):
            backup(reopen(store, clock=clock), "dying")
        torn = sum(
            stored.size
            for stored in inner.list(ObjectType.PACK.folder)
            if not inner.read(stored.name).endswith(b"MRFLLITS")
        )
        bury(reopen(inner, clock=clock))
        backup(reopen(inner, clock=clock), "next")
        again = pack_bytes(inner) - pack_bytes(original) - needed - torn
        assert again <= largest, f"after {moment} operations {again} bytes were stored twice"


def rotate_key(repository: Repository, process: str) -> None:
    ring, created = repository.keys, "2026-03-02T00:00:00Z"
    session = begin_session(repository, make_owner(process=process), "key")
    old = [slot.slot_id for slot in ring.slots() if slot.body.label != "new"]
    if not any(slot.body.label == "new" and len(slot.copies) == 2 for slot in ring.slots()):
        ring.add_passphrase(repository.box.master_key, NEW, label="new", created=created, cost=CHEAP)
    for slot_id in old:
        ring.remove(slot_id)
    session.end()


@pytest.mark.parametrize("tear", [Tear.KEPT, Tear.PREFIX, Tear.ZERO_TAIL, Tear.EMPTY, Tear.VANISHED])
def test_a_change_of_keys_that_is_cut_off_locks_nobody_out(tear: Tear) -> None:
    original, clock = MemoryStore(), FakeClock()
    make_repository(original, passphrase=OLD, clock=clock)
    counted = CrashingStore(clone(original))
    rotate_key(reopen(counted, clock=clock, passphrase=OLD), "dying")
    for moment in range(counted.operations):
        inner = clone(original)
        with CrashingStore(inner, moment, tear=tear, seed=moment) as store, pytest.raises(Crash):
            rotate_key(reopen(store, clock=clock, passphrase=OLD), "dying")
        repository = open_with_either(inner, clock)
        assert check_repository(repository, events=NoEvents()).ok
        repair(repository, "next")
        rotate_key(open_with_either(inner, clock), "next")
        assert check_repository(open_with_either(inner, clock), events=NoEvents()).ok
        reopen(inner, clock=clock, passphrase=NEW)


def open_with_either(store: Store, clock: FakeClock) -> Repository:
    try:
        return reopen(store, clock=clock, passphrase=NEW)
    except WrongKey:
        return reopen(store, clock=clock, passphrase=OLD)


def test_the_chunks_of_the_tests_differ() -> None:
    assert len({chunk_bytes(number) for number in range(300)}) == 300
