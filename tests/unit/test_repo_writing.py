"""Writing an image: order, claims, killed runs, deletions announced meanwhile, and crashes."""

import hashlib
import threading
from dataclasses import replace
from datetime import timedelta
from itertools import count

import blake3
import pytest

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, Locked, StorageError, StorageFull
from stillframe.repo import writing
from stillframe.repo.deletion_records import TombstoneRecord
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.records import ProofRecord, build_record
from stillframe.repo.repository import Repository, open_repository
from stillframe.repo.rows import EntryKind
from stillframe.repo.sealing import chunk_id_key
from stillframe.repo.session import Owner, begin_session
from stillframe.repo.writing import ImageWriter, failed_chunks, join_tables
from stillframe.store import MemoryStore, Store
from stillframe.testing.clocks import FIRST_MOMENT, FakeClock
from stillframe.testing.faulty_store import Crash, CrashingStore, FullStore, Tear
from stillframe.testing.sample_repository import (
    DOMAIN,
    MACHINE,
    OTHER_MACHINE,
    flipped,
    replace_object,
    sample_manifest,
    sample_repository,
)

PROCESSES = count(100)
CHUNKS = [hashlib.shake_256(bytes([n])).digest(2000) for n in range(10)]


def writer_for(repository: Repository, *, level: int | None = None) -> ImageWriter:
    """A run of a new process of this machine; the process of every earlier one is dead by now."""
    owner = Owner(
        machine=MACHINE, boot_id="boot-1", process=str(next(PROCESSES)), is_alive=lambda _boot, _process: False
    )
    return ImageWriter(begin_session(repository, owner, "backup"), domain=DOMAIN, level=level)


def store_chunks(writer: ImageWriter, chunks: list[bytes]) -> list[bytes]:
    """Store chunks through one lane; returns their ids."""
    ids = [writer.namer.name(data) for data in chunks]
    lane = writer.lane()
    for chunk_id, data, known in zip(ids, chunks, writer.known(ids).tolist(), strict=True):
        if not known:
            lane.add(chunk_id, data)
    lane.close()
    return ids


def write_image(repository: Repository, chunks: list[bytes], number: int = 1) -> ImageWriter:
    writer = writer_for(repository)
    ids = store_chunks(writer, chunks)
    writer.commit(sample_manifest(image=f"{number:02x}" * 16, session=writer.session.id, sequence=number), lambda: ids)
    writer.session.end()
    return writer


def ids_of(repository: Repository, chunks: list[bytes]) -> list[bytes]:
    key = chunk_id_key(repository.box.master_key, repository.box.repository_id, DOMAIN)
    return [blake3.blake3(data, key=key).digest() for data in chunks]


def check_readable(repository: Repository, chunks: list[bytes]) -> None:
    reader = repository.reader()
    for chunk_id, data in zip(ids_of(repository, chunks), chunks, strict=True):
        assert reader.read(chunk_id) == data


def announce(repository: Repository, packs: set[bytes], number: int = 9) -> None:
    """Write the tombstone of an ``expire``."""
    record = TombstoneRecord(
        tombstone=f"{number:02x}" * 16, created=rfc3339(FIRST_MOMENT), machine=OTHER_MACHINE,
        packs=tuple(pack.hex() for pack in packs),
    )  # fmt: skip
    repository.box.write(ObjectType.TOMBSTONE, bytes([number]) * 16, build_record(record))


def prove(repository: Repository, number: int, bad: list[bytes], *, image: str = "01" * 16) -> None:
    record = ProofRecord(
        proof=f"{number:02x}" * 16, image=image, created=f"2026-03-0{number}T00:00:00Z", machine=MACHINE,
        kind="read-back", ok=not bad, bytes=0, bad_chunks=tuple(chunk_id.hex() for chunk_id in bad),
    )  # fmt: skip
    repository.box.write(ObjectType.PROOF, bytes([number]) * 16, build_record(record))


def entries_of(repository: Repository) -> list[bytes]:
    """The chunk id of every entry of every pack that is there."""
    tables = [repository.packs.read_table(pack_id) for pack_id in repository.stored_packs()]
    return [table.location(row).chunk_id for table in tables for row in range(len(table.rows))]


@pytest.mark.parametrize("level", [None, 3])
def test_what_was_stored_is_read(level: int | None) -> None:
    repository = sample_repository()
    writer = writer_for(repository, level=level)
    ids = store_chunks(writer, CHUNKS)
    assert ids == ids_of(repository, CHUNKS)
    lane = writer.lane()
    node = writer.namer.name(b"node")
    lane.add(node, b"node", EntryKind.NODE)
    lane.close()
    writer.commit(sample_manifest(), lambda: ids)
    check_readable(repository, [*CHUNKS, b"node"])
    (place,) = repository.load_index().copies(node)
    assert place.kind is EntryKind.NODE
    assert repository.image(bytes.fromhex("ab" * 16)).manifest == sample_manifest()
    assert writer.bytes_added >= 10 * 16


