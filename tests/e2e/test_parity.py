"""Parity as a person meets it: bytes of the repository rot, and nothing is lost; or something is, and comes back.

The disk is a file of noise with a partition; the repository is a folder. Restores are compared byte by byte.
"""

import os
import random
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent
from stillframe.jobs.repositories import SecretSources, open_at
from stillframe.repo.session import begin_session
from stillframe.testing.command_line import Outcome, call, init_own
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.repositories import make_owner
from stillframe.testing.rotten_store import Rot, burst, scatter

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = MemoryDisk(bytes(12 * MIB))
    write_gpt(made, [Extent(MIB, 11 * MIB)])
    fill_with_noise(made, Extent(MIB, 11 * MIB), 7)
    path = tmp_path / "disk.raw"
    path.write_bytes(made.contents)
    return path


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return init_own(tmp_path, monkeypatch)


def good(*words: object) -> Outcome:
    outcome = call(*words)
    assert outcome.exit_code == 0, outcome.errors
    return outcome


def packs(repo: Path) -> list[Path]:
    return sorted(path for path in (repo / "packs").rglob("*") if path.is_file())


def spoil(path: Path, rot: Rot, seed: int = 1) -> None:
    """Change a file in its place, as a disk does."""
    raw = bytearray(path.read_bytes())
    rot.damage(raw, random.Random(seed))
    with path.open("r+b") as file:
        file.write(raw)


def spoil_all(repo: Path, share: float, *, seed: int = 1) -> None:
    rot = Rot("share", lambda raw, chance: scatter(raw, chance, share=share))
    for path in packs(repo):
        spoil(path, rot, seed)


def restored(disk: Path, image: str = "latest", *words: str) -> bool:
    """Whether the image, restored, is the disk."""
    target = disk.with_name("target.raw")
    target.unlink(missing_ok=True)
    good("restore", image, target, "--yes", *words)
    return target.read_bytes() == disk.read_bytes()


def backup(disk: Path, *words: str) -> str:
    return str(good("backup", disk, "--json", *words).result["image"])


def test_parity_made_with_a_backup_heals(repo: Path, disk: Path) -> None:
    good("parity", "on")
    backup(disk)
    status = good("parity", "status", "--json").result
    assert status["wanted"]
    assert status["covered"] == status["objects"] > 3
    assert 0.04 < status["bytes_parity"] / status["bytes_objects"] < 0.06
    spoil_all(repo, 0.005)
    assert restored(disk)
    verified = good("verify", "--json")
    assert verified.result["healed"]
    assert "healed-in-memory" in [line.get("code") for line in verified.lines]
    repaired = good("repair", "--json").result  # the proof of 'verify' says where to look
    assert {note["code"] for note in repaired["done"]} == {"pack-healed"}
    assert good("verify", "--json").result["healed"] == []
    good("expire", "--yes", "--grace", 0)
    assert good("check").exit_code == 0
    assert restored(disk)


def test_parity_is_added_to_an_old_repository(repo: Path, disk: Path) -> None:
    backup(disk)
    assert not (repo / "parity").exists()
    first = good("parity", "status", "--json").result
    assert (first["wanted"], first["covered"]) == (False, 0)
    done = good("parity", "renew", "--json").result
    assert (done["covered"], done["bytes_missing"]) == (done["objects"], 0)
    assert done["bytes_parity"] == first["bytes_missing"]
    again = good("parity", "renew", "--json").result
    assert (again["written"], again["checked"]) == (0, again["objects"])
    for path in packs(repo):
        spoil(path, Rot("burst", burst), 3)
    done = good("verify", "--repair", "--json").result
    assert done["healed"]
    assert done["repair"]["ok"]
    assert restored(disk)


def test_a_verification_is_told_though_its_repair_must_wait(repo: Path, disk: Path) -> None:
    good("parity", "on")
    backup(disk)
    spoil_all(repo, 0.005)
    repository = open_at(str(repo), SecretSources())
    session = begin_session(repository, make_owner("bert"), "backup")
    outcome = call("verify", "--repair", "--json")
    assert (outcome.exit_code, outcome.result["ok"]) == (3, True)
    assert "not-repaired" in [line.get("code") for line in outcome.lines]
    session.end()
    assert good("verify", "--repair", "--json").result["repair"]["done"]


