"""The faulty stores do what they say: their faults happen where planned, and leave what they promise."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stillframe.errors import StorageError, StorageFull
from stillframe.store import LocalStore, MemoryStore, ObjectMissing, Store, write_object
from stillframe.testing.faulty_store import (
    Crash,
    CrashingStore,
    FailingReads,
    FaultPlan,
    FullStore,
    Tear,
    VanishingStore,
)

OLD, FIRST, SECOND = b"old" * 100, b"first" * 100, b"second" * 100

# What a whole run of ``run_job`` does to its store, one line an operation.
OPERATIONS = [
    ("create", "packs/1"),
    ("append", "packs/1"),
    ("append", "packs/1"),
    ("commit", "packs/1"),
    ("create", "packs/2"),
    ("append", "packs/2"),
    ("commit", "packs/2"),
    ("delete", "packs/0"),
]


def run_job(store: Store) -> None:
    """Write two objects, then delete an older one."""
    writer = store.create("packs/1")
    writer.append(FIRST[:200])
    writer.append(FIRST[200:])
    writer.commit()
    write_object(store, "packs/2", SECOND)
    store.delete("packs/0")


def prepared_memory() -> MemoryStore:
    store = MemoryStore()
    write_object(store, "packs/0", OLD)
    return store


def contents_of(store: Store) -> dict[str, bytes]:
    return {stored.name: store.read(stored.name) for stored in store.list("")}


# ---- plans


@pytest.mark.parametrize(("after", "times", "fires"), [(0, 1, "10000"), (2, 2, "00110"), (3, None, "00011")])
def test_plan_fires_when_planned(after: int, times: int | None, fires: str) -> None:
    plan = FaultPlan("x", after=after, times=times)
    assert "".join(str(int(plan.step())) for _ in range(5)) == fires
    plan.assert_fired()


@pytest.mark.parametrize(("after", "times", "steps"), [(0, 1, 0), (5, 1, 5), (0, 3, 2), (None, 1, 9), (0, None, 0)])
def test_plan_that_did_not_fire_is_a_failure(after: int | None, times: int | None, steps: int) -> None:
    plan = FaultPlan("the thing", after=after, times=times)
    for _ in range(steps):
        plan.step()
    with pytest.raises(AssertionError, match="the thing"):
        plan.assert_fired()


@pytest.mark.parametrize(
    "make",
    [
        lambda inner: CrashingStore(inner, 100),
        lambda inner: FullStore(inner, 1 << 20),
        lambda inner: FailingReads(inner, {"packs/0": 1, "packs/1": None}),
        lambda inner: FailingReads(inner, {"never": 1}),
        lambda inner: VanishingStore(inner, 100),
    ],
)
def test_wrapper_whose_fault_did_not_fire_is_a_failure(make: Callable[[Store], FullStore]) -> None:
    with pytest.raises(AssertionError), make(prepared_memory()) as store:
        run_job(store)


def test_failure_inside_is_not_hidden_by_the_plan() -> None:
    with pytest.raises(KeyError), CrashingStore(MemoryStore(), 100):
        raise KeyError


# ---- crashes


def test_counting_run_finds_every_operation() -> None:
    inner = prepared_memory()
    start = len(inner.operations)
    counted = CrashingStore(inner)
    run_job(counted)
    assert counted.operations == len(OPERATIONS)
    assert [(done.verb, done.name) for done in inner.operations[start:]] == OPERATIONS


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("moment", range(len(OPERATIONS)))
def test_crash_leaves_exactly_what_was_done(moment: int, *, late: bool) -> None:
    inner = prepared_memory()
    start = len(inner.operations)
    with CrashingStore(inner, moment, tear=Tear.VANISHED, late=late) as store, pytest.raises(Crash) as caught:
        run_job(store)
    verb, name = OPERATIONS[moment]
    assert str(caught.value).endswith(f"{verb} {name}")
    done = [(operation.verb, operation.name) for operation in inner.operations[start:]]
    count = moment + int(late)
    assert done[:count] == OPERATIONS[:count]
    assert {verb for verb, _ in done[count:]} <= {"abandon"}
    committed = {name for verb, name in OPERATIONS[:count] if verb == "commit"}
    deleted = {name for verb, name in OPERATIONS[:count] if verb == "delete"}
    whole = {"packs/0": OLD, "packs/1": FIRST, "packs/2": SECOND}
    assert contents_of(inner) == {name: whole[name] for name in (committed | {"packs/0"}) - deleted}


def test_dead_process_can_do_nothing() -> None:
    inner = prepared_memory()
    store = CrashingStore(inner, 2)
    open_writer = store.create("open")
    with pytest.raises(Crash):
        write_object(store, "other", b"x" * 100)
    left = contents_of(inner)
    calls: list[Callable[[], object]] = [
        lambda: store.create("new"),
        lambda: store.read("packs/0"),
        lambda: store.size("packs/0"),
        lambda: store.list(""),
        lambda: store.delete("packs/0"),
        lambda: store.forget_cached("packs/0"),
        store.free_space,
        lambda: open_writer.append(b"x"),
        open_writer.commit,
    ]
    for call in calls:
        with pytest.raises(Crash):
            call()
    open_writer.abandon()
    assert contents_of(inner) == left == {"packs/0": OLD, "open": b"", "other": b""}


def test_crash_is_not_caught_as_an_error() -> None:
    with pytest.raises(Crash), suppress(Exception):
        CrashingStore(MemoryStore(), 0).create("a")


@pytest.mark.parametrize("tear", Tear)
def test_crash_tears_what_was_not_committed_in_a_folder_too(tear: Tear, tmp_path: Path) -> None:
    inners: list[Store] = [LocalStore(str(tmp_path)), MemoryStore(), MemoryStore()]
    for inner in inners:
        with CrashingStore(inner, 6, tear=tear, seed=7) as store, pytest.raises(Crash):
            run_job(store)
        assert inner.read("packs/1") == FIRST
    assert contents_of(inners[0]) == contents_of(inners[1]) == contents_of(inners[2])


def test_deleted_objects_may_be_back_after_a_crash() -> None:
    seen = set()
    for seed in range(20):
        inner = prepared_memory()
        write_object(inner, "packs/00", OLD)
        store = CrashingStore(inner, 2, seed=seed, undelete=True)
        store.delete("packs/0")
        store.delete("packs/00")
        with pytest.raises(Crash):
            store.delete("missing")
        assert set(contents_of(inner).values()) <= {OLD}
        seen.add(tuple(sorted(contents_of(inner))))
    assert seen == {(), ("packs/0",), ("packs/00",), ("packs/0", "packs/00")}


def test_object_made_anew_is_not_undone_by_undelete() -> None:
    for seed in range(8):
        inner = prepared_memory()
        store = CrashingStore(inner, 4, seed=seed, undelete=True)
        store.delete("packs/0")
        write_object(store, "packs/0", b"new")
        with pytest.raises(Crash):
            store.create("x")
        assert contents_of(inner) == {"packs/0": b"new"}


# ---- tears


@given(st.binary(max_size=200), st.text(max_size=5))
@example(b"", "")
@example(b"x", "")
def test_each_tear_leaves_what_it_promises(contents: bytes, seed: str) -> None:
    size = len(contents)
    left = {tear: tear.leave(contents, seed=seed) for tear in Tear}
    assert left[Tear.KEPT] == contents
    assert left[Tear.EMPTY] == b""
    assert left[Tear.VANISHED] is None
    prefix, tail, hole = left[Tear.PREFIX], left[Tear.ZERO_TAIL], left[Tear.ZERO_HOLE]
    assert prefix is not None
    assert contents.startswith(prefix)
    assert len(prefix) < size or not size
    for torn in (tail, hole):
        assert torn is not None
        assert len(torn) == size
        assert all(now in (0, before) for now, before in zip(torn, contents, strict=True))
    assert hole is not None
    assert hole[-1:] == contents[-1:]
    assert left[Tear.ANY] in [value for tear, value in left.items() if tear is not Tear.ANY]
    assert left == {tear: tear.leave(contents, seed=seed) for tear in Tear}


def test_any_tear_takes_every_fate() -> None:
    contents = bytes(range(1, 201))
    fates = {
        "kept" if left == contents else None if left is None else (len(left) > 0, len(left) == 200, left[-1:] == b"\0")
        for left in (Tear.ANY.leave(contents, seed=str(seed)) for seed in range(100))
    }
    hole, tail, prefix, empty = (True, True, False), (True, True, True), (True, False, False), (False, False, False)
    assert fates == {"kept", None, hole, tail, prefix, empty}


# ---- full


def test_full_store_takes_exactly_its_capacity() -> None:
    inner = MemoryStore()
    with FullStore(inner, 10) as store:
        write_object(store, "a", b"1234")
        assert store.free_space() == 6
        writer = store.create("b")
        writer.append(b"123456")
        with pytest.raises(StorageFull):
            writer.append(b"7")
        assert inner.read("b") == b"123456"
        with pytest.raises(ValueError, match="abandoned"):
            writer.commit()
        assert store.free_space() == 0
        writer.abandon()
        writer.abandon()
        assert store.free_space() == 6
        store.delete("a")
        store.delete("a")
        assert store.free_space() == 10
    assert contents_of(inner) == {}


def test_store_that_is_full_late_refuses_to_commit() -> None:
    inner = MemoryStore()
    with FullStore(inner, 10, late=True) as store:
        with pytest.raises(StorageFull):
            write_object(store, "big", bytes(11))
        write_object(store, "small", bytes(10))
    assert contents_of(inner) == {"small": bytes(10)}


@pytest.mark.parametrize("late", [False, True])
def test_small_object_that_finds_no_room_leaves_nothing(tmp_path: Path, *, late: bool) -> None:
    inner = LocalStore(str(tmp_path))
    with FullStore(inner, 3, late=late) as store, pytest.raises(StorageFull):
        write_object(store, "a/b", b"1234")
    assert contents_of(inner) == {}


# ---- reads that fail, disks that vanish


def test_planned_reads_fail_and_then_succeed() -> None:
    with FailingReads(prepared_memory(), {"packs/0": 2}) as store:
        for _ in range(2):
            with pytest.raises(StorageError, match="packs/0") as caught:
                store.read("packs/0")
            assert not isinstance(caught.value, ObjectMissing)
        assert store.size("packs/0") == len(OLD)
        assert store.read("packs/0") == OLD


def test_every_read_fails_when_planned_for_ever() -> None:
    with FailingReads(prepared_memory(), {"packs/0": None}) as store:
        for _ in range(5):
            with pytest.raises(StorageError):
                store.read("packs/0")


def test_unplugged_disk_fails_until_it_is_back() -> None:
    inner = prepared_memory()
    with VanishingStore(inner, 3, tear=Tear.PREFIX) as store:
        writer, other = store.create("open"), store.create("other")
        writer.append(b"half of it")
        calls: list[Callable[[], object]] = [
            lambda: store.create("new"),
            lambda: store.read("packs/0"),
            lambda: store.size("missing"),
            lambda: store.list(""),
            lambda: store.delete("packs/0"),
            lambda: store.forget_cached("packs/0"),
            store.free_space,
            lambda: writer.append(b"x"),
            writer.commit,
        ]
        for call in calls:
            with pytest.raises(StorageError, match="not there") as caught:
                call()
            assert not isinstance(caught.value, ObjectMissing)
        other.abandon()
        assert set(contents_of(inner)) == {"packs/0", "open", "other"}
        store.plug_in()
        assert store.read("packs/0") == OLD
        for call in (lambda: writer.append(b"x"), writer.commit):
            with pytest.raises(StorageError, match="went away"):
                call()
        assert b"half of it".startswith(store.read("open"))
        writer.abandon()
        assert set(contents_of(store)) == {"packs/0", "other"}
        write_object(store, "new", b"1")
        assert store.operations > 3


@pytest.mark.parametrize("moment", range(len(OPERATIONS)))
def test_job_on_a_disk_that_vanishes_anywhere_can_be_done_again(moment: int) -> None:
    with VanishingStore(prepared_memory(), moment, tear=Tear.ANY, seed=moment) as store:
        with pytest.raises(StorageError):
            run_job(store)
        store.plug_in()
        assert all(contents_of(store)[name] for name in ("packs/0",))
        for name in ("packs/1", "packs/2"):
            store.delete(name)
        run_job(store)
        assert contents_of(store) == {"packs/1": FIRST, "packs/2": SECOND}
