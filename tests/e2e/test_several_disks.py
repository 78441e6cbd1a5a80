"""An image of several disks goes onto several targets in one call, or onto none of them."""

from pathlib import Path

import pytest

from stillframe.errors import TargetError, UsageError
from stillframe.jobs.restore import RestoreOptions
from stillframe.jobs.restoring.several import apply_several, plan_several
from stillframe.store import LocalStore
from stillframe.testing.command_line import call, init_own
from stillframe.testing.disks_partitioned import make_disk, see_table
from stillframe.testing.job_runs import backup_paths, job_context, make_repository
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.real_disks import RealDisk, build_disk, hash_file, used_file

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
def sources(tmp_path: Path) -> tuple[RealDisk, Path]:
    """A disk with files, and one with a partition of noise."""
    other = tmp_path / "other"
    other.write_bytes(make_disk(24 * MIB, sfdisk="label: dos\nlabel-id: 0x00c0ffee\nstart=1MiB, size=20MiB\n"))
    return build_disk(tmp_path), other


def test_all_disks_come_back_in_one_call(
    sources: tuple[RealDisk, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, other = sources
    init_own(tmp_path, monkeypatch)
    assert call("backup", disk.path, other, "--name", "d").exit_code == 0
    targets = used_file(tmp_path / "one", disk.size), used_file(tmp_path / "two", 24 * MIB)
    words = ("restore", "latest:d", "--to", f"1={targets[0]}", "--to", f"2={targets[1]}")
    said = call(*words, "--dry-run")
    assert said.output.count("What will be done:") == 2
    planned = call(*words, "--dry-run", "--json").result["disks"]
    assert [(one["disk"], one["target"]) for one in planned] == [(1, str(targets[0])), (2, str(targets[1]))]
    done = call(*words, typed=["restore"])
    assert done.exit_code == 0, done.errors
    assert done.errors.count("Type 'restore'") == 1
    for source, target in zip((disk.path, other), targets, strict=True):
        assert see_table(target) == see_table(source)
    assert "of the image is not restored" in call(*words[:4], "--dry-run").output
    for wrong in (
        (*words, targets[0]), (*words, "--disk", 1), (*words, "--edit"), (*words, "--resize", "1=max"),
        ("restore", "latest:d", "--to", f"1={targets[0]}", "--to", f"1={targets[1]}"),
        ("restore", "latest:d", "--to", f"1={targets[0]}", "--to", f"3={targets[1]}"),
        ("restore", "latest:d", "--to", "1"),
    ):  # fmt: skip
        assert call(*wrong, "--dry-run").exit_code == 2, wrong


def test_nothing_is_written_when_one_target_is_wrong(sources: tuple[RealDisk, Path], tmp_path: Path) -> None:
    disk, other = sources
    folder = tmp_path / "repository"
    from_disks = make_repository(real_store(folder))
    manifest = backup_paths(from_disks, disk.path, other).manifest
    first, small = used_file(tmp_path / "first", disk.size), used_file(tmp_path / "small", 4 * MIB)
    second = used_file(tmp_path / "second", 24 * MIB)
    before = hash_file(first)

    def plan(**targets: Path) -> object:
        named = {int(name[1:]): str(path) for name, path in targets.items()}
        return plan_several(
            from_disks, manifest, named, repository_folder=str(folder), options=RestoreOptions(new_identity=True)
        )

    with pytest.raises(TargetError, match="too few"):
        plan(d1=first, d2=small)
    with pytest.raises(TargetError, match="same target"):
        plan(d1=first, d2=first)
    (tmp_path / "link").symlink_to(first)
    with pytest.raises(TargetError, match="same target"):
        plan(d1=first, d2=tmp_path / "link")
    looped = used_file(tmp_path / "looped", disk.size)  # of its own: a loop device may go a moment later
    with loop_device(looped) as device, pytest.raises(TargetError, match="lie on one another"):
        plan(d1=looped, d2=device)
    with pytest.raises(TargetError, match="holds the repository"):
        plan(d1=first, d2=folder / "target")
    good = plan_several(
        from_disks, manifest, {1: str(first), 2: str(second)}, repository_folder=str(folder),
        options=RestoreOptions(new_identity=True),
    )  # fmt: skip
    assert [notice.code for notice in good.notices] == ["windows-across-disks"]
    with second.open("r+b") as file:
        file.write(b"!")
    with pytest.raises(TargetError, match="not the target that was shown"):
        apply_several(from_disks, good, job_context())
    assert hash_file(first) == before
    with pytest.raises(UsageError, match="does not say on which"):
        plan_several(
            from_disks,
            manifest,
            {1: str(first)},
            repository_folder="",
            options=RestoreOptions(leave_out=frozenset({1})),
        )


def test_two_partitions_of_one_disk_are_not_two_targets(sources: tuple[RealDisk, Path], tmp_path: Path) -> None:
    disk, other = sources
    repository = make_repository(real_store(tmp_path / "repository"))
    manifest = backup_paths(repository, disk.path, other).manifest
    whole = tmp_path / "whole"
    whole.write_bytes(make_disk(400 * MIB, sfdisk="label: gpt\nstart=1MiB, size=200MiB\nstart=201MiB, size=100MiB\n"))
    with loop_device(whole) as device, partition_nodes(device):
        targets = {1: f"{device}p1", 2: str(device)}
        with pytest.raises(TargetError, match="parts of one disk"):
            plan_several(repository, manifest, targets, repository_folder="", options=RestoreOptions())


def real_store(folder: Path) -> LocalStore:
    return LocalStore(str(folder))
