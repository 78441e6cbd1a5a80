"""A repository made, opened, refused; its images, tombstones and proofs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.errors import DamagedError, RepositoryNotFound, StillframeError, UnsupportedFormat, UsageError, WrongKey
from stillframe.repo.deletion_records import ForgottenImage, TombstoneRecord
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.identity import NAMES
from stillframe.repo.records import ProofRecord, build_record
from stillframe.repo.recovery_key import format_recovery_key
from stillframe.repo.repository import Repository, create_repository, open_repository
from stillframe.repo.rows import EntryKind, Table, build_table, ids_array, make_rows
from stillframe.store import MemoryStore
from stillframe.testing.faulty_store import Crash, CrashingStore, Tear
from stillframe.testing.sample_repository import (
    CHEAP,
    CHUNK_SIZE,
    MACHINE,
    PASSPHRASE,
    flipped,
    replace_object,
    sample_manifest,
    sample_repository,
)

RECOVERY = format_recovery_key(bytes(range(20)))
TIME = "2026-03-01T08:30:00Z"
FIRST, SECOND = NAMES


def put_image(repository: Repository, number: int, **changes: object) -> bytes:
    image_id = bytes([number]) * 16
    manifest = sample_manifest(image=image_id.hex(), sequence=number, **changes)
    return repository.box.write(ObjectType.IMAGE, image_id, build_record(manifest))


def put_tombstone(repository: Repository, number: int, *images: int, created: str = TIME) -> None:
    gone = tuple(ForgottenImage(image=f"{n:02x}" * 16, machine=MACHINE.id, sequence=n) for n in images)
    record = TombstoneRecord(tombstone=f"{number:02x}" * 16, created=created, machine=MACHINE, images=gone)
    repository.box.write(ObjectType.TOMBSTONE, bytes([number]) * 16, build_record(record))


def numbers(repository: Repository) -> list[int]:
    return [image.manifest.sequence for image in repository.images().images]


def test_an_encrypted_repository_opens_with_each_of_its_secrets_only() -> None:
    store = MemoryStore()
    made = create_repository(store, passphrase=PASSPHRASE, recovery_key=RECOVERY, chunk_size=CHUNK_SIZE, cost=CHEAP)
    for secret in (PASSPHRASE, RECOVERY):
        opened = open_repository(store, where="here", secret=secret)
        assert opened.box.master_key == made.box.master_key
        assert (opened.identity, opened.found_identity.digest) == (made.identity, made.found_identity.digest)
        assert opened.identity.encryption == "aes256"
    assert made.box.master_key != bytes(32)
    for wrong in ("wrong", None):
        with pytest.raises(WrongKey):
            open_repository(store, where="here", secret=wrong)
    assert len(made.keys.slots()) == 2


def test_two_repositories_have_different_ids_and_keys() -> None:
    one, two = (sample_repository(passphrase=PASSPHRASE) for _ in range(2))
    assert one.identity.id != two.identity.id
    assert one.box.master_key != two.box.master_key


def test_a_repository_without_encryption_has_no_keys() -> None:
    store = MemoryStore()
    sample_repository(store)
    opened = open_repository(store, where="here", secret=None)
    assert opened.box.master_key == bytes(32)
    assert list(store.list("keys/")) == []
    with pytest.raises(UsageError, match="not encrypted"):
        _ = opened.keys


def test_the_identity_file_is_written_last() -> None:
    store = MemoryStore()
    sample_repository(store, passphrase=PASSPHRASE)
    names = [done.name for done in store.operations if done.verb == "commit"]
    assert [name[:5] for name in names[:2]] == ["keys/", "keys/"]
    assert names[2:] == [SECOND, FIRST]


def test_a_repository_is_not_made_over_another() -> None:
    store = MemoryStore()
    sample_repository(store)
    before = dict.fromkeys(store.list(""))
    with pytest.raises(UsageError, match="already"):
        sample_repository(store, passphrase=PASSPHRASE)
    for name in NAMES:
        replace_object(store, name, b"damaged")
    with pytest.raises(DamagedError):
        sample_repository(store)
    assert {stored.name for stored in store.list("")} == {stored.name for stored in before}


@pytest.mark.parametrize("chunk_size", [0, 32_768, 65_537, 8_388_608, -65_536])
def test_a_chunk_size_outside_the_limits_makes_no_repository(chunk_size: int) -> None:
    store = MemoryStore()
    with pytest.raises(UsageError, match="chunk size"):
        create_repository(store, passphrase=None, chunk_size=chunk_size)
    assert list(store.list("")) == []


@pytest.mark.parametrize("tear", [Tear.KEPT, Tear.PREFIX, Tear.EMPTY, Tear.VANISHED])
@pytest.mark.parametrize("late", [False, True])
def test_an_init_cut_off_anywhere_leaves_a_repository_that_opens_or_none(tear: Tear, late: bool) -> None:
    counted = CrashingStore(MemoryStore())
    sample_repository(counted, passphrase=PASSPHRASE)
    opened = 0
    for moment in range(counted.operations):
        inner = MemoryStore()
        with CrashingStore(inner, moment, tear=tear, seed=moment, late=late) as store, pytest.raises(Crash):
            sample_repository(store, passphrase=PASSPHRASE)
        try:
            open_repository(inner, where="here", secret=PASSPHRASE)
            opened += 1
        except RepositoryNotFound:
            again = sample_repository(inner, passphrase=PASSPHRASE)
            assert open_repository(inner, where="here", secret=PASSPHRASE).box.master_key == again.box.master_key
        except DamagedError as error:
            assert "identity files" in error.message  # noqa: PT017 - only the torn first copy may be in the way
            assert {stored.name for stored in inner.list("")} - set(NAMES) == {s.name for s in inner.list("keys/")}
    assert opened


def changed_identity(store: MemoryStore, **changes: object) -> None:
    raw = json.dumps({**json.loads(store.read(FIRST)), **changes}).encode()
    for name in NAMES:
        replace_object(store, name, raw)


@pytest.mark.parametrize("changes", [{"chunk_size": 131_072}, {"created": "2026-03-02T08:30:00Z"}, {"extra": 1}])
def test_a_changed_identity_is_refused(changes: dict[str, object]) -> None:
    store = MemoryStore()
    sample_repository(store, passphrase=PASSPHRASE)
    changed_identity(store, **changes)
    with pytest.raises(DamagedError, match="identity file"):
        open_repository(store, where="here", secret=PASSPHRASE)


def test_an_identity_of_another_repository_is_refused() -> None:
    store = MemoryStore()
    sample_repository(store, passphrase=PASSPHRASE)
    changed_identity(store, id="ab" * 16)
    with pytest.raises(DamagedError, match="belongs to repository"):
        open_repository(store, where="here", secret=PASSPHRASE)


def test_encryption_cannot_be_turned_off_behind_the_back_of_who_has_a_secret() -> None:
    store = MemoryStore()
    sample_repository(store, passphrase=PASSPHRASE)
    changed_identity(store, encryption="none")
    for secret in (PASSPHRASE, None):
        with pytest.raises(DamagedError, match="identity file was changed"):
            open_repository(store, where="here", secret=secret)
    for stored in list(store.list("keys/")):
        store.delete(stored.name)
    with pytest.raises(UsageError, match="not encrypted"):
        open_repository(store, where="here", secret=PASSPHRASE)


def test_images_are_listed_oldest_first_with_their_digests() -> None:
    repository = sample_repository()
    digests = {
        2: put_image(repository, 2, created="2026-03-02T00:00:00Z"),
        1: put_image(repository, 1, created="2026-03-03T00:00:00Z"),
        3: put_image(repository, 3, created="2026-03-02T00:00:00Z"),
    }
    found = repository.images()
    assert [image.manifest.sequence for image in found.images] == [2, 3, 1]
    assert [image.digest for image in found.images] == [digests[n] for n in (2, 3, 1)]
    assert (found.findings, found.forgotten) == ((), ())
    assert repository.image(bytes([2]) * 16).manifest.sequence == 2


def test_a_forgotten_image_is_gone_whether_its_manifest_lies_there_or_not() -> None:
    repository = sample_repository()
    for number in (1, 2):
        put_image(repository, number)
    put_tombstone(repository, 9, 1, 7)
    found = repository.images()
    assert [image.manifest.sequence for image in found.images] == [2]
    assert [(finding.code, finding.thing) for finding in found.findings] == [("image-put-back", "01" * 16)]
    assert found.forgotten == ("01" * 16, "07" * 16)
    with pytest.raises(RepositoryNotFound, match="forgotten"):
        repository.image(bytes([1]) * 16)


def test_a_damaged_manifest_is_a_finding_and_a_torn_one_is_not() -> None:
    repository = sample_repository()
    store = repository.box.store
    for number in (1, 2, 3):
        put_image(repository, number)
    one, two = (object_name(ObjectType.IMAGE, bytes([number]) * 16) for number in (1, 2))
    replace_object(store, one, flipped(store.read(one), 100))
    replace_object(store, two, store.read(two)[:-1])
    found = repository.images()
    assert [image.manifest.sequence for image in found.images] == [3]
    assert [(finding.code, finding.thing) for finding in found.findings] == [("damaged", "01" * 16)]
    for number in (1, 2):
        with pytest.raises(DamagedError):
            repository.image(bytes([number]) * 16)


def test_a_manifest_of_another_image_is_damage() -> None:
    repository = sample_repository()
    raw = build_record(sample_manifest(image="77" * 16))
    repository.box.write(ObjectType.IMAGE, bytes(16), raw)
    with pytest.raises(DamagedError, match="describes image 7777"):
        repository.image(bytes(16))
    assert [finding.thing for finding in repository.images().findings] == ["00" * 16]


def test_an_image_that_needs_more_is_listed_and_refused() -> None:
    repository = sample_repository()
    put_image(repository, 1, features=("parity",))
    assert numbers(repository) == [1]
    with pytest.raises(UnsupportedFormat, match="parity"):
        repository.image(bytes([1]) * 16)


def test_an_unknown_image_is_not_found() -> None:
    with pytest.raises(RepositoryNotFound, match="00" * 16):
        sample_repository().image(bytes(16))


def test_records_come_oldest_first_without_the_damaged() -> None:
    repository = sample_repository()
    put_tombstone(repository, 1, created="2026-03-03T00:00:00Z")
    put_tombstone(repository, 2, created="2026-03-02T00:00:00Z")
    put_tombstone(repository, 3)
    name = object_name(ObjectType.TOMBSTONE, bytes([3]) * 16)
    replace_object(repository.box.store, name, flipped(repository.box.store.read(name), 90))
    assert [record.tombstone[:2] for record in repository.tombstones()] == ["02", "01"]
    for number, created in ((1, "2026-03-05T00:00:00Z"), (2, "2026-03-04T00:00:00Z")):
        record = ProofRecord(
            proof=f"{number:02x}" * 16,
            image="01" * 16,
            created=created,
            machine=MACHINE,
            kind="quick",
            ok=True,
            bytes=0,
        )
        repository.box.write(ObjectType.PROOF, bytes([number]) * 16, build_record(record))
    assert [record.proof[:2] for record in repository.proofs()] == ["02", "01"]
    assert repository.sessions() == ()


def no_run(repository: Repository) -> None:
    repository.box.store.delete(object_name(ObjectType.INDEX, bytes(16)))


def torn_run(repository: Repository) -> None:
    name = object_name(ObjectType.INDEX, bytes(16))
    replace_object(repository.box.store, name, repository.box.store.read(name)[:-1])


def spoiled_run(repository: Repository) -> None:
    name = object_name(ObjectType.INDEX, bytes(16))
    replace_object(repository.box.store, name, flipped(repository.box.store.read(name), 90))


def forged_run(repository: Repository) -> None:
    no_run(repository)
    repository.box.write(ObjectType.INDEX, bytes(16), b"no table")


@pytest.mark.parametrize("spoil", [no_run, torn_run, spoiled_run, forged_run])
def test_a_run_that_cannot_be_read_is_left_out_of_the_index(
    spoil: Callable[[Repository], None], tmp_path: Path
) -> None:
    store = MemoryStore()
    sample_repository(store)
    repository = open_repository(store, where="here", secret=None, cache_folder=str(tmp_path))
    ids = [bytes([n]) * 32 for n in range(2)]
    for number, one in enumerate(ids):
        table = Table((bytes(16),), make_rows([(one, 80, 116, 100, EntryKind.CHUNK, False)]))
        repository.box.write(ObjectType.INDEX, bytes([number]) * 16, build_table(table))
    assert repository.load_index().contains(ids_array(b"".join(ids))).all()
    assert repository.read_run(bytes(16)) is not None
    assert list(tmp_path.iterdir()) == [tmp_path / repository.identity.id]
    spoil(repository)
    assert repository.read_run(bytes(16)) is None
    with pytest.raises(StillframeError):
        repository.read_run_strictly(bytes(16))
    for fresh in (True, False):
        folder = str(tmp_path / str(fresh))
        again = open_repository(store, where="here", secret=None, cache_folder=folder)
        assert again.load_index().contains(ids_array(b"".join(ids))).tolist() == [False, True]


def test_packs_that_are_there_are_listed_with_their_sizes() -> None:
    repository = sample_repository()
    store = repository.box.store
    replace_object(store, object_name(ObjectType.PACK, bytes(16)), b"torn")
    replace_object(store, "packs/00/README", b"x")
    assert repository.stored_packs() == {bytes(16): 4}
