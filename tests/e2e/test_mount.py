"""An image shown as a folder: files as they were, journals replayed, and nothing left behind however it ends."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.errors import UsageError
from stillframe.extents import Extent
from stillframe.jobs.mounting import require_place
from stillframe.store import LocalStore
from stillframe.testing.busy_volume import MAKE
from stillframe.testing.job_runs import backup_paths, make_repository
from stillframe.testing.loops import loop_device
from stillframe.testing.real_disks import build_disk, hash_file, make_ext4
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_lvm import lvm_on
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root
MIB = 1 << 20
START_S = 60
LEFT_OUT = ("swapfile", "pagefile.sys", "hiberfil.sys")


class Mounted:
    """The program, which shows an image at a place."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "shown"
        self.place.mkdir()
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.errors = (folder / "errors").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stillframe", "mount", "latest:t", str(self.place), "--repo", str(folder / "repo")],
            env=os.environ | {"TMPDIR": str(self.temporary)}, stdout=subprocess.PIPE, stderr=self.errors,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline().decode()
        assert first.startswith("The image is in "), self.said

    @property
    def said(self) -> str:
        """Its standard error until now."""
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode()

    def await_clean(self) -> None:
        """Nothing may be left: no mount, no loop device, no folder, no process."""
        deadline = time.monotonic() + START_S
        while left := self.left():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        assert list(self.place.iterdir()) == []

    def left(self) -> list[str]:
        """What is still there."""
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.place.parent) in line]
        loops = [line for line in run_tool("losetup", "-a").splitlines() if str(self.temporary) in line]
        return mounts + loops + [str(path) for path in self.temporary.iterdir()]


@contextmanager
def shown(folder: Path, disk: Path) -> Iterator[Mounted]:
    """An image of a disk, shown until the block ends."""
    from stillframe.jobs.backup import BackupOptions

    backup_paths(make_repository(LocalStore(str(folder / "repo"))), disk, options=BackupOptions(name="t"))
    mounted = Mounted(folder)
    try:
        yield mounted
    finally:
        mounted.process.kill()
        mounted.process.wait()
        mounted.await_clean()
        mounted.errors.close()
        assert mounted.process.stdout is not None
        mounted.process.stdout.close()


def hash_folder(place: Path) -> dict[str, str]:
    return without_paging(hash_tree(place))


def without_paging(files: dict[str, str]) -> dict[str, str]:
    left_out = ("lost+found", *LEFT_OUT)
    return {path: digest for path, digest in files.items() if not path.startswith(left_out)}


def test_volumes_inside_partitions_are_folders_of_their_own(tmp_path: Path) -> None:
    disk, size = tmp_path / "disk.img", 32 * MIB
    disk.write_bytes(bytes(size))
    files = {name: make_ext4(tmp_path / name, 12 * MIB, seed=len(name)) for name in ("root", "home")}
    with lvm_on((disk, Extent(0, size))) as lvm:
        lvm.make_group()
        for name in files:
            lvm.make_volume(name, "-L", "12m")
            lvm.write_volume(name, tmp_path / name)
    with shown(tmp_path, disk) as mounted:
        folders = {path.name for path in mounted.place.iterdir() if path.is_dir()}
        assert folders == {"partition1-root-ext4-linux", "partition1-home-ext4-linux"}
        for name, expected in files.items():
            place = mounted.place / f"partition1-{name}-ext4-linux"
            copy = tmp_path / f"copy-{name}"
            said = run_tool("cp", "-r", str(place), str(copy), accept=(0, 1))
            assert all(any(word in line for word in LEFT_OUT) for line in said.splitlines()), said
            assert hash_folder(copy) == without_paging(expected)
        assert (mounted.place / "partition1-LVM2_member.img").stat().st_size == size
        assert "LVM2_member" not in mounted.said


