"""Volume groups made by LVM itself, on ranges of disk files, without the device mapper.

Answers: "where does a test get a volume group, and where do LVM's own tools say that its bytes lie?" LVM does not
activate what it makes here (lvm(8), ``--driverloaded n``): file systems are written to the places that ``lvs`` names.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.extents import Extent
from stillframe.testing.loops import attach_loop, detach_loop

GROUP: Final = "house"
MIB: Final = 1 << 20
_QUIET: Final = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LVM_SUPPRESS_FD_WARNINGS": "1"}
_NOT_ACTIVE: Final = ("-an", "-Zn", "-Wn", "-y")


@dataclass(frozen=True, slots=True, kw_only=True)
class LvmTools:
    """LVM's commands, which see these devices and no others."""

    devices: tuple[str, ...]

    def run(self, command: str, *words: str) -> str:
        """What a command prints; an ``AssertionError`` when it fails."""
        accepted = ", ".join(f'"a|^{device}$|"' for device in self.devices)
        config = (
            f'devices {{ use_devicesfile=0 filter=[{accepted}, "r|.*|"] md_component_detection=0 scan_lvs=0 }} '
            "backup { backup=0 archive=0 } global { event_activation=0 use_lvmpolld=0 } "
            "activation { udev_sync=0 udev_rules=0 }"
        )
        full = (command, "--driverloaded", "n", "--config", config, *words)
        done = subprocess.run(full, capture_output=True, text=True, check=False, env=_QUIET)  # noqa: S603 a test's tool
        if done.returncode:
            raise AssertionError(f"{command} {words} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def ask(self, command: str, columns: str, *words: str) -> list[list[str]]:
        """What ``lvs``, ``pvs`` or ``vgs`` shows in these columns; sizes in bytes."""
        form = ("--noheadings", "--nosuffix", "--units", "b", "--separator", ";")
        shown = self.run(command, *form, "-o", columns, *words)
        return [line.strip().split(";") for line in shown.splitlines()]

    def make_group(self, *, extent_size: str = "1m", physical: Sequence[str] = ()) -> None:
        """Physical volumes on all devices, and a group of them."""
        self.run("pvcreate", "-y", *physical, *self.devices)
        self.run("vgcreate", "-s", extent_size, GROUP, *self.devices)

    def make_volume(self, name: str, *words: str) -> None:
        """A logical volume; ``words`` as lvcreate takes them, devices last."""
        self.run("lvcreate", *_NOT_ACTIVE, "-n", name, words[0], words[1], GROUP, *words[2:])

    def make_striped(self, name: str, size: str, *, stripe_size: str = "64k") -> None:
        """A logical volume in stripes over two devices."""
        self.run("lvcreate", *_NOT_ACTIVE, "-n", name, "-i", "2", "-I", stripe_size, "-L", size, GROUP)

    def extend(self, name: str, size: str, device: str) -> None:
        """Make a volume larger, by extents of one device."""
        self.run("lvextend", "-y", "-L", size, f"{GROUP}/{name}", device)

    def segments(self, name: str) -> list[tuple[int, list[tuple[str, Extent]]]]:
        """The stripe size of each segment and, for each stripe, its device and its bytes there, by ``lvs``."""
        shown = self.ask("lvs", "seg_start_pe,stripe_size,seg_pe_ranges", f"{GROUP}/{name}")
        starts = dict(self.ask("pvs", "name,pe_start"))
        size = int(self.ask("vgs", "vg_extent_size")[0][0])
        found = []
        for row in sorted(shown, key=lambda one: int(one[0])):
            stripes = []
            for piece in row[2].split():
                device, ranges = piece.split(":")
                first, last = (int(word) for word in ranges.split("-"))
                base = int(starts[device])
                stripes.append((device, Extent(base + first * size, base + (last + 1) * size)))
            found.append((int(row[1]), stripes))
        return found

    def write_volume(self, name: str, contents: Path) -> None:
        """Put bytes where ``lvs`` says that the volume lies."""
        with contents.open("rb") as reading:
            for device, extent in self._pieces(name):
                with open(device, "r+b") as file:
                    file.seek(extent.start)
                    file.write(reading.read(extent.size))

    def read_volume(self, name: str, target: Path) -> Path:
        """Bring the bytes of a volume from where ``lvs`` says that they lie."""
        with target.open("wb") as writing:
            for device, extent in self._pieces(name):
                with open(device, "rb") as file:
                    file.seek(extent.start)
                    writing.write(file.read(extent.size))
        return target

    def _pieces(self, name: str) -> Iterator[tuple[str, Extent]]:
        """The bytes of a volume, in order."""
        for stripe_size, stripes in self.segments(name):
            each = stripes[0][1].size
            step = stripe_size if len(stripes) > 1 else each
            for row in range(0, each, step):
                for device, extent in stripes:
                    yield device, Extent(extent.start + row, extent.start + row + step)


@contextmanager
def lvm_on(*places: tuple[Path, Extent]) -> Iterator[LvmTools]:
    """LVM's tools for ranges of disk files, as loop devices."""
    devices = list[str]()
    try:
        for path, extent in places:
            options = ("--offset", str(extent.start), "--sizelimit", str(extent.size))
            devices.append(attach_loop(path, *options))
        yield LvmTools(devices=tuple(devices))
    finally:
        for device in devices:
            detach_loop(device)
