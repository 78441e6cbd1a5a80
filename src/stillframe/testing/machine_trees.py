"""Machines as trees of files, as the kernel shows them in ``/sys``, for tests that ask which drivers they need.

Answers: "where does a test get a laptop with Wi-Fi only, or one whose firmware set-up says RAID?" Written after
``Documentation/ABI`` of Linux and what such machines show; none of them is a copy of one computer.
"""

from dataclasses import dataclass
from pathlib import Path

from stillframe.host.blocks import KernelPaths


@dataclass(slots=True)
class MachineTree:
    """A machine that is put together piece by piece."""

    folder: Path

    @property
    def kernel(self) -> KernelPaths:
        """How it is asked."""
        return KernelPaths(
            sys=str(self.folder / "sys"), proc=str(self.folder / "proc"), dev="/dev",
            udev=str(self.folder / "udev"),
        )  # fmt: skip

    def add_pci(self, place: str, alias: str, *, driver: str = "", below: Path | None = None) -> Path:
        """A PCI device, of which the alias says all: ``pci:v00008086d0000A282sv...bc01sc04i00``."""
        folder = self.add_device(
            place, alias, driver=driver, below=below or self.folder / "sys/devices/pci0000:00", bus="pci"
        )
        vendor, device, kind = alias[9:13], alias[18:22], alias[-11:]
        (folder / "vendor").write_text(f"0x{vendor.lower()}\n")
        (folder / "device").write_text(f"0x{device.lower()}\n")
        (folder / "class").write_text(f"0x{kind[2:4]}{kind[6:8]}{alias[-2:]}\n".lower())
        return folder

    def add_device(self, place: str, alias: str, *, driver: str = "", below: Path, bus: str = "") -> Path:
        """A device on any bus."""
        folder = below / place
        folder.mkdir(parents=True)
        (folder / "modalias").write_text(alias + "\n")
        if driver:
            home = self.folder / "sys/bus/any/drivers" / driver
            module = self.folder / "sys/module" / driver.replace("-", "_")
            if not home.exists():
                module.mkdir(parents=True)
                home.mkdir(parents=True)
                (home / "module").symlink_to(module)
            (folder / "driver").symlink_to(home)
        if bus:
            listing = self.folder / "sys/bus" / bus / "devices"
            listing.mkdir(parents=True, exist_ok=True)
            (listing / place).symlink_to(folder)
        return folder

    def add_disk(self, name: str, device: Path, *, model: str = "", number: str = "8:0") -> None:
        """A disk that is reached through a device."""
        folder = device / "block" / name
        (folder / "queue").mkdir(parents=True)
        (folder / "dev").write_text(number + "\n")
        (folder / "size").write_text("2000000\n")
        if model:
            (device / "model").write_text(model + "\n")
        (folder / "device").symlink_to(device)
        top = self.folder / "sys/block"
        top.mkdir(parents=True, exist_ok=True)
        (top / name).symlink_to(folder)

    def add_network(self, name: str, device: Path, *, wireless: bool = False) -> None:
        """A network card."""
        folder = self.folder / "sys/class/net" / name
        folder.mkdir(parents=True)
        (folder / "device").symlink_to(device)
        (folder / "carrier").write_text("1\n")
        if wireless:
            (folder / "wireless").mkdir()

    def start_by(self, *, memory_kib: int = 16_000_000, secure_boot: bool | None = None, efi_bits: int = 64) -> None:
        """Its firmware and memory; ``efi_bits`` 0 is a BIOS."""
        (self.folder / "proc").mkdir(parents=True, exist_ok=True)
        (self.folder / "proc/meminfo").write_text(f"MemTotal:       {memory_kib} kB\nMemFree: 1 kB\n")
        if efi_bits:
            variables = self.folder / "sys/firmware/efi/efivars"
            variables.mkdir(parents=True)
            (variables.parent / "fw_platform_size").write_text(f"{efi_bits}\n")
            if secure_boot is not None:
                name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
                (variables / name).write_bytes(b"\x06\0\0\0" + bytes([secure_boot]))


AHCI = "pci:v00008086d0000A102sv000017AAsd0000225Abc01sc06i01"
RST = "pci:v00008086d0000282Asv00001028sd000007A8bc01sc04i00"
VMD = "pci:v00008086d00009A0Bsv00008086sd00000000bc01sc04i00"
NVME = "pci:v0000144Dd0000A809sv0000144Dsd0000A801bc01sc08i02"
XHCI = "pci:v00008086d0000A12Fsv000017AAsd0000225Abc0Csc03i30"
BRIDGE = "pci:v00008086d0000A110sv00000000sd00000000bc06sc04i00"
E1000E = "pci:v00008086d000015B7sv000017AAsd0000225Abc02sc00i00"
WIFI = "pci:v00008086d00002723sv00008086sd00000084bc02sc80i00"
UNKNOWN_SAS = "pci:v00001B4Bd00009999sv00001B4Bsd00009999bc01sc07i00"


def plain_machine(folder: Path) -> MachineTree:
    """A desktop: SATA disk behind AHCI, an NVMe disk behind a bridge, USB, one network socket."""
    tree = MachineTree(folder)
    ahci = tree.add_pci("0000:00:17.0", AHCI, driver="ahci")
    disk = tree.add_device("0:0:0:0", "scsi:t-0x00", driver="sd", below=ahci / "ata1/host0/target0:0:0")
    tree.add_disk("sda", disk, model="WDC WD40EZRZ")
    bridge = tree.add_pci("0000:00:1d.0", BRIDGE, driver="pcieport")
    nvme = tree.add_pci("0000:01:00.0", NVME, driver="nvme", below=bridge)
    (nvme / "nvme/nvme0").mkdir(parents=True)
    tree.add_disk("nvme0n1", nvme / "nvme/nvme0", model="Samsung SSD 970", number="259:0")
    tree.add_pci("0000:00:14.0", XHCI, driver="xhci_hcd")
    tree.add_network("eno1", tree.add_pci("0000:00:1f.6", E1000E, driver="e1000e"))
    tree.start_by(secure_boot=False)
    return tree
