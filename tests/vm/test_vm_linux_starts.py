"""Debian systems that start under a new identity, and in a computer whose disk controller they have no driver for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.host.qemu import Firmware
from stillframe.jobs.proving import prove_image
from stillframe.jobs.restore import RestoreOptions
from stillframe.jobs.virtual import MachineOptions
from stillframe.store.local import LocalStore
from stillframe.testing.debian_disk import SWITCH_OFF_UNIT, make_debian_disk, root_of
from stillframe.testing.job_runs import backup_paths, job_context, make_repository, restore
from stillframe.testing.linux_disks import devices
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.virtual_machine import Drive, Machine

pytestmark = [pytest.mark.root, pytest.mark.vm]
LIMIT_S = 900


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian that finds its root by PARTUUID, and whose initramfs knows virtio-blk only."""
    disk = make_debian_disk(tmp_path_factory.mktemp("starts") / "disk.img")
    with devices(disk) as device:
        partuuid = run_tool("blkid", "-p", "-o", "value", "-s", "PART_ENTRY_UUID", f"{device}p3").strip()
        partuuid = partuuid or run_tool("sfdisk", "--part-uuid", str(disk), "3").strip().lower()
    with root_of(disk) as root, in_system(root):
        uuid = run_tool("findmnt", "-n", "-o", "UUID", str(root)).strip()
        for name in ("etc/fstab", "boot/grub/grub.cfg"):
            text = (
                (root / name).read_text().replace(f"root=UUID={uuid} ro", f"root=PARTUUID={partuuid} ro no_timer_check")
            )  # the emulated clock of a busy machine is not what is tested
            (root / name).write_text(text.replace(f"UUID={uuid} /", f"PARTUUID={partuuid} /"))
        (root / "etc/initramfs-tools/conf.d/modules").write_text("MODULES=list\n")
        (root / "etc/initramfs-tools/modules").write_text("virtio_pci\nvirtio_blk\next4\n")
        run_tool("chroot", str(root), "update-initramfs", "-u", "-k", "all")
        (root / "etc/systemd/system/off.service").write_text(SWITCH_OFF_UNIT)
    return disk


@contextmanager
def in_system(root: Path) -> Iterator[None]:
    """The folders of the kernel, for programs that are run in a root."""
    for name in ("proc", "sys", "dev"):
        run_tool("mount", "--bind", f"/{name}", str(root / name))
    try:
        yield
    finally:
        for name in ("proc", "sys", "dev"):
            unmount(root / name)


def put_back(debian: Path, folder: Path, options: RestoreOptions) -> Path:
    repository = make_repository(LocalStore(str(folder / "repository")), chunk_size=262_144)
    result = restore(repository, backup_paths(repository, debian).manifest, folder / "target", options=options)
    assert not result.may_not_start
    return folder / "target"


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_debian_starts_under_a_new_identity(debian: Path, tmp_path: Path, firmware: Firmware) -> None:
    target = put_back(debian, tmp_path, RestoreOptions(new_identity=True))
    repository = make_repository(LocalStore(str(tmp_path / "proof")), chunk_size=262_144)
    again = backup_paths(repository, target).manifest
    options = MachineOptions(firmware=firmware, memory_mib=1024, cpus=2)
    result = prove_image(repository, again, options=options, limit_s=LIMIT_S, context=job_context())
    assert result.outcome == "booted", result.reason


@pytest.mark.parametrize("adapt", [True, False])
def test_a_debian_without_the_driver_starts_only_adapted(debian: Path, tmp_path: Path, *, adapt: bool) -> None:
    """It leaves a file and switches itself off; without the driver for SCSI it waits in its initramfs for ever."""
    source = tmp_path / "source"
    shutil.copyfile(debian, source)
    with root_of(source) as root:
        run_tool("systemctl", f"--root={root}", "enable", "off.service")
    target = put_back(source, tmp_path, RestoreOptions(adapt=adapt))
    disk = ["-device", "virtio-scsi-pci,id=s", "-drive", f"file={target},format=raw,if=none,id=scsi0"]
    machine = Machine(folder=tmp_path, drives=list[Drive](), extra=[*disk, "-device", "scsi-hd,drive=scsi0,bus=s.0"])
    if adapt:
        machine.run(limit_s=LIMIT_S)
    else:
        with pytest.raises(AssertionError, match="did not end"):
            machine.run(limit_s=LIMIT_S / 3)
        assert "(initramfs)" in machine.tail()
    with root_of(target) as root:
        assert (root / "started").exists() == adapt
