"""Switching this machine off, restarting it, or sending it to sleep.

Answers: "can that be done here?" before a job begins, and does it after it.
"""

from typing import Final, Literal

from stillframe.errors import MachineRefusal
from stillframe.host.run import find_program, run

PowerState = Literal["nothing", "shutdown", "restart", "sleep"]

# systemctl(1)
_VERBS: Final[dict[PowerState, str]] = {"shutdown": "poweroff", "restart": "reboot", "sleep": "suspend"}


def require_power(state: PowerState) -> None:
    """Refuse what cannot be done here.

    Raises:
        MachineRefusal: This system is not run by systemd.
    """
    if state == "nothing":
        return
    try:
        find_program("systemctl")
    except MachineRefusal as error:
        raise MachineRefusal(
            f"this system cannot be told to do '{state}': it has no systemctl",
            hint="Leave out '--then', and put the system's own command behind: 'stillframe backup ... && poweroff'.",
        ) from error


def change_power(state: PowerState) -> None:
    """Do it.

    Raises:
        MachineRefusal: The system refused, with its reason.
    """
    if state != "nothing":
        hint = "The image is made; switch the computer off by hand."
        run(["systemctl", _VERBS[state]]).require_success(hint=hint)
