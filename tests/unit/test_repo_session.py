"""Sessions: who may run beside whom (format page, section 14), and the fence of a run that took too long."""

from datetime import timedelta

import pytest

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, Locked, StorageError
from stillframe.repo.deletion_records import SessionRecord
from stillframe.repo.format import ObjectType
from stillframe.repo.records import MachineName, build_record
from stillframe.repo.repository import Repository
from stillframe.repo.session import LIFETIME, Owner, Session, begin_session, open_sessions
from stillframe.testing.clocks import FIRST_MOMENT, FakeClock
from stillframe.testing.sample_repository import MACHINE, OTHER_MACHINE, sample_repository


def owner(machine: MachineName = MACHINE, *, boot: str = "boot-1", process: str = "100", alive: bool = False) -> Owner:
    return Owner(machine=machine, boot_id=boot, process=process, is_alive=lambda _boot, _process: alive)


def verbs(repository: Repository) -> list[str]:
    return [record.verb for record in repository.sessions()]


VERBS = ["backup", "verify", "restore", "list", "forget", "expire", "repair", "key"]
# Section 14: every "exit 11" that does not depend on the machine. All other pairs may run beside each other.
LOCKED_ANYWHERE = {
    frozenset({"backup", "repair"}),
    frozenset({"expire"}),
    frozenset({"expire", "repair"}),
    frozenset({"repair", "forget"}),
    frozenset({"repair"}),
}


def expected_lock(running: str, beginning: str, *, same_machine: bool) -> bool:
    pair = frozenset({running, beginning})
    return pair in LOCKED_ANYWHERE or (same_machine and pair == {"backup"})


@pytest.mark.parametrize("same_machine", [True, False])
@pytest.mark.parametrize("beginning", VERBS)
@pytest.mark.parametrize("running", VERBS)
def test_who_may_run_beside_whom(running: str, beginning: str, same_machine: bool) -> None:
    repository = sample_repository()
    begin_session(repository, owner(MACHINE if same_machine else OTHER_MACHINE, process="1"), running)
    mine = owner(process="2", alive=True)
    if not expected_lock(running, beginning, same_machine=same_machine):
        begin_session(repository, mine, beginning)
        assert sorted(verbs(repository)) == sorted([running, beginning])
        return
    with pytest.raises(Locked, match=rf"'{running}' is at work .* on {'desk' if same_machine else 'attic'} since 2026"):
        begin_session(repository, mine, beginning)
    assert verbs(repository) == [running]


def test_a_session_says_what_the_page_says() -> None:
    repository = sample_repository()
    session = begin_session(repository, owner(), "backup")
    (record,) = repository.sessions()
    assert record == session.record
    assert record.session == session.id
    assert (record.machine, record.boot_id, record.process, record.verb) == (MACHINE, "boot-1", "100", "backup")
    assert (record.started, record.expires) == ("2026-03-01T08:30:00Z", "2026-03-15T08:30:00Z")
    session.end()
    session.end()
    assert repository.sessions() == ()


def test_a_session_of_a_dead_process_is_taken_away() -> None:
    repository = sample_repository()
    begin_session(repository, owner(process="1"), "backup")
    begin_session(repository, owner(process="2", alive=False), "backup")
    assert [record.process for record in repository.sessions()] == ["2"]


@pytest.mark.parametrize("alive", [True, False])
def test_a_session_before_the_last_boot_is_dead_whatever_process_has_its_number_now(alive: bool) -> None:
    repository = sample_repository()
    begin_session(repository, owner(boot="boot-1", process="100"), "backup")
    begin_session(repository, owner(boot="boot-2", process="100", alive=alive), "backup")
    assert [record.boot_id for record in repository.sessions()] == ["boot-2"]


def test_a_process_that_lives_is_asked_for_by_its_own_words() -> None:
    repository = sample_repository()
    begin_session(repository, owner(process="77"), "backup")
    asked: list[tuple[str, str]] = []

    def is_alive(boot_id: str, process: str) -> bool:
        asked.append((boot_id, process))
        return True

    mine = Owner(machine=MACHINE, boot_id="boot-1", process="100", is_alive=is_alive)
    with pytest.raises(Locked):
        begin_session(repository, mine, "backup")
    assert asked == [("boot-1", "77")]


