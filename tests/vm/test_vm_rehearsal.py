"""The way back, rehearsed: by a stand-in for the medium, and by the real one, which is built here."""

import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.cli.rescue_words import rehearsal_lines
from stillframe.host.qemu import Firmware
from stillframe.jobs.listing import look_at_image
from stillframe.jobs.virtual import MachineOptions
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.rescue.trying.rehearsing import Medium, RehearsalOptions, RehearsalResult, plan_rehearsal, rehearse
from stillframe.store.local import LocalStore
from stillframe.testing.debian_disk import make_debian_disk, use_signed_loader
from stillframe.testing.debian_guest import cache
from stillframe.testing.fake_medium import make_fake_medium
from stillframe.testing.job_runs import backup_paths, job_context, make_repository

pytestmark = [pytest.mark.root, pytest.mark.vm]
LIMIT_S = 1800
PASSPHRASE = 'a "quoted" pässphrase'  # noqa: S105 - of a test


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, Manifest, Path]:
    """An image of a Debian in an encrypted repository."""
    folder = tmp_path_factory.mktemp("saved")
    disk = make_debian_disk(folder / "disk.img")
    use_signed_loader(disk)  # without which Secure Boot, rightly, does not start it
    repository = make_repository(LocalStore(str(folder / "repo")), chunk_size=262_144, passphrase=PASSPHRASE)
    manifest = backup_paths(repository, disk).manifest
    disk.unlink()
    return repository, manifest, folder / "repo"


def walk(
    saved: tuple[Repository, Manifest, Path], medium: Medium, scratch: Path, *, secret: str = PASSPHRASE,
    firmware: Firmware | None = None,
) -> RehearsalResult:  # fmt: skip
    """Rehearse, and see that what came of it was kept."""
    repository, manifest, folder = saved
    machine = MachineOptions(memory_mib=1536, cpus=2, firmware=firmware)
    options = RehearsalOptions(scratch=str(scratch), limit_s=LIMIT_S, machine=machine)
    before = {proof.proof for proof in look_at_image(repository, manifest).proofs}
    plan = plan_rehearsal(repository, manifest, medium, place=(str(folder), secret), options=options)
    result = rehearse(repository, plan, job_context())
    print("\n".join(rehearsal_lines(result)))  # noqa: T201 - the recovery time, in the log of the test
    (kept,) = (proof for proof in look_at_image(repository, manifest).proofs if proof.proof not in before)
    assert (kept.kind, kept.outcome, kept.seconds) == ("rehearsed", result.outcome, round(result.parts.total))
    assert not list(scratch.glob("stillframe-rehearsal-*"))
    return result


def said(folder: Path) -> str:
    """What the job of the stand-in wrote."""
    shown = subprocess.run(
        ["debugfs", "-R", "cat /output", folder / "job.img"], capture_output=True, text=True, check=False
    )
    return shown.stdout


def test_an_image_comes_back_and_starts(saved: tuple[Repository, Manifest, Path], tmp_path: Path) -> None:
    folder = tmp_path / "medium"
    folder.mkdir()
    result = walk(saved, make_fake_medium(folder), tmp_path, firmware="uefi")
    assert result.outcome == "booted", f"{result.reason}\n{said(folder)}"
    assert result.parts.medium > 1
    assert result.parts.restore > 1
    assert result.parts.start > 1
    assert result.emulated
    assert result.picture.startswith(b"\x89PNG")
    standing = look_at_image(saved[0], saved[1]).standing
    assert standing.rung == "rehearsed"
    assert standing.rehearsal is not None
    assert standing.rehearsal.restore_seconds == round(result.parts.restore)


def test_a_wrong_passphrase_is_a_sentence_and_no_proof_of_the_image(
    saved: tuple[Repository, Manifest, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "medium"
    folder.mkdir()
    result = walk(saved, make_fake_medium(folder), tmp_path, secret="another", firmware="bios")  # noqa: S106
    assert result.outcome == "failed"
    assert "exit code 12" in result.reason
    assert result.parts.restore == 0


@pytest.mark.parametrize("firmware", ["bios", "uefi", "secure-boot"])
def test_the_medium_itself_brings_it_back(
    saved: tuple[Repository, Manifest, Path], tmp_path: Path, firmware: Firmware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLFRAME_CACHE_DIR", str(cache() / "media"))
    iso = tmp_path / "rescue.iso"
    subprocess.run([sys.executable, "-m", "stillframe", "rescue", "build", iso], check=True)
    result = walk(saved, Medium(path=str(iso)), tmp_path, firmware=firmware)
    assert result.outcome == "booted", result.reason
