"""A damaged repository: what can be had comes back, and what cannot is named, down to the files."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.testing.command_line import call
from stillframe.testing.loops import loop_device
from stillframe.testing.real_disks import hash_file
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root
MIB = 1 << 20
TEMPORARY = "/tmp"  # noqa: S108 - of the volume that is saved


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, dict[str, str]]:
    """An ext4 volume of a few incompressible files, its repository, and the hashes of the files."""
    monkeypatch.setenv("STILLFRAME_PASSWORD", "secret")
    volume, repository = tmp_path / "volume.img", tmp_path / "repository"
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(8):
        (tree / f"letter{number}").write_bytes((number + 1).to_bytes(1) * 100 + _noise(number, 2 * MIB))
    with volume.open("wb") as file:
        file.truncate(64 * MIB)
    run_tool("mkfs.ext4", "-q", "-d", str(tree), str(volume))
    assert call("init", repository).exit_code == 0
    assert call("backup", volume, "--repo", repository).exit_code == 0
    return volume, repository, hash_tree(tree)


def _noise(seed: int, size: int) -> bytes:

    return random.Random(seed).randbytes(size)


def _flip(pack: Path) -> None:
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 1
    pack.write_bytes(raw)


def _truncate(pack: Path) -> None:
    raw = pack.read_bytes()
    pack.write_bytes(raw[: len(raw) // 2])


DAMAGE: dict[str, Callable[[Path], None]] = {"flip": _flip, "truncate": _truncate}


def _largest_pack(repository: Path) -> Path:
    return max((path for path in (repository / "packs").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_rest_comes_back_and_the_lost_files_are_named(
    saved: tuple[Path, Path, dict[str, str]], tmp_path: Path, damage: str
) -> None:
    _, repository, hashes = saved
    DAMAGE[damage](_largest_pack(repository))
    target = tmp_path / "target.img"
    refused = call("restore", "latest", target, "--yes", "--repo", repository)
    assert refused.exit_code == 14
    assert "--salvage" in refused.errors
    target.write_bytes(b"\xff" * (64 * MIB))  # what is lost must become zeros, not old bytes
    done = call("restore", "latest", target, "--yes", "--salvage", "--json", "--repo", repository)
    assert done.exit_code == 3
    assert sum(part["bytes"] for part in done.result["lost"]) > 0
    named = " ".join(line["message"] for line in done.lines if line.get("code") == "files-lost")
    place = tmp_path / "mount"
    place.mkdir()
    with loop_device(target, "--read-only") as device:
        run_tool("mount", "-o", "ro,noload", str(device), str(place))
        try:
            found = hash_tree(place)
        finally:
            unmount(place)
    found.pop("lost+found", None)
    broken = {name for name, digest in hashes.items() if found.get(name) != digest}
    assert broken, "the damage hit nothing"
    assert broken != set(hashes), "nothing came back"
    assert all(f"/{name}" in named for name in broken)
    assert not any(f"/{name} " in named for name in hashes if name not in broken)


def test_verify_and_repair_name_the_lost_files(saved: tuple[Path, Path, dict[str, str]]) -> None:
    _, repository, _ = saved
    _flip(_largest_pack(repository))
    verified = call("verify", "--json", "--repo", repository)
    assert verified.exit_code == 14
    names = [f["message"] for f in verified.result["findings"] if f["code"] == "files-lost"]
    assert len(names) == 1
    assert "/letter" in names[0]
    _largest_pack(repository).unlink()
    repaired = call("repair", "--json", "--repo", repository)
    assert repaired.exit_code == 14
    assert any(f["code"] == "files-lost" for f in repaired.result["findings"])


def test_a_whole_image_loses_nothing_by_salvage(saved: tuple[Path, Path, dict[str, str]], tmp_path: Path) -> None:
    volume, repository, _ = saved
    done = call("restore", "latest", tmp_path / "t", "--yes", "--salvage", "--json", "--repo", repository)
    assert (done.exit_code, done.result["lost"]) == (0, [])
    assert hash_file(tmp_path / "t") == hash_file(volume)


def test_excluded_files_come_back_empty_and_others_as_they_were(
    saved: tuple[Path, Path, dict[str, str]], tmp_path: Path
) -> None:
    volume, repository, hashes = saved
    words = ["--exclude", "letter1", "--exclude", "/letter[2]", "--exclude", "*er3"]
    made = call("backup", volume, "--name", "less", "--json", "--repo", repository, *words)
    assert made.exit_code == 0
    shown = call("show", "latest:less", "--json", "--repo", repository).result
    left_out = shown["disks"][0]["partitions"][0]["left_out"]
    assert {(one["path"], one["kind"]) for one in left_out} == {("/letter1", "excluded"), ("/letter3", "excluded")}
    target = tmp_path / "target.img"
    target.write_bytes(b"\xff" * (64 * MIB))
    restored = call("restore", "latest:less", target, "--yes", "--repo", repository)
    assert restored.exit_code == 0, restored.errors
    run_tool("e2fsck", "-fn", str(target))
    place = tmp_path / "mount"
    place.mkdir()
    with loop_device(target) as device:
        run_tool("mount", "-o", "ro", str(device), str(place))
        try:
            found = hash_tree(place)
            assert set((place / "letter1").read_bytes()) == {0}
            assert (place / "letter3").stat().st_size == 2 * MIB + 100
        finally:
            unmount(place)
    assert {name for name in hashes if found[name] != hashes[name]} == {"letter1", "letter3"}


def test_temporary_files_are_priced_before_the_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_PASSWORD", "secret")
    tree, volume, repository = tmp_path / "tree", tmp_path / "volume.img", tmp_path / "repository"
    for folder in ("etc", "usr", "tmp", "home/anna/.cache"):
        (tree / folder).mkdir(parents=True)
    (tree / "tmp" / "scratch").write_bytes(_noise(1, 3 * MIB))
    (tree / "home/anna/.cache/page").write_bytes(_noise(2, MIB))
    with volume.open("wb") as file:
        file.truncate(64 * MIB)
    run_tool("mkfs.ext4", "-q", "-d", str(tree), str(volume))
    assert call("init", repository).exit_code == 0
    plan = call("backup", volume, "--dry-run", "--json", "--repo", repository).result
    found = {one["path"]: one["size"] for one in plan["temporary"]}
    assert found == {TEMPORARY: 3 * MIB, "/home/anna/.cache": MIB}
    less = call("backup", volume, "--dry-run", "--exclude", f"{TEMPORARY}/", "--repo", repository)
    assert "/home/anna/.cache" in less.output
    assert f"{TEMPORARY} 3" not in less.output
    wrong = call("backup", volume, "--dry-run", "--exclude", "a//b", "--repo", repository)
    assert wrong.exit_code == 2


def test_then_is_refused_before_the_backup_where_it_cannot_be_done(
    saved: tuple[Path, Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, repository, _ = saved
    done: list[list[str]] = []
    monkeypatch.setattr("stillframe.host.power.RUNS_HERE", "/")

    class Good:
        def require_success(self, *, hint: str) -> None:
            assert hint

    def run(arguments: list[str]) -> Good:
        done.append(arguments)
        return Good()

    monkeypatch.setattr("stillframe.host.power.run", run)
    assert call("backup", volume, "--then", "shutdown", "--repo", repository).exit_code == 0
    assert done == [["systemctl", "poweroff"]]
    monkeypatch.setattr("stillframe.host.power.RUNS_HERE", "/not/there")
    refused = call("backup", volume, "--then", "sleep", "--name", "never", "--repo", repository)
    assert refused.exit_code == 20
    assert "systemd" in refused.errors
    assert all(image["name"] != "never" for image in call("images", "--json", "--repo", repository).result["images"])
