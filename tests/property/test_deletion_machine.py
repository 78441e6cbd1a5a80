"""Several machines, one repository, every order: nothing that is needed is ever deleted.

A job of the product stands still before each operation on the store until hypothesis lets it go on: for one operation,
to the next one that changes something, or to its end. Between any two of them days may pass, clocks be set, a process
be killed, a machine sleep for weeks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stillframe.errors import DamagedError, Locked, RepositoryNotFound, StillframeError, StorageError
from stillframe.events import NoEvents
from stillframe.repo.expire import apply_expire, plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner, begin_session
from stillframe.store import MemoryStore, Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.interleaving import CarelessStore, SteppedJob
from stillframe.testing.repositories import (
    BackupRun,
    Draft,
    Processes,
    make_owner,
    make_repository,
    read_all_images,
    reopen,
)

DAY = timedelta(days=1)
EXPECTED = (Locked, StorageError, DamagedError, RepositoryNotFound)
MACHINES = ("anna", "bert", "carl")


@dataclass(eq=False)
class Computer:
    name: str
    clock: FakeClock
    counts_sleep: bool = True


@dataclass(eq=False)
class Running:
    what: str
    computer: Computer
    job: SteppedJob
    process: str
    name: str = ""
    touches: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


class World:
    def __init__(self, store: MemoryStore) -> None:
        self.inner = store
        self.store = CarelessStore(store)
        self.processes = Processes()
        self.computers = {name: Computer(name, FakeClock()) for name in MACHINES}
        self.running: list[Running] = []
        self.drafts: dict[str, Draft] = {}
        self.kept: dict[str, str] = {}
        self.given_up: set[str] = set()
        self.log: list[str] = []
        self.count = 0
        self.true_clock = FakeClock()
        make_repository(store, clock=self.true_clock)

    def start(self, what: str, computer: Computer, work: Callable[[Repository, Owner], object]) -> Running:
        self.count += 1
        process = str(self.count)
        owner = make_owner(computer.name, process=process, processes=self.processes)

        def job(store: Store) -> object:
            return work(reopen(store, clock=computer.clock), owner)

        running = Running(what, computer, SteppedJob(self.store, job), process)
        self.running.append(running)
        self.log.append(f"{what} on {computer.name} begins as {process}")
        return running

    def settle(self, running: Running) -> None:
        if not running.job.is_over:
            return
        if running in self.running:
            self.running.remove(running)
            self.processes.dead.add(running.process)
        error = running.job.error
        self.log.append(f"{running.what} {running.process} ended: {error!r}")
        if error is not None and not running.job.is_dead and not isinstance(error, EXPECTED):
            raise AssertionError(self.log) from error
        if error is None and running.what == "backup":
            self.kept[str(running.job.result)] = running.name

    def pass_time(self, step: timedelta) -> None:
        self.true_clock.advance(step, asleep=True)
        for computer in self.computers.values():
            boot = computer.clock.boottime()
            computer.clock.advance(step, asleep=True)
            if not computer.counts_sleep:
                computer.clock._boot = boot

    def examine(self) -> None:
        repository = reopen(self.inner, clock=self.true_clock)
        listing = repository.images()
        names = {image.manifest.image: image.manifest.name for image in listing.images}
        try:
            contents = read_all_images(repository)
        except StillframeError as error:
            raise AssertionError(["an image lost bytes", error, *self.log]) from error
        for image, data in contents.items():
            assert data == self.drafts[names[image]].contents(), self.log
        for image in self.kept.keys() - self.given_up:
            assert image in names, [f"image {image} is gone", *self.log]


def backup(world: World, draft: Draft) -> Callable[[Repository, Owner], str]:
    def work(repository: Repository, owner: Owner) -> str:
        run = BackupRun(repository, owner, draft)
        try:
            run.write_chunks()
            return run.commit().manifest.image
        finally:
            run.end()

    return work


def forget(image: str) -> Callable[[Repository, Owner], None]:
    def work(repository: Repository, owner: Owner) -> None:
        session = begin_session(repository, owner, "forget")
        try:
            forget_images(session, [image])
        finally:
            session.end()

    return work


def expire(grace: timedelta) -> Callable[[Repository, Owner], None]:
    def work(repository: Repository, owner: Owner) -> None:
        session = begin_session(repository, owner, "expire")
        try:
            apply_expire(session, plan_expire(repository, own_session=session.id, grace=grace))
        finally:
            session.end()

    return work


def repair(repository: Repository, owner: Owner) -> None:
    session = begin_session(repository, owner, "repair")
    try:
        repair_repository(session, events=NoEvents(), read_all=False)
    finally:
        session.end()


class DeletionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(MemoryStore())

    @rule(
        name=st.sampled_from(MACHINES[:2]),
        chunks=st.lists(st.integers(1, 5), min_size=1, max_size=3),
        per_pack=st.sampled_from([1, 2]),
    )
    def begin_backup(self, name: str, chunks: list[int], per_pack: int) -> None:
        job_name = f"run {self.world.count + 1}"
        draft = Draft(chunks=chunks, chunks_per_pack=per_pack, name=job_name)
        self.world.drafts[job_name] = draft
        running = self.world.start("backup", self.world.computers[name], backup(self.world, draft))
        running.name = job_name

    @precondition(lambda self: self.world.kept.keys() - self.world.given_up)
    @rule(name=st.sampled_from(MACHINES), data=st.data())
    def begin_forget(self, name: str, data: st.DataObject) -> None:
        image = data.draw(st.sampled_from(sorted(self.world.kept.keys() - self.world.given_up)))
        self.world.given_up.add(image)
        self.world.start("forget", self.world.computers[name], forget(image))

    @rule(name=st.sampled_from(MACHINES), grace=st.sampled_from([timedelta(0), DAY]))
    def begin_expire(self, name: str, grace: timedelta) -> None:
        self.world.start("expire", self.world.computers[name], expire(grace))

    @rule(name=st.sampled_from(MACHINES))
    def begin_repair(self, name: str) -> None:
        self.world.start("repair", self.world.computers[name], repair)

    @precondition(lambda self: self.world.running)
    @rule(which=st.integers(0, 5), steps=st.integers(1, 40))
    def some_steps(self, which: int, steps: int) -> None:
        running = self.world.running[which % len(self.world.running)]
        for _ in range(steps):
            running.job.step()
        self.world.settle(running)

    @precondition(lambda self: self.world.running)
    @rule(which=st.integers(0, 5), times=st.integers(1, 6))
    def to_the_next_change(self, which: int, times: int) -> None:
        running = self.world.running[which % len(self.world.running)]
        for _ in range(times):
            running.job.step()
            while running.job.next is not None and not running.job.next.changes:
                running.job.step()
        self.world.settle(running)

    @precondition(lambda self: self.world.running)
    @rule(which=st.integers(0, 5))
    def to_the_end(self, which: int) -> None:
        running = self.world.running[which % len(self.world.running)]
        while not running.job.is_over:
            running.job.step()
        self.world.settle(running)

    @precondition(lambda self: self.world.running)
    @rule(
        which=st.integers(0, 5),
        place=st.sampled_from(
            ["create images/", "commit images/", "create tombstones/", "list ", "delete packs/", "delete "]
        ),
    )
    def to_a_place(self, which: int, place: str) -> None:
        running = self.world.running[which % len(self.world.running)]
        running.job.step()
        while running.job.next is not None and not f"{running.job.next.verb} {running.job.next.name}".startswith(place):
            running.job.step()
        self.world.settle(running)

    @rule(name=st.sampled_from(MACHINES), what=st.sampled_from(["expire", "expire at once", "backup"]))
    def a_whole(self, name: str, what: str) -> None:
        if what == "backup":
            self.begin_backup(name, [1, 2], 1)
        else:
            self.begin_expire(name, DAY if what == "expire" else timedelta(0))
        running = self.world.running[-1]
        while not running.job.is_over:
            running.job.step()
        self.world.settle(running)

    @precondition(lambda self: self.world.running)
    @rule(which=st.integers(0, 5))
    def kill(self, which: int) -> None:
        running = self.world.running[which % len(self.world.running)]
        running.job.kill()
        self.world.settle(running)

    @rule(hours=st.sampled_from([1, 25, 3 * 24, 17 * 24]))
    def time_passes(self, hours: int) -> None:
        self.world.log.append(f"{hours} h pass")
        self.world.pass_time(timedelta(hours=hours))

    @rule(name=st.sampled_from(MACHINES), days=st.sampled_from([-400, -20, -2, 2, 20, 400]))
    def a_clock_jumps(self, name: str, days: int) -> None:
        clock = self.world.computers[name].clock
        clock.set_date(clock.now() + timedelta(days=days))
        self.world.log.append(f"the clock of {name} jumps by {days} days")

    @rule(name=st.sampled_from(MACHINES[:2]), counts=st.booleans())
    def sleep_counts(self, name: str, counts: bool) -> None:
        self.world.computers[name].counts_sleep = counts

    @invariant()
    def nothing_is_lost(self) -> None:
        self.world.examine()

    def teardown(self) -> None:
        for running in list(self.world.running):
            running.job.kill()


TestDeletion = DeletionMachine.TestCase
TestDeletion.settings = settings(max_examples=1500, stateful_step_count=60)
