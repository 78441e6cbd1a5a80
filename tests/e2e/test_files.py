"""``ls``, ``find`` and ``get`` as a person types them; power cuts, full disks, and a person who changes their mind."""

import os
import shlex
import threading
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.errors import Cancelled, TargetError
from stillframe.events import NoEvents, Notice
from stillframe.host.destination import open_destination
from stillframe.jobs.browsing import ListedFile
from stillframe.jobs.getting import get_files
from stillframe.jobs.inside.replayed import REPLAYED, STALE
from stillframe.jobs.pipeline import CancelToken
from stillframe.testing.command_line import call
from stillframe.testing.file_images import get_all, list_all, partition_of
from stillframe.testing.power_cuts import SCENES, hashes, power_cut
from stillframe.testing.real_disks import LEFT_OUT, build_disk, mounted_kernel
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root

MIB = 1 << 20


def test_a_disk_is_listed_searched_and_brought_back_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = build_disk(tmp_path)
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    assert call("init", tmp_path / "repo", "--encryption", "none").exit_code == 0
    assert call("backup", disk.path, "--name", "office").exit_code == 0

    shown = call("ls", "latest:office", "--json").result
    assert [(one["number"], one["filesystem"]) for one in shown["partitions"]] == [
        (volume.number, volume.kind) for volume in disk.volumes
    ]
    for volume in disk.volumes[:4]:
        word, out = f"latest:{volume.number}", tmp_path / f"out{volume.number}"
        entries = call("ls", "-R", word, "--json").result["entries"]
        names = {one["path"].lstrip("/") for one in entries if one["type"] == "file"}
        assert names == set(volume.files)
        done = call("get", f"latest:office:{volume.number}", out, "--json")
        left_out = LEFT_OUT & set(volume.files)
        assert done.exit_code == (3 if left_out else 0)
        assert hash_tree(out) == {name: one for name, one in volume.files.items() if name not in left_out}
        assert done.result["files"] == len(volume.files) - len(left_out)
        assert {one["code"] for one in done.result["notices"]} <= {"file-not-got"}

    found = call("find", "latest", "last*")
    assert found.exit_code == 0
    lines = found.output.splitlines()
    assert len(lines) == 4
    for number, line in enumerate(lines):
        assert call("get", *shlex.split(line), tmp_path / f"found{number}").exit_code == 0
        assert len(os.listdir(tmp_path / f"found{number}")) == 1

    plan = call("get", "latest:1", tmp_path / "never", "--dry-run", "--json").result["plan"]
    assert plan["files"] == len(disk.volumes[0].files)
    assert not (tmp_path / "never").exists()


def test_what_cannot_be_done_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = build_disk(tmp_path)
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    call("init", tmp_path / "repo", "--encryption", "none")
    call("backup", disk.path)
    (tmp_path / "file").write_bytes(b"")
    for code, *words in (
        (2, "get", "latest", tmp_path / "out"), (2, "get", "latest:9/x", tmp_path / "out"),
        (2, "get", "latest:2/nothing", tmp_path / "out"), (10, "ls", "ffff:1"), (20, "ls", "latest:5"),
        (20, "ls", "latest:6"), (22, "get", "latest:2", tmp_path / "file"),
        (22, "get", "latest:2", tmp_path / "no" / "such"), (2, "find", "latest", "*", "--newer", "soon"),
        (2, "ls", "latest", "--disk", "7"),
    ):  # fmt: skip
        outcome = call(*words)
        assert outcome.exit_code == code, (words, outcome.errors)
        assert len(outcome.errors.splitlines()) >= 2, words  # what it was, and the next step
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scene", ["ext4", "ext4-revoke", "ext4-data-journal", "ext3-1k"])
def test_every_fsynced_file_is_got_after_a_power_cut(tmp_path: Path, scene: str) -> None:
    make, mount_options, work = SCENES[scene]
    contents, promised = power_cut(tmp_path, make=make, mount_options=mount_options, work=work)
    tally = get_all(partition_of(contents), tmp_path / "out")
    assert [one.code for one in tally.notices] == [REPLAYED]
    assert hashes(tmp_path / "out", promised) == promised


