"""Bit rot of every kind, in every kind of object: what parity promises comes back, byte for byte, and stays back.

The promise: of one object a burst of 3 % or 0.5 % of its blocks, chosen anywhere, an end that was cut off, bytes that
were appended, sectors that cannot be read. The quick selection takes seconds; ``slow`` adds hundreds of cases.
"""

import itertools
import random
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest

from stillframe.errors import DamagedError
from stillframe.events import NoEvents, Notice, RecordedEvents
from stillframe.repo.check import check_repository
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.parity.records import Geometry
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.session import begin_session
from stillframe.store import LocalStore, MemoryStore, Store, write_object
from stillframe.testing.clocks import FakeClock
from stillframe.testing.repositories import (
    Draft,
    make_owner,
    make_repository,
    read_all_images,
    reopen,
    store_image,
)
from stillframe.testing.rotten_store import ROTS, BadSectors, Rot, burst, scatter

SECRET = "several words"  # noqa: S105 - of a test
ANNA, ADMIN = make_owner("anna"), make_owner("admin")
FIRST = Draft(chunks=[*range(1, 60), None, *range(60, 75)], chunks_per_pack=25, compress=False)
SECOND = Draft(chunks=[*range(1, 60), None, *range(80, 90)], chunks_per_pack=25)
KINDS = (ObjectType.PACK, ObjectType.INDEX, ObjectType.IMAGE)


@cache
def original() -> MemoryStore:
    """Two images with parity; packs of 1.6 MiB that do not shrink, and small ones."""
    store = MemoryStore()
    repository = make_repository(store, passphrase=SECRET)
    repository.parity.decide(parity=True, machine=ANNA.machine, clock=repository.clock)
    for draft in (FIRST, SECOND):
        store_image(repository, ANNA, draft)
        repository.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    return store


def copy_into(store: Store) -> None:
    source = original()
    for stored in source.list(""):
        write_object(store, stored.name, source.read(stored.name))


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made: Store = MemoryStore() if request.param == "memory" else LocalStore(str(tmp_path / "repo"))
    copy_into(made)
    return made


def fresh() -> MemoryStore:
    made = MemoryStore()
    copy_into(made)
    return made


def open_it(store: Store) -> Repository:
    return reopen(store, clock=FakeClock(), passphrase=SECRET)


def contents(store: Store) -> list[bytes]:
    return list(read_all_images(open_it(store)).values())


def names(store: Store, kind: ObjectType) -> list[str]:
    return sorted(stored.name for stored in store.list(kind.folder))


def sidecar_of(name: str) -> str:
    return object_name(ObjectType.PARITY, bytes.fromhex(name[-32:]))


def repair(store: Store, *, read_all: bool = True) -> list[str]:
    session = begin_session(open_it(store), ADMIN, "repair")
    try:
        report = repair_repository(session, events=NoEvents(), read_all=read_all)
    finally:
        session.end()
    assert report.check.ok, report.check.findings
    return [notice.code for notice in report.done]


def assert_comes_back(store: Store, name: str) -> None:
    """Read with the damage there; then repaired, and whole without any help."""
    assert contents(store) == [FIRST.contents(), SECOND.contents()]
    manifests = {kept: original().read(kept) for kept in names(original(), ObjectType.IMAGE)}
    repair(store)
    for kept in names(store, ObjectType.PARITY):
        store.delete(kept)
    assert contents(store) == [FIRST.contents(), SECOND.contents()]
    assert {kept: store.read(kept) for kept in names(store, ObjectType.IMAGE)} == manifests, name


