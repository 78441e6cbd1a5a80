r"""For which processor an installed system is made.

Answers: "would this system start on the processor of that computer?" From the head of a program that every system of
its kind has; a registry that says it counts first (``windows``).

Sources: System V ABI, "ELF Header" (``e_ident``, ``e_machine``); the ``elf.h`` of Linux (numbers of machines);
Microsoft, "PE Format", sections "MS-DOS Stub", "COFF File Header" and "Machine Types".
"""

import struct
from typing import Final

from stillframe.errors import StillframeError
from stillframe.systems.records import SystemFiles

_HEAD_SIZE: Final = 4096
_ELF: Final = b"\x7fELF"
_ELF_BITS_AT, _ELF_ORDER_AT, _ELF_MACHINE_AT = 4, 5, 18
_ELF_MACHINES: Final = {
    (3, 1): "x86", (62, 2): "x86-64", (62, 1): "x32", (40, 1): "arm", (183, 2): "arm64", (243, 1): "riscv32",
    (243, 2): "riscv64", (20, 1): "ppc", (21, 2): "ppc64", (22, 2): "s390x", (8, 1): "mips", (8, 2): "mips64",
    (50, 2): "ia64", (258, 2): "loongarch64",
}  # fmt: skip
_PE_OFFSET_AT: Final = 0x3C
_PE_MACHINES: Final = {
    0x014C: "x86", 0x8664: "x86-64", 0xAA64: "arm64", 0x01C4: "arm", 0x01C0: "arm", 0x0200: "ia64", 0x5064: "riscv64",
}  # fmt: skip
_REGISTRY: Final = {"AMD64": "x86-64", "X86": "x86", "ARM64": "arm64", "ARM": "arm", "IA64": "ia64"}
# Programs that are files and no links in one or another Linux. The last ones are of Alpine and of a bare root.
_LINUX_PROGRAMS: Final = (
    "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/usr/bin/bash", "/bin/bash", "/usr/bin/dash", "/bin/dash",
    "/bin/busybox", "/usr/bin/busybox", "/sbin/init", "/usr/sbin/init", "/usr/bin/true", "/bin/true", "/bin/sh",
)  # fmt: skip


def parse_elf_machine(head: bytes) -> str:
    """The processor of an ELF program, by its first bytes; empty when they are none, or the machine is not known."""
    if len(head) < _ELF_MACHINE_AT + 2 or not head.startswith(_ELF) or head[_ELF_ORDER_AT] not in (1, 2):
        return ""
    machine = int.from_bytes(
        head[_ELF_MACHINE_AT : _ELF_MACHINE_AT + 2], "big" if head[_ELF_ORDER_AT] == 2 else "little"
    )
    name = _ELF_MACHINES.get((machine, head[_ELF_BITS_AT]), "")
    return f"{name}le" if name == "ppc64" and head[_ELF_ORDER_AT] == 1 else name


def parse_pe_machine(head: bytes) -> str:
    """The processor of a program of Windows or UEFI, by its first bytes; empty as above."""
    if len(head) < _PE_OFFSET_AT + 4 or not head.startswith(b"MZ"):
        return ""
    at = struct.unpack_from("<I", head, _PE_OFFSET_AT)[0]
    if at + 6 > len(head) or head[at : at + 4] != b"PE\0\0":
        return ""
    return _PE_MACHINES.get(struct.unpack_from("<H", head, at + 4)[0], "")


def name_registry_architecture(value: object) -> str:
    """What ``PROCESSOR_ARCHITECTURE`` of a registry means; empty when it is not known."""
    return _REGISTRY.get(value.upper(), "") if isinstance(value, str) else ""


def find_linux_architecture(files: SystemFiles) -> str:
    """The processor that the programs of a Linux are for; empty when none is found."""
    heads = (read_head(files, path) for path in _LINUX_PROGRAMS)
    return next((name for head in heads if (name := parse_elf_machine(head))), "")


def find_windows_architecture(files: SystemFiles, folder: str) -> str:
    """The processor that the kernel of a Windows is for; empty when it is not found.

    Args:
        files: Of its volume.
        folder: Such as ``/Windows``.
    """
    heads = (read_head(files, f"{folder}/System32/{name}") for name in ("ntoskrnl.exe", "ntdll.dll"))
    return next((name for head in heads if (name := parse_pe_machine(head))), "")


def read_head(files: SystemFiles, path: str) -> bytes:
    """The first bytes of a file; none when it is not there or cannot be read."""
    try:
        return files.read_file(path, 0, _HEAD_SIZE) or b""
    except StillframeError:
        return b""
