r"""Disks with a Windows of each kind whose disk drivers are partly off, and drivers for them.

Answers: "what does a Windows that was never near that disk controller look like?" The keys and values are those that
were read in the registries of a Windows 7, 8.1 and 10, and in Microsoft's KB 314082 for Windows XP; only few of them.
Programs are headers without code. None of it was made by Windows.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.testing.hive_builder import Tree, build_hive
from stillframe.testing.system_disks import GPT_DISK, TYPES, Part, build_system_disk
from stillframe.testing.windows_backup import boot_store, gpt_device, mbr_device

Below = dict[str, "Tree | str | int | bytes"]
MIB: Final = 1 << 20
MACHINES: Final = {"x86": 0x014C, "amd64": 0x8664, "arm64": 0xAA64}
SIGNATURE: Final = 0x5EADBEEF
ESP_GUID, WINDOWS_GUID = "D0C1B2A1-9999-4999-9999-665544332211", "D0C1B2A3-9999-4999-9999-665544332211"
_HDC: Final = "{4D36E96A-E325-11CE-BFC1-08002BE10318}"
_FOLDERS: Final = {"xp": "WINDOWS", "7": "Windows", "10": "Windows"}


def build_program(architecture: str, *, signed: bool = True, size: int = 4096) -> bytes:
    """The headers of a program. Source: Microsoft, "PE Format"."""
    raw = bytearray(size)
    raw[:2] = b"MZ"
    struct.pack_into("<I", raw, 60, 128)
    is_wide = architecture != "x86"
    raw[128:132] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", raw, 132, MACHINES[architecture], 1, 0, 0, 0, 240 if is_wide else 224, 0x22)
    struct.pack_into("<H", raw, 152, 0x20B if is_wide else 0x10B)
    if signed:
        struct.pack_into("<II", raw, 152 + (144 if is_wide else 128), size - 512, 512)
        raw[-512:] = b"\x5a" * 512
    return bytes(raw)


def service(file: str, start: int, *, override: bool = False, group: str = "SCSI Miniport") -> Tree:
    """A driver's service."""
    found: Below = {
        "Type": 1, "Start": start, "ErrorControl": 3, "Group": group, "ImagePath": file,
    }  # fmt: skip
    return found | {"StartOverride": {"0": 3}} if override else found


def known_device(inf: str, device: str, name: str) -> Tree:
    """What a ``DriverDatabase`` has of a driver of Windows' own, below its four keys."""
    label, several = f"{inf}_amd64_798a5c267d576f00", f"{name}_Inst\0\0".encode("utf-16-le")
    return {
        "DeviceIds": {"PCI": {device: {inf: b"\1\xff\0\0"}}},
        "DriverInfFiles": {inf: {"": f"{label}\0\0".encode("utf-16-le"), "Active": label, "Configurations": several}},
        "DriverPackages": {
            label: {
                "Configurations": {f"{name}_Inst": {"Service": name, "ConfigFlags": 0}},
                "Descriptors": {"PCI": {device: {"Configuration": f"{name}_Inst"}}},
            }
        },
    }


def _merged(*trees: Tree) -> Below:
    """Trees laid over one another."""
    made: Below = {}
    for tree in trees:
        for name, value in tree.items():
            known = made.get(name)
            both = isinstance(known, Mapping) and isinstance(value, Mapping)
            made[name] = _merged(known, value) if both else value  # type: ignore[arg-type]
    return made


