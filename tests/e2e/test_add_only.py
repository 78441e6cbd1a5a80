"""A folder in which files can be made and none be deleted: ``chattr +a`` on a real file system."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent
from stillframe.repo.format import ObjectType
from stillframe.testing.command_line import call, init_own
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.tools import unmount

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A small ext4: not every file system knows the attribute."""
    image, mounted = tmp_path / "ext4", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(96 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["chattr", "-R", "-a", mounted], check=True)
        unmount(mounted)


def make_disk(path: Path, seed: int) -> Path:
    disk = MemoryDisk(bytes(4 * MIB))
    write_gpt(disk, [Extent(MIB, 3 * MIB)])
    fill_with_noise(disk, Extent(MIB, 3 * MIB), seed)
    path.write_bytes(bytes(disk.contents))
    return path


def only_add(repository: Path) -> None:
    """From now on no folder of the repository gives a name back."""
    kinds = [kind.folder for kind in ObjectType if kind is not ObjectType.KEY_SLOT]
    for kind in kinds:
        for number in range(256):
            (repository / kind / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    subprocess.run(["find", repository, "-type", "d", "-exec", "chattr", "+a", "{}", "+"], check=True)


def files(repository: Path, kind: ObjectType) -> int:
    return sum(one.is_file() for one in (repository / kind.folder).rglob("*"))


def test_a_folder_that_only_takes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = init_own(folder, monkeypatch)
    disk = make_disk(tmp_path / "disk", 1)
    assert call("backup", disk, "--name", "d").exit_code == 0
    only_add(repository)
    with pytest.raises(PermissionError):
        next(one for one in (repository / "packs").rglob("*") if one.is_file()).unlink()
    for seed in (2, 3):
        make_disk(disk, seed)
        made = call("backup", disk, "--name", "d")
        assert made.exit_code == 0, made.output + made.errors
    assert (files(repository, ObjectType.SESSION), files(repository, ObjectType.SESSION_END)) == (2, 2)
    assert call("verify").exit_code == 0
    assert call("check").exit_code == 0
    assert call("restore", "latest:d", tmp_path / "back", "--yes").exit_code == 0
    subprocess.run(["cmp", tmp_path / "back", disk], check=True)
    assert "backup since" not in call("machines").output
    images = [one["id"] for one in call("images", "--json").result["images"]]
    for words in (("forget", images[0]), ("expire", "--keep-last", "1")):
        plan = call(*words, "--dry-run")
        assert plan.exit_code == 0
        assert images[0][:8] in plan.output
        told = call(*words, "--yes", "--json")
        assert (told.exit_code, told.result["code"]) == (30, "deletion-refused")
        assert "only lets this machine add: nothing was changed" in told.result["message"]
        assert "where deleting is allowed" in told.result["hint"]
    assert call("repair").exit_code == 30
    assert files(repository, ObjectType.TOMBSTONE) == 0
    assert [one["id"] for one in call("images", "--json").result["images"]] == images
    subprocess.run(["chattr", "-R", "-a", repository], check=True)
    assert call("expire", "--keep-last", "1", "--undelete-days", "0", "--grace", "0", "--yes").exit_code == 0
    assert (files(repository, ObjectType.SESSION), files(repository, ObjectType.SESSION_END)) == (0, 0)
    assert [one["id"] for one in call("images", "--json").result["images"]] == images[-1:]
    assert call("restore", "latest:d", tmp_path / "again", "--yes").exit_code == 0
    subprocess.run(["cmp", tmp_path / "again", disk], check=True)
