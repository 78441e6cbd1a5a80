"""Disk files that are not what they say: every parser ends with an error of ours, in bounded time and memory."""

import functools
import random
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stillframe.block.formats import open_disk_file
from stillframe.errors import StillframeError
from stillframe.extents import Extent
from stillframe.testing.disk_files import (
    BAT_PLACE,
    DATA_STATE,
    Below,
    LogChange,
    VhdxPlan,
    build_log,
    build_vhd,
    build_vhdx,
    crc32c_by_bytes,
)

MIB = 1 << 20
FORMS = (
    "qcow2", "qcow2 -c", "qcow2 -o compression_type=zstd -c", "vpc", "vpc -o subformat=fixed", "vhdx", "vmdk",
    "vmdk -o subformat=streamOptimized", "vmdk -o subformat=monolithicFlat", "vdi",
)  # fmt: skip


@functools.cache
def samples() -> tuple[bytes, ...]:
    """Small files of every kind, as QEMU writes them, and those that it cannot make."""
    found = []
    content = random.Random(1).randbytes(70_000) + bytes(60_000) + b"words " * 10_000
    content += bytes(-len(content) % 4096)
    with tempfile.TemporaryDirectory() as name:
        raw, made = Path(name) / "raw", Path(name) / "made"
        raw.write_bytes(content)
        for form in FORMS:
            kind, *options = form.split()
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, *options, raw, made], check=True)
            found.append(made.read_bytes()[: 9 * MIB])
    log = build_log(
        [[LogChange(place=BAT_PLACE, data=bytes(4096)), LogChange(place=5 * MIB, zeros=4096)]], file_size=MIB
    )
    below = Below(state=str(DATA_STATE), name="nothing.vhdx")
    plans = [VhdxPlan(content=content, log=log), VhdxPlan(content=content, below=below, here={0: [True] * 2048})]
    found += [build_vhdx(plan) for plan in plans]
    content = content[: 2 * 65_536]
    found.append(build_vhd(content))
    found.append(build_vhd(content, below=Below(state=uuid.UUID(int=1).hex, name="nothing.vhd")))
    return tuple(found)


def examine(data: bytes) -> None:
    """Open, look at what is known, read here and there."""
    with tempfile.TemporaryDirectory(prefix="stillframe-fuzz-") as folder:  # a description may name files beside it
        path = f"{folder}/disk"
        Path(path).write_bytes(data)
        error = error_of_reading(path)
        if error is not None:
            assert path in error.message
            assert error.hint


def error_of_reading(path: str) -> StillframeError | None:
    try:
        with open_disk_file(path) as disk:
            for start in (0, disk.size // 2, max(0, disk.size - MIB)):
                part = Extent(start, min(start + MIB, disk.size))
                assert sum(known.extent.size for known in disk.known_extents(part)) == part.size
                assert len(disk.read_at(part.start, part.size)) == part.size
    except StillframeError as error:
        return error
    return None


def fuzz_disk_file(data: bytes) -> None:
    """Entry for a fuzzer: ``data`` is a disk file."""
    examine(data)


def fuzz_changed_disk_file(data: bytes) -> None:
    """Entry for a fuzzer: ``data`` says what is changed in which sample, with checksums made right again."""
    every = samples()
    number = data[0] % len(every) if data else 0
    raw = bytearray(every[number])
    for at in range(1, len(data) - 7, 8):
        place = int.from_bytes(data[at : at + 3], "big") % min(len(raw), (1 << 10) << data[at + 3] % 14)
        width = 1 + data[at + 3] % 8
        value = data[at + 4 : at + 8] * 2
        raw[place : place + width] = value[:width][: len(raw) - place]
    _seal(raw)
    examine(bytes(raw))


def _seal(raw: bytearray) -> None:
    """Make checksums of VHD and VHDX right, or they would refuse nearly every change at once."""
    for place, size in ((65_536, 4096), (131_072, 4096)):
        if raw[place : place + 4] == b"head":
            raw[place + 4 : place + 8] = bytes(4)
            checksum = crc32c_by_bytes(bytes(raw[place : place + size]))
            raw[place + 4 : place + 8] = checksum.to_bytes(4, "little")
    for place, at, size in ((0, 64, 512), (len(raw) - 512, 64, 512), (512, 36, 1024)):
        if place >= 0 and bytes(raw[place : place + 8]) in (b"conectix", b"cxsparse"):
            raw[place + at : place + at + 4] = bytes(4)
            total = ~sum(raw[place : place + size]) & 0xFFFF_FFFF
            raw[place + at : place + at + 4] = total.to_bytes(4, "big")


def test_the_samples_are_read_as_they_are() -> None:
    errors = []
    for data in samples():
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            error = error_of_reading(file.name)
            errors += [error.message] if error else []
    wanted = ("made-flat with the data is not there", "nothing.vhdx", "nothing.vhd")
    assert len(errors) == len(wanted)
    for message, words in zip(errors, wanted, strict=True):
        assert words in message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=9, max_size=80))
@example(b"\0" * 9)
def test_changed_disk_files(data: bytes) -> None:
    fuzz_changed_disk_file(data)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([b"QFI\xfb\0\0\0\3", b"QFI\xfb\0\0\0\2", b"vhdxfile", b"KDMV\1\0\0\0", b"conectix",
                     b'# Disk DescriptorFile\ncreateType="x"\n', b"COWD", b""]),
    st.binary(max_size=600),
)  # fmt: skip
def test_beginnings_of_disk_files(start: bytes, data: bytes) -> None:
    fuzz_disk_file(start + data)


@pytest.mark.parametrize("field", range(18))
@pytest.mark.parametrize("value", [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_every_field_of_a_qcow2_header_may_be_anything(field: int, value: int) -> None:
    raw = bytearray(samples()[0])
    raw[8 + 4 * field : 12 + 4 * field] = value.to_bytes(4, "big")
    examine(bytes(raw))


@pytest.mark.parametrize("field", range(19))
@pytest.mark.parametrize("value", [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_every_field_of_a_vmdk_header_may_be_anything(field: int, value: int) -> None:
    for sample in samples()[6:8]:
        raw = bytearray(sample)
        raw[4 + 4 * field : 8 + 4 * field] = value.to_bytes(4, "little")
        examine(bytes(raw))


LINES = st.sampled_from(
    ['RW 8 FLAT "x" 0', "RW 99999999999999999 ZERO", "RW 8 ZERO", "RW 0 ZERO", 'RW 8 SPARSE "../x"', "RW x FLAT",
     'RW 8 FLAT "" 0', "NOACCESS 8 ZERO", 'RW 8 VMFSRDM "x"', "CID=1", "parentCID=2", 'parentFileNameHint="y"',
     'createType="z"', "=", '"', 'RW 8 FLAT "/dev/null" 0'],
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, max_size=8))
def test_descriptions_of_vmware(lines: list[str]) -> None:
    examine("\n".join(["# Disk DescriptorFile", *lines]).encode())
