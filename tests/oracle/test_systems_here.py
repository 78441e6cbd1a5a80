"""The operating systems that ``disks`` names, unmounted and mounted."""

import os
from pathlib import Path

import pytest

from stillframe.host.mounted_files import MountedTree, is_mounted_at
from stillframe.jobs.looking import look_at_disks
from stillframe.testing.loops import loop_device
from stillframe.testing.real_disks import make_ext4, mounted_kernel
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
MIB = 1 << 20


def linux(image: Path, place: Path) -> None:
    make_ext4(image, 64 * MIB, seed=2)
    with mounted_kernel(image, place) as root:
        (root / "etc").mkdir()
        (root / "etc/os-release").write_text('PRETTY_NAME="Little Linux 3"\n')


def test_a_system_is_named_whether_its_volume_is_mounted_or_not(tmp_path: Path) -> None:
    image, place = tmp_path / "image", tmp_path / "place"
    linux(image, place)
    with loop_device(image) as device:
        assert [one.system for one in look_at_disks(str(device)).disks[0].partitions] == ["Little Linux 3"]
        run_tool("mount", str(device), str(place))
        try:
            (place / "etc/os-release").write_text('PRETTY_NAME="Little Linux 4"\n')
            assert [one.system for one in look_at_disks(str(device)).disks[0].partitions] == ["Little Linux 4"]
            run_tool("mount", "-t", "tmpfs", "none", str(place))
            try:
                assert not is_mounted_at(str(device), str(place))
                assert [one.system for one in look_at_disks(str(device)).disks[0].partitions] == [None]
            finally:
                unmount(place)
        finally:
            unmount(place)


def test_nothing_outside_a_mount_is_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "etc/link").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    os.mkfifo(root / "etc/pipe")
    (root / "etc/plain").write_bytes(b"0123456789")
    files = MountedTree(str(root))
    assert files.list_names("/etc") == ("link", "pipe", "plain")
    assert (files.list_names("/folder"), files.list_names("/gone")) == ((), ())
    assert files.read_file("/etc/plain", 2, 3) == b"234"
    for path in ("/etc/link", "/folder/secret", "/etc/pipe", "/etc", "/gone"):
        assert files.read_file(path, 0, 10) is None
