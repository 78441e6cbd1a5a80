"""Patches: made, found again, and never more than one base away, whatever is forgotten, lost or hostile."""

import hashlib
import random
from datetime import timedelta
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import zstandard

from stillframe.errors import DamagedError
from stillframe.events import NoEvents
from stillframe.repo.check import check_repository
from stillframe.repo.expire import apply_expire, plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.index import ChunkIndex
from stillframe.repo.objects import ObjectBox
from stillframe.repo.packs import PackReader, PackWriter, compressor
from stillframe.repo.patches import Base, Patch, expand_patch, make_patch
from stillframe.repo.proofs import write_proof
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import ProofRecord
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository, open_repository
from stillframe.repo.rows import EntryKind, Table, build_table, ids_array, parse_table
from stillframe.repo.sealing import make_id
from stillframe.repo.session import begin_session
from stillframe.repo.writing import ChunkNamer
from stillframe.store import LocalStore, MemoryStore, Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.repositories import (
    BackupRun,
    Draft,
    chunk_bytes,
    make_owner,
    make_repository,
    read_all_images,
    read_image,
    reopen,
    store_image,
)
from stillframe.testing.sample_repository import flipped, replace_object

ANNA = make_owner()
CHANCE = random.Random(5)
BEFORE = CHANCE.randbytes(60_000)
AFTER = BEFORE[:20_000] + b"what changed" + BEFORE[20_012:]
CHUNK_IDS = [hashlib.sha256(bytes([n])).digest() for n in range(4)]


# --- Frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 3, 9])
@pytest.mark.parametrize("sizes", [(8, 1), (60_000, 60_000), (512, 60_000), (60_000, 512), (4_194_304, 4_194_304)])
def test_a_patch_becomes_its_chunk_again(level: int, sizes: tuple[int, int]) -> None:
    before, after = (BEFORE * 70)[: sizes[0]], (AFTER * 70)[: sizes[1]]
    patch = make_patch(Base(CHUNK_IDS[0], before), after, level)
    assert patch.base_id == CHUNK_IDS[0]
    assert expand_patch(patch.frame, before, len(after), thing="x") == after


def test_a_base_may_begin_as_a_dictionary_of_zstandard_does() -> None:
    before = bytes.fromhex("37a430ec") + BEFORE
    frame = make_patch(Base(CHUNK_IDS[0], before), AFTER, 1).frame
    assert len(frame) < 200
    assert expand_patch(frame, before, len(AFTER), thing="x") == AFTER


def test_a_small_change_is_a_small_patch_and_says_what_the_page_wants() -> None:
    frame = make_patch(Base(CHUNK_IDS[0], BEFORE), AFTER, 1).frame
    assert len(frame) < 200
    said = zstandard.get_frame_parameters(frame)
    assert (said.content_size, said.has_checksum, said.dict_id) == (len(AFTER), True, 0)


def test_any_other_base_or_size_is_damage() -> None:
    frame = make_patch(Base(CHUNK_IDS[0], BEFORE), AFTER, 1).frame
    for base in (BEFORE[:-1], flipped(BEFORE, 30_000), CHANCE.randbytes(60_000), bytes(60_000), b"", b"short"):
        with pytest.raises(DamagedError, match="x: "):
            expand_patch(frame, base, len(AFTER), thing="x")
    for size in (0, 1, len(AFTER) - 1, len(AFTER) + 1, 4_194_304):
        with pytest.raises(DamagedError, match="x: "):
            expand_patch(frame, BEFORE, size, thing="x")
    for raw in (b"", frame[:-1], frame + b"\0", frame + frame, BEFORE):
        with pytest.raises(DamagedError, match="x: "):
            expand_patch(raw, BEFORE, len(AFTER), thing="x")


def test_a_patch_is_kept_where_it_is_below_seven_eighths_of_what_would_be_stored() -> None:
    for size in range(8000, 8010):
        frames = [len(frame) for frame in (bytes(n) for n in range(6900, 7020)) if Patch(b"", frame).pays_against(size)]
        assert max(frames) + 32 == (size * 7 - 1) // 8
    assert not Patch(b"", b"").pays_against(4096)


