"""How this machine starts other systems: its firmware's mode, Secure Boot, memory and processor.

Answers: "would a medium for 64-bit PCs start here, and what would its firmware ask of it?"

Sources: UEFI Specification 2.10, 3.3 (``SecureBoot``); Linux Documentation/filesystems/efivarfs.rst (four bytes of
attributes before the contents), Documentation/ABI/testing/sysfs-firmware-efi (``fw_platform_size``); proc_meminfo(5).
"""

import os
import re
from dataclasses import dataclass
from typing import Final

from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_number, read_text

_SECURE_BOOT: Final = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_MEMORY: Final = re.compile(r"^MemTotal:\s+(\d{1,15}) kB", re.MULTILINE)
_NOTHING_WRITTEN: Final = frozenset(
    {"to be filled by o.e.m.", "system manufacturer", "system product name", "system serial number", "default string",
     "not specified", "not applicable", "none", "0"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUp:
    """How it starts.

    Attributes:
        processor: As the kernel names it, such as ``x86_64``.
        has_uefi: It was started by UEFI.
        efi_bits: 64 or 32; ``None`` without UEFI.
        secure_boot: Whether only what is signed starts; ``None`` where there is no such thing, or it cannot be read.
        memory: Bytes; 0 when not known.
        maker, product: What it says on the box; empty when not known.
    """

    processor: str
    has_uefi: bool
    efi_bits: int | None
    secure_boot: bool | None
    memory: int
    maker: str
    product: str


def read_start_up(kernel: KernelPaths = THIS_MACHINE, *, processor: str = "") -> StartUp:
    """Look at this machine. ``processor`` is for tests; by default the kernel is asked."""
    efi = f"{kernel.sys}/firmware/efi"
    has_uefi = os.path.isdir(efi)
    found = _MEMORY.search(read_text(f"{kernel.proc}/meminfo"))
    return StartUp(
        processor=processor or (os.uname().machine if hasattr(os, "uname") else ""), has_uefi=has_uefi,
        efi_bits=(read_number(f"{efi}/fw_platform_size") or 64) if has_uefi else None,
        secure_boot=_read_secure_boot(f"{efi}/efivars/{_SECURE_BOOT}"), memory=int(found[1]) << 10 if found else 0,
        maker=_dmi(kernel, "sys_vendor"), product=_dmi(kernel, "product_name"),
    )  # fmt: skip


def _read_secure_boot(path: str) -> bool | None:
    try:
        with open(path, "rb") as file:
            raw = file.read(8)
    except OSError:
        return None
    return raw[4] == 1 if len(raw) == 5 else None


def read_serial_number(kernel: KernelPaths = THIS_MACHINE) -> str:
    """The serial number that the maker gave this computer; empty where there is none, or where this is not root."""
    return _dmi(kernel, "product_serial")


def _dmi(kernel: KernelPaths, name: str) -> str:
    """A text of the firmware; makers who wrote nothing leave words such as these."""
    text = " ".join(read_text(f"{kernel.sys}/class/dmi/id/{name}").split())[:80]
    return "" if text.lower() in _NOTHING_WRITTEN else text
