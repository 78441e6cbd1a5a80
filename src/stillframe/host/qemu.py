"""A virtual machine of QEMU, from a record.

Answers: "with which command does this machine start?" and "which firmware is there on this computer?" By emulation
unless asked otherwise: that ``/dev/kvm`` opens does not mean that it works.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import MachineRefusal, MissingProgram
from stillframe.host.machine import cpu_count
from stillframe.host.run import find_program

Firmware = Literal["bios", "uefi", "secure-boot"]
Display = Literal["window", "vnc", "serial", "none"]
Bus = Literal["virtio", "sata", "nvme"]
Acceleration = Literal["tcg", "kvm"]
PROGRAM: Final = "qemu-system-x86_64"

# Code and variables of OVMF, where Debian, Ubuntu, Fedora and Arch put them. For Secure Boot the variables must hold
# Microsoft's keys: Debian's "ms", Fedora's "secboot".
_CODE: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "uefi": (
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
        ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    ),
    "secure-boot": (
        ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
    ),
}
# QEMU 7.2 emulates AVX2 wrongly: numpy in a guest sorted falsely, or crashed.
_PROCESSORS: Final = {"tcg": "max,avx2=off", "kvm": "host"}
_MEMORY_MIN_MIB: Final = 512
_MEMORY_UNKNOWN_MIB: Final = 2048
_MEMORY_MAX_MIB: Final = 4096
_CPUS_MAX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A disk of the machine: where QEMU reads it, how the guest sees it, and whether it may write."""

    uri: str
    bus: Bus = "virtio"
    sector_size: int = 512
    serial: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDrive:
    """A disk of the machine in a file of this computer.

    Attributes:
        path: The file, raw.
        use: ``stick``: read-only, on USB, and what the firmware starts; ``target``: it is written; ``throw-away``:
            what is written is forgotten at the end.
        bus: How the guest sees it; a stick is on USB.
        sector_size, serial: As the guest sees them.
    """

    path: str
    use: Literal["stick", "target", "throw-away"]
    bus: Bus = "virtio"
    sector_size: int = 512
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectKernel:
    """A kernel that is started without any firmware's help: its file, its initrd and its command line."""

    kernel: str
    initrd: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualMachine:
    """A machine.

    Attributes:
        folder: A private folder: its sockets, the logs of its serial line and firmware, the firmware's variables.
        drives: In order.
        boot_index: Which drive the firmware starts; ``None`` where one of ``files`` is, or a kernel.
        files: Further disks, which the guest meets before ``drives``.
        kernel: Started instead of a disk.
        given: Names of files that the guest reads from its firmware (``fw_cfg``), and where they are here.
        variables: A firmware's variables to begin with, as another machine left them; empty for new ones.
        local_time: The clock shows the time of this place, as Windows expects, not UTC.
        network: A network behind NAT; without it, no network card at all.
    """

    folder: str
    drives: tuple[Drive, ...]
    boot_index: int | None = 0
    files: tuple[FileDrive, ...] = ()
    kernel: DirectKernel | None = None
    given: tuple[tuple[str, str], ...] = ()
    variables: str = ""
    firmware: Firmware = "bios"
    memory_mib: int
    cpus: int
    acceleration: Acceleration = "tcg"
    display: Display = "none"
    local_time: bool = False
    network: bool = False

    def path(self, name: str) -> str:
        """A file of this machine: ``qmp``, ``serial``, ``firmware``, ``variables`` or ``scratch``."""
        return os.path.join(self.folder, name)