@pytest.mark.parametrize("rot", ROTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_object_of_every_kind_comes_back(store: Store, kind: ObjectType, rot: Rot) -> None:
    for name in names(store, kind):
        rot.spoil(store, name, 1)
    assert_comes_back(store, kind.folder)


@pytest.mark.parametrize("kind", KINDS)
def test_sectors_that_cannot_be_read_come_back(store: Store, kind: ObjectType) -> None:
    sizes = {name: Geometry(store.size(name)) for name in names(store, kind)}
    bad = {
        name: random.Random(name).sample(range(one.blocks), min(one.blocks, one.rows)) for name, one in sizes.items()
    }
    failing = BadSectors(store, bad)
    assert_comes_back(failing, kind.folder)
    assert failing.refused


def small_cases(count: int) -> Iterator[tuple[int, Rot, ObjectType]]:
    yield from ((seed, *case) for seed, case in zip(range(count), itertools.cycle(itertools.product(ROTS, KINDS))))


def run_case(store: Store, seed: int, rot: Rot, kind: ObjectType) -> None:
    """One object rots, and a little of its sidecar, by chance; also the sidecar's header, trailer or footer."""
    chance = random.Random(seed)
    name = chance.choice(names(store, kind))
    rot.spoil(store, name, seed)
    sidecar, geometry = sidecar_of(name), Geometry(original().size(name))
    raw = bytearray(store.read(sidecar))
    for place in (chance.randrange(80), -chance.randrange(1, 104)):
        raw[place] ^= 0xFF
    if geometry.rows == 8 and rot.name not in {"burst", "cut_end"}:
        raw[80 + chance.randrange(geometry.stripes * 2 * geometry.record_size)] ^= 0x10
    store.delete(sidecar)
    write_object(store, sidecar, bytes(raw))
    assert_comes_back(store, name)


@pytest.mark.parametrize("part", range(2))
def test_random_cases(part: int) -> None:
    for seed, rot, kind in list(small_cases(36))[part::2]:
        run_case(fresh(), seed, rot, kind)


@pytest.mark.slow  # 600 cases in memory, 120 in a folder: 3 minutes, 8 beside other work
@pytest.mark.parametrize("part", range(10))
def test_random_cases_by_the_hundreds(part: int, tmp_path: Path) -> None:
    for seed, rot, kind in list(small_cases(600))[part::10]:
        run_case(fresh(), 1000 + seed, rot, kind)
    for seed, rot, kind in list(small_cases(120))[part::10]:
        folder = LocalStore(str(tmp_path / f"repo{seed}"))
        copy_into(folder)
        run_case(folder, 5000 + seed, rot, kind)


def test_a_notice_says_once_what_parity_did() -> None:
    made = fresh()
    name = names(made, ObjectType.PACK)[0]
    raw = bytearray(made.read(name))
    raw[80:200] = bytes(120)  # of the first entry
    made.delete(name)
    write_object(made, name, bytes(raw))
    repository, events = open_it(made), RecordedEvents()
    repository.box.events = events
    read_all_images(repository)
    read_all_images(repository)
    (notice,) = [event for event in events.events if isinstance(event, Notice)]
    assert notice.code == "healed-in-memory"
    assert f"{name} is damaged: its parity brought 1 blocks" in notice.message
    assert "stillframe verify --repair" in notice.hint


def test_nothing_is_written_by_reading() -> None:
    made = fresh()
    for name in names(made, ObjectType.PACK):
        ROTS[2].spoil(made, name, 3)
    before = {stored.name: made.read(stored.name) for stored in made.list("")}
    contents(made)
    check_repository(open_it(made), events=NoEvents())
    assert {stored.name: made.read(stored.name) for stored in made.list("")} == before


def test_a_damaged_end_is_found_by_check_and_called_healable() -> None:
    made = fresh()
    for kind in KINDS:
        name = names(made, kind)[0]
        raw = bytearray(made.read(name))
        raw[-70:] = bytes(70)
        made.delete(name)
        write_object(made, name, bytes(raw))
    report = check_repository(open_it(made), events=NoEvents())
    assert {finding.code for finding in report.findings} == {"healable"}
    assert {finding.thing for finding in report.findings} == {names(made, kind)[0] for kind in KINDS}
    assert all(state.is_whole for state in report.images)
    assert all("stillframe repair" in finding.hint for finding in report.findings)
    assert repair(made, read_all=False)
    assert repair(made, read_all=False) == []


def test_repairing_again_finds_nothing_to_do() -> None:
    made = fresh()
    for kind in KINDS:
        for name in names(made, kind):
            ROTS[2].spoil(made, name, 4)
    assert repair(made)
    assert repair(made) == []
    assert repair(made, read_all=False) == []


def test_what_was_repaired_has_parity_again() -> None:
    made = fresh()
    for name in names(made, ObjectType.PACK):
        ROTS[1].spoil(made, name, 4)
    repair(made)
    for name in names(made, ObjectType.PACK):
        ROTS[2].spoil(made, name, 5)
    assert contents(made) == [FIRST.contents(), SECOND.contents()]


def test_without_parity_rot_is_damage() -> None:
    made = fresh()
    for name in names(made, ObjectType.PARITY):
        made.delete(name)
    for name in names(made, ObjectType.PACK):
        ROTS[2].spoil(made, name, 4)
    with pytest.raises(DamagedError):
        contents(made)


def test_a_whole_object_that_is_gone_stays_lost() -> None:
    made = fresh()
    made.delete(names(made, ObjectType.PACK)[0])
    report = check_repository(open_it(made), events=NoEvents())
    assert "image-lost" in {finding.code for finding in report.findings}


@pytest.mark.parametrize("seed", range(4))
def test_beyond_the_promise_nothing_wrong_is_returned(seed: int) -> None:
    """A tenth of each pack is noise: chunks that are had are right, the others are errors."""
    made = fresh()
    rot = Rot("much", lambda raw, chance: (burst if seed % 2 else scatter)(raw, chance, share=0.1))
    for name in names(made, ObjectType.PACK):
        rot.spoil(made, name, seed)
    repository = open_it(made)
    reader, index = repository.reader(), repository.load_index()
    whole, lost = 0, 0
    right = open_it(original()).reader()
    for table in index.tables():
        for row in range(len(table.rows)):
            chunk_id = table.rows["id"][row].tobytes()
            try:
                data = reader.read(chunk_id)
            except DamagedError:
                lost += 1
            else:
                assert data == right.read(chunk_id)
                whole += 1
    assert lost
    assert whole