def test_objects_are_durable_in_the_order_of_section_12() -> None:
    store = MemoryStore()
    repository = sample_repository(store)
    store.operations.clear()
    write_image(repository, CHUNKS)
    kinds = [done.name.split("/")[0] for done in store.operations if done.verb == "commit"]
    assert kinds == ["sessions", "packs", "index", "images"]
    steps = [(done.verb, done.name.split("/")[0]) for done in store.operations]
    written = steps.index(("create", "images"))
    last_look = max(n for n, step in enumerate(steps[:written]) if step == ("list", "tombstones"))
    assert steps.index(("commit", "index")) < last_look
    assert ("list", "ended") in steps[written:]
    assert steps[-1] == ("delete", "sessions")


def test_chunks_are_stored_once_over_lanes_and_runs() -> None:
    repository = sample_repository()
    writer = writer_for(repository)
    ids = [writer.namer.name(data) for data in CHUNKS]
    lanes = [writer.lane(), writer.lane()]
    assert not writer.known(ids).any()
    for lane in lanes:
        for chunk_id, data in zip(ids, CHUNKS, strict=True):
            lane.add(chunk_id, data)
    assert writer.known(ids).all()
    for lane in lanes:
        lane.close()
    writer.commit(sample_manifest(), lambda: ids)
    writer.session.end()
    assert writer.known(ids).all()
    write_image(repository, CHUNKS, 2)
    assert sorted(entries_of(repository)) == sorted(ids)


def test_threads_store_every_chunk_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillframe.repo.packs.PACK_SIZE", 10_000)
    monkeypatch.setattr(writing, "_FLUSH_ROWS", 20)
    repository = sample_repository()
    writer = writer_for(repository)
    chunks = [hashlib.shake_256(n.to_bytes(4, "little")).digest(500) for n in range(400)]
    ids = [writer.namer.name(data) for data in chunks]
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            lane = writer.lane()
            for step in range(len(chunks)):
                number = (first + step) % len(chunks)
                if not writer.known([ids[number]])[0]:
                    lane.add(ids[number], chunks[number])
            lane.close()
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    writer.commit(sample_manifest(), lambda: ids)
    check_readable(repository, chunks)
    # A thread that asked just before another one's index run may store a chunk again; not more than now and then.
    assert len(chunks) <= len(entries_of(repository)) < 2 * len(chunks)


def test_an_index_run_is_written_when_enough_rows_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_FLUSH_ROWS", 3)
    repository = sample_repository()
    writer = writer_for(repository)
    runs = []
    for data in CHUNKS[:4]:
        store_chunks(writer, [data])
        runs.append(len(list(repository.box.ids(ObjectType.INDEX))))
    assert runs == [0, 0, 1, 1]
    assert writer.known([writer.namer.name(data) for data in CHUNKS]).tolist() == [True] * 4 + [False] * 6


@pytest.mark.parametrize(("limit", "runs"), [("ROWS_MAX", 4), ("PACKS_MAX", 2)])
def test_an_index_run_stays_within_the_limits_of_a_table(
    monkeypatch: pytest.MonkeyPatch, limit: str, runs: int
) -> None:
    repository = sample_repository()
    writer = writer_for(repository)
    for first in range(0, 8, 2):
        store_chunks(writer, CHUNKS[first : first + 2])
    monkeypatch.setattr(writing, limit, 3 if limit == "ROWS_MAX" else 2)
    writer.flush()
    assert len(list(repository.box.ids(ObjectType.INDEX))) == runs
    check_readable(repository, CHUNKS[:8])


def test_joined_tables_are_sorted_and_keep_their_packs() -> None:
    repository = sample_repository()
    write_image(repository, CHUNKS[:5], 1)
    write_image(repository, CHUNKS[5:], 2)
    tables = [repository.packs.read_table(pack_id) for pack_id in repository.stored_packs()]
    joined = join_tables(tables)
    found = {joined.location(row) for row in range(10)}
    assert found == {table.location(row) for table in tables for row in range(5)}
    ids = [joined.location(row).chunk_id for row in range(10)]
    assert ids == sorted(ids)


def test_the_packs_of_a_killed_run_are_used_by_the_next() -> None:
    repository = sample_repository()
    killed = writer_for(repository)
    store_chunks(killed, CHUNKS[:5])
    assert list(repository.box.ids(ObjectType.INDEX)) == []
    writer = write_image(repository, CHUNKS)
    assert sorted(entries_of(repository)) == sorted(ids_of(repository, CHUNKS))
    assert repository.sessions() == ()
    assert writer.bytes_added < 6 * 2016
    check_readable(repository, CHUNKS)


