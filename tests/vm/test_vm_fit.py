"""Debian systems that come back on larger and smaller disks, and start."""

import os
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.disk import read_layout
from stillframe.host.qemu import Firmware
from stillframe.jobs.proving import prove_image
from stillframe.jobs.restore import RestoreOptions
from stillframe.jobs.virtual import MachineOptions
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store.local import LocalStore
from stillframe.testing.debian_disk import make_debian_disk
from stillframe.testing.job_runs import backup_paths, clone_fitted, job_context, make_repository, restore
from stillframe.testing.real_disks import hash_file
from stillframe.testing.tools import run_tool

pytestmark = [pytest.mark.root, pytest.mark.vm]
LIMIT_S = 600


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, Manifest]:
    folder = tmp_path_factory.mktemp("fit")
    repository = make_repository(LocalStore(str(folder / "repository")), chunk_size=262_144)
    return repository, backup_paths(repository, make_debian_disk(folder / "disk.img")).manifest


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("size", [1300 << 20, 3 << 30])
def test_a_debian_starts_from_a_disk_of_another_size(
    saved: tuple[Repository, Manifest], tmp_path: Path, size: int, firmware: Firmware
) -> None:
    repository, manifest = saved
    target = tmp_path / "target"
    target.touch()
    os.truncate(target, size)
    restore(repository, manifest, target, options=RestoreOptions(fit=True))
    assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    with open_file_reader(str(target)) as reader:
        assert 0 <= size - read_layout(reader).partitions[-1].extent.end < 2 << 20
    again = backup_paths(repository, target).manifest
    options = MachineOptions(firmware=firmware, memory_mib=1024, cpus=2)
    result = prove_image(repository, again, options=options, limit_s=LIMIT_S, context=job_context())
    assert result.outcome == "booted", result.reason


def test_a_debian_starts_from_a_smaller_disk_that_it_was_cloned_onto(tmp_path: Path) -> None:
    """Without a repository; one is made only to start what came out."""
    source, target = make_debian_disk(tmp_path / "source.img"), tmp_path / "target"
    before = hash_file(source)
    target.touch()
    os.truncate(target, 1300 << 20)
    clone_fitted(source, target, RestoreOptions(fit=True))
    assert hash_file(source) == before
    assert "No problems found" in run_tool("sgdisk", "-v", str(target))
    repository = make_repository(LocalStore(str(tmp_path / "repository")), chunk_size=262_144)
    manifest = backup_paths(repository, target).manifest
    for firmware in ("bios", "uefi"):
        options = MachineOptions(firmware=firmware, memory_mib=1024, cpus=2)
        result = prove_image(repository, manifest, options=options, limit_s=LIMIT_S, context=job_context())
        assert result.outcome == "booted", (firmware, result.reason)
