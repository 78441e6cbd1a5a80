"""An image in a virtual machine: its disks over NBD, each under an overlay, and QEMU started on them.

Answers: "which machine does this image need?" and "start it." Nothing of the image changes: what the guest writes goes
to the overlay. Used by ``prove``, which watches, and by ``run``, which leaves it to a person.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from stillframe.block import BlockWriter
from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.block.kept_overlay import KeptOverlay, open_overlay
from stillframe.block.overlay_format import Subject
from stillframe.errors import DamagedError
from stillframe.events import EventSink, Finding
from stillframe.host.apart import call_apart
from stillframe.host.qemu import (
    Acceleration,
    Bus,
    Display,
    Drive,
    Firmware,
    VirtualMachine,
    cpus_here,
    memory_here_mib,
    prepare,
    require_qemu,
)
from stillframe.host.qmp import QmpConnection, connect
from stillframe.host.run import Running, start
from stillframe.jobs.exposing import ExposedImage
from stillframe.repo.records import StoredDisk
from stillframe.serve.nbd import Export, NbdServer, nbd_server
from stillframe.systems.boot_way import BootWays, find_boot_ways


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """What a person wants of the machine; ``None`` lets the image or this computer decide."""

    firmware: Firmware | None = None
    bus: Bus | None = None
    memory_mib: int | None = None
    cpus: int | None = None
    acceleration: Acceleration = "tcg"
    display: Display = "none"
    network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinePlan:
    """What a machine for an image will be.

    Attributes:
        firmware: As asked for, or the way that the disk can be started; UEFI where it can be started both ways.
        boot_index: The disk that is started, from 0.
        buses: One for each disk.
        ways: How each disk can be started.
        is_bootable: Whether anything can be started.
    """

    firmware: Firmware
    boot_index: int
    buses: tuple[Bus, ...]
    ways: tuple[BootWays, ...]
    options: MachineOptions

    @property
    def is_bootable(self) -> bool:
        """Whether a disk can be started, as far as can be seen, or a way was asked for."""
        return any(way.is_bootable for way in self.ways) or self.options.firmware is not None

    @property
    def loaders(self) -> tuple[str, ...]:
        """Loaders that only the computer itself knew of."""
        return tuple(loader for way in self.ways for loader in way.loaders)

    @property
    def has_windows(self) -> bool:
        """Whether a Windows is on one of the disks."""
        return any(way.windows for way in self.ways)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A machine that was started."""

    machine: VirtualMachine
    running: Running
    qmp: QmpConnection
    server: NbdServer


def plan_machine(image: ExposedImage, options: MachineOptions) -> MachinePlan:
    """Decide by what is on the disks. Call it while no other thread of this process is at work.

    Raises:
        MissingProgram, MachineRefusal: QEMU or the firmware is missing here; or the disks cannot be read.
    """
    disks = [disk.reader for disk in image.disks]
    ways = tuple(call_apart(lambda disk=disk: find_boot_ways(disk), what="looking for what boots") for disk in disks)  # type: ignore[misc]
    boot_index = next((number for number, way in enumerate(ways) if way.is_bootable), 0)
    uefi = bool(ways) and (ways[boot_index].uefi or (not ways[boot_index].bios and bool(ways[boot_index].loaders)))
    windows = any(way.windows for way in ways)
    firmware: Firmware = options.firmware or ("uefi" if uefi else "bios")
    require_qemu(firmware, options.acceleration)
    return MachinePlan(
        firmware=firmware, boot_index=boot_index, ways=ways, options=options,
        buses=tuple(options.bus or choose_bus(disk.stored, windows=windows) for disk in image.disks),
    )  # fmt: skip


def choose_bus(disk: StoredDisk, *, windows: bool) -> Bus:
    """The kind of disk that the system has a driver for: the kind it was on, as far as its path tells.

    A Windows has none for virtio unless somebody installed it; SATA has only sectors of 512 bytes.
    """
    name = disk.path.rpartition("/")[2]
    if name.startswith("nvme"):
        return "nvme"
    if windows or name.startswith(("sd", "hd")):
        return "sata" if disk.sector_size == 512 else "nvme"
    return "virtio"


@contextmanager
def overlays_of(image: ExposedImage) -> Iterator[tuple[CopyOnWrite, ...]]:
    """For each disk an overlay that takes what is written, and is thrown away at the end."""
    with ExitStack() as stack:
        found = []
        for disk in image.disks:
            scratch = open_scratch(tempfile.gettempdir(), disk.reader.size)
            stack.callback(scratch.close)
            found.append(CopyOnWrite(disk.reader, scratch))
        yield tuple(found)


@contextmanager
def kept_overlays_of(image: ExposedImage, path: str) -> Iterator[tuple[KeptOverlay, ...]]:
    """The same in files that stay: ``path`` for the first disk, ``path.disk2`` and so on for the others.

    Raises:
        StillframeError: As ``open_overlay``, for a file that belongs to another disk, is in use or is damaged.
    """
    with ExitStack() as stack:
        found = []
        for number, disk in enumerate(image.disks):
            subject = Subject(
                image=bytes.fromhex(image.manifest.image), disk=disk.stored.number, partition=0, size=disk.reader.size
            )
            name = path if not number else f"{path}.disk{disk.stored.number}"
            found.append(stack.enter_context(open_overlay(name, disk.reader, subject)))
        yield tuple(found)


@contextmanager
def started(
    image: ExposedImage, plan: MachinePlan, overlays: Sequence[BlockWriter], events: EventSink, *, variables: str = ""
) -> Iterator[Guest]:
    """Start the machine; at the end of the block it is gone, and the overlays hold what it wrote.

    Args:
        image: Its disks.
        plan: What machine.
        overlays: One for each disk.
        events: Told of errors in reading.
        variables: What a firmware remembers, as another machine left it; by default nothing.

    Raises:
        MissingProgram, MachineRefusal: It cannot be started.
    """
    options = plan.options
    with tempfile.TemporaryDirectory(prefix="stillframe-") as folder:
        exports = [
            Export(name=f"disk{disk.stored.number}", disk=overlay, writer=overlay)
            for disk, overlay in zip(image.disks, overlays, strict=True)
        ]
        with nbd_server(exports, socket=f"{folder}/nbd", events=events) as server:
            machine = VirtualMachine(
                folder=folder, firmware=plan.firmware, boot_index=plan.boot_index,
                drives=tuple(
                    Drive(uri=server.uri(export.name), bus=bus, sector_size=disk.stored.sector_size)
                    for export, bus, disk in zip(exports, plan.buses, image.disks, strict=True)
                ),
                memory_mib=options.memory_mib or memory_here_mib(), cpus=options.cpus or cpus_here(),
                acceleration=options.acceleration, display=options.display, local_time=plan.has_windows,
                network=options.network, variables=variables,
            )  # fmt: skip
            with (
                start(prepare(machine), terminal=options.display == "serial") as running,
                connect(machine.path("qmp"), running) as qmp,
            ):
                yield Guest(machine=machine, running=running, qmp=qmp, server=server)


def refuse_disk_errors(findings: Sequence[Finding]) -> None:
    """Refuse a verdict about a machine that met errors of ours when it read its disks.

    Raises:
        DamagedError: It did.
    """
    if findings:
        raise DamagedError(
            f"the image could not be read while it ran: {findings[0].message}",
            hint="'stillframe verify IMAGE' tells what is damaged.",
        )
