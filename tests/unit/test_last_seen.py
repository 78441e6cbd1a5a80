"""What this machine remembers of a repository."""

from pathlib import Path

import pytest

from stillframe.errors import DamagedError
from stillframe.jobs.last_seen import LastSeen
from stillframe.repo.identity import Identity
from stillframe.testing.sample_repository import sample_manifest

REPOSITORY = "ab" * 16


def identity(encryption: str) -> Identity:
    return Identity(
        format="v1", id=REPOSITORY, created="2026-03-01T08:30:00Z", chunk_size=65_536,
        encryption=encryption,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_repository_that_was_encrypted_must_stay_so(tmp_path: Path) -> None:
    seen = LastSeen(str(tmp_path / "state"), REPOSITORY)
    seen.check_identity(identity("aes256"), where="there")
    seen.note([sample_manifest(sequence=3)])
    with pytest.raises(DamagedError, match="was encrypted when this machine last saw it"):
        LastSeen(str(tmp_path / "state"), REPOSITORY).check_identity(identity("none"), where="there")


def test_one_that_never_was_is_no_surprise(tmp_path: Path) -> None:
    LastSeen(str(tmp_path), REPOSITORY).check_identity(identity("none"), where="there")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_sequence_is_kept_and_never_goes_back(tmp_path: Path) -> None:
    seen = LastSeen(str(tmp_path), REPOSITORY)
    machine = sample_manifest().machine.id
    seen.note([sample_manifest(sequence=7, image="77" * 16)])
    seen.note([sample_manifest(sequence=6, image="66" * 16)])
    assert seen.read()[machine].sequence == 7
    assert seen.read()[machine].image == "77" * 16


def test_a_damaged_file_means_that_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / f"{REPOSITORY}.json").write_bytes(b"\xff{")
    assert LastSeen(str(tmp_path), REPOSITORY).read() == {}