def test_whole_is_not_tried_where_a_patch_is_clearly_smaller() -> None:
    changed = CHANCE.randbytes(5000) + BEFORE[5000:]
    for stored, expected in ((0, False), (10_000, False), (10_200, True), (60_000, True)):
        assert make_patch(Base(CHUNK_IDS[0], BEFORE, stored), changed, 1).is_clear is expected
    assert not make_patch(Base(CHUNK_IDS[0], BEFORE, 60_000), AFTER, 1).is_clear  # it may be tiny whole, too

    def refuse(_: object) -> bytes:
        raise AssertionError("whole is tried")

    writer = PackWriter(Shelf().box, refuse)
    writer.add(CHUNK_IDS[1], changed, patch=make_patch(Base(CHUNK_IDS[0], BEFORE, 60_000), changed, 1))
    assert writer.finish().location(0).kind is EntryKind.PATCH


# --- Packs, the index, reading ---------------------------------------------------------------------------------------


class Shelf:
    """Packs with chunks and patches that a test puts there, and an index of them."""

    def __init__(self) -> None:
        self.box = ObjectBox(MemoryStore(), bytes(range(16)), bytes(range(32)))
        self.index = ChunkIndex()
        self.tables: list[Table] = []

    def put(self, *entries: tuple[int, bytes, tuple[int, bytes] | None]) -> bytes:
        """A pack of ``(number of the id, contents, number and contents of the base)``; its id."""
        writer = PackWriter(self.box, compressor(1))
        for number, data, base in entries:
            if base is None:
                writer.add(CHUNK_IDS[number], data)
            else:
                writer.add_patch(CHUNK_IDS[number], make_patch(Base(CHUNK_IDS[base[0]], base[1]), data, 1), len(data))
        table = writer.finish()
        self.tables.append(table)
        self.index.add(make_id(), table)
        return table.packs[0]

    def reader(self) -> ChunkReader:
        return ChunkReader(self.index, PackReader(self.box))

    def read(self, number: int) -> bytes:
        by_id = self.reader().read(CHUNK_IDS[number])
        fetches, missing = self.reader().plan([CHUNK_IDS[number]])
        ((_, in_plan),) = [found for fetch in fetches for found in self.reader().fetch(fetch)]
        assert not missing
        assert in_plan == by_id
        return by_id

    def reason(self, number: int) -> str:
        with pytest.raises(DamagedError) as caught:
            self.reader().read(CHUNK_IDS[number])
        fetches, _ = self.reader().plan([CHUNK_IDS[number]])
        ((_, in_plan),) = [found for fetch in fetches for found in self.reader().fetch(fetch)]
        assert isinstance(in_plan, DamagedError)
        assert in_plan.message == caught.value.message
        return caught.value.message

    def knows(self, number: int, **options: bool) -> bool:
        return bool(self.index.contains(ids_array(CHUNK_IDS[number]), **options)[0])


def test_a_patch_is_read_through_its_base_in_the_same_or_another_pack() -> None:
    for together in (True, False):
        shelf = Shelf()
        entries = [(0, BEFORE, None), (1, AFTER, (0, BEFORE))]
        packs = [shelf.put(*entries)] if together else [shelf.put(entry) for entry in entries]
        assert (shelf.read(0), shelf.read(1)) == (BEFORE, AFTER)
        assert shelf.knows(1)
        assert not shelf.knows(1, whole=True)
        for table, pack in zip(shelf.tables, packs, strict=True):
            own = PackReader(shelf.box).read_table(pack)
            assert build_table(own) == build_table(table) == build_table(parse_table(build_table(table), thing="x"))
        last = shelf.tables[-1].location(len(shelf.tables[-1].rows) - 1)
        assert (last.kind, last.base, last.compressed) == (EntryKind.PATCH, CHUNK_IDS[0], True)


def test_a_base_that_is_gone_excluded_damaged_or_a_patch_itself_is_named() -> None:
    shelf = Shelf()
    shelf.put((1, AFTER, (0, BEFORE)))
    assert "in no index run" in shelf.reason(1)
    assert CHUNK_IDS[0].hex()[:16] in shelf.reason(1)
    assert not shelf.knows(1)
    pack = shelf.put((0, BEFORE, None))
    assert shelf.knows(1)
    shelf.index.exclude_packs([pack])
    assert not shelf.knows(1)
    assert shelf.read(1) == AFTER  # a reader takes what it can get
    shelf.index.exclude_packs([])
    name = object_name(ObjectType.PACK, pack)
    replace_object(shelf.box.store, name, flipped(shelf.box.store.read(name), 1000))
    assert "chunk " + CHUNK_IDS[0].hex()[:16] in shelf.reason(1)
    shelf.box.store.delete(name)
    assert "is not in memory" in shelf.reason(1)