def memory_default_mib(total_bytes: int) -> int:
    """Half of this machine's memory, at least 512 MiB and at most 4 GiB."""
    return max(_MEMORY_MIN_MIB, min(_MEMORY_MAX_MIB, total_bytes // 2 >> 20))


def memory_here_mib() -> int:
    """``memory_default_mib`` of what is in this machine; 2 GiB where it does not say."""
    if sys.platform == "win32":
        return _MEMORY_UNKNOWN_MIB
    try:
        return memory_default_mib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        return _MEMORY_UNKNOWN_MIB


def cpus_here() -> int:
    """Processors for a machine: those of this one, at most 4."""
    return max(1, min(_CPUS_MAX, cpu_count()))


def find_firmware(firmware: Firmware, *, exists: Sequence[str] | None = None) -> tuple[str, str] | None:
    """The files of code and of variables; ``None`` for a BIOS, which is part of QEMU.

    Args:
        firmware: Which.
        exists: Only these files are there; ``None`` looks at this computer.

    Raises:
        MissingProgram: They are not installed.
    """
    if firmware == "bios":
        return None
    for code, variables in _CODE[firmware]:
        if all(os.path.exists(file) if exists is None else file in exists for file in (code, variables)):
            return code, variables
    raise MissingProgram(
        f"no OVMF firmware for {'Secure Boot' if firmware == 'secure-boot' else 'UEFI'} is installed",
        hint="On Debian or Ubuntu: sudo apt install ovmf. On Fedora: edk2-ovmf.",
    )


def require_qemu(firmware: Firmware, acceleration: Acceleration = "tcg") -> None:
    """Refuse when a machine cannot be started here.

    Raises:
        MissingProgram: QEMU or the firmware is not installed; the hint says how to.
        MachineRefusal: KVM was asked for, and cannot be used.
    """
    find_program(PROGRAM)
    find_firmware(firmware)
    if acceleration == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise MachineRefusal("/dev/kvm cannot be used by this user", hint="Leave '--accel kvm' out: slower, and works.")


def prepare(machine: VirtualMachine) -> list[str]:
    """The command of a machine; its firmware's variables are copied into its folder.

    Raises:
        MissingProgram: The firmware is not installed.
    """
    found = find_firmware(machine.firmware)
    if found is None:
        return build_command(machine, code="")
    code, variables = found
    shutil.copyfile(machine.variables or variables, machine.path("variables"))
    return build_command(machine, code=code)


def build_command(machine: VirtualMachine, *, code: str) -> list[str]:
    """The command of a machine. ``code`` is the firmware's file, for UEFI."""
    secure = machine.firmware == "secure-boot"
    command = [
        PROGRAM, "-name", "stillframe", "-nodefaults", "-no-user-config", "-machine",
        f"q35{',smm=on' if secure else ''}", "-accel",
        "tcg,thread=multi" if machine.acceleration == "tcg" else "kvm", "-cpu", _PROCESSORS[machine.acceleration],
        "-smp", str(machine.cpus), "-m", str(machine.memory_mib), "-device", "VGA",
        "-rtc", f"base={'localtime' if machine.local_time else 'utc'}",
        "-qmp", f"unix:{_escaped(machine.path('qmp'))},server=on,wait=off",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        "-device", "qemu-xhci", "-device", "usb-kbd", "-device", "usb-tablet",
        # What SeaBIOS says of itself. Source: SeaBIOS, docs/Debugging.md.
        "-chardev", f"file,id=firmware,path={_escaped(machine.path('firmware'))}",
        "-device", "isa-debugcon,iobase=0x402,chardev=firmware",
    ]  # fmt: skip
    if code:
        command += ["-drive", f"if=pflash,format=raw,readonly=on,file={_escaped(code)}"]
        command += ["-drive", f"if=pflash,format=raw,file={_escaped(machine.path('variables'))}"]
    if secure:
        # Only firmware may write the variables. Source: edk2, OvmfPkg/README, "SMM support".
        command += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
    command += ["-netdev", "user,id=net", "-device", "e1000e,netdev=net"] if machine.network else ["-nic", "none"]
    for number, file in enumerate(machine.files):
        command += _file_drive(number, file, first=len(machine.drives))
    for number, drive in enumerate(machine.drives):
        command += _drive(number, drive, boot=number == machine.boot_index)
    if machine.kernel is not None:
        direct = machine.kernel
        command += ["-kernel", direct.kernel, "-initrd", direct.initrd, "-append", direct.line]
    for name, path in machine.given:
        command += ["-fw_cfg", f"name={_escaped(name)},file={_escaped(path)}"]
    return [*command, *_display(machine)]


def _drive(number: int, drive: Drive, *, boot: bool) -> Iterable[str]:
    """A disk over NBD. The overlay behind it is thrown away or flushed by us, so QEMU need not wait for it."""
    name = f"disk{number}"
    node = f"driver=raw,node-name={name},file.driver=nbd,{_nbd_options(drive.uri)}"
    node += ",read-only=on" if drive.read_only else ",discard=unmap,detect-zeroes=unmap"
    index = ",bootindex=0" if boot else ""
    return ("-blockdev", node, "-device", _device(number, name, drive) + index)


def _file_drive(number: int, file: FileDrive, *, first: int) -> Iterable[str]:
    """A disk in a file. What a target holds need not survive a power cut of this computer."""
    name = f"file{number}"
    use = {"stick": "readonly=on", "throw-away": "snapshot=on", "target": "cache=unsafe"}[file.use]
    options = f"if=none,id={name},format=raw,file={_escaped(file.path)},{use}"
    if file.use == "stick":
        return ("-drive", options, "-device", f"usb-storage,drive={name},id=stick{number},removable=on,bootindex=0")
    options += ",discard=unmap,detect-zeroes=unmap"
    return ("-drive", options, "-device", _device(first + number, name, file))


def _device(number: int, name: str, drive: Drive | FileDrive) -> str:
    sizes = f",logical_block_size={drive.sector_size},physical_block_size={drive.sector_size}"
    serial = f",serial={_escaped(drive.serial)}" if drive.serial else ""
    devices = {
        "virtio": f"virtio-blk-pci,drive={name},id=dev{number}{sizes}{serial}",
        "sata": f"ide-hd,drive={name},id=dev{number},bus=ide.{number}{serial}",
        "nvme": f"nvme,drive={name},id=dev{number}{sizes}{serial or f',serial=disk{number}'}",
    }
    return devices[drive.bus]


def _nbd_options(uri: str) -> str:
    """The address ``nbd+unix:///NAME?socket=PATH`` as QEMU's own options: a URI cannot be given with others."""
    name, _, path = uri.removeprefix("nbd+unix:///").partition("?socket=")
    return f"file.server.type=unix,file.server.path={_escaped(path)},file.export={_escaped(name)}"


def _display(machine: VirtualMachine) -> list[str]:
    log = ["-chardev", f"file,id=serial,path={_escaped(machine.path('serial'))}", "-serial", "chardev:serial"]
    match machine.display:
        case "none":
            return ["-display", "none", *log]
        case "vnc":
            return ["-display", "none", "-vnc", "127.0.0.1:0,to=99", *log]
        case "window":
            return ["-display", "gtk", *log]
        case _:
            device = "stdio,id=serial,mux=on,signal=off"
            return ["-display", "none", "-chardev", device, "-serial", "chardev:serial", "-mon", "chardev=serial"]


def _escaped(text: str) -> str:
    """A comma in a value is written twice. Source: QEMU's qemu-option(7), "keyval" syntax."""
    return text.replace(",", ",,")
