"""Which image a person means, and the list of images."""

import hashlib
from dataclasses import replace

import pytest

from stillframe.errors import Locked, RepositoryNotFound, UsageError
from stillframe.jobs.care import forget
from stillframe.jobs.listing import find_image, find_image_id, list_images, look_at_image
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.proofs import write_proof
from stillframe.repo.records import MachineName, Manifest, ProofRecord, build_record
from stillframe.repo.repository import Repository
from stillframe.repo.session import begin_session
from stillframe.store import MemoryStore
from stillframe.testing.sample_repository import (
    MACHINE,
    OTHER_MACHINE,
    OWNER,
    flipped,
    replace_object,
    sample_manifest,
    sample_repository,
)

HERE = MACHINE.id


class CountingStore(MemoryStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        return super().read(name, offset, length)


def put(repository: Repository, *manifests: Manifest) -> None:
    for manifest in manifests:
        repository.box.write(ObjectType.IMAGE, bytes.fromhex(manifest.image), build_record(manifest))


def image_id(number: int) -> str:
    return hashlib.sha256(number.to_bytes(8)).hexdigest()[:32]


def numbered(number: int, **changes: object) -> Manifest:
    return sample_manifest(image=image_id(number), sequence=number, **changes)


@pytest.fixture
def repository() -> Repository:
    repository = sample_repository()
    put(
        repository,
        numbered(1, name="desk"),
        numbered(2, name="attic", machine=OTHER_MACHINE),
        numbered(3),
        sample_manifest(image="abcd1111" + "00" * 12, sequence=4, machine=OTHER_MACHINE, name="twin"),
        sample_manifest(image="abcd2222" + "00" * 12, sequence=5, machine=OTHER_MACHINE),
    )
    return repository


def test_an_id_and_a_prefix(repository: Repository) -> None:
    whole = image_id(1)
    for size in (4, 8, 31, 32):
        assert find_image(repository, whole[:size], machine_id=HERE).image == whole
    assert find_image(repository, whole.upper(), machine_id=HERE).image == whole


def test_a_prefix_that_fits_two_names_both(repository: Repository) -> None:
    with pytest.raises(UsageError, match=r"abcd1111.*abcd2222|abcd2222.*abcd1111"):
        find_image(repository, "abcd", machine_id=HERE)
    assert find_image(repository, "abcd1", machine_id=HERE).name == "twin"


def test_ids_that_begin_alike_are_shown_long_enough_to_tell() -> None:
    repository = sample_repository()
    put(repository, *(sample_manifest(image="abcdef0123" + f"{n:022x}", sequence=n) for n in (1, 2)))
    with pytest.raises(UsageError, match=r"0001 .*0002 |0002 .*0001 "):
        find_image(repository, "abcd", machine_id=HERE)


@pytest.mark.parametrize("word", ["", "abc", "latestt", "zzzz", "a" * 33, "3fa9;", "../.."])
def test_what_is_no_image(repository: Repository, word: str) -> None:
    with pytest.raises(UsageError):
        find_image(repository, word, machine_id=HERE)


def test_an_image_that_is_not_there(repository: Repository) -> None:
    with pytest.raises(RepositoryNotFound):
        find_image(repository, "0000beef", machine_id=HERE)


def test_latest_is_this_machines_newest_by_sequence(repository: Repository) -> None:
    put(repository, numbered(9, created="2020-01-01T00:00:00Z"))  # the clock was wrong; the sequence is not
    assert find_image(repository, "latest", machine_id=HERE).sequence == 9
    assert find_image(repository, "latest", machine_id=OTHER_MACHINE.id).sequence == 5


def test_latest_of_a_machine_without_images_lists_the_choices(repository: Repository) -> None:
    with pytest.raises(UsageError) as caught:
        find_image(repository, "latest", machine_id="33" * 16)
    for number in (1, 2, 3):
        assert image_id(number)[:8] in caught.value.message


def test_latest_with_a_name(repository: Repository) -> None:
    assert find_image(repository, "latest:desk", machine_id=HERE).sequence == 1
    assert find_image(repository, "latest:attic", machine_id=HERE).sequence == 2  # only one machine has that name
    with pytest.raises(RepositoryNotFound):
        find_image(repository, "latest:nobody", machine_id=HERE)
    put(repository, numbered(7, name="attic", machine=MachineName(id="44" * 16, name="shed")))
    with pytest.raises(UsageError, match=r"attic.*shed|shed.*attic"):
        find_image(repository, "latest:attic", machine_id=HERE)


def test_latest_of_an_empty_repository() -> None:
    with pytest.raises(RepositoryNotFound):
        find_image(sample_repository(), "latest", machine_id=HERE)


def test_a_forgotten_image_is_not_found(repository: Repository) -> None:
    gone = find_image_id(repository, "abcd1", machine_id=HERE)
    forget(repository, [gone], owner=OWNER)
    assert find_image(repository, "abcd", machine_id=HERE).image.startswith("abcd2")
    with pytest.raises(RepositoryNotFound):
        find_image(repository, gone, machine_id=HERE)


def test_an_image_that_cannot_be_read_has_an_id_all_the_same(repository: Repository) -> None:
    whole = image_id(1)
    name = object_name(ObjectType.IMAGE, bytes.fromhex(whole))
    replace_object(repository.box.store, name, flipped(repository.box.store.read(name), 300))
    assert find_image_id(repository, whole[:8], machine_id=HERE) == whole
    assert forget(repository, [whole], owner=OWNER)[0].image == whole


def test_the_list_is_of_this_machine_or_of_all(repository: Repository) -> None:
    mine = list_images(repository, machine_id=HERE)
    assert [listed.manifest.sequence for listed in mine.images] == [1, 3]
    assert mine.others == 3
    everything = list_images(repository, machine_id=None)
    assert (len(everything.images), everything.others) == (5, 0)


def test_a_listed_image_has_its_proofs_oldest_first(repository: Repository) -> None:
    for number, created in ((1, "2026-03-02T00:00:00Z"), (2, "2026-03-01T00:00:00Z")):
        proof = ProofRecord(
            proof=image_id(100 + number), image=image_id(1), created=created, machine=MACHINE, kind="read-back",
            ok=True, bytes=5,
        )  # fmt: skip
        write_proof(repository, proof)
    listed = {found.manifest.image: found for found in list_images(repository, machine_id=HERE).images}
    assert [proof.created for proof in listed[image_id(1)].proofs] == ["2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"]
    assert listed[image_id(1)].verdict == "good"
    assert listed[image_id(3)].verdict == "unproven"
    assert look_at_image(repository, listed[image_id(1)].manifest) == listed[image_id(1)]


def test_a_thousand_images_are_read_once_each() -> None:
    store = CountingStore()
    repository = sample_repository(store)
    put(repository, *(numbered(number) for number in range(1, 1001)))
    store.reads = 0
    assert len(list_images(repository, machine_id=HERE).images) == 1000
    assert store.reads <= 1010


def test_finding_by_id_reads_one_manifest_of_a_thousand() -> None:
    store = CountingStore()
    repository = sample_repository(store)
    put(repository, *(numbered(number) for number in range(1, 1001)))
    store.reads = 0
    find_image(repository, image_id(500), machine_id=HERE)
    assert store.reads <= 3


def test_nothing_is_forgotten_beside_a_repair(repository: Repository) -> None:
    elsewhere = replace(OWNER, machine=OTHER_MACHINE)
    session = begin_session(repository, elsewhere, "repair")
    with pytest.raises(Locked, match="attic"):
        forget(repository, [image_id(1)], owner=OWNER)
    session.end()
    assert forget(repository, [image_id(1)], owner=OWNER)