def test_patches_of_patches_of_themselves_and_in_a_circle_end_in_an_error() -> None:
    shelf = Shelf()
    shelf.put((0, BEFORE, (1, AFTER)), (1, AFTER, (0, BEFORE)), (2, AFTER, (1, AFTER)), (3, AFTER, (3, AFTER)))
    for number in range(4):
        assert not shelf.knows(number)
        assert "rests as a patch itself" in shelf.reason(number)
    shelf.put((0, BEFORE, None))
    assert (shelf.read(0), shelf.read(1)) == (BEFORE, AFTER)
    assert not shelf.knows(2)
    assert "rests as a patch itself" in shelf.reason(2)


def test_a_whole_copy_comes_first_and_any_copy_that_opens_is_right() -> None:
    shelf = Shelf()
    shelf.put((1, AFTER, (0, BEFORE)))
    shelf.put((1, AFTER, (2, BEFORE + b"!")))
    assert not shelf.knows(1)
    shelf.put((2, BEFORE + b"!", None))
    assert shelf.knows(1)  # by its second patch
    assert shelf.read(1) == AFTER
    pack = shelf.put((1, AFTER, None))
    (place,) = shelf.index.locate(ids_array(CHUNK_IDS[1]))
    assert place is not None
    assert (place.kind, place.pack_id) == (EntryKind.CHUNK, pack)
    assert [one.kind for one in shelf.index.copies(CHUNK_IDS[1])] == [EntryKind.CHUNK] + [EntryKind.PATCH] * 2
    name = object_name(ObjectType.PACK, pack)
    replace_object(shelf.box.store, name, flipped(shelf.box.store.read(name), 1000))
    assert shelf.read(1) == AFTER


def test_no_flipped_bit_of_a_patch_or_its_base_is_returned() -> None:
    shelf = Shelf()
    before = BEFORE[:500]
    after = before[:200] + b"!" + before[201:]
    pack = shelf.put((0, before, None), (1, after, (0, before)))
    name = object_name(ObjectType.PACK, pack)
    raw = shelf.box.store.read(name)
    border = shelf.tables[0].location(1).offset
    for position in range(80, int.from_bytes(raw[-64:-56], "little")):
        replace_object(shelf.box.store, name, flipped(raw, position, position % 8))
        fetches, _ = shelf.reader().plan(CHUNK_IDS[:2])
        found = {place.chunk_id: data for fetch in fetches for place, data in shelf.reader().fetch(fetch)}
        assert isinstance(found[CHUNK_IDS[1]], DamagedError)
        assert isinstance(found[CHUNK_IDS[0]], DamagedError) == (position < border)


def test_bases_that_are_shared_are_read_once_and_many_of_them_in_bounded_reads() -> None:
    shelf = Shelf()
    ids = [hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(600)]
    bases = [random.Random(n).randbytes(65_536) for n in range(300)]
    writer = PackWriter(shelf.box, None)
    for number, data in enumerate(bases):
        writer.add(ids[number], data)
    shelf.index.add(make_id(), writer.finish())
    writer = PackWriter(shelf.box, None)
    for number, data in enumerate(bases):
        writer.add_patch(ids[300 + number], make_patch(Base(ids[number], data), data[::-1], 1), len(data))
        writer.add_patch(
            CHUNK_IDS[0][:-2] + number.to_bytes(2, "big"), make_patch(Base(ids[0], bases[0]), data, 1), 65_536
        )
    table = writer.finish()
    shelf.index.add(make_id(), table)
    assert isinstance(shelf.box.store, MemoryStore)
    shelf.box.store.operations.clear()
    reader = shelf.reader()
    fetches, _ = reader.plan([table.location(row).chunk_id for row in range(len(table.rows))])
    for fetch in fetches:
        for place, found in reader.fetch(fetch):
            at = ids.index(place.base)
            assert found == bases[at][::-1] if place.chunk_id in ids else found in bases
    sizes = [done.size for done in shelf.box.store.operations if done.verb == "read"]
    assert max(sizes) <= (8 << 20) + 65_552
    assert sum(sizes) < 3.05 * 300 * 65_536  # two frames of noise for each base, and each base once: ids[0] is kept