def test_a_journal_with_fast_commits_is_not_guessed_at(tmp_path: Path) -> None:
    def work(root: Path, _promised: dict[str, str]) -> None:
        (root / "old").write_bytes(b"old")
        os.sync()
        with (root / "fast").open("wb") as file:
            file.write(os.urandom(50_000))
            file.flush()
            os.fsync(file.fileno())

    contents, _ = power_cut(tmp_path, make="-t ext4 -O fast_commit", mount_options="", work=work)
    found = list_all(partition_of(contents))
    assert [one.code for one in found if isinstance(one, Notice)] == [REPLAYED, STALE]
    assert get_all(partition_of(contents), tmp_path / "out", "old").files == 1
    assert (tmp_path / "out" / "old").read_bytes() == b"old"


def test_a_journal_that_is_broken_leaves_the_files_that_were_there_with_a_warning(tmp_path: Path) -> None:
    contents, _ = power_cut(tmp_path, make="-t ext4", mount_options="", work=SCENES["ext4"][2])
    place = contents.index(bytes.fromhex("c03b3998") + (4).to_bytes(4, "big"))  # JBD2_MAGIC_NUMBER, superblock v2
    broken = contents[: place + 252] + b"\xff\xff\xff\xff" + contents[place + 256 :]
    found = list_all(partition_of(broken))
    assert [one.code for one in found if isinstance(one, Notice)] == [STALE]
    assert "/lost+found" in {one.path for one in found if isinstance(one, ListedFile)}


def big_files(folder: Path, count: int) -> bytes:
    image = folder / "volume"
    image.write_bytes(b"")
    os.truncate(image, 64 * MIB)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", str(image))
    with mounted_kernel(image, folder / "mount") as root:
        for number in range(count):
            (root / f"file{number}").write_bytes(os.urandom(6 * MIB))
    return image.read_bytes()


def test_a_full_destination_is_told_and_holds_only_whole_files(tmp_path: Path) -> None:
    contents = big_files(tmp_path, 4)
    expected = {f"file{number}" for number in range(4)}
    small = tmp_path / "small"
    small.mkdir()
    run_tool("mount", "-t", "tmpfs", "-o", "size=15m", "none", str(small))
    try:
        with pytest.raises(TargetError, match="has no room left"):
            get_all(partition_of(contents), small)
        left = set(os.listdir(small)) - {"lost+found"}
        assert len(left) == 2
        assert left < expected
        assert {(small / name).stat().st_size for name in left} == {6 * MIB}
        run_tool("mount", "-o", "remount,ro", str(small))
        with pytest.raises(TargetError, match="mounted read-only"):
            get_all(partition_of(contents), small)
    finally:
        unmount(small)


class StuckDisk(MemoryDisk):
    """A disk that stops answering when so many bytes were read of it."""

    left = 22 * MIB

    def read_at(self, offset: int, length: int) -> bytes:
        """As ever, or never."""
        self.left -= length
        if self.left < 0:
            os.read(os.pipe()[0], 1)
        return super().read_at(offset, length)


def test_who_stops_it_has_only_whole_files(tmp_path: Path) -> None:
    disk, token, out = StuckDisk(big_files(tmp_path, 8)), CancelToken(), tmp_path / "out"
    later = threading.Timer(1.5, token.cancel)
    later.start()
    with pytest.raises(Cancelled), open_destination(str(out), overwrite=False) as destination:
        get_files(partition_of(disk), [()], destination, events=NoEvents(), cancel=token)
    later.join()
    assert all((out / name).stat().st_size == 6 * MIB for name in os.listdir(out) if name.startswith("file"))
    assert not [name for name in os.listdir(out) if name.startswith(".stillframe")]
    assert not {f"file{number}" for number in range(8)} <= set(os.listdir(out))
