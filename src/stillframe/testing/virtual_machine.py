"""Virtual machines under QEMU, for tests that need another kernel or a boot.

Answers: "run this machine to its end and tell me what it said." Software emulation only: a nested hypervisor that
claims to work may not boot anything. The machine ends by switching itself off, within a time limit.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FIRMWARE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")  # Debian package ovmf
VARIABLES: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
# QEMU 7.2 emulates AVX2 wrongly: numpy.argsort of ten 64-bit numbers may be in the wrong order, or a fault. The same
# code is right on a processor with AVX2, and under QEMU without it.
PROCESSOR: Final = "max,avx2=off"
_SHOWN: Final = 60
# What a disk is attached to: devices before it, and its own. SeaBIOS and Linux know all of them, OVMF all but megasas.
_BUSES: Final = {
    "virtio": ("", "virtio-blk-pci"),
    "ahci": ("", "ide-hd,bus=ide.{number}"),
    "nvme": ("", "nvme"),
    "virtio-scsi": ("virtio-scsi-pci,id=hba{number}", "scsi-hd,bus=hba{number}.0"),
    "pvscsi": ("pvscsi,id=hba{number}", "scsi-hd,bus=hba{number}.0"),
    "megasas": ("megasas,id=hba{number}", "scsi-hd,bus=hba{number}.0"),
}
VERDICT_PORT: Final = 0x501
"""Of QEMU's isa-debug-exit: a byte N written to it ends the machine with the exit code 2 N + 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A virtual disk. ``serial`` is what the guest knows it by: ``/dev/disk/by-id/virtio-SERIAL``.

    ``bus`` is ``virtio``, ``ahci``, ``nvme``, ``virtio-scsi``, ``pvscsi``, ``megasas``; ``usb`` with a medium.
    """

    file: Path
    serial: str = ""
    form: str = "raw"
    throw_away: bool = False
    bus: str = "virtio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine that boots a kernel given to it, or its first disk.

    Attributes:
        folder: Where the serial log goes, and the copy of the firmware's variables.
        drives: In order: ``/dev/vda``, ``/dev/vdb``, ...
        kernel: Kernel and initrd to boot, and its command line; else the firmware boots the first drive.
        uefi: UEFI instead of BIOS.
        memory_mib: Memory.
    """

    folder: Path
    drives: Sequence[Drive]
    kernel: tuple[Path, Path, str] | None = None
    uefi: bool = False
    memory_mib: int = 1536
    extra: Sequence[str] = field(default=())

    @property
    def log(self) -> Path:
        """What it wrote to its serial line."""
        return self.folder / "serial.log"

    def run(self, *, limit_s: float) -> float:
        """Run it until it switches itself off.

        Returns:
            Seconds it took.

        Raises:
            AssertionError: It did not end in time; the end of its serial log is in the message.
        """
        began = time.monotonic()
        code = self.run_to_verdict(limit_s=limit_s)
        assert code == 0, (self.folder / "qemu.log").read_text()
        return time.monotonic() - began

    def run_to_verdict(self, *, limit_s: float) -> int:
        """Run it until it switches itself off, or writes to ``VERDICT_PORT`` of the device that ``extra`` adds.

        Returns:
            QEMU's exit code; 0 when it was switched off or began anew.

        Raises:
            AssertionError: It did not end in time; the end of its serial log is in the message.
        """
        with (self.folder / "qemu.log").open("wb") as said:
            process = subprocess.Popen(  # noqa: S603 - made here
                self._command(), stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            try:
                return process.wait(limit_s)
            except subprocess.TimeoutExpired as error:
                raise AssertionError(f"the machine did not end in {limit_s:g} s\n{self.tail()}") from error
            finally:
                process.kill()
                process.wait()

    def tail(self) -> str:
        """The end of the serial log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-_SHOWN:])

    def _command(self) -> list[str]:
        command = [
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2",
            "-m", str(self.memory_mib), "-display", "none", "-no-reboot", "-net", "none", "-serial", f"file:{self.log}",
            "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        ]  # fmt: skip
        if self.uefi:
            own = self.folder / "variables.fd"
            own.write_bytes(VARIABLES.read_bytes())
            command += ["-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}"]
            command += ["-drive", f"if=pflash,format=raw,file={own}"]
        if self.kernel is not None:
            image, initrd, line = self.kernel
            command += ["-kernel", str(image), "-initrd", str(initrd), "-append", line]
        for number, drive in enumerate(self.drives):
            options = f"file={drive.file},format={drive.form},if=none,id=d{number},discard=unmap,cache=unsafe"
            command += ["-drive", options + (",snapshot=on" if drive.throw_away else "")]
            serial = drive.serial or ("none" if drive.bus == "nvme" else "")  # which NVMe asks for
            before, device = (words.format(number=number) for words in _BUSES[drive.bus])
            if before:
                command += ["-device", before]
            command += ["-device", f"{device},drive=d{number}{f',serial={serial}' if serial else ''}"]
        return [*command, *self.extra]
