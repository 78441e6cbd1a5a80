"""Boot loaders that know themselves by blocks, on a file system that was resized and moved."""

import os
import struct
from pathlib import Path

import pytest

from stillframe.events import Event, Notice
from stillframe.jobs.restore import RestoreOptions, RestoreResult, apply_restore, plan_restore
from stillframe.store.local import LocalStore
from stillframe.testing.job_runs import backup_paths, job_context, make_repository
from stillframe.testing.linux_disks import MIB, devices
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root


def make_disk(path: Path) -> None:
    """One ext4 that is filled, with a loader and texts behind what fills it."""
    path.touch()
    os.truncate(path, 140 * MIB)
    run_tool("sgdisk", "-n1:2048:+40M", "-n2:0:+90M", str(path))
    with devices(path) as device:
        run_tool("mkfs.ext4", "-q", f"{device}p1")
        run_tool("mkfs.ext4", "-q", f"{device}p2")
        place = Path(f"{path}.mounted")
        place.mkdir()
        run_tool("mount", f"{device}p2", str(place))
        (place / "filler").write_bytes(os.urandom(70 * MIB))
        (place / "boot/extlinux").mkdir(parents=True)
        run_tool("extlinux", "--install", str(place / "boot/extlinux"))
        (place / "boot/extlinux/extlinux.conf").write_text("append root=UUID=x resume_offset=34816\n")
        (place / "etc").mkdir()
        (place / "etc/lilo.conf").write_text("boot=/dev/sda\n")
        (place / "filler").unlink()
        unmount(place)
        place.rmdir()


def loader_blocks(path: Path) -> str:
    with devices(path) as device:
        return run_tool("debugfs", "-R", "blocks /boot/extlinux/ldlinux.sys", f"{device}p2").splitlines()[0]


def first_sector(path: Path) -> bytes:
    """Where the loader begins, as its boot sector has it: in sectors of the partition."""
    with devices(path) as device:
        facts = run_tool("dumpe2fs", "-h", f"{device}p2")
    size = int(facts.split("Block size:")[1].split()[0])
    return struct.pack("<I", int(loader_blocks(path).split()[0]) * size // 512)


def boot_sector(path: Path) -> bytes:
    with devices(path) as device, Path(f"{device}p2").open("rb") as volume:
        return volume.read(512)


def fitted(source: Path, target: Path) -> tuple[RestoreResult, list[Notice]]:
    notices: list[Notice] = []

    class Heard:
        def emit(self, event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event)

    repository = make_repository(LocalStore(str(target.with_suffix(".repository"))))
    manifest = backup_paths(repository, source).manifest
    target.touch()
    os.truncate(target, 90 * MIB)
    plan = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=RestoreOptions(fit=True))
    return apply_restore(repository, plan, job_context(events=Heard())), notices


def test_extlinux_finds_itself_again_and_what_cannot_is_said(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    make_disk(source)
    result, notices = fitted(source, target)
    assert loader_blocks(target) != loader_blocks(source), "the test moves it"
    assert any("extlinux in /boot/extlinux of partition 2 was installed anew" in words for words in result.changes)
    codes = {notice.code: notice.message for notice in notices}
    assert "LILO on partition 2" in codes["linux-not-repaired"]
    assert "/boot/extlinux/extlinux.conf on partition 2 says where a swap file begins" in codes["hibernation-place"]
    assert result.may_not_start
    with devices(target) as device:
        run_tool("e2fsck", "-fn", f"{device}p2")
    assert first_sector(source) in boot_sector(source)
    assert first_sector(target) in boot_sector(target)
    assert first_sector(source) not in boot_sector(target)
