"""The programs of others, as tests call them.

Answers: "run this tool, and fail when it fails"; "unmount this, and come back when it is unmounted for everybody."
"""

import gc
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

TOOL_TIMEOUT_S: Final = 120
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


def run_tool(*command: str, accept: Sequence[int] = (0,)) -> str:
    """Run a tool and return what it prints; another exit code than accepted is an ``AssertionError``."""
    result = subprocess.run(  # noqa: S603 a fixed tool of a test
        command, capture_output=True, timeout=TOOL_TIMEOUT_S, check=False, env={"LC_ALL": "C", "PATH": _PATH}
    )
    output = (result.stdout + result.stderr).decode("utf-8", "replace")
    if result.returncode not in accept:
        raise AssertionError(f"{command}: exit code {result.returncode}\n{output}")
    return output


def unmount(place: Path) -> None:
    """Unmount, and wait until it is unmounted for others too, and its loop device gone if ``mount`` had made one.

    A mount namespace that began meanwhile, as that of a test beside this one, holds each mount for as long as it lives.
    """
    device = run_tool("findmnt", "--noheadings", "--output", "MAJ:MIN", "--mountpoint", str(place)).split()[-1]
    loop = Path(f"/sys/dev/block/{device}/loop")
    file = read_fact(loop / "backing_file") if read_fact(loop / "autoclear") == "1" else ""
    gc.collect()  # what a command that ran in this process had mapped there
    run_tool("umount", str(place))
    if _is_mounted(device, "self"):  # at another place too, where it was bound
        return
    until = time.monotonic() + TOOL_TIMEOUT_S
    while _is_mounted_anywhere(device) or (file and read_fact(loop / "backing_file") == file):
        assert time.monotonic() < until, f"{place} is unmounted, and something still holds it"
        time.sleep(0.05)


def read_fact(place: Path) -> str:
    """A line that the kernel shows, without its end; nothing when it shows none."""
    try:
        return place.read_text().strip()
    except OSError:
        return ""


def _is_mounted_anywhere(device: str) -> bool:
    return any(_is_mounted(device, process) for process in filter(str.isdigit, os.listdir("/proc")))


def _is_mounted(device: str, process: str) -> bool:
    """Whether a device (``major:minor``) is mounted for a process. Source: proc_pid_mountinfo(5)."""
    with suppress(OSError):
        mounts = Path(f"/proc/{process}/mountinfo").read_text(errors="replace")
        return any(line.split(" ", 3)[2] == device for line in mounts.splitlines())
    return False
