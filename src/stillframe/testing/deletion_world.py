"""Several machines, one repository, and what must be true of it at every moment.

Answers: "is every image that somebody has and nobody gave up still there, byte for byte?" Machines have clocks of their
own that may be wrong, processes that can be killed, and jobs that stand still between any two operations.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final

from stillframe.errors import DamagedError, Locked, PutOnly, RepositoryNotFound, Retired, StorageError, UsageError
from stillframe.events import NoEvents
from stillframe.repo.check import check_repository
from stillframe.repo.expire import apply_expire, plan_expire
from stillframe.repo.forgetting import bring_back, forget_images
from stillframe.repo.records import MachineName
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.retirement import retire_machine, unretire_machine
from stillframe.repo.session import Owner, begin_session
from stillframe.store.base import Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.interleaving import SteppedJob
from stillframe.testing.repositories import (
    VERSIONS,
    BackupRun,
    Draft,
    Processes,
    make_owner,
    make_repository,
    read_all_images,
    read_image,
    reopen,
)

DAY: Final = timedelta(days=1)
EXPECTED: Final = (Locked, StorageError, DamagedError, RepositoryNotFound, Retired, PutOnly, UsageError)
"""How a job may end that somebody else came in the way of."""
MACHINES: Final = ("anna", "bert", "carl")
Work = Callable[[Repository, Owner], object]


@dataclass(eq=False)
class Computer:
    """A machine: its clock, whether that one counts sleep, and the store as it sees it."""

    name: str
    clock: FakeClock
    store: Store
    counts_sleep: bool = True


@dataclass(eq=False)
class Running:
    """A job that stands still somewhere. ``image`` is the one it is about, ``draft`` what a backup saves."""

    what: str
    job: SteppedJob
    process: str
    image: str = ""
    draft: Draft | None = None
    forgets_before: int = 0


class World:
    """Machines at one store.

    Args:
        store: Empty.
        seen_by: Gives each machine's own view of it.
        counted: Gets what happened, over many worlds.
        patches: Each backup saves other versions of its chunks, which are stored as patches.
        true_clock: Nobody sees it.
    """

    def __init__(
        self, store: Store, *, seen_by: Callable[[str, Store], Store] | None = None,
        counted: Counter[str] | None = None, true_clock: FakeClock | None = None, patches: bool = False,
    ) -> None:  # fmt: skip
        self.store = store
        self.true_clock = true_clock or FakeClock()
        view = seen_by or (lambda _name, inner: inner)
        self._sees_all = seen_by is None
        self._patches = patches
        self.computers = {name: Computer(name, FakeClock(), view(name, store)) for name in MACHINES}
        self.running: list[Running] = []
        self.drafts: dict[str, Draft] = {}
        self.kept: set[str] = set()
        self.given_up: set[str] = set()
        self.log: list[str] = []
        self.counted = counted if counted is not None else Counter()
        self._processes = Processes()
        self._numbers = itertools.count(1)
        self._forgets: Counter[str] = Counter()
        self._examined = (0, 0)
        self.changes = 0
        self._make()

    def _make(self) -> None:
        """Make the repository."""
        make_repository(self.store, clock=self.true_clock)

    def _open(self, store: Store, clock: FakeClock) -> Repository:
        """The repository, opened anew."""
        return reopen(store, clock=clock)

    def _open_to_add(self, name: str, store: Store, clock: FakeClock) -> Repository:  # noqa: ARG002 - all are alike here
        """The repository as a machine has it that makes backups."""
        return self._open(store, clock)

    def writer(self, name: str) -> MachineName:
        """Whose images those of a machine are."""
        return make_owner(name).machine

    def _everybody(self) -> list[MachineName]:
        """Every machine that can have left something open."""
        return [make_owner(name).machine for name in MACHINES]

    def begin(self, what: str, name: str, work: Work, *, image: str = "", draft: Draft | None = None) -> Running:
        """Begin a job on a machine; it stands before its first operation."""
        computer, process = self.computers[name], str(next(self._numbers))
        owner = make_owner(name, process=process, processes=self._processes)
        if what == "backup":
            owner = replace(owner, machine=self.writer(name))
        look = partial(self._open_to_add, name) if what == "backup" else self._open
        job = SteppedJob(computer.store, lambda store: work(look(store, computer.clock), owner))
        running = Running(what, job, process, image, draft, self._forgets[image])
        self._forgets[image] += what == "forget"
        self.running.append(running)
        self.log.append(f"{what} {image[:8]}{list(draft.chunks) if draft else ''} begins on {name} as {process}")
        return running

    def begin_backup(self, name: str, chunks: tuple[int, ...]) -> Running:
        """Begin a backup; each chunk goes into a pack of its own where it comes first."""
        if self._patches:  # now and then a version comes again
            chunks = tuple(number + VERSIONS * (1 + len(self.drafts) * 2 % 5) for number in chunks)
        draft = Draft(
            chunks=chunks, chunks_per_pack=1 + len(chunks) % 2, name=f"run {len(self.drafts)}", patches=self._patches
        )
        self.drafts[draft.name] = draft
        return self.begin("backup", name, lambda repository, owner: _backup(repository, owner, draft), draft=draft)

    def step(self, running: Running, until: Callable[[str], bool], most: int = 100_000) -> None:
        """Let a job go on, at least one operation, until what it waits before is as wished, or it ends."""
        for _ in range(most):
            self.changes += bool(running.job.next and running.job.next.changes)
            running.job.step()
            self.counted["operations"] += 1
            if running.job.next is None or until(f"{running.job.next.verb} {running.job.next.name}"):
                break
        self.log.append(f"{running.process} waits before {running.job.next}")
        self.settle(running)

    def finish(self, running: Running) -> None:
        """Let a job go on to its end."""
        self.step(running, lambda _: False)

    def kill(self, running: Running) -> None:
        """The process is gone."""
        running.job.kill()
        self.counted["killed"] += 1
        self.settle(running)

    def settle(self, running: Running) -> None:
        """If a job has ended, see how."""
        if not running.job.is_over or running not in self.running:
            return
        self.running.remove(running)
        self._processes.dead.add(running.process)
        error = running.job.error
        self.log.append(f"{running.what} {running.process} ended: {error!r}")
        self.counted[f"{running.what} {'done' if error is None else 'stopped'}"] += 1
        if error is not None and not running.job.is_dead and not isinstance(error, EXPECTED):
            raise AssertionError(self.log) from error
        # Where lists lag, a restore may see a manifest and not yet the index: it stops, and nothing is lost.
        is_kept = running.image not in self.given_up and self._sees_all
        if running.what == "restore" and isinstance(error, DamagedError) and is_kept:
            raise AssertionError(["a restore met damage", *self.log]) from error
        if error is None:
            self._note(running)

    def _note(self, running: Running) -> None:
        if running.what == "backup":
            self.kept.add(str(running.job.result))
        meanwhile = self._forgets[running.image] > running.forgets_before or any(
            other.what == "forget" and other.image == running.image for other in self.running
        )
        if running.what == "undelete" and not meanwhile:
            self.given_up.discard(running.image)
            self.kept.add(running.image)

    def pass_time(self, step: timedelta) -> None:
        """Time goes on, for everybody, asleep."""
        self.true_clock.advance(step, asleep=True)
        for computer in self.computers.values():
            before = computer.clock.boottime()
            computer.clock.advance(step, asleep=True)
            if not computer.counts_sleep:
                computer.clock.set_boottime(before)
        self.log.append(f"{step} pass")

    def examine(self) -> None:
        """Every image that is listed reads back as it was, and every one that nobody gave up is listed."""
        now = (self.changes, len(self.given_up))
        if now == self._examined:
            return
        self._examined = now
        repository = self._open(self.store, self.true_clock)
        names = {image.manifest.image: image.manifest.name for image in repository.images().images}
        try:
            contents = read_all_images(repository)
        except DamagedError as error:
            raise AssertionError(["an image lost bytes", error, *self.log]) from error
        assert all(data == self.drafts[names[image]].contents() for image, data in contents.items()), self.log
        lost = self.kept - self.given_up - names.keys()
        assert not lost, [f"gone: {lost}", *self.log]
        self.counted["images read back"] += len(contents)

    def end(self) -> None:
        """Everybody is gone, clocks are right again: nothing is lost, and all room comes back."""
        for running in list(self.running):
            self.kill(running)
        self.examine()
        for machine in self._everybody():
            retire_machine(self._open(self.store, self.true_clock), machine, ADMIN.machine)
        for _ in range(5):
            self.true_clock.advance(2 * DAY)
            expire(DAY, timedelta(0))(self._open(self.store, self.true_clock), ADMIN)
            self.changes += 1
            self.examine()
        repository = self._open(self.store, self.true_clock)
        plan = plan_expire(repository)
        assert plan.is_empty, [plan, *self.log]
        assert not plan.waiting, [plan, *self.log]
        report = check_repository(repository, events=NoEvents())
        assert not report.findings, [report.findings, *self.log]


ADMIN: Final = make_owner("dora", process="0")


def forget(image: str) -> Work:
    """The job that forgets an image."""
    return _in_session("forget", lambda session: forget_images(session, [image]))


def undelete(image: str) -> Work:
    """The job that brings an image back."""
    return _in_session("undelete", lambda session: bring_back(session, [image]))


def expire(grace: timedelta, undelete_for: timedelta) -> Work:
    """The job that deletes what nobody needs."""
    return _in_session(
        "expire",
        lambda session: apply_expire(
            session, plan_expire(session.repository, own_session=session.id, grace=grace, undelete=undelete_for)
        ),
    )


def repair() -> Work:
    """The job that makes the index anew."""
    return _in_session("repair", lambda session: repair_repository(session, events=NoEvents(), read_all=False))


def restore(image: str) -> Work:
    """The job that reads an image."""

    def work(repository: Repository, _owner: Owner) -> None:
        read_image(repository, repository.image(bytes.fromhex(image)).manifest)

    return work


def retire(machine: MachineName, *, undo: bool) -> Work:
    """The job that retires a machine, or takes it back."""
    change = unretire_machine if undo else retire_machine
    return _in_session("retire", lambda session: change(session.repository, machine, session.record.machine))


def _backup(repository: Repository, owner: Owner, draft: Draft) -> str:
    run = BackupRun(repository, owner, draft)
    try:
        run.write_chunks()
        return run.write_manifest().image
    finally:
        run.end()


def _in_session(verb: str, work: Callable[..., object]) -> Work:
    def run(repository: Repository, owner: Owner) -> object:
        session = begin_session(repository, owner, verb)
        try:
            return work(session)
        finally:
            session.end()

    return run
