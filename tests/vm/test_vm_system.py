"""A Debian boots from an image of its system alone, beside a data partition that is not in it."""

import os
from pathlib import Path

import pytest

from stillframe.testing.command_line import call
from stillframe.testing.debian_disk import make_debian_disk
from stillframe.testing.loops import loop_device
from stillframe.testing.tools import run_tool

pytestmark = [pytest.mark.root, pytest.mark.vm]


def test_an_image_of_the_system_alone_boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    disk = make_debian_disk(tmp_path / "debian.raw")
    os.truncate(disk, disk.stat().st_size + (512 << 20))
    run_tool("sgdisk", "-e", str(disk))
    run_tool("sgdisk", "-n4:0:0", "-t4:8300", str(disk))
    with loop_device(disk) as device:
        run_tool("partx", "--add", str(device))
        try:
            run_tool("mkfs.ext4", "-q", "-L", "photos", f"{device}p4")
        finally:
            run_tool("partx", "--delete", str(device))
    assert call("init", tmp_path / "repo", "--encryption", "none").exit_code == 0
    done = call("backup", "--system", disk, "--prove", "--json")
    assert done.exit_code == 0, done.output + done.errors
    assert done.result["start"]["outcome"] == "booted", done.result["start"]
    (shown,) = call("show", done.result["image"], "--json").result["disks"]
    assert [part["in_image"] for part in shown["partitions"]] == [True, True, True, False]
