"""Chains of extended boot records made anew are read back as the partitions that they were made for."""

import subprocess
from pathlib import Path

import pytest

from stillframe.block.memory import MemoryDisk
from stillframe.disk.mbr import LogicalPartition, MbrEntry, read_chain
from stillframe.disk.mbr_chain import build_chain
from stillframe.errors import DiskFormatError

CONTAINER = MbrEntry(index=1, status=0, type_code=0x0F, first_lba=2048, size_sectors=60000)


def logical(start: int, size: int, code: int = 0x83) -> LogicalPartition:
    return LogicalPartition(status=0, type_code=code, first_lba=start, size_sectors=size)


def read_back(records: dict[int, bytes]) -> tuple[LogicalPartition, ...]:
    disk = MemoryDisk(bytearray(65536 * 512))
    for place, record in records.items():
        disk.write_at(place * 512, record)
    chain = read_chain(disk, CONTAINER, sector_size=512)
    assert not chain.notices
    assert chain.record_lbas == tuple(records)
    return chain.partitions


@pytest.mark.parametrize(
    "partitions",
    [
        [logical(4096, 100)],
        [logical(2049, 100), logical(2150, 100), logical(2300, 7, 0x82)],  # one sector between them
        [logical(30000, 100), logical(4096, 100), logical(10000, 5)],  # not in order
    ],
)
def test_a_chain_is_read_as_it_was_asked_for(partitions: list[LogicalPartition]) -> None:
    records = build_chain(b"", CONTAINER, partitions)
    assert read_back(records) == tuple(partitions)
    for place in records:
        assert not any(one.first_lba <= place < one.first_lba + one.size_sectors for one in partitions)


def test_it_is_what_sfdisk_writes(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(32 << 20))
    script = "label: dos\nstart=2048,size=60000,type=f\nstart=4096,size=8192,type=83\nstart=14336,size=8192,type=82\n"
    subprocess.run(["sfdisk", "-q", str(disk)], input=script, text=True, check=True, capture_output=True)
    raw = disk.read_bytes()
    built = build_chain(b"", CONTAINER, [logical(4096, 8192), logical(14336, 8192, 0x82)])
    for place, record in built.items():
        sector = raw[place * 512 : place * 512 + 512]
        for at in (446, 462):  # type, start and size; not the cylinders
            assert record[at + 4] == sector[at + 4]
            assert record[at + 8 : at + 16] == sector[at + 8 : at + 16]


def test_without_a_free_sector_it_is_refused() -> None:
    with pytest.raises(DiskFormatError, match="no sector is free"):
        build_chain(b"", CONTAINER, [logical(4096, 100), logical(4196, 100)])
    with pytest.raises(DiskFormatError, match="behind its partition"):
        build_chain(b"", CONTAINER, [logical(2048, 100)])


def test_a_first_record_that_names_something_else_is_refused() -> None:
    first = build_chain(b"", CONTAINER, [logical(4096, 100), logical(9000, 100)])[2048]
    assert build_chain(first, CONTAINER, [logical(4096, 100), logical(9000, 100)])[2048] == first
    for other in ([logical(4096, 100)], [logical(4096, 99), logical(9000, 100)]):
        with pytest.raises(DiskFormatError, match="names other partitions"):
            build_chain(first, CONTAINER, other)
