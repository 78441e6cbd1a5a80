"""What ``.inf`` files say, in the forms that Microsoft's documentation describes; and ids of devices on the PCI bus."""

from pathlib import Path

import pytest

from stillframe.errors import DiskFormatError
from stillframe.host.blocks import KernelPaths
from stillframe.host.pci import PciDevice, find_disk_controllers, parse_controller
from stillframe.systems.driver_file import ProgramFile, parse_program
from stillframe.systems.driver_inf import Architecture, DriverService, InfDriver, find_driver
from stillframe.testing.windows_adaptable import INF, build_program

VIRTIO = PciDevice(vendor=0x1AF4, device=0x1042, kind=0x010000, subsystem=(0x1AF4, 0x1100), revision=1)
TEN = (10, 0, 19045)


def find(
    text: str = INF, device: PciDevice = VIRTIO, architecture: Architecture = "amd64",
    version: tuple[int, int, int] = TEN, encoding: str = "latin-1",
) -> InfDriver | None:  # fmt: skip
    return find_driver(text.encode(encoding), device, architecture=architecture, version=version)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_driver_is_found_in_every_encoding(encoding: str, ending: str) -> None:
    found = find(INF.replace("\n", ending), encoding=encoding)
    assert found is not None
    assert found.ids == ("VEN_1AF4&DEV_1042&REV_01",)
    assert (found.class_name, found.class_guid) == ("SCSIAdapter", "{4D36E97B-E325-11CE-BFC1-08002BE10318}")
    assert found.service == DriverService(
        name="fast", file="fast.sys", kind=1, error_control=1, group="SCSI miniport",
        numbers=((r"Parameters\PnpInterface", "5", 1), ("Parameters", "BusType", 10)),
    )  # fmt: skip


def test_the_models_section_of_the_newest_windows_that_is_not_newer_counts() -> None:
    """Source: "INF Manufacturer Section": nt[Architecture].[Major].[Minor].[Product].[Suite].[Build]."""
    text = INF.replace("[Future_Install", "[Other").replace("99000", "16299")
    assert find(text, version=(6, 1, 7601)) is not None
    with pytest.raises(DiskFormatError, match=r"Future_Install\] has no services"):
        find(text)


def test_other_processors_have_sections_of_their_own() -> None:
    found = find(architecture="x86")
    assert found is not None
    assert found.ids == ("VEN_1AF4&DEV_1042",)
    assert find(architecture="arm64") is None
    undecorated = INF.replace("Models, NTamd64, NTamd64.10.0...99000, NTx86", "Models").replace(".NTx86]", "]")
    assert find(undecorated) is None, "64 bits must be named since Windows Server 2003 SP1"
    assert find(undecorated, architecture="x86") is not None


def test_a_device_that_is_known_in_part_fits_every_kind_of_it() -> None:
    text = INF.replace("&REV_01", "&SUBSYS_11001AF4&REV_01, PCI\\VEN_1AF4&DEV_1042&SUBSYS_00021AF4")
    found = find(text, parse_controller("1af4:1042"))
    assert found is not None
    assert found.ids == ("VEN_1AF4&DEV_1042&SUBSYS_00021AF4", "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01")
    exact = find(text)
    assert exact is not None
    assert exact.ids == ("VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01",)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[Version]", "[Other]", r"no \[Version\]"),
        ("[Fast_Install.Services]", "[Elsewhere]", "has no services"),
        ("0x00000002", "0x00000000", "names no service of the device"),
        ("ServiceType    = 1", "ServiceType    = 0x10", "no driver of the kernel"),
        ("fast.sys\nLoadOrderGroup", "fast.exe\nLoadOrderGroup", "no driver of the kernel"),
        ("AddService = fast,", "AddService = fa\\st,", "a name that is none"),
    ],
)
def test_what_cannot_be_followed_is_refused(old: str, new: str, words: str) -> None:
    assert old in INF
    with pytest.raises(DiskFormatError, match=words):
        find(INF.replace(old, new))


def test_other_classes_are_none_of_ours() -> None:
    assert find(INF.replace("SCSIAdapter", "Net")) is None
    assert find(device=parse_controller("8086:2922")) is None


def test_ids_are_those_that_microsoft_names_in_their_order() -> None:
    """Source: Microsoft, "Identifiers for PCI Devices"."""
    device = PciDevice(vendor=0x8086, device=0xA282, kind=0x010601, subsystem=(0x1028, 0x07A1), revision=4)
    assert device.ids == (
        "VEN_8086&DEV_A282&SUBSYS_07A11028&REV_04", "VEN_8086&DEV_A282&SUBSYS_07A11028", "VEN_8086&DEV_A282&CC_010601",
        "VEN_8086&DEV_A282&CC_0106", "VEN_8086&DEV_A282&REV_04", "VEN_8086&DEV_A282", "VEN_8086&CC_010601",
        "VEN_8086&CC_0106", "CC_010601", "CC_0106",
    )  # fmt: skip
    assert parse_controller("8086:A282:0106").ids[0] == "VEN_8086&DEV_A282&CC_010601"
    assert parse_controller("8086:a282").name == "8086:a282"


def test_controllers_of_this_machine_are_read_from_the_kernel(tmp_path: Path) -> None:
    for name, values in {
        "0000:00:17.0": {"vendor": "0x8086", "device": "0x9a0b", "class": "0x010400", "revision": "0x00",
                         "subsystem_vendor": "0x1028", "subsystem_device": "0x0a20"},
        "0000:00:1f.3": {"vendor": "0x8086", "device": "0xa0c8", "class": "0x040100"},
        "0000:01:00.0": {"vendor": "0x144d", "device": "0xa808", "class": "0x010802"},
        "0000:02:00.0": {"vendor": "rubbish", "device": "0xa808", "class": "0x010802"},
    }.items():  # fmt: skip
        folder = tmp_path / "bus" / "pci" / "devices" / name
        folder.mkdir(parents=True)
        for file, value in values.items():
            (folder / file).write_text(value + "\n")
    found = find_disk_controllers(KernelPaths(sys=str(tmp_path)))
    assert [one.name for one in found] == ["8086:9a0b (RAID)", "144d:a808 (NVMe)"]
    assert found[0].ids[0] == "VEN_8086&DEV_9A0B&SUBSYS_0A201028&REV_00"
    assert found[0].is_raid
    assert find_disk_controllers(KernelPaths(sys=str(tmp_path / "none"))) == ()


def test_programs_say_for_which_processors_they_are() -> None:
    for architecture in ("x86", "amd64", "arm64"):
        for signed in (False, True):
            raw = build_program(architecture, signed=signed)
            assert parse_program(raw, size=len(raw)) == ProgramFile(
                architecture=architecture, is_signed=signed
            )  # fmt: skip
    raw = build_program("amd64")
    assert parse_program(raw, size=2000) == ProgramFile(architecture="amd64", is_signed=False), "cut off"
    assert parse_program(b"MZ" + bytes(100), size=102) is None
    assert parse_program(b"", size=0) is None