def test_backups_of_other_disks_of_one_machine_run_beside_each_other_and_one_names_the_other() -> None:
    repository = sample_repository()
    first = begin_session(repository, owner(process="1", alive=True), "backup", ["/dev/sda", "/dev/sdb"])
    assert first.record.disks == ("/dev/sda", "/dev/sdb")
    mine = owner(process="2", alive=True)
    second = begin_session(repository, mine, "backup", ["/dev/sdc"])
    assert (first.beside, second.beside) == ((), (first.id,))
    third = begin_session(repository, owner(OTHER_MACHINE, process="3"), "backup", ["/dev/sdc"])
    assert third.beside == ()
    for disks in (["/dev/sdb"], ["/dev/sdd", "/dev/sdc"], []):
        with pytest.raises(Locked, match="'backup' is at work"):
            begin_session(repository, owner(process="4", alive=True), "backup", disks)
    assert len(repository.sessions()) == 3


def test_two_runs_of_one_process_are_two_runs() -> None:
    repository = sample_repository()
    begin_session(repository, owner(), "backup")
    with pytest.raises(Locked):
        begin_session(repository, owner(), "backup")


@pytest.mark.parametrize("seconds", [-1, 0])
def test_a_session_of_another_machine_counts_until_it_expires(seconds: int) -> None:
    clock = FakeClock()
    repository = sample_repository(clock=clock)
    begin_session(repository, owner(OTHER_MACHINE), "repair")
    clock.advance(LIFETIME + timedelta(seconds=seconds))
    if seconds < 0:
        with pytest.raises(Locked, match="repair"):
            begin_session(repository, owner(), "backup")
    else:
        begin_session(repository, owner(), "backup")
        assert sorted(verbs(repository)) == ["backup", "repair"]


def test_sessions_of_other_machines_are_left_alone() -> None:
    clock = FakeClock()
    repository = sample_repository(clock=clock)
    begin_session(repository, owner(OTHER_MACHINE), "backup")
    clock.advance(2 * LIFETIME)
    assert open_sessions(repository, owner()) == []
    assert verbs(repository) == ["backup"]


def test_a_session_that_ends_at_no_time_is_damage_and_mine_is_taken_back() -> None:
    repository = sample_repository()
    record = SessionRecord(
        session="ab" * 16, verb="backup", machine=OTHER_MACHINE, boot_id="", process="",
        started=rfc3339(FIRST_MOMENT), expires="2026-02-31T00:00:00Z",
    )  # fmt: skip
    repository.box.write(ObjectType.SESSION, bytes.fromhex(record.session), build_record(record))
    with pytest.raises(DamagedError, match="no time"):
        begin_session(repository, owner(), "backup")
    assert [found.session for found in repository.sessions()] == ["ab" * 16]


def begun(clock: FakeClock) -> Session:
    return begin_session(sample_repository(clock=clock), owner(), "backup")


@pytest.mark.parametrize("asleep", [True, False])
def test_a_run_is_fenced_after_14_days_asleep_or_awake(asleep: bool) -> None:
    clock = FakeClock()
    session = begun(clock)
    assert timedelta(days=14) == LIFETIME
    clock.advance(timedelta(days=14), asleep=asleep)
    session.require_fresh()
    clock.advance(timedelta(seconds=1), asleep=asleep)
    with pytest.raises(StorageError, match="14 days"):
        session.require_fresh()


def test_setting_the_date_neither_fences_nor_frees_a_run() -> None:
    clock = FakeClock()
    session = begun(clock)
    clock.set_date(FIRST_MOMENT + timedelta(days=400))
    session.require_fresh()
    clock.advance(timedelta(days=15), asleep=True)
    clock.set_date(FIRST_MOMENT)
    with pytest.raises(StorageError):
        session.require_fresh()
