"""Loop devices of tests, which are free again when a test says so.

Answers: "a disk file as a device, with nodes for its partitions." Another process that looks at the machine's disks
opens each of them for a moment; a device that was detached meanwhile stays until that moment is over, and its file
counts as one in use. A loop device that is detached keeps the partitions that it was given, even for the next file.
Source: losetup(8), loop(4), partx(8).
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stillframe.testing.tools import TOOL_TIMEOUT_S, read_fact, run_tool

_STEP_S: Final = 0.05


def attach_loop(file: Path | str, *options: str) -> str:
    """Make a loop device over a file; the path of its node. ``options`` are those of losetup."""
    device = run_tool("losetup", "--find", "--show", *options, str(file)).strip()
    drop_partitions(device)  # of another file that was in it
    return device


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
def loop_device(file: Path | str, *options: str, sector_size: int = 512) -> Iterator[Path]:
    """A loop device over a file."""
    device = attach_loop(file, "--sector-size", str(sector_size), *options)
    try:
        yield Path(device)
    finally:
        detach_loop(device)


@contextmanager
def partition_nodes(device: Path | str) -> Iterator[None]:
    """A node for each partition of a loop device, which alone has none; they would outlive it."""
    drop_partitions(device)
    run_tool("partx", "--add", str(device))
    try:
        yield
    finally:
        drop_partitions(device)


def drop_partitions(device: Path | str) -> None:
    """Let the kernel forget the partitions of a loop device; wait where one is still held, as ``unmount`` says."""
    name, until = Path(device).name, time.monotonic() + TOOL_TIMEOUT_S
    while left := [node for node in os.listdir(f"/sys/block/{name}") if node.startswith(f"{name}p")]:
        assert time.monotonic() < until, f"{', '.join(left)} still in use"
        run_tool("partx", "--delete", str(device), accept=(0, 1))
        time.sleep(_STEP_S)
