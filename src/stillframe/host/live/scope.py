"""A process in a scope of its own, where systemd runs the machine.

Answers: "does this process live on when the service that started it is stopped or killed?" systemd kills all processes
of a service together, by their control group: a watchdog in the same group would die with what it watches. A process
that exists already is moved by asking systemd for a *transient scope* that holds it.

Without systemd there is nothing to do: nobody kills by control group then. What cannot be done is no reason to refuse
a backup either; the watchdog still survives everything but the end of its whole service.

Source: https://systemd.io/CONTROL_GROUP_INTERFACE/ (StartTransientUnit, PIDs); org.freedesktop.systemd1(5).
"""

import os
import time
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.linux import require_linux
from stillframe.host.run import run

_RUNNING: Final = "/run/systemd/system"  # sd_booted(3): this folder exists when systemd is the first process
_SERVICE: Final = "org.freedesktop.systemd1"
_CALL_S: Final = 5.0
_MOVED_S: Final = 2.0
_STEP_S: Final = 0.01


def move_into_scope(pid: int) -> bool:
    """Move a process of ours into a scope of its own; whether it lies in one now."""
    require_linux("moving a process into a scope")
    if not os.path.isdir(_RUNNING):
        return False
    scope = f"stillframe-watchdog-{pid}.scope"
    try:
        asked = run(scope_call(pid, scope), timeout_s=_CALL_S)
    except MachineRefusal:
        return False
    return asked.exit_code == 0 and _is_moved(pid, scope)


def scope_call(pid: int, scope: str) -> tuple[str, ...]:
    """The program and its arguments that ask systemd to start a scope around a process.

    The signature says: a name, what to do when it is taken, properties, and no further units. ``TimeoutStopUSec`` is
    10 seconds, so that a computer that is shut down does not wait longer for a process that ignores the polite signal.
    """
    properties = (
        ("PIDs", "au", "1", str(pid)),
        ("Description", "s", "Stillframe: thaws file systems when a backup cannot"),
        ("CollectMode", "s", "inactive-or-failed"),
        ("TimeoutStopUSec", "t", "10000000"),
    )
    given = [word for one in properties for word in one]
    return (
        "busctl", "--system", "--quiet", "call", _SERVICE, "/org/freedesktop/systemd1", f"{_SERVICE}.Manager",
        "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail", str(len(properties)), *given, "0",
    )  # fmt: skip


def _is_moved(pid: int, scope: str) -> bool:
    """Wait until the kernel shows it: systemd answers before it has moved anything."""
    deadline = time.monotonic() + _MOVED_S
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/cgroup", encoding="ascii", errors="replace") as file:
                if f"/{scope}" in file.read():
                    return True
        except OSError:
            return False
        time.sleep(_STEP_S)
    return False
