"""A check names every kind of damage and the bytes of images that it costs; of a healthy repository it says nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from stillframe.events import Finding, NoEvents, RecordedEvents
from stillframe.extents import Extent, ExtentSet
from stillframe.repo.check import CheckReport, check_repository
from stillframe.repo.forgetting import forget_images, to_forget, write_tombstone
from stillframe.repo.format import FOOTER_SIZE, HEADER_SIZE, ObjectType, object_name
from stillframe.repo.kept_tables import KeptPiece, KeptTable
from stillframe.repo.proofs import write_screenshot
from stillframe.repo.put.grants import revoke
from stillframe.repo.records import Manifest, ProofRecord, build_record
from stillframe.repo.repository import Repository, StoredImage
from stillframe.repo.retirement import retire_machine
from stillframe.repo.rows import Table, build_table
from stillframe.repo.sealing import make_id
from stillframe.repo.session import begin_session
from stillframe.store import MemoryStore, write_object
from stillframe.testing.clocks import FakeClock
from stillframe.testing.put_machines import add_put_machine
from stillframe.testing.repositories import (
    CHUNK_SIZE,
    BackupRun,
    Draft,
    Processes,
    make_owner,
    make_repository,
    reopen,
    store_image,
)

ANNA, BERT, CARL = make_owner("anna"), make_owner("bert"), make_owner("carl")
SECRET = "several words"  # noqa: S105 - of a test
FIRST = Draft(chunks=[1, 2, 3, 4, None, 5], chunks_per_pack=2)
SECOND = Draft(chunks=[1, 2, 6, 7, None, 5], chunks_per_pack=2)


def check(store: MemoryStore, **options: dict[str, tuple[int, str]]) -> CheckReport:
    return check_repository(reopen(store, clock=FakeClock(), passphrase=SECRET), events=NoEvents(), **options)


def change(store: MemoryStore, name: str, edit: Callable[[bytes], bytes]) -> None:
    raw = edit(store.read(name))
    store.delete(name)
    write_object(store, name, raw)


def flip(at: int) -> Callable[[bytes], bytes]:
    def flipped(raw: bytes) -> bytes:
        place = at % len(raw)
        return raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :]

    return flipped


def names(store: MemoryStore, kind: ObjectType) -> list[str]:
    return sorted(stored.name for stored in store.list(kind.folder))


def copy_of(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    for stored in store.list(""):
        write_object(copy, stored.name, store.read(stored.name))
    return copy


@pytest.fixture(scope="module")
def original() -> MemoryStore:
    """Two images, a forgotten one, a proof, a session, a retired machine and a put key that was taken away."""
    store = MemoryStore()
    repository = make_repository(store, passphrase=SECRET)
    gone = store_image(repository, ANNA, Draft(chunks=[9]))
    first = store_image(repository, ANNA, FIRST)
    store_image(repository, ANNA, SECOND)
    session = begin_session(repository, BERT, "forget")
    forget_images(session, [gone.manifest.image])
    begin_session(repository, CARL, "verify")
    retire_machine(repository, CARL.machine, BERT.machine)
    proof = ProofRecord(
        proof=make_id().hex(), image=first.manifest.image, created="2026-03-01T00:00:00Z",
        machine=ANNA.machine, kind="quick", ok=True, bytes=1,
    )  # fmt: skip
    repository.box.write(ObjectType.PROOF, bytes.fromhex(proof.proof), build_record(proof))
    write_screenshot(repository, proof.proof, b"\x89PNG\r\n\x1a\n a picture")
    kept = KeptTable(
        table="9c" * 16, created=proof.created, machine=proof.machine, path="/dev/sdb", model="", serial="", size=4096,
        pieces=(KeptPiece(offset=0, data=b"a table"),),
    )  # fmt: skip
    repository.box.write(ObjectType.KEPT_TABLE, bytes.fromhex(kept.table), build_record(kept))
    revoke(repository, add_put_machine(repository).credential.machine, BERT.machine)
    return store


@pytest.fixture
def store(original: MemoryStore) -> MemoryStore:
    return copy_of(original)


@pytest.fixture
def repository(store: MemoryStore) -> Repository:
    return reopen(store, clock=FakeClock(), passphrase=SECRET)


def images_of(repository: Repository) -> list[StoredImage]:
    return sorted(repository.images().images, key=lambda image: image.manifest.sequence)


def codes(report: CheckReport) -> set[str]:
    return {finding.code for finding in report.findings}


def test_a_healthy_repository_has_no_findings_and_no_notes(store: MemoryStore) -> None:
    report = check(store)
    assert (report.ok, report.notes, report.packs) == (True, (), len(names(store, ObjectType.PACK)))
    assert len(report.images) == 2
    assert all(state.is_whole for state in report.images)


def regions() -> Iterator[tuple[str, int]]:
    yield from {"magic": 3, "version": 8, "repository": 20, "name": 40, "salt": 60}.items()
    yield from {"footer": -FOOTER_SIZE, "length": -45, "digest": -30, "end": -1, "tag": -FOOTER_SIZE - 3}.items()


@pytest.mark.parametrize("kind", list(ObjectType))
@pytest.mark.parametrize(("region", "at"), list(regions()))
def test_one_flipped_bit_in_any_object_is_found_and_named(
    store: MemoryStore, kind: ObjectType, region: str, at: int
) -> None:
    for name in names(store, kind):
        damaged = copy_of(store)
        if name in names(store, ObjectType.PACK) and not _is_needed(store, name):
            continue
        change(damaged, name, flip(at))
        found = [finding for finding in check(damaged).findings if finding.thing == name]
        assert found, f"{region} of {name}"
        assert found[0].message
        assert found[0].hint


def _is_needed(store: MemoryStore, name: str) -> bool:
    less = copy_of(store)
    less.delete(name)
    return not check(less).ok


@pytest.mark.parametrize("kind", [ObjectType.IMAGE, ObjectType.INDEX, ObjectType.TOMBSTONE, ObjectType.PROOF])
def test_a_flipped_bit_in_the_body_is_found(store: MemoryStore, kind: ObjectType) -> None:
    name = names(store, kind)[0]
    change(store, name, flip(HEADER_SIZE + 5))
    assert name in {finding.thing for finding in check(store).findings}


def test_every_finding_says_what_to_do(store: MemoryStore) -> None:
    for name in [names(store, kind)[0] for kind in ObjectType if kind not in {ObjectType.PARITY, ObjectType.SETTING}]:
        change(store, name, flip(-30))
    store.delete("stillframe-copy.json")
    for finding in check(store).findings:
        assert finding.code
        assert finding.message
        assert finding.hint
        assert finding.thing


@pytest.mark.parametrize("name", ["stillframe.json", "stillframe-copy.json"])
@pytest.mark.parametrize("edit", [lambda _: b"", flip(10), lambda raw: raw[:-9]])
def test_a_bad_copy_of_the_identity_is_named(store: MemoryStore, name: str, edit: Callable[[bytes], bytes]) -> None:
    change(store, name, edit)
    assert [(found.code, found.thing) for found in check(store).findings] == [("identity-copy", name)]


def test_a_lost_pack_costs_exactly_its_chunks(store: MemoryStore, repository: Repository) -> None:
    first, second = images_of(repository)
    place = chunk_places(repository, first)[2]
    store.delete(object_name(ObjectType.PACK, place))
    report = check(store)
    assert codes(report) == {"image-lost", "pack-missing"}
    lost = {state.manifest.image: state.lost for state in report.images}
    assert lost[second.manifest.image] == ()
    (part,) = lost[first.manifest.image]
    assert (part.disk_number, part.partition_number) == (1, 1)
    assert part.lost == ExtentSet.of(Extent(2 * CHUNK_SIZE, 4 * CHUNK_SIZE))  # chunks 3 and 4 shared a pack
    (pack,) = [finding for finding in report.findings if finding.code == "pack-missing"]
    assert first.manifest.image[:8] in pack.message
    assert f"[{2 * CHUNK_SIZE}, {4 * CHUNK_SIZE})" in pack.message
    assert second.manifest.image[:8] not in pack.message


def chunk_places(repository: Repository, image: StoredImage) -> list[bytes]:
    """The pack of each chunk of an image that is in use."""
    reader = repository.reader()
    raw = reader.read(bytes.fromhex(image.manifest.disks[0].partitions[0].blocks.id))
    ids = [raw[at : at + 32] for at in range(8 + 6, len(raw), 32)]  # section 8: 6 entries
    return [reader.index.copies(chunk_id)[0].pack_id for chunk_id in ids]


def test_a_lost_node_costs_everything_below_it(store: MemoryStore, repository: Repository) -> None:
    image = images_of(repository)[0]
    node = repository.load_index().copies(bytes.fromhex(image.manifest.disks[0].partitions[0].blocks.id))[0]
    store.delete(object_name(ObjectType.PACK, node.pack_id))
    state = next(state for state in check(store).images if state.manifest.image == image.manifest.image)
    assert state.lost[0].lost == ExtentSet.of(Extent(0, 6 * CHUNK_SIZE))


def test_a_row_that_points_elsewhere_is_found(store: MemoryStore, repository: Repository) -> None:
    for run_id in list(repository.box.ids(ObjectType.INDEX)):
        table = repository.read_run_strictly(run_id)
        rows = table.rows.copy()
        rows["offset"] += 1
        repository.box.delete(ObjectType.INDEX, run_id)
        repository.box.write(ObjectType.INDEX, run_id, build_table(Table(table.packs, rows)))
    report = check(store)
    assert codes(report) == {"index-wrong", "image-lost"}
    wrong = [finding.thing for finding in report.findings if finding.code == "index-wrong"]
    assert wrong == names(store, ObjectType.PACK)


def test_a_row_beyond_the_end_of_its_pack_is_found(store: MemoryStore, repository: Repository) -> None:
    for run_id in list(repository.box.ids(ObjectType.INDEX)):
        table = repository.read_run_strictly(run_id)
        rows = table.rows.copy()
        rows["offset"] = 100_000_000
        repository.box.delete(ObjectType.INDEX, run_id)
        repository.box.write(ObjectType.INDEX, run_id, build_table(Table(table.packs, rows)))
    report = check(store)
    assert codes(report) == {"index-wrong", "image-lost"}
    assert not any(state.is_whole for state in report.images)


def test_a_pack_that_no_run_names_is_a_note(store: MemoryStore) -> None:
    write_object(store, "packs/ab/" + "ab" * 16, b"STILLFRM" + bytes(200))
    report = check(store)
    assert report.ok
    assert [note.code for note in report.notes] == ["pack-not-indexed"]


def test_torn_objects_are_notes(store: MemoryStore) -> None:
    kinds = [kind for kind in ObjectType if kind not in {ObjectType.KEY_SLOT, ObjectType.PACK}]
    for kind in kinds:
        write_object(store, f"{kind.folder}ab/{'ab' * 16}", b"STILLFRM" + bytes(200))
    report = check(store)
    assert report.ok
    assert [note.code for note in report.notes] == ["torn-object"] * len(kinds)


def test_a_manifest_of_another_repository_is_found(store: MemoryStore) -> None:
    other = MemoryStore()
    repository = make_repository(other, passphrase=SECRET)
    image = store_image(repository, ANNA, FIRST).manifest.image
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image))
    write_object(store, name, other.read(name))
    (finding,) = check(store).findings
    assert (finding.thing, "belongs to repository" in finding.message) == (name, True)


def test_a_renamed_manifest_is_found(store: MemoryStore) -> None:
    name = names(store, ObjectType.IMAGE)[0]
    write_object(store, "images/ab/" + "ab" * 16, store.read(name))
    (finding,) = check(store).findings
    assert finding.thing == "images/ab/" + "ab" * 16


def test_a_forgotten_manifest_that_is_put_back_is_noted(original: MemoryStore) -> None:
    store = copy_of(original)
    repository = reopen(store, clock=FakeClock(), passphrase=SECRET)
    image = images_of(repository)[0].manifest.image
    name = object_name(ObjectType.IMAGE, bytes.fromhex(image))
    write_tombstone(begin_session(repository, BERT, "forget"), images=to_forget(repository, [image]))
    store.delete(name)
    assert check(store).notes == ()
    write_object(store, name, original.read(name))
    report = check(store)
    assert report.ok
    assert [note.code for note in report.notes] == ["image-put-back"]


def test_a_missing_manifest_is_a_gap(store: MemoryStore, repository: Repository) -> None:
    first = images_of(repository)[0].manifest
    store.delete(object_name(ObjectType.IMAGE, bytes.fromhex(first.image)))
    (finding,) = check(store).findings
    assert (finding.code, "number 2" in finding.message) == ("images-missing", True)


def test_what_was_last_seen_betrays_an_older_state(store: MemoryStore, repository: Repository) -> None:
    newest = images_of(repository)[-1].manifest
    seen = {newest.machine.id: (newest.sequence, newest.image)}
    assert check(store, last_seen=seen).ok
    store.delete(object_name(ObjectType.IMAGE, bytes.fromhex(newest.image)))
    assert check(store).ok
    assert codes(check(store, last_seen=seen)) == {"older-state"}
    assert codes(check(store, last_seen={"00" * 16: (1, "ab" * 16)})) == {"older-state"}


def test_a_replaced_manifest_breaks_the_chain(store: MemoryStore, repository: Repository) -> None:
    first = images_of(repository)[0].manifest
    repository.box.delete(ObjectType.IMAGE, bytes.fromhex(first.image))
    repository.box.write(ObjectType.IMAGE, bytes.fromhex(first.image), build_record(replace(first, comment="other")))
    assert codes(check(store)) == {"chain-broken"}


def test_a_number_given_twice_is_found(store: MemoryStore, repository: Repository) -> None:
    newest = images_of(repository)[-1].manifest
    twin = replace(newest, image="cd" * 16)
    repository.box.write(ObjectType.IMAGE, bytes.fromhex(twin.image), build_record(twin))
    assert codes(check(store)) == {"sequence-twice"}


def at_once(repository: Repository, names: Sequence[str]) -> list[Manifest]:
    """Images of runs of one machine that all take their number before the first of them is written."""
    runs = []
    for number, name in enumerate(names):
        owner = make_owner(process=f"at once {number}", processes=Processes())
        runs.append(BackupRun(repository, owner, Draft(chunks=[number], name=name), disks=(f"/dev/{name}",)))
    for run in runs:
        run.write_chunks()
    drafts = [run.make_manifest() for run in runs]
    for run, draft in zip(runs, drafts, strict=True):
        run.write_manifest(draft)
        run.end()
    return drafts


def test_runs_beside_each_other_may_have_one_number_and_either_may_be_followed() -> None:
    store = MemoryStore()
    repository = make_repository(store, passphrase=SECRET)
    store_image(repository, make_owner(), Draft(chunks=[9]))
    twins = at_once(repository, ["sda", "sdb", "sdc"])
    assert [twin.sequence for twin in twins] == [2, 2, 2]
    assert sorted(len(twin.beside) for twin in twins) == [0, 1, 2]
    after = store_image(repository, make_owner(), Draft(chunks=[10])).manifest
    assert after.sequence == 3
    assert check(store).ok
    newest = max(twins, key=lambda twin: twin.place)
    seen = {newest.machine.id: (newest.sequence, newest.image)}
    assert check(store, last_seen=seen).ok
    for gone in twins:  # forgotten and deleted, also the one that was followed
        session = begin_session(repository, make_owner(process="f"), "forget")
        write_tombstone(session, images=to_forget(repository, [gone.image]))
        session.end()
        store.delete(object_name(ObjectType.IMAGE, bytes.fromhex(gone.image)))
        assert check(store).ok


def test_a_twin_whose_run_was_not_beside_was_put_back() -> None:
    store = MemoryStore()
    repository = make_repository(store, passphrase=SECRET)
    twins = at_once(repository, ["sda", "sdb"])
    later = next(twin for twin in twins if twin.beside)
    repository.box.delete(ObjectType.IMAGE, bytes.fromhex(later.image))
    stranger = replace(later, beside=("ab" * 16,))
    repository.box.write(ObjectType.IMAGE, bytes.fromhex(later.image), build_record(stranger))
    assert codes(check(store)) == {"sequence-twice"}


def test_a_twin_that_was_seen_and_is_gone_is_missed() -> None:
    store = MemoryStore()
    one, other = at_once(make_repository(store, passphrase=SECRET), ["sda", "sdb"])
    store.delete(object_name(ObjectType.IMAGE, bytes.fromhex(one.image)))
    assert check(store).ok
    assert codes(check(store, last_seen={other.machine.id: (1, one.image)})) == {"older-state"}


def test_a_single_copy_of_the_only_key_is_a_finding(store: MemoryStore) -> None:
    store.delete(names(store, ObjectType.KEY_SLOT)[0])
    assert codes(check(store)) == {"key-slot-copy"}


def test_events_tell_what_the_report_tells(store: MemoryStore) -> None:
    store.delete(names(store, ObjectType.PACK)[0])
    events = RecordedEvents()
    report = check_repository(reopen(store, clock=FakeClock(), passphrase=SECRET), events=events)
    assert [event for event in events.events if isinstance(event, Finding)] == list(report.findings)