def test_a_sidecar_that_rots_is_renewed(repo: Path, disk: Path) -> None:
    good("parity", "on")
    backup(disk)
    sidecars = sorted(path for path in (repo / "parity").rglob("*") if path.is_file())
    right = {path: path.read_bytes() for path in sidecars}
    for number, path in enumerate(sidecars):
        with path.open("r+b") as file:
            file.seek(-10 if number % 2 else 2000, os.SEEK_END if number % 2 else os.SEEK_SET)
            file.write(b"rot")
    done = good("parity", "renew", "--json").result
    assert done["written"] == len(sidecars)
    bodies = {path: (path.read_bytes()[80:-104], raw[80:-104]) for path, raw in right.items()}
    assert all(now == before for now, before in bodies.values())


def test_damaged_objects_get_no_new_parity(repo: Path, disk: Path) -> None:
    """Parity of what is damaged already would bring the damage back; the old parity stays, and heals."""
    good("parity", "on")
    backup(disk)
    spoil_all(repo, 0.001)
    for path in (repo / "parity").rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")
    outcome = call("parity", "renew", "--json")
    assert outcome.exit_code == 14
    assert len(outcome.result["findings"]) == len(packs(repo))
    assert restored(disk)


def test_switched_off_new_objects_get_none(repo: Path, disk: Path) -> None:
    good("parity", "on")
    good("parity", "off")
    backup(disk)
    status = good("parity", "status", "--json").result
    assert (status["wanted"], status["covered"]) == (False, 0)
    assert len([path for path in (repo / "settings").rglob("*") if path.is_file()]) == 1


def test_a_dry_run_changes_nothing(repo: Path, disk: Path) -> None:
    backup(disk)
    before = sorted(path for path in repo.rglob("*"))
    for words in (("on",), ("off",), ("renew",)):
        assert good("parity", *words, "--dry-run", "--json").result["dry_run"]
    assert sorted(path for path in repo.rglob("*")) == before


def test_a_repository_with_parity_from_the_start(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_own(tmp_path, monkeypatch)
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "second"))
    made = good("init", tmp_path / "second", "--encryption", "none", "--parity", "--json").result
    assert made["parity"]
    backup(disk)
    spoil_all(tmp_path / "second", 0.005)
    assert restored(disk)


def test_beyond_parity_the_next_backup_stores_it_again(repo: Path, disk: Path) -> None:
    good("parity", "on")
    old = backup(disk)
    spoil_all(repo, 0.2)
    verified = call("verify", "--json")
    assert verified.exit_code == 14
    assert any(old in finding["thing"] for finding in verified.result["findings"])
    assert "stillframe backup" in verified.result["findings"][0]["hint"]
    new = backup(disk)
    assert good("verify", "--json").result["ok"]
    assert restored(disk, new)
    assert restored(disk, old)


def test_a_node_of_the_map_beyond_parity_is_stored_again(repo: Path, disk: Path) -> None:
    """Also the map: every pack with nodes in it is noise in its middle."""
    old = backup(disk)
    for path in packs(repo):
        if path.stat().st_size < MIB:
            spoil(path, Rot("middle", lambda raw, chance: raw.__setitem__(slice(80, 200), chance.randbytes(120))))
    assert call("verify").exit_code == 14
    new = backup(disk)
    if call("verify").exit_code == 14:  # a chunk below a node that could not be read is named in the second round
        new = backup(disk)
    assert good("verify", "--json").result["ok"]
    assert restored(disk, old)
    assert restored(disk, new)


def test_a_file_is_had_out_of_rotten_packs(repo: Path, tmp_path: Path) -> None:
    """An ext4 made by mke2fs; its file is compared by hash with the original."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "film.mkv").write_bytes(random.Random(3).randbytes(9 * MIB))
    disk = tmp_path / "volume.raw"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", files, disk, "24M"], check=True)
    good("parity", "on")
    backup(disk)
    spoil_all(repo, 0.005)
    outcome = good("get", "latest:1/film.mkv", tmp_path / "out", "--json")
    assert "healed-in-memory" in [line.get("code") for line in outcome.lines]
    hashes = {sha256((place / "film.mkv").read_bytes()).hexdigest() for place in (files, tmp_path / "out")}
    assert len(hashes) == 1


def test_a_read_only_repository_heals_in_memory(repo: Path, disk: Path) -> None:
    good("parity", "on")
    backup(disk)
    spoil_all(repo, 0.005)
    before = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()}
    assert restored(disk)
    changed = {path for path in repo.rglob("*") if path.is_file() and before.get(path) != path.read_bytes()}
    assert not {path for path in changed if path.parts[-3] in {"packs", "index", "images", "parity"}}
