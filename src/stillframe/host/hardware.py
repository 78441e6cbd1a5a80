"""What hangs on the buses of this machine, and by which driver it works.

Answers: "through which devices does the kernel reach this disk or network card?" Each says by its modalias which
drivers fit; so it can be asked of another kernel whether it has one. Only sysfs is read.

Sources: Linux Documentation/ABI/testing/sysfs-bus-pci, sysfs-class-net, sysfs-devices-driver; kernel
``scripts/mod/file2alias.c`` (modaliases); ``drivers/ata/ahci.c`` (``remapped_nvme``); PCI Code and ID Assignment
Specification (classes).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.host.blocks import THIS_MACHINE, KernelPaths, names_in, read_number, read_text
from stillframe.host.disks import list_disks

Kind = Literal["disk", "controller", "wired", "wireless", "usb"]
_BRIDGE: Final = 0x06
_STORAGE: Final = 0x01
_NETWORK: Final = 0x02
_USB_HOST: Final = 0x0C03
_RAID: Final = 0x0104
_INTEL: Final = 0x8086
# Intel's Volume Management Device. Source: Linux drivers/pci/controller/vmd.c, vmd_ids.
_VMD: Final = frozenset({0x201D, 0x28C0, 0x467F, 0x4C3D, 0x7D0B, 0x9A0B, 0xA77F, 0xAD0B, 0xB06F, 0xB60B})
_DEVICES_MAX: Final = 4096
_DEPTH_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A device on the way to another one.

    Attributes:
        place: Its name on its bus, such as ``0000:00:17.0``.
        alias: Its modalias.
        driver: The driver that has it here; empty when none has.
        module: The module of that driver; empty when it is part of the kernel.
        pci_class: Base class, subclass, interface; ``None`` for what is not on PCI.
        pci_id: Vendor and device; ``None`` likewise.
    """

    place: str
    alias: str
    driver: str
    module: str
    pci_class: int | None = None
    pci_id: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A disk, controller or network card.

    Attributes:
        name: ``/dev/sda``, ``enp3s0``, or the place of a controller.
        kind: What it is.
        words: What it says on the box, where that is known.
        way: The devices through which it is reached, itself first.
        hidden: Disks of it that nobody sees in its present mode.
        is_connected: Of a network card: there is a carrier.
    """

    name: str
    kind: Kind
    words: str
    way: tuple[Link, ...]
    hidden: int = 0
    is_connected: bool = False

    @property
    def is_vmd(self) -> bool:
        """Whether it is, or is reached through, Intel's Volume Management Device."""
        return any(link.pci_id is not None and _is_vmd(link.pci_id) for link in self.way)

    @property
    def is_intel_raid(self) -> bool:
        """Whether it is an Intel controller whose firmware set-up says "RAID" (RST)."""
        first = self.way[0] if self.way else None
        if first is None or first.pci_id is None or first.pci_class is None:
            return False
        return first.pci_id[0] == _INTEL and first.pci_class >> 8 == _RAID and not _is_vmd(first.pci_id)


def find_hardware(kernel: KernelPaths = THIS_MACHINE) -> tuple[Hardware, ...]:
    """The disks, controllers and network cards of this machine."""
    return (*_iter_disks(kernel), *_iter_pci(kernel), *_iter_network(kernel))


def way_to(folder: str) -> tuple[Link, ...]:
    """The devices through which a device is reached, itself first: those that a driver must be found for.

    Bridges need none of their own. A device without a driver counts only when it is the first: nothing works through
    it.
    """
    here, found = os.path.realpath(folder), list[Link]()
    for _ in range(_DEPTH_MAX):
        if len(here) <= 1 or os.path.basename(here) == "devices":
            break
        link = _read_link(here)
        if link is not None and (link.driver or not found) and not _is_bridge(link):
            found.append(link)
        here = os.path.dirname(here)
    return tuple(found)


def _iter_disks(kernel: KernelPaths) -> Iterator[Hardware]:
    for facts in list_disks(kernel=kernel):
        if facts.is_hardware:
            name = os.path.basename(facts.path)
            yield Hardware(
                name=facts.path, kind="disk", words=facts.model, way=way_to(f"{kernel.sys}/block/{name}/device")
            )


def _iter_pci(kernel: KernelPaths) -> Iterator[Hardware]:
    top = f"{kernel.sys}/bus/pci/devices"
    for place in names_in(top)[:_DEVICES_MAX]:
        link = _read_link(f"{top}/{place}")
        if link is None or link.pci_class is None:
            continue
        hidden = read_number(f"{top}/{place}/remapped_nvme") or 0
        if link.pci_class >> 16 == _STORAGE or (link.pci_id is not None and _is_vmd(link.pci_id)):
            yield Hardware(name=place, kind="controller", words=_pci_words(link), way=(link,), hidden=max(0, hidden))
        elif link.pci_class >> 8 == _USB_HOST:
            yield Hardware(name=place, kind="usb", words=_pci_words(link), way=(link,))
        elif link.pci_class >> 16 == _NETWORK and not link.driver:
            kind: Kind = "wired" if link.pci_class >> 8 == 0x0200 else "wireless"
            yield Hardware(name=place, kind=kind, words=_pci_words(link), way=(link,))


def _iter_network(kernel: KernelPaths) -> Iterator[Hardware]:
    top = f"{kernel.sys}/class/net"
    for name in names_in(top)[:_DEVICES_MAX]:
        folder = f"{top}/{name}"
        if not os.path.exists(f"{folder}/device"):
            continue  # a bridge, a tunnel: the kernel makes it up
        is_wireless = any(os.path.exists(f"{folder}/{mark}") for mark in ("wireless", "phy80211"))
        way = way_to(f"{folder}/device")
        yield Hardware(
            name=name, kind="wireless" if is_wireless else "wired", words=_pci_words(way[0]) if way else "", way=way,
            is_connected=read_number(f"{folder}/carrier") == 1,
        )  # fmt: skip


def _read_link(folder: str) -> Link | None:
    alias = read_text(f"{folder}/modalias")
    if not alias:
        return None
    numbers = [_number(f"{folder}/{name}") for name in ("class", "vendor", "device")]
    kind, vendor, device = numbers if alias.startswith("pci:") else (None, None, None)
    return Link(
        place=os.path.basename(os.path.realpath(folder)), alias=alias, driver=_target(f"{folder}/driver"),
        module=_target(f"{folder}/driver/module"), pci_class=kind,
        pci_id=None if vendor is None or device is None else (vendor, device),
    )  # fmt: skip


def _target(link: str) -> str:
    """The last name of where a symbolic link leads; empty when it is none."""
    return os.path.basename(os.path.realpath(link)) if os.path.lexists(link) else ""


def _number(path: str) -> int | None:
    try:
        return int(read_text(path), 16)
    except ValueError:
        return None


def _is_bridge(link: Link) -> bool:
    return link.pci_class is not None and link.pci_class >> 16 == _BRIDGE


def _is_vmd(pci_id: tuple[int, int]) -> bool:
    return pci_id[0] == _INTEL and pci_id[1] in _VMD


def _pci_words(link: Link) -> str:
    return "" if link.pci_id is None else f"{link.pci_id[0]:04x}:{link.pci_id[1]:04x}"
