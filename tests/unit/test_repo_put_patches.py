"""Put keys and patches: a put key makes none, none of its is believed, and none of others rests on what it stored."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from stillframe.errors import DamagedError
from stillframe.events import NoEvents
from stillframe.repo.blockmap import MapRoot
from stillframe.repo.check import check_repository
from stillframe.repo.expire import plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.packs import Fetch, PackWriter
from stillframe.repo.patches import Base, make_patch
from stillframe.repo.put.machine import PutBox
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.repo.rows import Table, build_table
from stillframe.repo.session import begin_session
from stillframe.repo.writing import ChunkNamer
from stillframe.store import MemoryStore
from stillframe.testing.put_machines import PutSide, add_put_machine, forge, make_owned
from stillframe.testing.repositories import (
    VERSIONS,
    BackupRun,
    Draft,
    chunk_bytes,
    make_owner,
    read_all_images,
    read_image,
    store_image,
)

ANNA = make_owner("anna")
OLD = Draft(chunks=[1 + VERSIONS, 2 + VERSIONS])
NEW = Draft(chunks=[1 + 2 * VERSIONS, 2 + 2 * VERSIONS], patches=True)


@pytest.fixture
def owned() -> Repository:
    return make_owned(MemoryStore())


@pytest.fixture
def web(owned: Repository, tmp_path: Path) -> PutSide:
    return add_put_machine(owned, cache=tmp_path)


def patches_in(tables: Sequence[Table]) -> int:
    return sum(len(table.patches) for table in tables)


def root_of(manifest: Manifest) -> MapRoot:
    return manifest.disks[0].partitions[0].blocks.root()


def thief_writes_a_patch(web: PutSide, base_id: bytes, base: bytes) -> Table:
    """A pack of a put key with one patch, and a whole chunk that it is not made against."""
    box = PutBox(web.store, web.credential)
    namer, writer = ChunkNamer(web.open(), web.credential.machine_id), PackWriter(box, None)
    data = chunk_bytes(7)
    writer.add_patch(namer.name(data), make_patch(Base(base_id, base), data, 1), len(data))
    writer.add(namer.name(b"whole"), b"whole")
    return writer.finish()


def test_a_put_key_makes_no_patches(owned: Repository, web: PutSide) -> None:
    first = web.store_image(OLD)
    run = BackupRun(web.open(), web.owner, NEW)
    run.writer.patch_against({("/dev/sda", 1): root_of(first)})
    assert run.writer._patching is None  # it does not even look for bases that it could not read
    run.write_chunks()
    image = run.write_manifest()
    run.end()
    assert patches_in(list(owned.load_index().tables())) == 0
    assert read_image(owned, image) == NEW.contents()
    store_image(owned, ANNA, OLD)
    store_image(owned, ANNA, NEW)
    assert patches_in(list(owned.load_index().tables())) == 2  # of who reads, from the same bytes


@pytest.mark.parametrize("own_base", [True, False])
def test_a_patch_that_a_put_key_made_is_damage(owned: Repository, web: PutSide, *, own_base: bool) -> None:
    """Its bytes would be right once expanded. It is refused in the index run, in the trailer, and as an entry."""
    base = chunk_bytes(1 + VERSIONS)
    (web.store_image if own_base else lambda draft: store_image(owned, ANNA, draft))(OLD)
    domain = web.credential.machine_id if own_base else bytes(16)
    table = thief_writes_a_patch(web, ChunkNamer(owned, domain).name(base), base)
    run_id = forge(web, ObjectType.INDEX, build_table(table))
    assert owned.read_run(run_id) is None
    with pytest.raises(DamagedError, match="speaks of 1 patches"):
        owned.read_run_strictly(run_id)
    with pytest.raises(DamagedError, match="speaks of 1 patches"):
        owned.packs.read_table(table.packs[0])
    places = [table.location(row) for row in range(2)]
    found = {place.chunk_id: data for place, data in owned.packs.fetch(Fetch(table.packs[0], tuple(places)))}
    results = [found[place.chunk_id] for place in sorted(places, key=lambda place: place.base)]
    assert results[0] == b"whole"
    assert isinstance(results[1], DamagedError)
    assert "a put key made a patch" in results[1].message
    report = check_repository(owned, events=NoEvents())
    assert object_name(ObjectType.INDEX, run_id) in {finding.thing for finding in report.findings}


def test_a_row_of_a_put_key_keeps_no_chunk_of_others(owned: Repository, web: PutSide) -> None:
    real = store_image(owned, ANNA, OLD).manifest
    base = chunk_bytes(1 + VERSIONS)
    mine = web.store_image(Draft(chunks=[7]))
    table = thief_writes_a_patch(web, ChunkNamer(owned, bytes(16)).name(base), base)
    forge(web, ObjectType.INDEX, build_table(table))
    session = begin_session(owned, ANNA, "forget")
    forget_images(session, [real.image])
    session.end()
    plan = plan_expire(owned, undelete=timedelta(0))
    theirs = {pack.hex() for pack in owned.stored_packs() if pack[8:] != web.credential.machine_id[8:]}
    assert theirs
    assert set(plan.dead_packs) >= theirs
    assert read_all_images(owned) == {mine.image: Draft(chunks=[7]).contents()}


@pytest.mark.parametrize("is_poisoned", [True, False])
def test_nobody_makes_a_patch_of_what_a_put_key_stored(owned: Repository, web: PutSide, *, is_poisoned: bool) -> None:
    """Somebody who knows the ids of others' chunks stores other bytes under them, where no good copy is left."""
    store_image(owned, ANNA, OLD)
    if is_poisoned:
        box = PutBox(web.store, web.credential)
        writer, whole = PackWriter(box, None), next(iter(owned.load_index().tables()))
        namer = ChunkNamer(owned, bytes(16))
        bases = [namer.name(chunk_bytes(number)) for number in (1 + VERSIONS, 2 + VERSIONS)]
        for base_id in bases:
            writer.add(base_id, b"poison" * 10_000)
        box.write(ObjectType.INDEX, box.make_id(), build_table(writer.finish()))
        good = whole.take(~np.isin(whole.rows["id"][:, 0], [int.from_bytes(one[:8], "little") for one in bases]))
        for run_id in [run_id for run_id in owned.box.ids(ObjectType.INDEX) if run_id[8:] != box.make_id()[8:]]:
            owned.box.delete(ObjectType.INDEX, run_id)
        owned.box.write(ObjectType.INDEX, owned.box.make_id(), build_table(good))
    image = store_image(owned, ANNA, NEW)
    assert patches_in(list(owned.load_index().tables())) == (0 if is_poisoned else 2)
    assert read_image(owned, image.manifest) == NEW.contents()