# --- Repositories ----------------------------------------------------------------------------------------------------


def draft(*numbers: int, **more: bool) -> Draft:
    return Draft(chunks=numbers, patches=more.get("patches", True), chunks_per_pack=2)


def places(repository: Repository) -> dict[bytes, list[EntryKind]]:
    found: dict[bytes, list[EntryKind]] = {}
    for table in repository.load_index().tables():
        for row in range(len(table.rows)):
            place = table.location(row)
            found.setdefault(place.chunk_id, []).append(place.kind)
    return found


def kinds(repository: Repository, number: int) -> list[EntryKind]:
    return places(repository).get(ChunkNamer(repository, bytes(16)).name(chunk_bytes(number)), [])


def forget_and_expire(repository: Repository, *images: str) -> None:
    """Forget images and delete at once what nothing needs."""
    session = begin_session(repository, ANNA, "expire")
    forget_images(session, images)
    for _ in range(3):
        apply_expire(session, plan_expire(repository, own_session=session.id, grace=timedelta(0)))
    session.end()


def packs(repository: Repository) -> set[bytes]:
    return set(repository.stored_packs())


def depth_is_one(repository: Repository) -> bool:
    index = repository.load_index()
    bases = [table.bases for table in index.tables() if len(table.bases)]
    return bool(index.contains(np.concatenate(bases), whole=True).all()) if bases else True


