"""Several machines, one repository, every order: nothing that is needed is ever deleted.

A job of the product stands still before each operation on the store until hypothesis lets it go on: some operations, to
the next one that matters, or to its end. Between any two of them days pass, clocks are set, processes are killed, and
other machines do their work. Locks can be off, because nothing may rest on them, and creating a name that is taken
succeeds, because some stores let it.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from stillframe.errors import DamagedError
from stillframe.repo import ending, expire_plan, sealing, walk
from stillframe.repo import expire as expire_module
from stillframe.repo import session as session_module
from stillframe.repo.forgotten import Ends
from stillframe.repo.index import ChunkIndex
from stillframe.repo.rows import Ids
from stillframe.repo.writing import ImageWriter
from stillframe.store import LocalStore, MemoryStore, Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.deletion_world import (
    DAY,
    MACHINES,
    Running,
    World,
    expire,
    forget,
    repair,
    restore,
    retire,
    undelete,
)
from stillframe.testing.odd_stores import AddOnlyStore, CarelessStore, LaggingStore
from stillframe.testing.put_world import PutWorld

NOW = timedelta(0)
WRITERS = MACHINES[:2]
PLACES = ("create images/", "commit images/", "list ended/", "create tombstones/", "list tombstones/", "list sessions/",
          "delete packs/", "delete ", "create ", "list ")  # fmt: skip
CHUNKS = ((1, 2), (1, 2), (1, 2), (1,), (1, 2, 3), (2, 3))
TOTAL: Counter[str] = Counter()


def pick(images: set[str], number: int) -> str:
    return sorted(images)[number % len(images)]


def salts() -> Callable[[], bytes]:
    """Ids that are the same in each run of an example, so that objects come in the same order."""
    numbers = itertools.count()
    return lambda: hashlib.blake2b(next(numbers).to_bytes(8, "big"), digest_size=32).digest()


class DeletionMachine(RuleBasedStateMachine):
    """One world, and what can happen in it."""

    grace_min = NOW
    always_counts = False

    def __init__(self) -> None:
        super().__init__()
        self.patches = ExitStack()
        self.patches.enter_context(patch.object(sealing, "make_salt", salts()))
        self.world = self.make_world()
        TOTAL["worlds"] += 1

    def make_world(self) -> World:
        return World(CarelessStore(MemoryStore()), counted=TOTAL)

    @initialize(off=st.booleans(), chunks=st.sampled_from(CHUNKS), second=st.sampled_from(CHUNKS))
    def there_are_images(self, *, off: bool, chunks: tuple[int, ...], second: tuple[int, ...]) -> None:
        if off:
            self.patches.enter_context(patch.object(session_module, "_conflicts", lambda _mine, _other: False))
        self.world.finish(self.world.begin_backup("anna", chunks))
        self.world.finish(self.world.begin_backup("bert", second))

    @rule(name=st.sampled_from(WRITERS), chunks=st.sampled_from(CHUNKS), place=st.sampled_from(PLACES))
    def a_backup(self, name: str, chunks: tuple[int, ...], place: str) -> None:
        self.to_place(self.world.begin_backup(name, chunks), place)

    @rule(name=st.sampled_from(WRITERS), chunks=st.sampled_from(CHUNKS[:4]), sleeps=st.booleans())
    def a_backup_that_falls_asleep(self, name: str, chunks: tuple[int, ...], *, sleeps: bool) -> None:
        """At the worst moment: all that it looks at before its manifest was looked at."""
        self.world.computers[name].counts_sleep = sleeps or self.always_counts
        self.to_place(self.world.begin_backup(name, chunks), "create images/")

    @precondition(lambda self: self.world.kept - self.world.given_up)
    @rule(
        name=st.sampled_from(MACHINES), number=st.integers(0, 9), hours=st.sampled_from([0, 25, 25, 17 * 24]),
        grace=st.sampled_from([DAY, NOW]),
    )  # fmt: skip
    def weeks_of_care(self, name: str, number: int, hours: int, grace: timedelta) -> None:
        """An image is forgotten, and expiries let go of it, while others stand still."""
        self.a_forget(name, number, whole=True)
        for _ in range(2):
            self.world.pass_time(timedelta(hours=hours))
            self.world.finish(self.world.begin("expire", name, expire(max(grace, self.grace_min), NOW)))

    @precondition(lambda self: self.world.kept - self.world.given_up)
    @rule(name=st.sampled_from(MACHINES), number=st.integers(0, 9), whole=st.sampled_from([True, True, False]))
    def a_forget(self, name: str, number: int, *, whole: bool) -> None:
        image = pick(self.world.kept - self.world.given_up, number)
        self.world.given_up.add(image)
        running = self.world.begin("forget", name, forget(image), image=image)
        self.to_place(running, "" if whole else "create tombstones/")

    @rule(
        name=st.sampled_from(MACHINES),
        hours=st.sampled_from([0, 25, 72, 17 * 24]),
        grace=st.sampled_from([DAY, DAY, NOW]),
        undelete_for=st.sampled_from([NOW, NOW, 2 * DAY]),
        place=st.sampled_from(("", "", "", *PLACES)),
    )
    def an_expire(self, name: str, hours: int, grace: timedelta, undelete_for: timedelta, place: str) -> None:
        if hours:
            self.world.pass_time(timedelta(hours=hours))
        self.to_place(self.world.begin("expire", name, expire(max(grace, self.grace_min), undelete_for)), place)

    @precondition(lambda self: self.world.given_up)
    @rule(name=st.sampled_from(MACHINES), number=st.integers(0, 9), place=st.sampled_from(("", *PLACES)))
    def an_undelete(self, name: str, number: int, place: str) -> None:
        image = pick(self.world.given_up, number)
        self.to_place(self.world.begin("undelete", name, undelete(image), image=image), place)

    @rule(name=st.sampled_from(MACHINES), place=st.sampled_from(("", *PLACES)))
    def a_repair(self, name: str, place: str) -> None:
        self.to_place(self.world.begin("repair", name, repair()), place)

    @rule(name=st.sampled_from(MACHINES), other=st.sampled_from(WRITERS), undo=st.booleans())
    def a_retirement(self, name: str, other: str, *, undo: bool) -> None:
        self.to_place(self.world.begin("retire", name, retire(self.world.writer(other), undo=undo)), "")

    @precondition(lambda self: self.world.kept - self.world.given_up)
    @rule(name=st.sampled_from(MACHINES), number=st.integers(0, 9), steps=st.integers(1, 40))
    def a_restore(self, name: str, number: int, steps: int) -> None:
        image = pick(self.world.kept - self.world.given_up, number)
        self.world.step(self.world.begin("restore", name, restore(image), image=image), lambda _: False, steps)

    @precondition(lambda self: self.world.running)
    @rule(which=st.integers(0, 9), steps=st.integers(1, 30))
    def some_steps(self, which: int, steps: int) -> None:
        self.world.step(self.some(which), lambda _: False, steps)

    @precondition(lambda self: self.world.running)
    @rule(which=st.integers(0, 9), place=st.sampled_from(PLACES))
    def on_to_a_place(self, which: int, place: str) -> None:
        self.to_place(self.some(which), place)

    @precondition(lambda self: self.world.running)
    @rule(which=st.integers(0, 9))
    def on_to_the_end(self, which: int) -> None:
        self.world.finish(self.some(which))

    @precondition(lambda self: self.world.running)
    @rule(which=st.integers(0, 9))
    def a_kill(self, which: int) -> None:
        self.world.kill(self.some(which))

    @rule(name=st.sampled_from(MACHINES), days=st.sampled_from([-400, -20, -2, 2, 20, 400]))
    def a_clock_is_set(self, name: str, days: int) -> None:
        clock = self.world.computers[name].clock
        clock.set_date(clock.now() + timedelta(days=days))
        self.world.log.append(f"the clock of {name} is set by {days} days")

    @rule(name=st.sampled_from(WRITERS), counts=st.booleans())
    def sleep_counts(self, name: str, *, counts: bool) -> None:
        self.world.computers[name].counts_sleep = counts or self.always_counts

    @invariant()
    def nothing_is_lost(self) -> None:
        self.world.examine()

    def some(self, which: int) -> Running:
        return self.world.running[which % len(self.world.running)]

    def to_place(self, running: Running, place: str) -> None:
        """To what it waits before there; with no place to its end."""
        self.world.step(running, lambda words: bool(place) and words.startswith(place))

    def teardown(self) -> None:
        try:
            self.world.end()
        finally:
            self.patches.close()


class OnADisk(DeletionMachine):
    """The same in a real folder."""

    def make_world(self) -> World:
        folder = self.patches.enter_context(TemporaryDirectory())
        return World(CarelessStore(LocalStore(folder)), counted=TOTAL)


class WhereListsLag(DeletionMachine):
    """Each machine misses the newest objects of others for eight hours. Then clocks must be right, to a day."""

    grace_min = DAY
    always_counts = True

    def make_world(self) -> World:
        born: dict[str, tuple[str, float]] = {}
        clock = FakeClock()

        def seen_by(name: str, inner: Store) -> Store:
            return LaggingStore(inner, lag=timedelta(hours=8), clock=clock, born=born, name=name)

        return World(MemoryStore(), seen_by=seen_by, counted=TOTAL, true_clock=clock)

    def a_clock_is_set(self, name: str, days: int) -> None:
        """Not here."""

    def a_retirement(self, name: str, other: str, *, undo: bool) -> None:
        """Not here: what its machine did in the last hours may not be seen."""


class WhereWritersOnlyAdd(DeletionMachine):
    """Those who make backups may not delete; one machine may."""

    def make_world(self) -> World:
        def seen_by(name: str, inner: Store) -> Store:
            return AddOnlyStore(inner) if name in WRITERS else inner

        return World(CarelessStore(MemoryStore()), seen_by=seen_by, counted=TOTAL)


class WithPatches(DeletionMachine):
    """Chunks are stored as patches of what earlier images have at their places: these rest on what others need too."""

    def make_world(self) -> World:
        return World(CarelessStore(MemoryStore()), counted=TOTAL, patches=True)


class WherePutKeysWrite(DeletionMachine):
    """One of those who make backups has a put key, and reads nothing. At times that is taken away; it gets another."""

    world: PutWorld

    def make_world(self) -> World:
        folder = self.patches.enter_context(TemporaryDirectory())
        return PutWorld(CarelessStore(MemoryStore()), put="anna", folder=folder, counted=TOTAL)

    @rule(name=st.sampled_from(MACHINES), place=st.sampled_from(("", *PLACES)))
    def a_key_is_taken_away(self, name: str, place: str) -> None:
        self.to_place(self.world.begin_revoking(name), place)


class WherePutKeysWriteBesidePatches(WherePutKeysWrite):
    """Those who read store patches, and the one with the put key whole chunks."""

    def make_world(self) -> World:
        folder = self.patches.enter_context(TemporaryDirectory())
        return PutWorld(CarelessStore(MemoryStore()), put="anna", folder=folder, counted=TOTAL, patches=True)


class WherePutKeysOnlyAdd(WherePutKeysWrite):
    """The storage lets the machine with the put key delete nothing."""

    def make_world(self) -> World:
        def seen_by(name: str, inner: Store) -> Store:
            return AddOnlyStore(inner) if name == "anna" else inner

        folder = self.patches.enter_context(TemporaryDirectory())
        return PutWorld(CarelessStore(MemoryStore()), put="anna", folder=folder, seen_by=seen_by, counted=TOTAL)


def run(machine: type[DeletionMachine], examples: int) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30))


def test_nothing_is_lost_in_any_order() -> None:
    run(DeletionMachine, 25)


def test_nothing_is_lost_in_a_folder() -> None:
    run(OnADisk, 5)


def test_nothing_is_lost_where_lists_lag() -> None:
    run(WhereListsLag, 12)


def test_nothing_is_lost_where_writers_only_add() -> None:
    run(WhereWritersOnlyAdd, 10)


def test_nothing_is_lost_with_patches() -> None:
    run(WithPatches, 10)


def test_nothing_is_lost_where_put_keys_write() -> None:
    run(WherePutKeysWrite, 8)


def test_nothing_is_lost_where_put_keys_write_beside_patches() -> None:
    run(WherePutKeysWriteBesidePatches, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "examples"),
    [
        (DeletionMachine, 1500),
        (OnADisk, 60),
        (WhereListsLag, 400),
        (WhereWritersOnlyAdd, 300),
        (WithPatches, 500),
        (WherePutKeysWrite, 600),
        (WherePutKeysWriteBesidePatches, 300),
        (WherePutKeysOnlyAdd, 200),
    ],
)
def test_nothing_is_lost_in_many_more_orders(machine: type[DeletionMachine], examples: int) -> None:
    run(machine, examples)
    print(dict(sorted(TOTAL.items())))  # noqa: T201 - how much was tried, until here, in the log of the test


NO_WAIT = [(expire_module, "why_wait", lambda *_, **__: ""), (expire_plan, "why_wait", lambda *_, **__: "")]
NO_SECOND_LOOK = [(ImageWriter, "_rescue", lambda _self, _relied_on: None)]
NO_SECOND_COUNT: list[tuple[object, str, object]] = [(expire_module, "_needed_packs", lambda *_: set())]
NO_LAST_LOOK = [(session_module.Session, "confirm", lambda self, record: self._committed.append(record))]
ALL_COUNT = [(Ends, "counts", lambda *_: True)]
NO_BASES = [(walk, "with_bases", lambda needed, _tables: needed)]
FIND_ANY = ChunkIndex.contains
BASES_TAKEN_ON_TRUST = [(ChunkIndex, "contains", lambda self, ids, *, whole=False: has_rows(self, ids, whole=whole))]


def has_rows(index: ChunkIndex, ids: Ids, *, whole: bool) -> NDArray[np.bool_]:
    """As ``ChunkIndex.contains``, but for a patch it does not look whether its base is there."""
    known = np.array([place is not None for place in index.locate(ids)], bool)
    return np.asarray(FIND_ANY(index, ids, whole=whole) | known, bool)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "mistakes"),
    [
        (DeletionMachine, NO_WAIT),
        (DeletionMachine, [*NO_SECOND_LOOK, *NO_SECOND_COUNT]),
        (DeletionMachine, NO_LAST_LOOK),
        (DeletionMachine, ALL_COUNT),
        (WithPatches, NO_BASES),
        (WithPatches, [*BASES_TAKEN_ON_TRUST, *NO_SECOND_COUNT]),
    ],
    ids=[
        "nobody is waited for",
        "tombstones are not read again nor needs counted again",
        "no look after a manifest",
        "late manifests count",
        "bases are not counted",
        "a patch counts without its base, and needs are not counted again",
    ],
)
def test_a_mistake_is_found(machine: type[DeletionMachine], mistakes: list[tuple[object, str, object]]) -> None:
    """A world that cannot lose anything would prove nothing."""
    with ExitStack() as stack:
        for mistake in mistakes:
            stack.enter_context(patch.object(*mistake))
        with pytest.raises((AssertionError, DamagedError)):
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=1000, stateful_step_count=30, phases=(Phase.generate,), derandomize=True, database=None
                ),
            )


SILENT_ENDS: list[tuple[object, str, object]] = [(ending, "warn", lambda *_, **__: None)]


@pytest.mark.slow
def test_a_mistake_with_put_keys_is_found() -> None:
    """Nobody warns a machine that reads nothing of the end of its session. (Of tombstones: ``test_repo_put.py``.)"""
    with ExitStack() as stack:
        for mistake in SILENT_ENDS:
            stack.enter_context(patch.object(*mistake))
        with pytest.raises((AssertionError, DamagedError)):
            run_state_machine_as_test(
                WherePutKeysWrite,
                settings=settings(
                    max_examples=1000, stateful_step_count=30, phases=(Phase.generate,), derandomize=True, database=None
                ),
            )
