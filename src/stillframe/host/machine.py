"""Which machine this is, whether a process still lives, and where this machine keeps our caches and state.

Answers: "is this image of this machine?", "is the owner of that lock alive?" and "where may I keep what can be lost
(cache) and what should not be (state)?" It creates nothing.
"""

import hashlib
import hmac
import os
import socket
import sys
import uuid
from dataclasses import dataclass
from typing import Final

from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_text

# Ours alone: the same machine looks different to every other program. Drawn at random once; never to be changed.
APPLICATION_ID: Final = uuid.UUID("5b7d0a63-2f9e-4c51-9d37-8e1f6ac4b02d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """This machine.

    Attributes:
        id: 32 hexadecimal digits, the same as long as the system is installed; says nothing about the machine.
        name: Host name, for people.
        boot_id: Which boot this is, 32 hexadecimal digits; empty when the system does not say.
    """

    id: str
    name: str
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """A process, so that another with the same number is not mistaken for it.

    Attributes:
        boot_id: The boot it ran in, as in ``Machine``; empty when not known.
        pid: Its number.
        start_time: When it started, in clock ticks since boot; 0 when not known.
    """

    boot_id: str
    pid: int
    start_time: int


def machine(*, kernel: KernelPaths = THIS_MACHINE, id_file: str = "/etc/machine-id") -> Machine:
    """This machine.

    Known by its machine id; a live system makes a new one at every start, so there the mainboard's is used. Without
    either, the host name.
    """
    name = socket.gethostname()
    installed = _parse_id(read_text(id_file))
    board = _parse_id(read_text(f"{kernel.sys}/class/dmi/id/product_uuid").replace("-", ""))
    known = (board, installed) if is_live(read_text(f"{kernel.proc}/cmdline")) else (installed, board)
    secret = known[0] or known[1] or hashlib.sha256(name.encode()).digest()[:16]
    return Machine(id=application_id(secret), name=name, boot_id=boot_id(kernel))


def is_live(command_line: str) -> bool:
    """Whether the kernel's command line is that of a system that runs from a stick or CD.

    Source: live-boot(7) and casper(7) ``boot=``, dracut.cmdline(7) ``rd.live.image``, archiso ``archisobasedir=``.
    """
    words = command_line.split()
    marks = ("boot=live", "boot=casper", "rd.live.image")
    return any(mark in words for mark in marks) or any(word.startswith("archisobasedir=") for word in words)


def application_id(machine_id: bytes) -> str:
    """Make the id that is ours out of the machine's, from which the machine's cannot be found.

    Source: sd_id128_get_machine_app_specific(3): HMAC-SHA256 of the application id, keyed by the machine id, the
    first 16 bytes, marked as a version 4 UUID.
    """
    digest = hmac.digest(machine_id, APPLICATION_ID.bytes, "sha256")
    return uuid.UUID(bytes=digest[:16], version=4).hex


def boot_id(kernel: KernelPaths = THIS_MACHINE) -> str:
    """Which boot this is, 32 hexadecimal digits; empty where the system does not say."""
    found = _parse_id(read_text(f"{kernel.proc}/sys/kernel/random/boot_id").replace("-", ""))
    return found.hex() if found else ""


def this_process(kernel: KernelPaths = THIS_MACHINE) -> ProcessIdentity:
    """This process."""
    pid = os.getpid()
    return ProcessIdentity(boot_id=boot_id(kernel), pid=pid, start_time=_start_time(pid, kernel) or 0)


def process_alive(process: ProcessIdentity, *, kernel: KernelPaths = THIS_MACHINE) -> bool:
    """Whether a process of *this machine* still runs; ``True`` also when that cannot be told.

    The caller compares the machine first. A process in another container (pid namespace) looks dead from here.
    """
    now = boot_id(kernel)
    if not now or not process.boot_id or not process.start_time:
        return True
    if process.boot_id != now:
        return False
    return _start_time(process.pid, kernel) == process.start_time


def parse_start_time(stat: str) -> int | None:
    """When a process started, from ``/proc/PID/stat``; ``None`` when it is a zombie or that is no such text.

    Source: proc_pid_stat(5), fields 3 (state) and 22 (starttime). The name in parentheses may hold anything.
    """
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X", "x") or not fields[19].isdecimal():
        return None
    return int(fields[19])


def cpu_count() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_dir() -> str:
    """Where things are kept that can be made again. ``STILLFRAME_CACHE_DIR`` overrides it."""
    return _folder("STILLFRAME_CACHE_DIR", whole_machine="/var/cache/stillframe", xdg="XDG_CACHE_HOME", home=".cache")


def state_dir() -> str:
    """Where things are kept that should last. ``STILLFRAME_STATE_DIR`` overrides it."""
    return _folder(
        "STILLFRAME_STATE_DIR", whole_machine="/var/lib/stillframe", xdg="XDG_STATE_HOME", home=".local/state"
    )


def _folder(override: str, *, whole_machine: str, xdg: str, home: str) -> str:
    """Source: XDG Base Directory Specification 0.8; a relative path in its variables is to be ignored."""
    chosen = os.environ.get(override, "")
    if chosen:
        return os.path.abspath(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~")
        return os.path.join(base, "Stillframe", "cache" if "CACHE" in override else "state")
    if os.geteuid() == 0:
        return whole_machine
    base = os.environ.get(xdg, "")
    return os.path.join(base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), home), "stillframe")


def _parse_id(text: str) -> bytes | None:
    """Sixteen bytes in hexadecimal; ``None`` for "uninitialized", all zeros, and what else a fresh image holds."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) == 16 and any(found) and len(set(found)) > 1 else None


def _start_time(pid: int, kernel: KernelPaths) -> int | None:
    return parse_start_time(read_text(f"{kernel.proc}/{pid}/stat"))
