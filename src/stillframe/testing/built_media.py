"""Rescue media for virtual machines: built here, with a key that lets the test in.

Answers: "how does a test start this medium with words of its own for the kernel?" The base is made once and kept where
the other guests of tests are.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stillframe.rescue.medium.menu import LIVE_WORDS, SERIAL_WORDS
from stillframe.testing.command_line import call
from stillframe.testing.debian_disk import QUIET_TIMER
from stillframe.testing.debian_guest import cache
from stillframe.testing.medium_machine import MediumMachine
from stillframe.testing.tools import run_tool
from stillframe.testing.virtual_machine import Drive

_VARIABLE: Final = "STILLFRAME_CACHE_DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltMedium:
    """A medium: its ISO, the private key that it lets in, and its kernel and initrd beside it.

    Attributes:
        iso: The file.
        key: A private key of SSH.
        kernel, initrd: Out of the ISO.
        result: What the build said.
    """

    iso: Path
    key: Path
    kernel: Path
    initrd: Path
    result: dict[str, Any]

    def machine(self, folder: Path, *words: str, disks: Sequence[Drive] = ()) -> MediumMachine:
        """A machine that starts it as its menu's entry for the serial line does, with more words for the kernel."""
        line = " ".join([LIVE_WORDS, SERIAL_WORDS, "quiet", QUIET_TIMER, *words])
        return MediumMachine(
            folder=folder, medium=self.iso, key=self.key, kernel=(self.kernel, self.initrd, line), disks=disks
        )


def build_medium(folder: Path, *options: str) -> BuiltMedium:
    """Build one with the options of ``rescue build``."""
    iso, key = folder / "rescue.iso", folder / "key"
    run_tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(cache() / "media")
    try:
        outcome = call("rescue", "build", iso, "--ssh-key", f"{key}.pub", *options, "--yes", "--json")
    finally:
        os.environ.pop(_VARIABLE)
        if before is not None:
            os.environ[_VARIABLE] = before
    assert outcome.exit_code == 0, outcome.output[-3000:]
    for name in ("vmlinuz", "initrd"):
        run_tool("xorriso", "-osirrox", "on", "-indev", str(iso), "-extract", f"/live/{name}", str(folder / name))
    return BuiltMedium(
        iso=iso, key=key, kernel=folder / "vmlinuz", initrd=folder / "initrd", result=dict(outcome.result)
    )
