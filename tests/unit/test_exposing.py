"""A stored image is the disk it was made from, whole and by its partitions."""

from dataclasses import replace

import pytest

from stillframe.block import MemoryDisk, ReadFault
from stillframe.errors import UsageError
from stillframe.extents import Extent
from stillframe.jobs.exposing import expose, expose_from
from stillframe.store import MemoryStore
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.job_runs import backup, make_repository

MIB = 1 << 20
PARTS = [Extent(1 * MIB, 3 * MIB), Extent(3 * MIB + 512, 5 * MIB + 1024)]


def partitioned() -> MemoryDisk:
    disk = MemoryDisk(bytes(8 * MIB))
    fill_with_noise(disk, Extent(0, disk.size), seed=1)
    write_gpt(disk, PARTS)
    return disk


def test_the_disk_and_its_partitions_are_what_was_saved() -> None:
    disk, repository = partitioned(), make_repository(MemoryStore())
    exposed = expose(repository, backup(repository, disk).manifest).disk(None)
    assert exposed.reader.read_at(0, disk.size) == disk.contents
    for number, extent in enumerate(PARTS, start=1):
        part = exposed.partition(number)
        assert part.reader.read_at(0, part.reader.size) == disk.contents[extent.start : extent.end]


def test_what_was_left_out_is_zeros_for_a_disk_and_a_fault_for_files() -> None:
    disk, repository = partitioned(), make_repository(MemoryStore())
    manifest = backup(repository, disk).manifest
    stored = manifest.disks[0]
    first = replace(stored.partitions[0], excluded=((4096, 8192),), unreadable=((20480, 24576),))
    manifest = replace(manifest, disks=(replace(stored, partitions=(first, *stored.partitions[1:])),))
    part = expose_from(repository.reader(), manifest).disk(1).partition(1)
    assert len(part.reader.read_at(0, 20480)) == 20480
    with pytest.raises(ReadFault, match="byte 4096 was left out of the image"):
        part.guarded(part.reader).read_at(0, 20480)
    for reader in (part.reader, part.guarded(part.reader)):
        with pytest.raises(ReadFault, match="byte 20480 could not be read when the image was made"):
            reader.read_at(20000, 1000)


def test_a_wrong_number_names_those_that_are_there() -> None:
    repository = make_repository(MemoryStore())
    image = expose(repository, backup(repository, partitioned(), partitioned()).manifest)
    with pytest.raises(UsageError, match=r"no disk was named .* it has 1 .*, 2 "):
        image.disk(None)
    with pytest.raises(UsageError, match="there is no disk 3"):
        image.disk(3)
    with pytest.raises(UsageError, match="no partition 7 on disk 2; it has 1, 2"):
        image.disk(2).partition(7)
