"""Sectors that the kernel refuses to read: a repository on a folder whose file system answers EIO for some blocks.

What a program gets is what a failing disk gives it: errors of read(2), after the kernel's own read-ahead.
"""

import random
from pathlib import Path

import pytest

from stillframe.errors import StorageError
from stillframe.events import NoEvents
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.parity.records import BLOCK, Geometry
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.session import begin_session
from stillframe.store import LocalStore
from stillframe.testing.clocks import FakeClock
from stillframe.testing.failing_folder import FailingFolder
from stillframe.testing.repositories import (
    Draft,
    make_owner,
    make_repository,
    read_all_images,
    reopen,
    store_image,
)

ANNA = make_owner()
DRAFT = Draft(chunks=[*range(1, 40), None, 50], chunks_per_pack=30, compress=False)


def open_it(folder: Path) -> Repository:
    return reopen(LocalStore(str(folder)), clock=FakeClock())


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    repository = make_repository(LocalStore(str(tmp_path / "repo")))
    repository.parity.decide(parity=True, machine=ANNA.machine, clock=repository.clock)
    store_image(repository, ANNA, DRAFT)
    return tmp_path / "repo"


def bad_blocks(backing: Path) -> dict[str, list[int]]:
    """Five of a large object, one of a small one; and one of each large object's sidecar: of two records at most."""
    store, bad = LocalStore(str(backing)), dict[str, list[int]]()
    for kind in (ObjectType.PACK, ObjectType.INDEX, ObjectType.IMAGE):
        for stored in store.list(kind.folder):
            geometry = Geometry(stored.size)
            is_large = geometry.rows == 8
            bad[stored.name] = random.Random(stored.name).sample(range(geometry.blocks), 5 if is_large else 1)
            if is_large:
                bad[object_name(ObjectType.PARITY, bytes.fromhex(stored.name[-32:]))] = [1]
    return bad


def test_images_are_read_and_repaired_past_sectors_that_the_kernel_refuses(backing: Path) -> None:
    bad = bad_blocks(backing)
    with FailingFolder(backing, bad) as failing:
        name = next(iter(bad))
        with pytest.raises(StorageError, match="Input/output error"):  # the fault is there
            LocalStore(str(failing.folder)).read(name, bad[name][0] * BLOCK, 1)
        assert list(read_all_images(open_it(failing.folder)).values()) == [DRAFT.contents()]
        assert {line.split()[0].split("/")[1] for line in failing.refused} >= {"packs", "index", "images"}
        session = begin_session(open_it(failing.folder), ANNA, "repair")
        report = repair_repository(session, events=NoEvents(), read_all=True)
        session.end()
        assert report.check.ok, report.check.findings
        assert {"healed", "pack-healed"} <= {notice.code for notice in report.done}
        store = LocalStore(str(failing.folder))
        for stored in list(store.list(ObjectType.PARITY.folder)):
            store.delete(stored.name)
        assert list(read_all_images(open_it(failing.folder)).values()) == [DRAFT.contents()]
    assert list(read_all_images(open_it(backing)).values()) == [DRAFT.contents()]
