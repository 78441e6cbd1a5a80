"""The kernel's trace file system: where it is, and an instance of it that disturbs nobody else's.

Answers: "where may events be recorded for us alone?" It is mounted at its usual place when it is not, as other tracing
programs do, and stays. An instance that a killed run left behind is removed by the next one: it would go on recording.

Source: Linux Documentation/trace/ftrace.rst ("The File System", "Instances").
"""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.blocks import names_in
from stillframe.host.run import run

TRACEFS: Final = "/sys/kernel/tracing"
_TRACEFS_OLD: Final = "/sys/kernel/debug/tracing"
_INSTANCE: Final = re.compile(r"stillframe-(?P<pid>\d+)-.*")
HINT: Final = "Back up from the rescue medium, or put the volume on LVM and use its snapshots."


def find_tracefs(*, event: str) -> str:
    """The folder of the trace file system, mounted if need be.

    Args:
        event: An event that the kernel must know, as a path below the folder.

    Raises:
        MachineRefusal: This kernel has none, does not know the event, or does not let us see it.
    """
    found = _mounted()
    if found is None and os.path.isdir(TRACEFS):
        with contextlib.suppress(MachineRefusal):
            run(["mount", "-t", "tracefs", "-o", "nosuid,nodev,noexec", "tracefs", TRACEFS])
        found = _mounted()
    if found is None or not os.path.exists(f"{found}/{event}/format"):
        raise MachineRefusal(
            "this kernel does not show which blocks it writes (no tracefs with the event block_rq_complete)",
            hint=f"Mount it with 'mount -t tracefs tracefs {TRACEFS}' if it is not mounted. {HINT}",
        )
    return found


@contextmanager
def trace_instance(tracefs: str) -> Iterator[str]:
    """A folder with buffers of our own, which is removed at the end.

    Raises:
        MachineRefusal: This user may not, or the kernel cannot.
    """
    _remove_leftovers(tracefs)
    folder = f"{tracefs}/instances/stillframe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        os.mkdir(folder)
    except OSError as error:
        raise _refused(error) from error
    try:
        yield folder
    finally:
        _remove(folder)


def write_setting(path: str, value: str) -> None:
    """Write one of its files.

    Raises:
        MachineRefusal: This user may not, or the kernel cannot.
    """
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise _refused(error) from error


def _mounted() -> str | None:
    return next((folder for folder in (TRACEFS, _TRACEFS_OLD) if os.path.isdir(f"{folder}/instances")), None)


def _remove_leftovers(tracefs: str) -> None:
    for name in names_in(f"{tracefs}/instances"):
        match = _INSTANCE.fullmatch(name)
        if match is not None and not os.path.exists(f"/proc/{match['pid']}"):
            _remove(f"{tracefs}/instances/{name}")


def _remove(folder: str) -> None:
    """The kernel switches its events off and refuses while somebody reads from it (trace.c, __remove_instance)."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _refused(error: OSError) -> MachineRefusal:
    if error.errno in (errno.EPERM, errno.EACCES):
        return MachineRefusal(
            "the kernel's trace may not be used: by this user, or because the kernel is locked down (Secure Boot)",
            hint=f"Run it as root. Where root may not either: {HINT}",
        )
    return MachineRefusal(f"the kernel's trace could not be set up: {error.strerror}", hint=HINT)
