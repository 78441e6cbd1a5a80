"""What ``disks`` says of partitions in use, and which files are no raw disks."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from stillframe.block import MemoryDisk
from stillframe.capture import CapturedVolume, Selection, capture_disk
from stillframe.errors import TargetError, UsageError
from stillframe.host.disks import DiskFacts
from stillframe.host.mounts import Use
from stillframe.jobs.looking import _bytes_used, require_target


def volume(type_name: str = "Linux") -> CapturedVolume:
    disk = capture_disk(MemoryDisk(bytes(1 << 20)), DiskFacts(path="/x", kind="file", size=1 << 20), Selection())
    found = disk.volumes[0]
    return replace(found, partition=replace(found.partition, type_name=type_name))


def use(where: str, kind: Literal["mounted", "swap", "holder"] = "mounted") -> Use:
    return Use(kind=kind, device="/dev/sda1", where=where, read_write=True)


def test_used_bytes_of_a_mounted_volume_are_the_systems_own(tmp_path: Path) -> None:
    assert _bytes_used(volume(), ()) is None
    assert (_bytes_used(volume(), (use(str(tmp_path)),)) or 0) > 0
    assert _bytes_used(volume(), (use(str(tmp_path)), use("/dev/dm-0", "holder"))) is None
    assert _bytes_used(volume(), (use(str(tmp_path / "gone")),)) is None


@pytest.mark.parametrize(
    ("contents", "name"),
    [(b"QFI\xfb" + bytes(600), "QCOW2"), (b"KDMV" + bytes(600), "VMDK"), (b"vhdxfile", "VHDX"),
     (bytes(4096) + b"conectix" + bytes(504), "VHD"), (b"conectix" + bytes(2000), "VHD"),
     (bytes(4096) + b"conectix" + bytes(503), "VHD"), (b"QED\0", "QED"), (b"EVF\t\r\n\xff\0", "E01"),
     (b"# Disk DescriptorFile\n", "VMDK"), (bytes(64) + b"\x7f\x10\xda\xbe" + bytes(500), "VDI")],
)  # fmt: skip
def test_a_disk_file_of_another_program_is_no_target(contents: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(contents)
    with pytest.raises(UsageError, match=name):
        require_target(str(path))


@pytest.mark.parametrize("contents", [b"", b"QF", b"\xebX\x90MSDOS5.0", bytes(512), b"conecti" + bytes(505)])
def test_raw_files_are_not_refused(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(contents)
    require_target(str(path))


def test_a_device_that_is_not_there_is_not_made_a_file(tmp_path: Path) -> None:
    require_target(str(tmp_path / "new.raw"))
    link = tmp_path / "link"
    link.symlink_to("/dev/no-such-disk")
    for path in ("/dev/no-such-disk", "/dev/../dev/no-such-disk", str(link)):
        with pytest.raises(TargetError):
            require_target(path)
