"""How high an image stands by its proofs, and what proofs and screenshots leave behind."""

import zlib
from datetime import timedelta

import pytest

from stillframe.block.memory import MemoryDisk
from stillframe.errors import DamagedError
from stillframe.events import NoEvents
from stillframe.jobs import care
from stillframe.jobs.listing import look_at_image, save_screenshot
from stillframe.repo.check import check_repository
from stillframe.repo.format import ObjectType
from stillframe.repo.proofs import judge, ladder, read_screenshot, write_proof, write_screenshot
from stillframe.repo.records import Manifest, ProofRecord, parse_record
from stillframe.repo.repair import repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.retention import RetentionPolicy
from stillframe.repo.session import begin_session
from stillframe.store.memory import MemoryStore
from stillframe.testing.job_runs import ANNA, backup, make_repository

PNG = b"\x89PNG\r\n\x1a\n" + zlib.compress(b"screen")
DAY = "2026-11-{:02d}T10:00:00Z"


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore())


@pytest.fixture
def manifest(repository: Repository) -> Manifest:
    return backup(repository, MemoryDisk(bytes(range(256)) * 1024)).manifest


def proof(manifest: Manifest, day: int, kind: str, *, ok: bool = True, outcome: str = "") -> ProofRecord:
    return ProofRecord(
        proof=f"{day:032x}", image=manifest.image, created=DAY.format(day), machine=ANNA.machine, kind=kind,  # type: ignore[arg-type]
        ok=ok, bytes=0, outcome=outcome, screenshot=kind == "booted",  # type: ignore[arg-type]
    )  # fmt: skip


def test_an_image_stands_where_its_proofs_put_it(manifest: Manifest) -> None:
    proofs: list[ProofRecord] = []
    assert ladder(manifest, proofs).rung == "unproven"
    for day, kind, outcome in ((1, "quick", ""), (2, "read-back", ""), (3, "booted", "booted")):
        proofs.append(proof(manifest, day, kind, outcome=outcome))
        standing = ladder(manifest, proofs)
        assert (standing.rung, standing.since) == (kind, DAY.format(day))
    assert ladder(manifest, proofs).boots is True


def test_a_start_that_failed_leaves_the_rungs_below(manifest: Manifest) -> None:
    proofs = [
        proof(manifest, 1, "read-back"), proof(manifest, 2, "booted", outcome="booted"),
        proof(manifest, 3, "booted", ok=False, outcome="failed"),
    ]  # fmt: skip
    standing = ladder(manifest, proofs)
    assert (standing.rung, standing.since, standing.boots) == ("read-back", DAY.format(1), False)
    assert judge(manifest, proofs) == "good"  # never damaged


def test_an_unclear_start_changes_nothing(manifest: Manifest) -> None:
    booted = proof(manifest, 2, "booted", outcome="booted")
    unclear = proof(manifest, 3, "booted", ok=False, outcome="unclear")
    assert ladder(manifest, [booted, unclear]).boots is True
    assert ladder(manifest, [unclear]).boots is None
    assert judge(manifest, [unclear]) == "unproven"


def test_a_damaged_image_stands_on_the_ground(manifest: Manifest) -> None:
    proofs = [proof(manifest, 2, "booted", outcome="booted"), proof(manifest, 3, "read-back", ok=False)]
    assert ladder(manifest, proofs).rung == "unproven"


def test_proofs_of_earlier_versions_are_read() -> None:
    raw = (
        b'{"proof":"%s","image":"%s","created":"2026-01-01T00:00:00Z","machine":{"id":"%s","name":"a"},'
        b'"kind":"quick","ok":true,"bytes":0}'
    ) % ((b"0" * 32,) * 3)
    old = parse_record(raw, ProofRecord, thing="proof")
    assert (old.outcome, old.screenshot) == ("", False)


def test_a_screenshot_goes_with_its_image(repository: Repository, manifest: Manifest, tmp_path: object) -> None:
    kept = proof(manifest, 3, "booted", outcome="booted")
    write_screenshot(repository, kept.proof, PNG)
    write_proof(repository, kept)
    assert read_screenshot(repository, kept) == PNG
    assert check_repository(repository, events=NoEvents()).ok
    path = f"{tmp_path}/screen.png"
    assert save_screenshot(repository, look_at_image(repository, manifest), path) == kept
    with open(path, "rb") as file:
        assert file.read() == PNG
    care.forget(repository, [manifest.image], owner=ANNA)
    assert list(repository.box.ids(ObjectType.SCREENSHOT)), "an image that is forgotten can come back, with its proofs"
    at_once = care.plan_expiry(repository, RetentionPolicy(), grace=timedelta(0), undelete=timedelta(0))
    care.apply_expiry(repository, at_once, owner=ANNA, events=NoEvents())
    assert not list(repository.box.ids(ObjectType.IMAGE))
    assert not list(repository.box.ids(ObjectType.SCREENSHOT))
    assert not list(repository.box.ids(ObjectType.PROOF))


def test_a_damaged_screenshot_is_found_and_mended(repository: Repository, manifest: Manifest) -> None:
    kept = proof(manifest, 3, "booted", outcome="booted")
    repository.box.write(ObjectType.SCREENSHOT, bytes.fromhex(kept.proof), b"no picture")
    write_proof(repository, kept)
    with pytest.raises(DamagedError):
        read_screenshot(repository, kept)
    findings = check_repository(repository, events=NoEvents()).findings
    assert [finding.thing.partition("/")[0] for finding in findings] == ["screenshots"]
    session = begin_session(repository, ANNA, "repair")
    assert repair_repository(session, events=NoEvents(), read_all=False).check.ok
    session.end()
    assert not list(repository.box.ids(ObjectType.SCREENSHOT))


@pytest.mark.parametrize("data", [b"", b"GIF89a", PNG + bytes(17 << 20)])
def test_what_is_no_picture_is_not_kept(repository: Repository, data: bytes) -> None:
    with pytest.raises(ValueError):
        write_screenshot(repository, "0" * 32, data)
