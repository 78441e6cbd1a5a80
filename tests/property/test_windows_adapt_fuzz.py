"""Drivers and registries with bytes changed at random: an answer or an error of ours, never a hive that is worse."""

import random

import pytest

from stillframe.errors import StillframeError
from stillframe.host.pci import PciDevice
from stillframe.systems.driver_file import parse_program
from stillframe.systems.driver_inf import Architecture, find_driver
from stillframe.systems.hive_cells import HiveCells
from stillframe.systems.hive_writer import HiveWriter, number_value
from stillframe.systems.windows_adapt import WindowsKind, adapt_system
from stillframe.testing.hive_builder import build_hive
from stillframe.testing.windows_adaptable import INF, build_program, system_tree

DEVICE = PciDevice(vendor=0x1AF4, device=0x1042, kind=0x010000)
ARCHITECTURES: tuple[Architecture, ...] = ("amd64", "x86", "arm64")


def fuzz_driver_inf(data: bytes) -> None:
    """Any bytes name a driver with a plain file name, none, or are refused."""
    for architecture in ARCHITECTURES:
        try:
            found = find_driver(data, DEVICE, architecture=architecture, version=(10, 0, 19045))
        except StillframeError:
            continue
        if found is not None:
            assert not set('\\/:*?"<>|') & set(found.service.name + found.service.file)
            assert found.service.kind == 1


def fuzz_hive_writer(data: bytes) -> None:
    """What was written is a hive whose cells all fit, or nothing was."""
    try:
        writer = HiveWriter.open(data)
        writer.set_value(r"ControlSet001\Services\storahci", number_value("Start", 0))
        writer.delete_key(r"ControlSet001\Services\stornvme\StartOverride")
        written = writer.finish()
        adapted = adapt_system(
            data, WindowsKind(architecture="amd64", version=(10, 0, 1)), has_driver=lambda _: True,
            controllers=[DEVICE], added=[],
        ).contents  # fmt: skip
    except StillframeError:
        return
    HiveCells.open(written)
    HiveCells.open(adapted)


def fuzz_driver_file(data: bytes) -> None:
    """Any bytes are a program or none."""
    parse_program(data, size=len(data))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_changed_inf_files_end_in_an_answer_or_an_error_of_ours(encoding: str) -> None:
    source, whole = random.Random(encoding), INF.encode(encoding)
    for _ in range(400):
        changed = bytearray(whole)
        for _ in range(source.randrange(1, 8)):
            changed[source.randrange(len(changed))] = source.choice(b'\0[]=,"%\\;.\r\n 0xF')
        fuzz_driver_inf(bytes(changed))


@pytest.mark.parametrize("lists", ["lf", "lh", "li", "ri"])
def test_changed_hives_are_refused_or_stay_whole(lists: str) -> None:
    source, whole = random.Random(lists), build_hive(system_tree("10"), lists=lists)
    for _ in range(60):
        changed = bytearray(whole)
        for _ in range(source.randrange(1, 5)):
            # behind the base block, whose checksum would refuse every change
            changed[source.randrange(4096, len(changed))] = source.choice(
                (0, 1, 0x7F, 0x80, 0xFF, source.randrange(256))
            )
        fuzz_hive_writer(bytes(changed))


def test_changed_programs_are_read() -> None:
    source, whole = random.Random(1), build_program("amd64")
    for _ in range(500):
        changed = bytearray(whole[: source.randrange(len(whole))])
        for _ in range(source.randrange(0, 8) if changed else 0):
            changed[source.randrange(len(changed))] = source.randrange(256)
        fuzz_driver_file(bytes(changed))
