"""Runs of one put-only machine beside each other: numbers, disks, and what a dead run leaves."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import Locked
from stillframe.events import NoEvents
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.saving.linking import linked, own_turn
from stillframe.jobs.saving.own_runs import known_here
from stillframe.repo.check import check_repository
from stillframe.repo.index import ChunkIndex
from stillframe.repo.repository import Repository
from stillframe.repo.session import Session, begin_session
from stillframe.store import MemoryStore
from stillframe.testing.put_machines import PutSide, add_put_machine, make_owned
from stillframe.testing.repositories import BackupRun, Draft, read_all_images

FREE = CancelToken().check
FIRST, SECOND = Draft(chunks=[1, 2]), Draft(chunks=[3, 4])


@pytest.fixture
def owned() -> Repository:
    return make_owned(MemoryStore())


@pytest.fixture
def web(owned: Repository, tmp_path: Path) -> PutSide:
    return add_put_machine(owned, cache=tmp_path / "cache")


def begin(web: PutSide, *disks: str) -> Session:
    return begin_session(web.open(), web.owner, "backup", disks)


def runs_left(state: str) -> Sequence[str]:
    return [name for folder, _, names in os.walk(state) if folder.endswith(".runs") for name in names]


def test_runs_know_of_each_other_and_do_not_save_one_disk_twice(web: PutSide, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    one, other, same = begin(web, "/dev/sda"), begin(web, "/dev/sdb", "/dev/sdc"), begin(web, "/dev/sdc")
    with known_here(state, one) as beside_one, known_here(state, other) as beside_other:
        assert (beside_one, beside_other) == ((), (one.id,))
        with pytest.raises(Locked, match=r"saves /dev/sdb, /dev/sdc"), known_here(state, same):
            raise AssertionError
        assert sorted(runs_left(state)) == sorted([one.id, other.id])
    assert runs_left(state) == []
    with known_here(state, same) as beside_same:
        assert beside_same == ()


def test_what_a_dead_run_left_counts_for_nothing(web: PutSide, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    one, other = begin(web, "/dev/sda"), begin(web, "/dev/sda")
    runs = Path(state, f"{one.repository.identity.id}.runs")
    runs.mkdir(parents=True)
    (runs / one.id).write_bytes(b"/dev/sda")  # nobody has it locked
    with known_here(state, other) as beside:
        assert beside == ()
        assert runs_left(state) == [other.id]


def test_an_old_session_that_is_put_back_is_not_beside(owned: Repository, web: PutSide, tmp_path: Path) -> None:
    """Else whoever can write to the storage could excuse a manifest that he put back."""
    state, store = str(tmp_path / "state"), owned.box.store
    dead, run = begin(web, "/dev/sda"), begin(web, "/dev/sdb")
    assert any(dead.id in stored.name for stored in store.list("sessions/"))
    with known_here(state, run) as beside:
        assert beside == ()


@pytest.mark.parametrize("state", ["", "/proc/nowhere"])
def test_without_a_place_for_it_runs_do_not_know_of_each_other(web: PutSide, state: str) -> None:
    one, other = begin(web, "/dev/sda"), begin(web, "/dev/sda")
    with known_here(state, one) as beside_one, known_here(state, other) as beside_other:
        assert (beside_one, beside_other) == ((), ())


@pytest.mark.parametrize("is_locked", [True, False])
def test_two_disks_at_once_get_a_number_each(
    owned: Repository, web: PutSide, tmp_path: Path, *, is_locked: bool
) -> None:
    """Where the turn could not be had both may get one number; then one names the other, and nobody is alarmed."""
    state = str(tmp_path / "state")
    before = web.store_image(Draft(chunks=[9]))
    runs = [BackupRun(web.open(), web.owner, draft, disks=[disk]) for draft, disk in ((FIRST, "a"), (SECOND, "b"))]
    made = []
    with contextlib.ExitStack() as stack:
        besides = [stack.enter_context(known_here(state, run.session)) for run in runs]
        for run in runs:
            run.write_chunks()
        plans = [run.make_manifest() for run in runs]
        early = [linked(run.repository, plan, beside) for run, plan, beside in zip(runs, plans, besides, strict=True)]
        for run, plan, beside, old in zip(runs, plans, besides, early, strict=True):
            with own_turn(state, owned.identity.id, FREE):
                made.append(run.write_manifest(linked(run.repository, plan, beside) if is_locked else old))
        for run in runs:
            run.end()
    assert [one.sequence for one in made] == ([2, 3] if is_locked else [2, 2])
    assert made[0].previous == owned.image(bytes.fromhex(before.image)).digest.hex()
    assert [one.beside for one in made] == [(), (runs[0].session.id,)]
    assert len({one.image for one in made}) == 2
    report = check_repository(owned, events=NoEvents())
    assert report.findings == ()
    contents = read_all_images(owned)
    assert [contents[one.image] for one in made] == [FIRST.contents(), SECOND.contents()]


def test_the_table_keeps_what_a_run_beside_it_adds(web: PutSide, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run notes a pack while this one reads the table: a piece that it did not know is not dropped."""
    web.store_image(FIRST)
    load, added = ChunkIndex.load, list[bool]()

    def load_late(self: ChunkIndex, *args: Any) -> None:
        if not added:
            added.append(True)
            web.store_image(SECOND)
        load(self, *args)

    late = web.open()
    monkeypatch.setattr(ChunkIndex, "load", load_late)
    late.load_index()
    monkeypatch.undo()
    assert web.store_image(SECOND).bytes_added == 0
