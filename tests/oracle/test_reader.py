"""The stand-alone reader against repositories that the product wrote: two programs that share nothing but the page."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import StorageError
from stillframe.extents import Extent
from stillframe.jobs.backup import BackupOptions
from stillframe.jobs.restore import RestoreOptions
from stillframe.repo.forgetting import bring_back, forget_images, to_forget, write_tombstone
from stillframe.repo.records import Manifest
from stillframe.repo.recovery_key import format_recovery_key, make_recovery_secret
from stillframe.repo.repository import Repository, create_repository
from stillframe.repo.retirement import retire_machine
from stillframe.repo.session import Session, begin_session
from stillframe.store import LocalStore
from stillframe.testing.clocks import FakeClock
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault
from stillframe.testing.job_runs import backup, backup_paths, restore
from stillframe.testing.real_disks import MIB, RealDisk, build_disk, hash_file, make_ext4
from stillframe.testing.repositories import CHEAP, BackupRun, Draft, make_owner, make_repository, store_image
from stillframe.testing.sample_repository import flipped

pytestmark = pytest.mark.root

READER: Final = Path(__file__).parents[2] / "tools" / "stillframe_reader.py"
PASSPHRASE: Final = "drei Wörter sind genug"  # noqa: S105


NO_DISK: Final = RealDisk(path=Path("none"), sector_size=512, volumes=())


@dataclass(frozen=True, kw_only=True)
class Written:
    """A repository with a full image, an incremental one, and how to open it."""

    folder: Path
    repository: Repository
    images: tuple[Manifest, ...]
    disk: RealDisk
    secrets: tuple[tuple[str, ...], ...]


def read(written: Written, *words: str, secret: tuple[str, ...] | None = None, code: int = 0) -> str:
    """What the reader says."""
    secret = written.secrets[0] if secret is None else secret
    done = subprocess.run(
        [sys.executable, str(READER), str(written.folder), *words, *secret], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(folder: Path, label: str, encryption: str) -> Written:
    disk = build_disk(folder, label=label, seed=11)
    place, passphrase, key = folder / "repository", folder / "passphrase", folder / "key"
    secrets: tuple[tuple[str, ...], ...] = ((),)
    store, clock = LocalStore(str(place)), FakeClock()
    if encryption == "none":
        repository = create_repository(store, passphrase=None, clock=clock)
    else:
        text = format_recovery_key(make_recovery_secret())
        repository = create_repository(store, passphrase=PASSPHRASE, recovery_key=text, cost=CHEAP, clock=clock)
        passphrase.write_text(PASSPHRASE + "\n", encoding="utf-8")
        key.write_text(text + "\n", encoding="utf-8")
        secrets = (("--password-file", str(passphrase)), ("--recovery-key-file", str(key)))
    images = [backup_paths(repository, disk.path, options=BackupOptions(name="weekly", comment="first")).manifest]
    with disk.path.open("r+b") as file:
        file.seek(disk.volumes[-1].extent.start + 200_000)
        file.write(b"changed since" * 30_000)
    images.append(backup_paths(repository, disk.path, options=BackupOptions(compression="high")).manifest)
    return Written(folder=place, repository=repository, images=tuple(images), disk=disk, secrets=secrets)


@pytest.fixture(scope="module", params=[("gpt", "aes256"), ("dos", "none")], ids=["encrypted", "open"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    label, encryption = request.param
    return write(tmp_path_factory.mktemp(label), label, encryption)


def test_it_lists_and_shows_what_was_written(written: Written) -> None:
    for secret in written.secrets:
        listing = read(written, "list", secret=secret)
        rows = [line.split()[0] for line in listing.splitlines() if not line.startswith("note:")]
        assert rows == [manifest.image for manifest in written.images]
    first = written.images[0]
    shown = read(written, "show", first.image[:8])
    assert f"image: {first.image}" in shown
    assert "comment: first" in shown
    for part in first.disks[0].partitions:
        assert f"partition {part.number}: bytes [{part.start}, {part.start + part.size})" in shown
        assert f"filesystem: {part.filesystem}\n" in shown or not part.filesystem
        for file in part.left_out:
            assert file.path in shown


def test_it_verifies(written: Written) -> None:
    for manifest in written.images:
        read(written, "verify", manifest.image)


@pytest.mark.variants(1)
def test_its_restore_is_the_products_byte_for_byte(written: Written, tmp_path: Path) -> None:
    for number, manifest in enumerate(written.images):
        ours, theirs = tmp_path / f"ours{number}", tmp_path / f"theirs{number}"
        restore(written.repository, manifest, ours)
        read(written, "restore", manifest.image, str(theirs), secret=written.secrets[-1])
        assert theirs.stat().st_size == ours.stat().st_size
        assert hash_file(theirs) == hash_file(ours)
    assert hash_file(tmp_path / "ours0") != hash_file(tmp_path / "ours1")


def test_one_partition(written: Written, tmp_path: Path) -> None:
    number = written.disk.volumes[-1].number
    manifest = written.images[1]
    restore(written.repository, manifest, tmp_path / "ours", options=RestoreOptions(partition=number))
    read(written, "restore", manifest.image, str(tmp_path / "theirs"), "--partition", str(number))
    assert hash_file(tmp_path / "theirs") == hash_file(tmp_path / "ours")


def test_it_knows_which_images_count(tmp_path: Path) -> None:
    """Forgotten, brought back, gone, and one whose run had been given up when it was written."""
    folder, clock = tmp_path / "repository", FakeClock()
    repository = make_repository(LocalStore(str(folder)), clock=clock)
    owner, other = make_owner("anna"), make_owner("bert")
    kept, back, binned, gone = (store_image(repository, owner, Draft(chunks=[n])).manifest.image for n in range(1, 5))
    session = begin_session(repository, other, "forget")
    forget_images(session, [back, binned])
    bring_back(session, [back])
    write_tombstone(session, images=to_forget(repository, [gone]))
    session.end()
    run = BackupRun(repository, other, Draft(chunks=[9]))
    run.write_chunks()
    retire_machine(repository, other.machine, owner.machine)
    with patch.object(Session, "require_fresh"), pytest.raises(StorageError, match="retired"):
        run.commit()
    written = Written(folder=folder, repository=repository, images=(), disk=NO_DISK, secrets=((),))
    said = read(written, "list")
    assert [line.split()[0] for line in said.splitlines() if not line.startswith("note:")] == [kept, back]
    assert "missing" not in said, said
    (void,) = {path.name for path in (folder / "images").rglob("*") if path.is_file()} - {kept, back, binned, gone}
    assert "does not count" in read(written, "show", void, code=10)
    for image in (binned, gone):
        assert "forgotten" in read(written, "show", image, code=10)
    assert [image.manifest.image for image in repository.images().images] == [kept, back]


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_it_reads_what_is_stored_as_patches(tmp_path: Path, passphrase: str | None) -> None:
    folder, disk = tmp_path / "repository", MemoryDisk(bytes(6 * MIB))
    place = Extent(MIB, 5 * MIB)
    fill_with_noise(disk, place, 4)
    write_gpt(disk, [place])
    store = LocalStore(str(folder))
    repository = create_repository(store, passphrase=passphrase, chunk_size=262_144, cost=CHEAP, clock=FakeClock())
    images = []
    for day in range(3):
        for at in range(place.start + 4096, place.end, 600_000):
            disk.write_at(at + 300_000 * day, bytes([1 + day]) * 3000)
        images.append(backup(repository, disk).manifest)
    tables = list(repository.load_index().tables())
    assert sum(len(table.patches) for table in tables) > 10
    assert images[2].bytes_added < 262_144
    secrets: tuple[tuple[str, ...], ...] = ((),)
    if passphrase is not None:
        (tmp_path / "word").write_text(passphrase, encoding="utf-8")
        secrets = (("--password-file", str(tmp_path / "word")),)
    written = Written(folder=folder, repository=repository, images=tuple(images), disk=NO_DISK, secrets=secrets)
    for number, manifest in enumerate(images):
        restore(repository, manifest, tmp_path / f"ours{number}")
        read(written, "verify", manifest.image)
        read(written, "restore", manifest.image, str(tmp_path / f"theirs{number}"))
        assert hash_file(tmp_path / f"theirs{number}") == hash_file(tmp_path / f"ours{number}")
    assert (tmp_path / "theirs2").read_bytes() == bytes(disk.contents)
    oldest = {place.pack_id for table in tables for place in map(table.location, range(len(table.rows))) if place.base}
    for path in sorted((folder / "packs").rglob("*")):  # the bases go, the patches stay
        if path.is_file() and bytes.fromhex(path.name) not in oldest:
            path.unlink()
    said = read(written, "verify", images[2].image, code=3)
    assert "a patch, whose base" in said or "map:" in said


def test_no_secret_and_a_wrong_one(written: Written, tmp_path: Path) -> None:
    if written.repository.identity.encryption == "none":
        return  # there is no secret to be wrong
    read(written, "list", secret=(), code=12)
    (tmp_path / "wrong").write_text("not it", encoding="utf-8")
    read(written, "list", secret=("--password-file", str(tmp_path / "wrong")), code=12)


def test_a_flipped_bit_is_named_and_the_rest_comes_back(tmp_path: Path) -> None:
    written = write(tmp_path, "gpt", "aes256")
    manifest = written.images[1]
    restore(written.repository, manifest, tmp_path / "ours")
    packs = sorted(
        (path for path in (written.folder / "packs").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    raw = packs[-1].read_bytes()
    packs[-1].chmod(0o600)
    packs[-1].write_bytes(flipped(raw, len(raw) // 3))
    said = read(written, "verify", manifest.image, code=3)
    assert packs[-1].name in said
    read(written, "restore", manifest.image, str(tmp_path / "theirs"), code=3)
    ours, theirs = (tmp_path / "ours").read_bytes(), (tmp_path / "theirs").read_bytes()
    size = manifest.chunk_size
    differing = [at for at in range(0, len(ours), 4096) if ours[at : at + 4096] != theirs[at : at + 4096]]
    assert differing
    assert Extent(differing[0], differing[-1] + 4096).size <= size


@pytest.mark.parametrize("chunk_size", [65_536, 4_194_304])
def test_every_kind_of_chunk_at_the_smallest_and_the_largest_size(tmp_path: Path, chunk_size: int) -> None:
    """Data, zeros, what nobody uses, what was left out, and what could not be read; a last chunk that is short."""
    volume, folder = tmp_path / "volume", tmp_path / "repository"
    make_ext4(volume, 48 * MIB + 4096, seed=8)
    disk = MemoryDisk(bytes(64 * MIB + 1536))
    place = Extent(MIB + 512, MIB + 512 + volume.stat().st_size)
    disk.write_at(place.start, volume.read_bytes())
    fill_with_noise(disk, Extent(place.end, place.end + 9 * MIB), 4)
    write_gpt(disk, [place, Extent(place.end, 63 * MIB)])
    bad = Extent(place.end + 512, place.end + 4_194_304 + 5120)
    store = LocalStore(str(folder))
    repository = create_repository(store, passphrase=None, chunk_size=chunk_size, clock=FakeClock())
    with FaultyDisk(disk, [PlannedFault(extent=bad)]) as faulty:
        manifest = backup(repository, faulty).manifest
    assert manifest.disks[0].partitions[0].excluded
    assert manifest.disks[0].partitions[1].unreadable == ((512, 4_194_304 + 5120),)
    written = Written(folder=folder, repository=repository, images=(manifest,), disk=NO_DISK, secrets=((),))
    restore(repository, manifest, tmp_path / "ours")
    read(written, "restore", manifest.image, str(tmp_path / "theirs"))
    assert hash_file(tmp_path / "theirs") == hash_file(tmp_path / "ours")