def system_tree(kind: str) -> Tree:
    """A ``SYSTEM``, of Windows ``xp``, ``7`` or ``10``."""
    select: Below = {"Current": 1, "Default": 1, "Failed": 0, "LastKnownGood": 2}
    others: Below = {"Tcpip": {"Start": 1, "Type": 1}, "disk": service("disk.sys", 0), "Spooler": {"Start": 2}}
    if kind == "xp":
        services: Below = {
            "atapi": service(r"system32\DRIVERS\atapi.sys", 0), "IntelIde": service("", 4, group="System Bus Extender"),
            **others,
        }  # fmt: skip
        critical: Below = {"gendisk": {"Service": "disk"}, "PCI#CC_0101": {"ClassGUID": _HDC, "Service": "viaide"}}
        sets: Below = {"Services": services, "Control": {"CriticalDeviceDatabase": critical}}
        return {"Select": {**select, "LastKnownGood": 1}, "ControlSet001": sets}
    if kind == "7":
        services = {
            "msahci": service(r"\SystemRoot\system32\drivers\msahci.sys", 3), "atapi": service("", 0),
            "iaStorV": service(r"\SystemRoot\system32\drivers\iaStorV.sys", 3), "pciide": service("", 3),
            "LSI_SAS": service(r"\SystemRoot\system32\drivers\lsi_sas.sys", 0), **others,
        }  # fmt: skip
        critical = {"PCI#VEN_1000&DEV_0054": {"Service": "LSI_SAS", "ClassGUID": "{4D36E97B}"}}
        sets = {"Services": services, "Control": {"CriticalDeviceDatabase": critical}}
        return {"Select": {**select, "LastKnownGood": 1}, "ControlSet001": sets, "ControlSet002": {"Services": others}}
    services = {
        "storahci": service(r"System32\drivers\storahci.sys", 0),
        "stornvme": service(r"System32\drivers\stornvme.sys", 0, override=True),
        "LSI_SAS": service(r"System32\drivers\lsi_sas.sys", 3, override=True),
        "iaStorAVC": service(r"System32\drivers\iaStorAVC.sys", 3, override=True),  # its file is not there
        "notours": service(r"System32\drivers\notours.sys", 3, override=True), **others,
    }  # fmt: skip
    database = _merged(
        known_device("mshdc.inf", "CC_010601", "storahci"), known_device("stornvme.inf", "CC_010802", "stornvme"),
        known_device("lsi_sas.inf", "VEN_1000&DEV_0054", "LSI_SAS"), known_device("gone.inf", "CC_0107", "gone"),
    )  # fmt: skip
    sets = {"Services": services, "Control": {"ComputerName": {"x": 1}}}
    return {"Select": select, "ControlSet001": sets, "ControlSet002": sets, "DriverDatabase": database}


def software_tree(kind: str) -> Tree:
    """A ``SOFTWARE``."""
    known: dict[str, Below] = {
        "xp": {"CurrentVersion": "5.1", "ProductName": "Microsoft Windows XP", "CurrentBuildNumber": "2600"},
        "7": {"CurrentVersion": "6.1", "ProductName": "Windows 7 Professional", "CurrentBuildNumber": "7601"},
        "10": {
            "CurrentVersion": "6.3", "CurrentMajorVersionNumber": 10, "CurrentMinorVersionNumber": 0,
            "ProductName": "Windows 10 Pro", "CurrentBuildNumber": "19045",
        },
    }  # fmt: skip
    return {"Microsoft": {"Windows NT": {"CurrentVersion": known[kind]}}}