def test_torn_and_damaged_packs_are_not_used() -> None:
    repository = sample_repository()
    killed = [writer_for(repository), writer_for(repository)]
    store_chunks(killed[0], CHUNKS[:2])
    store_chunks(killed[1], CHUNKS[2:4])
    store = repository.box.store
    torn, spoiled = (object_name(ObjectType.PACK, pack) for pack in repository.stored_packs())
    replace_object(store, torn, store.read(torn)[:-1])
    for position in (8, 20, 50, -70, -10):
        raw = store.read(spoiled)
        replace_object(store, spoiled, flipped(raw, position % len(raw)))
        writer = writer_for(repository)
        assert not writer.known(ids_of(repository, CHUNKS)).any()
        writer.session.end()
        replace_object(store, spoiled, raw)


def test_a_pack_with_a_footer_behind_a_hole_is_used_for_what_is_whole() -> None:
    repository = sample_repository()
    store_chunks(writer_for(repository), CHUNKS[:5])
    (pack,) = repository.stored_packs()
    name = object_name(ObjectType.PACK, pack)
    raw = repository.box.store.read(name)
    replace_object(repository.box.store, name, raw[:3000] + bytes(2000) + raw[5000:])
    assert len(repository.packs.read_table(pack).rows) == 5
    writer = write_image(repository, CHUNKS)
    assert writer.known(ids_of(repository, CHUNKS)).all()
    check_readable(repository, CHUNKS)
    assert len(entries_of(repository)) == 10 + 2


def test_what_rests_in_a_pack_that_is_gone_or_announced_dead_is_stored_again() -> None:
    for gone in (True, False):
        repository = sample_repository()
        write_image(repository, CHUNKS[:5])
        (pack,) = repository.stored_packs()
        if gone:
            repository.box.delete(ObjectType.PACK, pack)
        else:
            announce(repository, {pack})
        write_image(repository, CHUNKS, 2)
        repository.box.delete(ObjectType.PACK, pack)
        check_readable(repository, CHUNKS)


def test_orphan_packs_announced_dead_are_not_taken_up() -> None:
    repository = sample_repository()
    store_chunks(writer_for(repository), CHUNKS[:5])
    announce(repository, set(repository.stored_packs()))
    writer = writer_for(repository)
    assert not writer.known(ids_of(repository, CHUNKS)).any()
    assert list(repository.box.ids(ObjectType.INDEX)) == []


def test_what_an_image_relies_on_is_copied_out_of_packs_announced_dead_meanwhile() -> None:
    repository = sample_repository()
    write_image(repository, CHUNKS[:8])
    (pack,) = repository.stored_packs()
    writer = writer_for(repository)
    ids = store_chunks(writer, CHUNKS[3:])
    announce(repository, {pack})
    writer.commit(sample_manifest(), lambda: ids)
    repository.box.delete(ObjectType.PACK, pack)
    check_readable(repository, CHUNKS[3:])
    assert not repository.load_index().copies(ids_of(repository, CHUNKS)[0])[1:]


def test_a_deletion_that_touches_nothing_of_the_image_copies_nothing() -> None:
    repository = sample_repository()
    write_image(repository, CHUNKS[:5])
    (pack,) = repository.stored_packs()
    writer = writer_for(repository)
    ids = store_chunks(writer, CHUNKS[5:])
    announce(repository, {pack})
    writer.commit(sample_manifest(), lambda: ids)
    assert len(entries_of(repository)) == 10
    other = writer_for(repository)
    announce(repository, {bytes(16)}, 8)
    other.commit(sample_manifest(image="77" * 16), list)


def test_without_a_deletion_nobody_is_asked_what_the_image_relies_on() -> None:
    def never() -> list[bytes]:
        raise AssertionError("asked")

    writer_for(sample_repository()).commit(sample_manifest(), never)


@pytest.mark.parametrize("loss", ["deleted", "damaged"])
def test_an_image_whose_chunks_vanished_meanwhile_gets_no_manifest(loss: str) -> None:
    repository = sample_repository()
    write_image(repository, CHUNKS[:5])
    (pack,) = repository.stored_packs()
    writer = writer_for(repository)
    ids = store_chunks(writer, CHUNKS)
    announce(repository, {pack})
    name = object_name(ObjectType.PACK, pack)
    raw = repository.box.store.read(name)
    repository.box.delete(ObjectType.PACK, pack)
    if loss == "damaged":
        replace_object(repository.box.store, name, flipped(raw, 100))
    with pytest.raises(DamagedError):
        writer.commit(sample_manifest(), lambda: ids)
    assert [image.manifest.sequence for image in repository.images().images] == [1]


