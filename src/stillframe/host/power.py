"""Switching this machine off, restarting it, or sending it to sleep.

Answers: "can that be done here?" before a job begins, and does it after it.
"""

import os
from typing import Final, Literal

from stillframe.errors import MachineRefusal
from stillframe.host.run import run

PowerState = Literal["nothing", "shutdown", "restart", "sleep"]

RUNS_HERE: Final = "/run/systemd/system"  # sd_booted(3)
# systemctl(1)
_VERBS: Final[dict[PowerState, str]] = {"shutdown": "poweroff", "restart": "reboot", "sleep": "suspend"}


def require_power(state: PowerState) -> None:
    """Refuse what cannot be done here.

    Raises:
        MachineRefusal: This system is not run by systemd.
    """
    if state != "nothing" and not os.path.isdir(RUNS_HERE):
        raise MachineRefusal(
            f"this system cannot be told to do '{state}': it is not run by systemd",
            hint="Leave out '--then', and put the system's own command behind: 'stillframe backup ... && poweroff'.",
        )


def change_power(state: PowerState) -> None:
    """Do it.

    Raises:
        MachineRefusal: The system refused, with its reason.
    """
    if state != "nothing":
        hint = "What was to be done before is done; switch the computer off by hand."
        run(["systemctl", _VERBS[state]]).require_success(hint=hint)
