"""Loop devices of tests, which are free again when a test says so.

Answers: "a disk file as a device." Another process that looks at the machine's disks opens each of them for a moment; a
device that was detached meanwhile stays until that moment is over, and its file counts as one that is in use.
Source: losetup(8), loop(4).
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stillframe.testing.tools import TOOL_TIMEOUT_S, read_fact, run_tool

_STEP_S: Final = 0.05


def attach_loop(file: Path | str, *options: str) -> str:
    """Make a loop device over a file; the path of its node. ``options`` are those of losetup."""
    return run_tool("losetup", "--find", "--show", *options, str(file)).strip()


def detach_loop(device: Path | str) -> None:
    """Detach a loop device, and wait until its file is free."""
    noted = Path(f"/sys/block/{Path(device).name}/loop/backing_file")
    file = read_fact(noted)
    run_tool("losetup", "--detach", str(device))
    until = time.monotonic() + TOOL_TIMEOUT_S
    while file and read_fact(noted) == file:
        assert time.monotonic() < until, f"{device} is detached, and something still holds it open"
        time.sleep(_STEP_S)


@contextmanager
def loop_device(file: Path, *, sector_size: int = 512, options: Sequence[str] = ()) -> Iterator[Path]:
    """A loop device over a file."""
    device = attach_loop(file, "--sector-size", str(sector_size), *options)
    try:
        yield Path(device)
    finally:
        detach_loop(device)


@contextmanager
def partition_nodes(device: str) -> Iterator[None]:
    """A node for each partition of a loop device, which alone has none; they would outlive it."""
    run_tool("partx", "--delete", device, accept=(0, 1))  # of a test that was killed
    run_tool("partx", "--add", device)
    try:
        yield
    finally:
        name, until = Path(device).name, time.monotonic() + TOOL_TIMEOUT_S
        run_tool("partx", "--delete", device, accept=(0, 1))
        while any(
            node.startswith(f"{name}p") for node in os.listdir(f"/sys/block/{name}")
        ):  # a mount of it may be held as ``unmount`` says
            assert time.monotonic() < until, f"a partition of {device} is still in use"
            time.sleep(_STEP_S)
            run_tool("partx", "--delete", device, accept=(0, 1))
