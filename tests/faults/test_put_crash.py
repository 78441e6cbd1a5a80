"""The power goes at any operation of a run with a put key, or of one that takes from it: nothing is lost by that."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from stillframe.errors import PutOnly
from stillframe.events import NoEvents
from stillframe.repo.check import check_repository
from stillframe.repo.expire import apply_expire, plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.objects import ObjectBox
from stillframe.repo.put.grants import revoke
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner, begin_session
from stillframe.store import MemoryStore, Store, write_object
from stillframe.testing.clocks import FakeClock
from stillframe.testing.faulty_store import Crash, CrashingStore, Tear
from stillframe.testing.put_machines import PutSide, add_put_machine, make_owned
from stillframe.testing.repositories import Draft, Processes, make_owner, read_all_images, read_image

FIRST, LATER = Draft(chunks=[1, 2, 3], chunks_per_pack=1), Draft(chunks=[1, 2, 4], chunks_per_pack=1)
DORA = make_owner("dora")
TEARS = [Tear.KEPT, Tear.PREFIX, Tear.VANISHED, Tear.EMPTY]


class Scene:
    """A repository with one image of a put-only machine, to be wrecked again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = MemoryStore()
        self._owned = make_owned(self._store)
        self._web = add_put_machine(self._owned, cache=folder / "cache")
        self.first = self._web.store_image(FIRST).image

    def copy(self, number: int) -> tuple[MemoryStore, PutSide]:
        """A copy of all of it, with the table that its machine keeps."""
        store, cache = MemoryStore(), self._folder / f"cache-{number}"
        for stored in self._store.list(""):
            write_object(store, stored.name, self._store.read(stored.name))
        shutil.copytree(self._folder / "cache", cache)
        return store, dataclasses.replace(self._web, store=store, cache=str(cache))

    def owned(self, store: Store, clock: FakeClock | None = None) -> Repository:
        """The repository in a store as its owner has it, without asking for the passphrase each time."""
        box = ObjectBox(store, self._owned.box.repository_id, self._owned.box.master_key)
        return Repository(box, self._owned.found_identity, clock=clock or FakeClock(), cache=None)


Work = Callable[[Store, PutSide], object]


def sweep(scene: Scene, work: Work, tear: Tear, check: Callable[[PutSide], None]) -> int:
    """Cut work off at each of its operations; returns how many there are."""
    store, web = scene.copy(0)
    counting = CrashingStore(store)
    work(counting, web)
    for number in range(counting.operations):
        store, web = scene.copy(number + 1)
        with CrashingStore(store, number, tear=tear, seed=number) as crashing, contextlib.suppress(Crash):
            work(crashing, web)
        check(web)
        shutil.rmtree(web.cache)
    return counting.operations


@pytest.mark.parametrize("tear", TEARS)
def test_a_backup_with_a_put_key_that_is_cut_off_loses_nothing(tear: Tear, tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    def work(store: Store, web: PutSide) -> None:
        dataclasses.replace(web, store=store).store_image(LATER)

    def check(web: PutSide) -> None:
        found = dict(read_all_images(scene.owned(web.store)))
        assert found.pop(scene.first) == FIRST.contents()
        assert all(contents == LATER.contents() for contents in found.values())
        image = web.store_image(LATER)
        assert read_image(scene.owned(web.store), image) == LATER.contents()

    assert sweep(scene, work, tear, check) > 10


@pytest.mark.parametrize("tear", TEARS[:2])
def test_an_expiry_that_is_cut_off_misleads_no_put_key(tear: Tear, tmp_path: Path) -> None:
    """Whatever is left of tombstones and warnings, the next image is whole, also when all was deleted."""
    scene = Scene(tmp_path)

    def expire(store: Store, clock: FakeClock, owner: Owner = DORA) -> None:
        session = begin_session(scene.owned(store, clock), owner, "expire")
        apply_expire(session, plan_expire(session.repository, own_session=session.id, grace=timedelta(days=1)))
        session.end()

    def work(store: Store, _web: PutSide) -> None:
        session = begin_session(scene.owned(store), DORA, "forget")
        forget_images(session, [scene.first])
        session.end()
        expire(store, FakeClock())

    def check(web: PutSide) -> None:
        image = web.store_image(FIRST)
        clock = FakeClock()
        for _ in range(3):
            clock.advance(timedelta(days=20))
            expire(web.store, clock, make_owner("dora", process="next", processes=Processes(dead={"1"})))
        assert read_image(scene.owned(web.store), image) == FIRST.contents()
        assert check_repository(scene.owned(web.store), events=NoEvents()).ok

    assert sweep(scene, work, tear, check) > 5


@pytest.mark.parametrize("tear", TEARS[:2])
def test_a_key_is_taken_away_or_not_and_its_images_stay(tear: Tear, tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    def work(store: Store, web: PutSide) -> None:
        revoke(scene.owned(store), web.credential.machine, DORA.machine)

    def check(web: PutSide) -> None:
        assert read_all_images(scene.owned(web.store)) == {scene.first: FIRST.contents()}
        try:
            image = web.store_image(LATER).image
        except PutOnly:
            image = ""
        kept = revoke(scene.owned(web.store), web.credential.machine, DORA.machine).kept
        assert set(kept) == {scene.first, image} - {""}
        assert set(read_all_images(scene.owned(web.store))) == set(kept)

    assert sweep(scene, work, tear, check) >= 4