def test_a_repair_begun_meanwhile_forbids_the_manifest() -> None:
    repository = sample_repository()
    writer = writer_for(repository)
    ids = store_chunks(writer, CHUNKS)
    mine = writer.session.record  # a repair that was not stopped by it
    theirs = replace(mine, session="cd" * 16, verb="repair", machine=OTHER_MACHINE)
    repository.box.write(ObjectType.SESSION, bytes.fromhex(theirs.session), build_record(theirs))
    with pytest.raises(Locked, match="repair"):
        writer.commit(sample_manifest(), lambda: ids)
    assert repository.images().images == ()


def test_a_run_that_slept_too_long_writes_no_manifest_and_the_next_uses_its_chunks() -> None:
    clock = FakeClock()
    repository = sample_repository(clock=clock)
    writer = writer_for(repository)
    ids = store_chunks(writer, CHUNKS)
    clock.advance(timedelta(days=14, seconds=1), asleep=True)
    with pytest.raises(StorageError, match="14 days"):
        writer.commit(sample_manifest(), lambda: ids)
    assert repository.images().images == ()
    assert write_image(repository, CHUNKS).bytes_added == 0
    check_readable(repository, CHUNKS)


def test_chunks_that_failed_a_proof_are_stored_again() -> None:
    repository = sample_repository()
    write_image(repository, CHUNKS)
    ids = ids_of(repository, CHUNKS)
    prove(repository, 1, ids[:2])
    assert failed_chunks(repository) == set(ids[:2])
    writer = write_image(repository, CHUNKS, 2)
    assert writer.known(ids).tolist() == [False] * 2 + [True] * 8
    assert sorted(entries_of(repository)) == sorted([*ids, *ids[:2]])
    prove(repository, 2, [])
    assert failed_chunks(repository) == set()
    prove(repository, 3, ids[5:6], image="02" * 16)
    prove(repository, 4, [])
    assert failed_chunks(repository) == set(ids[5:6])


def test_a_proof_that_only_looked_quickly_clears_nothing() -> None:
    repository = sample_repository()
    prove(repository, 1, [bytes(32)])
    record = ProofRecord(
        proof="02" * 16,
        image="01" * 16,
        created="2026-03-09T00:00:00Z",
        machine=MACHINE,
        kind="quick",
        ok=True,
        bytes=0,
    )
    repository.box.write(ObjectType.PROOF, bytes([2]) * 16, build_record(record))
    assert failed_chunks(repository) == {bytes(32)}


@pytest.mark.parametrize("late", [False, True])
def test_a_full_disk_leaves_no_half_pack(late: bool) -> None:
    inner = MemoryStore()
    sample_repository(inner)
    with FullStore(inner, 5000, late=late) as store:
        writer = writer_for(open_repository(store, where="here", secret=None, clock=FakeClock()))
        with pytest.raises(StorageFull):
            store_chunks(writer, CHUNKS)
    assert list(inner.list("packs/")) == []


def test_an_abandoned_lane_leaves_nothing() -> None:
    repository = sample_repository()
    lane = writer_for(repository).lane()
    lane.abandon()
    lane.add(bytes(32), b"x")
    lane.abandon()
    assert repository.stored_packs() == {}


def run_again(store: Store, number: int = 2) -> Repository:
    repository = open_repository(store, where="here", secret=None, clock=FakeClock())
    write_image(repository, CHUNKS, number)
    return repository


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("tear", [Tear.ANY, Tear.KEPT])
def test_a_run_cut_off_anywhere_harms_no_older_image_and_the_next_run_succeeds(tear: Tear, late: bool) -> None:
    def begin() -> MemoryStore:
        inner = MemoryStore()
        write_image(sample_repository(inner), CHUNKS[:5])
        return inner

    counted = CrashingStore(begin())
    run_again(counted)
    for moment in range(counted.operations):
        inner = begin()
        with CrashingStore(inner, moment, tear=tear, seed=moment, late=late) as store, pytest.raises(Crash):
            run_again(store)
        repository = open_repository(inner, where="here", secret=None, clock=FakeClock())
        sequences = [image.manifest.sequence for image in repository.images().images]
        assert sequences[:1] == [1]
        # Zeros in the middle of a torn manifest cannot be told from rot: it may be named, and nothing else may be.
        assert {finding.thing for finding in repository.images().findings} <= {"02" * 16}
        check_readable(repository, CHUNKS if sequences == [1, 2] else CHUNKS[:5])
        if sequences == [1]:
            check_readable(run_again(inner, 3), CHUNKS)