def test_files_are_copied_as_from_a_folder_and_umount_ends_it(tmp_path: Path) -> None:
    disk = build_disk(tmp_path)
    with shown(tmp_path, disk.path) as mounted:
        copies = tmp_path / "copies"
        copies.mkdir()
        folders = [path for path in mounted.place.iterdir() if path.is_dir()]
        assert sorted(path.name.split("-")[1] for path in folders) == ["exfat", "ext4", "ntfs"]
        for folder in folders:
            said = run_tool("cp", "-r", str(folder), str(copies), accept=(0, 1))
            assert all(any(name in line for name in LEFT_OUT) for line in said.splitlines()), said
            (volume,) = [one for one in disk.volumes if one.kind == folder.name.split("-")[1]]
            assert hash_folder(copies / folder.name) == without_paging(volume.files)
            with pytest.raises(OSError, match="Read-only file system"):
                (folder / "new").write_bytes(b"")
        for volume in disk.volumes:
            (file,) = mounted.place.glob(f"partition{volume.number}*.img")
            assert file.stat().st_size == volume.extent.size
            place = f"skip={volume.extent.start}", f"count={volume.extent.size}", "iflag=skip_bytes,count_bytes"
            run_tool("dd", f"if={mounted.place}/disk.img", f"of={tmp_path}/part", "bs=1M", *place)
            assert hash_file(tmp_path / "part") == hash_file(file)
        assert "partition 1: the vfat file system was not mounted" in mounted.said or any(
            "vfat" in path.name for path in folders
        )
        unmount(mounted.place)
        assert mounted.process.wait(START_S) == 3  # paging files were asked for
        mounted.await_clean()


@pytest.mark.variants(1)
@pytest.mark.parametrize("filesystem", MAKE)
def test_what_was_synced_before_a_power_cut_is_there(filesystem: str, tmp_path: Path) -> None:
    image, cut, place = tmp_path / "volume.img", tmp_path / "cut.img", tmp_path / "source"
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    run_tool(*MAKE[filesystem], str(image))
    place.mkdir()
    promised: dict[str, str] = {}
    with loop_device(image) as device:
        run_tool("mount", str(device), str(place))
        try:
            for number in range(40):
                contents = os.urandom(3000 * number + 1)
                with (place / f"file{number}").open("wb") as file:
                    file.write(contents)
                    file.flush()
                    os.fsync(file.fileno())
                promised[f"file{number}"] = hashlib.sha256(contents).hexdigest()
            run_tool("cp", "--sparse=always", str(image), str(cut))
        finally:
            unmount(place)
    if filesystem == "btrfs":  # or the kernel takes the copy for the device that it has seen
        run_tool("btrfs", "device", "scan", "--forget", accept=(0, 1))
    before = hash_file(cut)
    with shown(tmp_path, cut) as mounted:
        (folder,) = [path for path in mounted.place.iterdir() if path.is_dir()]
        found = hash_folder(folder)
        assert {name: found.get(name) for name in promised} == promised
        mounted.process.send_signal(signal.SIGTERM)
        assert mounted.process.wait(START_S) == 0
        mounted.await_clean()
    assert hash_file(cut) == before


def test_what_was_left_out_is_an_error_and_the_rest_is_copied(tmp_path: Path) -> None:
    disk, place = tmp_path / "volume.img", tmp_path / "source"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    run_tool(*MAKE["ext4"], str(disk))
    place.mkdir()
    run_tool("mount", "-o", "loop", str(disk), str(place))
    (place / "letter").write_bytes(b"dear" * 5000)
    (place / "swapfile").write_bytes(os.urandom(8 * MIB))
    run_tool("mkswap", str(place / "swapfile"))
    unmount(place)
    with shown(tmp_path, disk) as mounted:
        (folder,) = [path for path in mounted.place.iterdir() if path.is_dir()]
        assert (folder / "letter").read_bytes() == b"dear" * 5000
        with pytest.raises(OSError, match="Input/output error"):
            (folder / "swapfile").read_bytes()
        assert "was left out of the image" in mounted.said
        unmount(mounted.place)
        assert mounted.process.wait(START_S) == 3


@pytest.mark.parametrize("group", [False, True])
def test_a_killed_process_leaves_nothing(group: bool, tmp_path: Path) -> None:
    disk = build_disk(tmp_path)
    with shown(tmp_path, disk.path) as mounted:
        assert mounted.left()
        if group:
            os.killpg(mounted.process.pid, signal.SIGKILL)
        else:
            mounted.process.kill()
        mounted.process.wait()
        mounted.await_clean()


def test_a_folder_in_use_is_named_and_ends_when_it_is_free(tmp_path: Path) -> None:
    disk = build_disk(tmp_path)
    with shown(tmp_path, disk.path) as mounted:
        with (mounted.place / "disk.img").open("rb"):
            mounted.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + START_S
            while "is still in use" not in mounted.said:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert mounted.process.poll() is None
        assert mounted.process.wait(START_S) == 0


def test_places_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    full, inside = tmp_path / "full", tmp_path / "repo" / "inside"
    full.mkdir()
    (full / "file").touch()
    inside.mkdir(parents=True)
    for place, words in (
        (full, "is not empty"), (tmp_path / "none", "there is no folder"), (full / "file", "cannot be used"),
        (Path("/proc"), "something is mounted at"), (inside, "lies inside the repository"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            require_place(str(place), str(tmp_path / "repo"))
