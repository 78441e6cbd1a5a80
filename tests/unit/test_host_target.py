"""A target is the disk that was shown, free, and stays so; everything else is refused and nothing is written."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from blake3 import blake3

from stillframe.errors import TargetError, UsageError
from stillframe.host import target as target_module
from stillframe.host.target import create_target_file, identify_target, open_target
from stillframe.testing.block_contract import contents
from stillframe.testing.loops import attach_loop, detach_loop, partition_nodes
from stillframe.testing.tools import unmount

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(contents(SIZE))
    return path


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "LOCK_PATIENCE_S", 0.2)


@contextlib.contextmanager
def loop(file: Path, *options: str) -> Iterator[str]:
    device = attach_loop(file, *options)
    try:
        yield device
    finally:
        detach_loop(device)


def refused(call: Callable[[], object], words: str) -> TargetError:
    with pytest.raises(TargetError, match=words) as caught:
        call()
    assert caught.value.hint
    return caught.value


def test_file_is_identified_and_written(disk: Path) -> None:
    identity = identify_target(str(disk))
    content = contents(SIZE)
    assert (identity.size, identity.kind, identity.diskseq) == (SIZE, "file", None)
    assert identity.head_digest == blake3(content[:MIB]).hexdigest()
    assert identity.tail_digest == blake3(content[-MIB:]).hexdigest()
    with open_target(identity) as writer:
        writer.write_at(0, b"new")
        writer.flush()
    assert disk.read_bytes() == b"new" + content[3:]


@pytest.mark.parametrize(("offset", "words"), [(0, "first MiB changed"), (SIZE - 1, "last MiB changed")])
def test_changed_contents_are_refused(disk: Path, offset: int, words: str) -> None:
    identity = identify_target(str(disk))
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" if contents(SIZE)[offset] else b"\1")
    refused(lambda: open_target(identity), words)


def test_changed_size_is_refused_with_both_sizes(disk: Path) -> None:
    identity = identify_target(str(disk))
    os.truncate(disk, SIZE + 512)
    error = refused(lambda: open_target(identity), "size was")
    assert str(SIZE) in error.message
    assert str(SIZE + 512) in error.message


def test_other_disk_of_the_same_name_is_refused(disk: Path) -> None:
    planned = identify_target(str(disk))
    for other in (replace(planned, model="X"), replace(planned, serial="X"), replace(planned, kind="X")):
        refused(partial(open_target, other), "was X")


def test_target_that_is_gone(disk: Path) -> None:
    identity = identify_target(str(disk))
    disk.unlink()
    refused(lambda: open_target(identity), "not there any more")


def test_second_run_on_the_same_file_is_refused(disk: Path) -> None:
    identity = identify_target(str(disk))
    with open_target(identity):
        refused(lambda: open_target(identity), "is locked by another program")
    open_target(identity).close()


@pytest.mark.root
def test_refusal_gives_everything_back(disk: Path) -> None:
    with loop(disk) as device:
        identity = identify_target(device)
        for _ in range(3):
            refused(lambda: open_target(replace(identity, serial="other")), "serial number was other and is not known")
        open_target(identity).close()


@pytest.mark.root
@pytest.mark.parametrize("sector_size", ["512", "4096"])
def test_device_is_held_until_it_is_closed(disk: Path, sector_size: str) -> None:
    with loop(disk, "--sector-size", sector_size) as device:
        identity = identify_target(device)
        with open_target(identity) as writer:
            writer.write_at(100, b"new")
            writer.flush()
            refused(lambda: open_target(identity), "is in use")
            lock = ["flock", "--nonblock", "--exclusive", device, "true"]
            assert subprocess.run(lock, check=False).returncode == 1
            mount = subprocess.run(["mount", device, "/mnt"], check=False, capture_output=True, text=True)
            assert "already mounted" in mount.stderr or "busy" in mount.stderr
        assert disk.read_bytes()[100:103] == b"new"
        assert subprocess.run(lock, check=False).returncode == 0


@pytest.mark.root
def test_disk_that_was_unplugged_and_plugged_in_again_is_refused(disk: Path) -> None:
    with loop(disk) as device:
        identity = identify_target(device)
    subprocess.run(["losetup", device, str(disk)], check=True)
    try:
        refused(lambda: open_target(identity), "disk sequence number was")
    finally:
        detach_loop(device)


@pytest.mark.root
def test_write_protected_disk_is_refused(disk: Path) -> None:
    with loop(disk, "--read-only") as device:
        identity = identify_target(device)
        refused(lambda: open_target(identity), "write-protected")


@pytest.mark.root
def test_file_that_is_attached_to_a_loop_is_refused(disk: Path) -> None:
    identity = identify_target(str(disk))
    with loop(disk) as device:
        error = refused(lambda: open_target(identity), f"held by {device}")
    assert "losetup -d" in error.hint


@pytest.mark.root
def test_mounted_target_is_refused_and_the_mount_point_named(tmp_path: Path, disk: Path) -> None:
    subprocess.run(["sgdisk", "-n1:2048:+4M", str(disk)], check=True, capture_output=True)
    where = tmp_path / "m"
    where.mkdir()
    with loop(disk) as device, partition_nodes(device):
        subprocess.run(["mkfs.ext4", "-q", f"{device}p1"], check=True)
        whole, partition, file = (identify_target(path) for path in (device, f"{device}p1", str(disk)))
        subprocess.run(["mount", "-o", "ro", f"{device}p1", str(where)], check=True)
        try:
            for identity in (whole, partition, file):
                error = refused(partial(open_target, identity), f"{device}p1 is mounted at {where}")
                assert f"umount {where}" in error.hint
        finally:
            unmount(where)
        with open_target(identify_target(f"{device}p1")):
            refused(lambda: open_target(whole), "in use")


@pytest.mark.root
def test_disk_that_another_program_locked_is_refused(disk: Path) -> None:
    with loop(disk) as device:
        identity = identify_target(device)
        command = ["flock", "--exclusive", device, "sh", "-c", "echo ready; read -r _"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"ready\n"
            refused(lambda: open_target(identity), "is locked by another program")
            other.communicate(b"\n")
        open_target(identity).close()


def test_created_file_is_sparse_and_zero(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    with create_target_file(str(path), 1 << 30) as writer:
        assert writer.size == 1 << 30
        assert writer.read_at((1 << 30) - 4096, 4096) == bytes(4096)
    assert path.stat().st_blocks == 0
    assert path.stat().st_mode & 0o077 == 0, "a disk holds secrets: nobody else reads it"


def test_creating_refuses(tmp_path: Path, disk: Path) -> None:
    refused(lambda: create_target_file(str(disk), SIZE), "exists already")
    assert disk.read_bytes() == contents(SIZE)
    refused(lambda: create_target_file(str(tmp_path / "no" / "x"), SIZE), "cannot be made")
    refused(lambda: create_target_file(str(tmp_path / "huge"), (1 << 63) - 1), "cannot hold a file of")
    assert not (tmp_path / "huge").exists()
    with pytest.raises(UsageError, match="cannot be made"):
        create_target_file(str(tmp_path / "none"), 0)
