"""The wrong disk: what a restore wrote over at its beginning and end comes back, and its partitions are found again."""

import json
import os
from pathlib import Path

import pytest

from stillframe.errors import TargetError
from stillframe.events import RecordedEvents
from stillframe.jobs.restore import RestoreOptions
from stillframe.jobs.restoring.undo_table import KEPT_MAX, apply_undo, plan_undo
from stillframe.repo.check import check_repository
from stillframe.repo.kept_tables import kept_tables
from stillframe.store import LocalStore, MemoryStore
from stillframe.testing.command_line import call
from stillframe.testing.job_runs import backup_paths, job_context, make_repository, restore
from stillframe.testing.real_disks import build_disk, hash_file, mounted_kernel
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
MIB = 1 << 20


def test_the_table_of_a_target_comes_back(tmp_path: Path) -> None:
    disk, wrong = build_disk(tmp_path), build_disk(tmp_path, seed=2, label="dos")
    before = wrong.path.read_bytes()
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    with wrong.path.open("ab") as file:
        file.truncate(200 * MIB)
    target = wrong.path
    listed = run_tool("sfdisk", "--dump", str(target))
    restore(repository, manifest, target, options=RestoreOptions())
    assert run_tool("sfdisk", "--dump", str(target)) != listed
    plan = plan_undo(repository, str(target), repository_folder="", lost=())
    assert "partition 3: ntfs 'windows', 41.9 MB" in plan.kept.contents
    apply_undo(plan, repository.clock, job_context())
    assert run_tool("sfdisk", "--dump", str(target)) == listed
    after = target.read_bytes()
    assert after[:MIB] == before[:MIB]
    assert after[-MIB:] == bytes(MIB)
    assert not check_repository(repository, events=RecordedEvents()).findings


def test_a_partition_that_goes_onto_a_whole_disk_costs_its_table_and_it_comes_back(tmp_path: Path) -> None:
    disk, wrong = build_disk(tmp_path), build_disk(tmp_path, seed=2, label="dos").path
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, disk.path).manifest
    before, listed = wrong.read_bytes(), run_tool("sfdisk", "--dump", str(wrong))
    restore(repository, manifest, wrong, options=RestoreOptions(partition=3))
    assert wrong.read_bytes()[:MIB] != before[:MIB]
    apply_undo(plan_undo(repository, str(wrong), repository_folder="", lost=()), repository.clock, job_context())
    assert run_tool("sfdisk", "--dump", str(wrong)) == listed
    assert wrong.read_bytes()[:MIB] == before[:MIB]


@pytest.mark.slow
def test_a_restore_that_was_cut_off_does_not_hide_what_was_there(tmp_path: Path) -> None:
    disk = build_disk(tmp_path)
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, disk.path).manifest
    target = tmp_path / "target"
    target.write_bytes(disk.path.read_bytes() + bytes(MIB))
    restore(repository, manifest, target)
    with target.open("r+b") as file:  # as the next one leaves it when it is killed
        file.write(bytes(8192))
        file.seek(-8192, 2)
        file.write(bytes(8192))
    restore(repository, manifest, target)
    assert len(kept_tables(repository)) == 1
    for _ in range(KEPT_MAX + 2):
        restore(repository, manifest, target)
    assert len(kept_tables(repository)) == KEPT_MAX


def test_nothing_is_kept_of_an_empty_target_and_nothing_found_for_another(tmp_path: Path) -> None:
    disk = build_disk(tmp_path)
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, disk.path).manifest
    restore(repository, manifest, tmp_path / "new")
    with pytest.raises(TargetError, match="nothing is kept of what was on"):
        plan_undo(repository, str(tmp_path / "new"), repository_folder="", lost=())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, other = build_disk(tmp_path), build_disk(tmp_path, label="dos")
    repository = tmp_path / "repository"
    monkeypatch.setenv("STILLFRAME_REPO", str(repository))
    call("init", str(repository), "--encryption", "none")
    call("backup", str(disk.path), "--name", "d")
    listed = run_tool("sfdisk", "--dump", str(other.path))
    call("restore", "latest:d", str(other.path), "--yes")
    assert run_tool("sfdisk", "--dump", str(other.path)) != listed
    said = call("restore", "--undo-table", str(other.path), "--dry-run")
    assert "only the table comes back" in said.output
    done = call("restore", "--undo-table", str(other.path), "--yes", "--json")
    assert json.loads(done.output.splitlines()[-1])["bytes_written"] >= 2 * MIB
    assert run_tool("sfdisk", "--dump", str(other.path)) == listed
    for words in (["--undo-table", str(tmp_path / "nothing")], ["latest:d"], ["latest:d", "x", "--undo-table", "y"]):
        assert call("restore", *words).exit_code in (2, 22)


def test_a_clone_keeps_the_table_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no repository; the file alone puts the table back, and only on the disk that it was on."""
    monkeypatch.setenv("STILLFRAME_STATE_DIR", str(tmp_path / "state"))
    disk, other = build_disk(tmp_path), build_disk(tmp_path, label="dos")
    with other.path.open("ab") as file:
        file.truncate(200 * MIB)
    listed, before = run_tool("sfdisk", "--dump", str(other.path)), other.path.read_bytes()[:MIB]
    kept = tmp_path / "kept"
    for words, file_name in ((["--keep-table", str(kept)], kept), ([], None)):
        done = call("clone", disk.path, other.path, "--yes", *words)
        assert done.exit_code == 0, done.errors
        found = file_name or next((tmp_path / "state" / "tables").iterdir())
        assert f"is kept in {found}" in done.errors
        assert found.stat().st_mode & 0o777 == 0o600
        assert run_tool("sfdisk", "--dump", str(other.path)) != listed
        back = call("restore", "--undo-table", other.path, "--from", found, "--yes")
        assert back.exit_code == 0, back.errors
        assert run_tool("sfdisk", "--dump", str(other.path)) == listed
        assert other.path.read_bytes()[:MIB] == before
    (tmp_path / "wrong").write_bytes(disk.path.read_bytes())
    refusals: list[tuple[tuple[object, ...], int]] = [
        (("restore", "--undo-table", tmp_path / "wrong", "--from", kept, "--yes"), 22),
        (("restore", "--undo-table", other.path, "--from", disk.path, "--yes"), 14),
        (("restore", "--undo-table", other.path, "--from", tmp_path / "none", "--yes"), 30),
        (("restore", "latest", other.path, "--from", kept, "--yes"), 2),
        (("clone", disk.path, other.path, "--keep-table", kept, "--yes"), 2),
    ]
    hashes = [hash_file(path) for path in (tmp_path / "wrong", other.path)]
    for wrong, code in refusals:
        assert call(*wrong).exit_code == code, wrong
    assert [hash_file(path) for path in (tmp_path / "wrong", other.path)] == hashes


def test_a_table_is_not_kept_on_the_disk_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = build_disk(tmp_path)
    inside = tmp_path / "inside"
    inside.touch()
    os.truncate(inside, 200 * MIB)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", str(inside))
    with mounted_kernel(inside, tmp_path / "mount") as root:
        refused = call("clone", disk.path, inside, "--keep-table", root / "kept", "--yes")
        assert (refused.exit_code, "lies on the target" in refused.errors) == (22, True)
    monkeypatch.setenv("STILLFRAME_STATE_DIR", "/proc/nowhere")
    done = call("clone", disk.path, inside, "--yes")
    assert (done.exit_code, "could not be kept" in done.errors) == (0, True)
