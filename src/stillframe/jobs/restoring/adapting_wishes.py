"""What a person says of the other computer, for ``restore --adapt``.

Answers: "which disk controllers will this disk be attached to, and which drivers were brought for them?"
"""

import os
import stat
from collections.abc import Sequence

from stillframe.errors import UsageError
from stillframe.host.pci import find_disk_controllers, parse_controller
from stillframe.jobs.starts.driver_folder import read_driver_folder
from stillframe.jobs.starts.windows_adapting import WindowsHardware


def read_hardware(target: str, controllers: Sequence[str], drivers: str, *, adapt: bool) -> WindowsHardware:
    """Read what was asked for.

    Args:
        target: Where the image goes. When that is a disk of this machine, its controllers are this machine's.
        controllers: Those of another computer, as they were written.
        drivers: A folder; empty when there is none.
        adapt: Whether it was asked for at all.

    Raises:
        UsageError: Something is written wrongly, or is asked for without ``--adapt``.
    """
    if not adapt:
        if controllers or drivers:
            raise UsageError("'--controller' and '--drivers' go with '--adapt'", hint="Add '--adapt'.")
        return WindowsHardware()
    named = tuple(dict.fromkeys(parse_controller(one) for one in controllers))
    found = named or (find_disk_controllers() if _is_disk(target) else ())
    packages = read_driver_folder(drivers, found) if drivers else ()
    return WindowsHardware(controllers=found, packages=packages)


def _is_disk(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False
