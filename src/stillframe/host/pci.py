r"""Devices on the PCI bus of a computer, as Windows names them.

Answers: "which disk controllers has this machine, and by which ids would Windows look for their drivers?"

Sources: Linux, ``Documentation/ABI/testing/sysfs-bus-pci``; PCI Code and ID Assignment Specification, base class 01h;
Microsoft, "Identifiers for PCI devices" (the ids, and their order).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import UsageError
from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_text

_STORAGE: Final = 0x01
_RAID: Final = 0x0104
_GIVEN: Final = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})(?::([0-9a-f]{4}|[0-9a-f]{6}))?")
_KINDS: Final = {
    0x0100: "SCSI", 0x0101: "IDE", 0x0104: "RAID", 0x0106: "SATA", 0x0107: "SAS", 0x0108: "NVMe",
}  # fmt: skip
_USUAL: Final = {"0106": "010601", "0108": "010802"}
"""AHCI and NVM Express: hardly any SATA or NVMe controller has another interface."""
_DEVICES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PciDevice:
    """A device.

    Attributes:
        vendor, device: Its ids.
        kind: Its class code: base class, subclass, programming interface; ``None`` when not known.
        subsystem: Subsystem vendor and id; ``None`` when not known.
        revision: ``None`` when not known.
    """

    vendor: int
    device: int
    kind: int | None = None
    subsystem: tuple[int, int] | None = None
    revision: int | None = None

    @property
    def name(self) -> str:
        """For people: ``8086:a282 (RAID)``."""
        known = "" if self.kind is None else _KINDS.get(self.kind >> 8, f"class {self.kind:06x}")
        return f"{self.vendor:04x}:{self.device:04x}{f' ({known})' if known else ''}"

    @property
    def is_raid(self) -> bool:
        """Whether its disks are behind a RAID, which only its maker's driver knows."""
        return self.kind is not None and self.kind >> 8 == _RAID

    @property
    def ids(self) -> tuple[str, ...]:
        r"""What Windows looks for, the most special first, in upper case and without ``PCI\``."""
        own = f"VEN_{self.vendor:04X}&DEV_{self.device:04X}"
        found = list[str]()
        if self.subsystem is not None:
            vendor, device = self.subsystem
            exact = f"{own}&SUBSYS_{device:04X}{vendor:04X}"
            found += [f"{exact}&REV_{self.revision:02X}"] if self.revision is not None else []
            found.append(exact)
        kinds = [] if self.kind is None else [f"CC_{self.kind:06X}", f"CC_{self.kind >> 8:04X}"]
        found += [f"{own}&{kind}" for kind in kinds]
        found += [f"{own}&REV_{self.revision:02X}"] if self.revision is not None else []
        return (*found, own, *(f"VEN_{self.vendor:04X}&{kind}" for kind in kinds), *kinds)


def find_disk_controllers(kernel: KernelPaths = THIS_MACHINE) -> tuple[PciDevice, ...]:
    """The disk controllers of this machine, each kind once. None where the kernel tells of none."""
    return tuple(dict.fromkeys(_iter_controllers(f"{kernel.sys}/bus/pci/devices")))


def parse_controller(text: str) -> PciDevice:
    """A controller as a person writes it: ``8086:2922``, or with its class ``8086:2922:0106``.

    Raises:
        UsageError: It is written otherwise.
    """
    found = _GIVEN.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(
            f"{text!r} is no controller",
            hint="Write its two numbers, such as 8086:2922, as 'lspci -nn' shows them in that computer; "
            "with its class, such as 8086:2922:0106, its Windows can be told more.",
        )
    kind = _USUAL.get(found[3], found[3]) if found[3] else ""
    return PciDevice(
        vendor=int(found[1], 16), device=int(found[2], 16), kind=int(kind.ljust(6, "0"), 16) if kind else None
    )


def _iter_controllers(folder: str) -> Iterator[PciDevice]:
    try:
        names = sorted(os.listdir(folder))[:_DEVICES_MAX]
    except OSError:
        return
    for name in names:
        vendor, device, kind = (_number(f"{folder}/{name}/{what}") for what in ("vendor", "device", "class"))
        if vendor is None or device is None or kind is None or kind >> 16 != _STORAGE:
            continue
        maker, model = (_number(f"{folder}/{name}/subsystem_{what}") for what in ("vendor", "device"))
        yield PciDevice(
            vendor=vendor, device=device, kind=kind, revision=_number(f"{folder}/{name}/revision"),
            subsystem=None if maker is None or model is None else (maker, model),
        )  # fmt: skip


def _number(path: str) -> int | None:
    try:
        return int(read_text(path).strip(), 16)
    except ValueError:
        return None