def test_ten_days_of_changes_stay_one_step_from_what_is_whole() -> None:
    repository = make_repository(MemoryStore())
    days = [draft(*(1000 * (1 + day // (1 + n)) + n for n in range(6))) for day in range(10)]
    images = [store_image(repository, ANNA, day).manifest for day in days]
    assert depth_is_one(repository)
    stored = places(repository).values()
    assert sum(found == [EntryKind.PATCH] for found in stored) >= 20
    assert sum(found == [EntryKind.CHUNK] for found in stored) == 6
    for manifest, day in zip(images, days, strict=True):
        assert read_image(repository, manifest) == day.contents()
    forget_and_expire(repository, *(manifest.image for manifest in images[:-1]))
    assert read_all_images(repository) == {images[-1].image: days[-1].contents()}
    assert check_repository(repository, events=NoEvents()).ok
    assert depth_is_one(repository)
    assert len(places(repository)) < len(stored) / 2


@pytest.mark.parametrize("forgotten", [which for count in (1, 2) for which in combinations(range(3), count)])
def test_whatever_is_forgotten_the_rest_comes_back_and_nothing_else_is_kept(forgotten: tuple[int, ...]) -> None:
    repository = make_repository(MemoryStore())
    days = [draft(1001, 1002, 1003, 1004), draft(2001, 2002, 1003, 1004), draft(3001, 2002, 3003, 1004)]
    images = [store_image(repository, ANNA, day).manifest for day in days]
    forget_and_expire(repository, *(images[number].image for number in forgotten))
    left = {images[n].image: day.contents() for n, day in enumerate(days) if n not in forgotten}
    assert read_all_images(repository) == left
    assert check_repository(repository, events=NoEvents()).ok
    store_image(repository, ANNA, draft(4001, 4002, 4003, 1004))
    assert depth_is_one(repository)
    forget_and_expire(repository, *left)
    (last,) = repository.images().images
    assert read_image(repository, last.manifest) == draft(4001, 4002, 4003, 1004).contents()
    forget_and_expire(repository, last.manifest.image)
    assert not packs(repository)


def test_what_is_packed_anew_stays_a_patch_and_its_base_stays() -> None:
    repository = make_repository(MemoryStore())
    first = Draft(chunks=[1001, 1002, 1003], chunks_per_pack=9)
    second = Draft(chunks=[2001, *range(3, 40)], chunks_per_pack=99, patches=True)
    old, middle = (store_image(repository, ANNA, one).manifest for one in (first, second))
    third = store_image(repository, ANNA, Draft(chunks=[2001], patches=True)).manifest
    assert kinds(repository, 2001) == [EntryKind.PATCH]
    before = packs(repository)
    forget_and_expire(repository, old.image, middle.image)
    assert packs(repository).isdisjoint(before - {third_pack(repository, third.image)})
    assert kinds(repository, 2001) == [EntryKind.PATCH]
    assert kinds(repository, 1001) == [EntryKind.CHUNK]
    assert kinds(repository, 1002) == []
    assert read_all_images(repository) == {third.image: chunk_bytes(2001)}


def third_pack(repository: Repository, image: str) -> bytes:
    """The pack of an image's own map, if nothing else is in it."""
    root = repository.image(bytes.fromhex(image)).manifest.disks[0].partitions[0].blocks.root()
    return repository.load_index().copies(root.root.id)[0].pack_id


def test_a_base_stays_also_where_the_run_that_named_its_patch_is_lost() -> None:
    store = MemoryStore()
    repository = make_repository(store)
    old = store_image(repository, ANNA, draft(1001, 1002)).manifest
    runs = {stored.name for stored in store.list(ObjectType.INDEX.folder)}
    new = store_image(repository, ANNA, draft(2001, 2002)).manifest
    for stored in list(store.list(ObjectType.INDEX.folder)):
        if stored.name not in runs:
            store.delete(stored.name)
    # Its map was in that run too: as it is nothing can be deleted at all.
    session = begin_session(repository, ANNA, "expire")
    forget_images(session, [old.image])
    with pytest.raises(DamagedError, match="block map"):
        plan_expire(repository, own_session=session.id, grace=timedelta(0))
    index = repository.load_index(unindexed=True)
    root = new.disks[0].partitions[0].blocks.root().root.id
    (node,) = [table for table in index.tables() if any(row.tobytes() == root for row in table.rows["id"])]
    repository.box.write(ObjectType.INDEX, make_id(), build_table(node))  # the map is known again, the patches are not
    apply_expire(session, plan_expire(repository, own_session=session.id, grace=timedelta(0)))
    session.end()
    assert read_image(repository, new) == draft(2001, 2002).contents()


def test_a_lost_base_is_named_and_stored_whole_again_and_brings_its_patches_back() -> None:
    store = MemoryStore()
    repository = make_repository(store)
    first = store_image(repository, ANNA, Draft(chunks=[1001], chunks_per_pack=1)).manifest
    second = store_image(repository, ANNA, draft(2001)).manifest
    third = store_image(repository, ANNA, draft(3001)).manifest
    assert kinds(repository, 2001) == kinds(repository, 3001) == [EntryKind.PATCH]
    name = ChunkNamer(repository, bytes(16)).name(chunk_bytes(1001))
    base = repository.load_index().copies(name)[0]
    pack = object_name(ObjectType.PACK, base.pack_id)
    store.delete(pack)
    report = check_repository(repository, events=NoEvents())
    (gone,) = [found for found in report.findings if found.code == "pack-missing"]
    for manifest in (first, second, third):
        assert f"image {manifest.image[:8]}" in gone.message
    assert not any(state.is_whole for state in report.images)
    session = begin_session(repository, ANNA, "repair")
    repair_repository(session, events=NoEvents(), read_all=True)
    session.end()
    assert kinds(repository, 2001) == kinds(repository, 3001) == [EntryKind.PATCH]  # their own bytes are right
    store_image(repository, ANNA, draft(3001, 1001))  # at another place, where a patch could be made
    assert kinds(repository, 1001) == [EntryKind.CHUNK]
    assert len(read_all_images(repository)) == 4
    assert check_repository(repository, events=NoEvents()).ok


def test_what_a_proof_calls_bad_is_no_base_and_is_stored_whole() -> None:
    repository = make_repository(MemoryStore())
    first = store_image(repository, ANNA, draft(1001)).manifest
    name = ChunkNamer(repository, bytes(16)).name(chunk_bytes(1001))
    write_proof(
        repository,
        ProofRecord(
            proof=make_id().hex(), image=first.image, created=first.created, machine=ANNA.machine, kind="read-back",
            ok=False, bytes=0, how="", bad_chunks=(name.hex(),),
        ),
    )  # fmt: skip
    store_image(repository, ANNA, draft(2001, 1001))
    assert kinds(repository, 2001) == [EntryKind.CHUNK]
    assert kinds(repository, 1001) == [EntryKind.CHUNK] * 2


def test_a_patch_whose_base_is_announced_dead_counts_as_absent() -> None:
    """The baseline was forgotten and let go of, and its pack is not deleted yet: nothing may rest on it any more."""
    clock = FakeClock()
    repository = make_repository(MemoryStore(), clock=clock)
    images = [store_image(repository, ANNA, one).manifest for one in (draft(1001), draft(2001))]
    assert kinds(repository, 2001) == [EntryKind.PATCH]
    session = begin_session(repository, ANNA, "expire")
    forget_images(session, [manifest.image for manifest in images])
    apply_expire(session, plan_expire(repository, own_session=session.id))  # announces, and deletes nothing
    session.end()
    assert packs(repository)
    last = store_image(repository, ANNA, draft(2001)).manifest
    assert sorted(kinds(repository, 2001)) == [EntryKind.CHUNK, EntryKind.PATCH]
    clock.advance(timedelta(days=3))
    forget_and_expire(repository)
    assert kinds(repository, 2001) == [EntryKind.CHUNK]
    assert read_all_images(repository) == {last.image: chunk_bytes(2001)}


def test_a_base_that_is_announced_dead_while_a_backup_runs_is_copied() -> None:
    repository = make_repository(MemoryStore())
    first = store_image(repository, ANNA, draft(1001)).manifest
    run = BackupRun(repository, ANNA, draft(2001))
    run.write_chunks()
    other = make_owner("bert")
    session = begin_session(repository, other, "expire")
    forget_images(session, [first.image])
    apply_expire(session, plan_expire(repository, own_session=session.id))
    session.end()
    image = run.commit().manifest
    run.end()
    assert EntryKind.PATCH in kinds(repository, 2001)
    assert kinds(repository, 1001) == [EntryKind.CHUNK] * 2
    session = begin_session(repository, other, "expire")
    for _ in range(2):
        apply_expire(session, plan_expire(repository, own_session=session.id, grace=timedelta(0)))
    session.end()
    assert kinds(repository, 1001) == [EntryKind.CHUNK]
    assert read_all_images(repository) == {image.image: chunk_bytes(2001)}
    assert check_repository(repository, events=NoEvents()).ok


def test_there_are_no_patches_where_nobody_wants_them_or_they_would_cost_more(tmp_path: object) -> None:
    near, far = LocalStore(f"{tmp_path}/near"), LocalStore(f"{tmp_path}/far", is_near=False)
    choices: list[tuple[Store, dict[str, Any], EntryKind]] = [
        (near, {}, EntryKind.PATCH),
        (far, {}, EntryKind.CHUNK),
        (MemoryStore(), {"patches": False}, EntryKind.CHUNK),
        (MemoryStore(), {"compress": False}, EntryKind.CHUNK),
    ]
    for store, options, expected in choices:
        repository = make_repository(store)
        store_image(repository, ANNA, Draft(chunks=[1001]))
        store_image(repository, ANNA, Draft(chunks=[2001, 3001], **{"patches": True, **options}))
        assert kinds(repository, 2001) == [expected]
        assert kinds(repository, 3001) == [EntryKind.CHUNK]  # nothing was at its place


def test_tiny_chunks_and_those_that_changed_altogether_stay_whole() -> None:
    repository = make_repository(MemoryStore())
    store_image(repository, ANNA, Draft(chunks=[1, 1001]))
    store_image(repository, ANNA, draft(2, 1002))
    assert kinds(repository, 2) == kinds(repository, 1002) == [EntryKind.CHUNK]


def test_a_cached_index_says_the_same(tmp_path: object) -> None:
    store = MemoryStore()
    made = make_repository(store)
    image = store_image(made, ANNA, draft(1001, 1002)).manifest
    store_image(made, ANNA, draft(2001, 2002))
    for _ in range(2):
        repository = open_repository(store, where="x", secret=None, cache_folder=f"{tmp_path}", clock=FakeClock())
        assert places(repository) == places(reopen(store, clock=FakeClock()))
        assert len(read_all_images(repository)) == 2
    assert image.image in read_all_images(repository)