_DRIVERS: Final = {
    "xp": ("atapi", "intelide", "pciide"),
    "7": ("msahci", "atapi", "pciide", "iaStorV", "lsi_sas"),
    "10": ("storahci", "stornvme", "lsi_sas", "notours"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptableDisk:
    """A disk with a Windows.

    Attributes:
        path: The disk.
        number, start, size: Of the partition of Windows, in bytes.
        folder: The name of Windows' folder.
    """

    path: Path
    number: int
    start: int
    size: int
    folder: str

    def cut(self, disk: Path, target: Path) -> Path:
        """The volume of Windows on a disk like this one, in a file."""
        with disk.open("rb") as file:
            file.seek(self.start)
            target.write_bytes(file.read(self.size))
        return target


def windows_files(kind: str, *, system: bytes | None = None, architecture: str = "amd64") -> dict[str, bytes]:
    """The files of a Windows that count here, and a few others."""
    folder = _FOLDERS[kind]
    files = {
        f"{folder}/system32/config/SYSTEM": build_hive(system_tree(kind)) if system is None else system,
        f"{folder}/system32/config/SOFTWARE": build_hive(software_tree(kind)),
        f"{folder}/system32/cmd.exe": build_program(architecture, size=9000),
        f"{folder}/notepad.exe": bytes(range(256)) * 300,
        "Users/Anna/letter.txt": b"Dear Anna",
    }
    for name in _DRIVERS[kind]:
        files[f"{folder}/system32/drivers/{name}.sys"] = build_program(architecture, size=6000)
    return files


def build_windows(
    path: Path, kind: str, *, system: bytes | None = None, architecture: str = "amd64",
    extra: Mapping[str, bytes] | None = None, fallback: bool = False,
) -> AdaptableDisk:  # fmt: skip
    """A disk: ESP and Windows for ``10``, a boot partition and Windows for ``7``, only Windows for ``xp``."""
    files = {**windows_files(kind, system=system, architecture=architecture), **(extra or {})}
    if kind == "10":
        store = boot_store(gpt_device(GPT_DISK, ESP_GUID), gpt_device(GPT_DISK, WINDOWS_GUID))
        loader = build_program("amd64", size=70_000)
        boot = {"EFI/Microsoft/Boot/BCD": store, "EFI/Microsoft/Boot/bootmgfw.efi": loader}
        boot |= {"EFI/Boot/bootx64.efi": b"of another system"} if fallback else {}
        parts = [
            Part(size=36 * MIB, type=TYPES["esp"], kind="vfat", guid=ESP_GUID, files=boot),
            Part(size=16 * MIB, type=TYPES["basic"], kind="ntfs", guid=WINDOWS_GUID, files=files),
        ]
        starts = build_system_disk(path, "gpt", GPT_DISK, parts)
    elif kind == "7":
        store = boot_store(mbr_device(SIGNATURE, MIB), mbr_device(SIGNATURE, 9 * MIB))
        boot = {"bootmgr": b"code", "Boot/BCD": store}
        parts = [
            Part(size=8 * MIB, type="7", kind="ntfs", files=boot, active=True),
            Part(size=16 * MIB, type="7", kind="ntfs", files=files),
        ]
        starts = build_system_disk(path, "dos", f"0x{SIGNATURE:x}", parts)
    else:
        parts = [Part(size=16 * MIB, type="7", kind="ntfs", active=True, files={"ntldr": b"code", **files})]
        starts = build_system_disk(path, "dos", f"0x{SIGNATURE:x}", parts)
    return AdaptableDisk(
        path=path, number=len(parts), start=starts[-1], size=parts[-1].size, folder=_FOLDERS[kind]
    )  # fmt: skip


INF: Final = r"""; a driver as its maker would give it
[Version]
Signature = "$WINDOWS NT$"
Class     = SCSIAdapter
ClassGuid = {4D36E97B-E325-11CE-BFC1-08002BE10318}
Provider  = %Maker%
CatalogFile = fast.cat

[Manufacturer]
%Maker% = Models, NTamd64, NTamd64.10.0...99000, NTx86

[Models.NTamd64]
%Fast.Name% = Fast_Install, PCI\VEN_1AF4&DEV_1042&REV_01, PCI\VEN_1AF4&DEV_1001
[Models.NTamd64.10.0...99000]
%Fast.Name% = Future_Install, PCI\VEN_1AF4&DEV_1042
[Models.NTx86]
%Fast.Name% = Fast_Install, PCI\VEN_1AF4&DEV_1042

[Fast_Install]
CopyFiles = @fast.sys
[Fast_Install.Services]
AddService = fast, 0x00000002, Fast_Service ; that of the device

[Fast_Service]
DisplayName    = %Fast.Name%
ServiceType    = 1
StartType      = 0
ErrorControl   = 1
ServiceBinary  = %12%\fast.sys
LoadOrderGroup = "SCSI miniport"
AddReg         = Fast_Registry

[Fast_Registry]
HKR, "Parameters\PnpInterface", "5", 0x00010001, 0x00000001
HKR, "Parameters", "BusType", %REG_DWORD%, \
    0x0000000A
HKLM, "Elsewhere", "No", %REG_DWORD%, 1

[Strings]
Maker     = "Maker, Inc."
Fast.Name = "Fast; the controller"
REG_DWORD = 0x00010001
"""
"""A driver for a virtio disk controller."""


def make_driver_folder(
    folder: Path, *, inf: str = INF, architecture: str = "amd64", signed: bool = True, encoding: str = "utf-16"
) -> Path:
    """A folder as a maker's download unpacks to."""
    inner = folder / "Storage" / "w10"
    inner.mkdir(parents=True)
    (inner / "Fast.INF").write_bytes(inf.replace("\n", "\r\n").encode(encoding))
    (inner / "FAST.sys").write_bytes(build_program(architecture, signed=signed, size=8192))
    (inner / "fast.cat").write_bytes(b"catalog")
    return folder
