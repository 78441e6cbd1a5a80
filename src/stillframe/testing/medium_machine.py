"""Virtual machines that start a rescue medium, are answered on the serial line, and asked by SSH.

Answers: "does this medium start by this firmware from this drive, and what does it say from inside?" Software emulation
only, as for ``virtual_machine``.
"""

import contextlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from stillframe.host.qemu import Firmware, find_firmware
from stillframe.host.qmp import QmpConnection
from stillframe.testing.virtual_machine import PROCESSOR, Drive

_SSH: Final = (
    "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
    "-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR",
)  # fmt: skip
_STEP_S: Final = 0.1
_SHOWN: Final = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumMachine:
    """A machine.

    Attributes:
        folder: Where its sockets and logs go; its path must be short, as that of a Unix socket.
        medium: The ISO or the stick; ``None`` with ``kernel``.
        plugged: Where the medium is: in a CD drive, or a USB stick.
        firmware: What starts it.
        key: A private key of SSH that the medium lets in.
        disks: The computer's own disks, which keep what is written; ``virtio``, or ``usb`` for what is plugged in.
        kernel: Kernel, initrd and command line, instead of those of the medium, or without one.
        memory_mib: Memory.
        answers: What it is told to do when it starts; ``None`` for nothing.
    """

    folder: Path
    medium: Path | None
    plugged: Literal["cd", "usb"] = "cd"
    firmware: Firmware = "bios"
    key: Path
    disks: Sequence[Drive] = field(default=())
    kernel: tuple[Path, Path, str] | None = None
    memory_mib: int = 2048
    answers: Path | None = None

    def command(self, port: int) -> list[str]:
        """The command of QEMU; ``port`` of this machine leads to its SSH."""
        secure = self.firmware == "secure-boot"
        line = f"socket,id=line,path={self.folder}/line,server=on,wait=off,logfile={self.folder}/serial.log"
        command = [
            "qemu-system-x86_64", "-machine", f"q35{',smm=on' if secure else ''}", "-accel", "tcg,thread=multi", "-cpu",
            PROCESSOR, "-smp", "2", "-m", str(self.memory_mib), "-display", "none", "-no-reboot", "-device",
            "qemu-xhci", "-chardev", line,
            "-serial", "chardev:line", "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device",
            "virtio-net-pci,netdev=net", "-object", "rng-random,id=rng,filename=/dev/urandom", "-device",
            "virtio-rng-pci,rng=rng", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
        ]  # fmt: skip
        found = find_firmware(self.firmware)
        if found is not None:
            own = self.folder / "variables.fd"
            shutil.copyfile(found[1], own)
            command += ["-drive", f"if=pflash,format=raw,readonly=on,file={found[0]}"]
            command += ["-drive", f"if=pflash,format=raw,file={own}"]
        if secure:
            command += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
        if self.kernel is not None:
            image, initrd, line = self.kernel
            command += ["-kernel", str(image), "-initrd", str(initrd), "-append", line]
        if self.answers is not None:
            command += ["-fw_cfg", f"name=opt/stillframe/answers,file={self.answers}"]
        return [*command, *self._drives()]

    def _drives(self) -> Iterator[str]:
        if self.medium is not None:
            keep = "readonly=on" if self.plugged == "cd" else "snapshot=on"
            device = "ide-cd,bus=ide.0" if self.plugged == "cd" else "usb-storage"
            yield from ("-drive", f"file={self.medium},format=raw,if=none,id=medium,{keep}")
            first = "" if self.kernel else ",bootindex=0"  # a kernel that is given comes first
            yield from ("-device", f"{device},drive=medium{first}")
        for number, drive in enumerate(self.disks):
            yield from ("-drive", f"file={drive.file},format={drive.form},if=none,id=d{number},cache=unsafe")
            kind = "usb-storage" if drive.bus == "usb" else "virtio-blk-pci"
            yield from ("-device", f"{kind},drive=d{number},serial={drive.serial}")


class RunningMedium:
    """A machine that runs. ``start_medium`` makes it."""

    def __init__(
        self, machine: MediumMachine, port: int, line: socket.socket, process: "subprocess.Popen[bytes]"
    ) -> None:
        self._machine = machine
        self._process = process
        self._port = port
        self._line = line
        self.began: Final = time.monotonic()
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        """A serial line that nobody reads would hold the machine up; what is said is in the log."""
        with contextlib.suppress(OSError):
            while self._line.recv(65536):
                pass

    @property
    def said(self) -> str:
        """What came over the serial line, without the codes of terminals."""
        text = (self._machine.folder / "serial.log").read_text(errors="replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r", "", text)

    def wait_for(self, pattern: str, *, limit_s: float, after: int = 0) -> float:
        """Wait until something is said on the serial line; seconds since the start."""
        deadline = time.monotonic() + limit_s
        while not re.search(pattern, self.said[after:]):
            assert time.monotonic() < deadline, f"not said in {limit_s:g} s: {pattern}\n{self.said[-_SHOWN:]}"
            time.sleep(_STEP_S)
        return time.monotonic() - self.began

    def wait_for_end(self, *, limit_s: float) -> None:
        """Wait until it has switched itself off."""
        try:
            assert self._process.wait(limit_s) == 0
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it is still on after {limit_s:g} s\n{self.said[-_SHOWN:]}") from None

    def send(self, text: str) -> None:
        """Type on the serial line."""
        self._line.sendall(text.encode())

    def set_cable(self, *, is_in: bool) -> None:
        """Put the network cable in, or take it out."""
        with socket.socket(getattr(socket, "AF_UNIX")) as line:  # noqa: B009 - as below
            line.connect(str(self._machine.folder / "qmp"))
            connection = QmpConnection(line)
            connection.greet()
            connection.execute("set_link", name="net", up=is_in)

    def ask(self, script: str, *, limit_s: float = 120, given: bytes = b"") -> str:
        """Run a script of a shell in it as root, once it lets people in; what it wrote. ``given`` is what it reads."""
        deadline = time.monotonic() + limit_s
        command = [*_SSH, "-i", str(self._machine.key), "-p", str(self._port), "root@127.0.0.1", script]
        while True:
            left = max(1.0, deadline - time.monotonic())
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = subprocess.run(  # noqa: S603 - made here
                    command, check=False, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=left
                )
                if done.returncode != 255:  # what ssh itself says when it could not get in
                    return done.stdout.decode(errors="replace")
            assert time.monotonic() < deadline, f"nobody answers by SSH\n{self.said[-_SHOWN:]}"
            time.sleep(1)


@contextmanager
def start_medium(machine: MediumMachine) -> Iterator[RunningMedium]:
    """Run a machine while the block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (machine.folder / "qemu.log").open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - made here
            machine.command(port), stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    line = socket.socket(getattr(socket, "AF_UNIX"))  # noqa: B009 - Windows has none, for the checker of types
    try:
        _connect(line, machine.folder / "line", process)
        yield RunningMedium(machine, port, line, process)
    finally:
        process.kill()
        process.wait()
        line.close()


def _connect(line: socket.socket, path: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            line.connect(str(path))
            return
        assert process.poll() is None, (path.parent / "qemu.log").read_text()
        time.sleep(_STEP_S)
    raise AssertionError("QEMU does not open its serial line")
