"""What the program asks of the kernel while file systems are frozen: nothing that could wait for them.

The program itself may lie on what is frozen. A file opened for writing, a log line, the compiled form of a module that
is imported only then, would wait for the thaw that it keeps from happening.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.testing.busy_volume import MAKE, MIB, WRITER
from stillframe.testing.command_line import call
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
PROGRAM = "import sys; from stillframe.cli.main import run; sys.exit(run())"
LINE = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)")
READING = {"preadv", "preadv2", "pread64", "read", "lseek"}
WAITING = {"futex", "select", "pselect6", "poll", "clock_nanosleep", "restart_syscall", "sched_yield"}
MEMORY = {"brk", "mmap", "munmap", "mremap", "mprotect", "madvise"}
OWN = {"gettid", "getpid", "rt_sigprocmask", "rt_sigreturn", "exit"}
# Named by strace: the two that freeze and thaw.
ALLOWED_REQUESTS = ("FIFREEZE", "FITHAW")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    pid: str
    name: str
    rest: str

    def is_harmless(self) -> bool:
        """Whether it can neither write to a file system nor wait for one."""
        if self.name == "ioctl":
            return any(request in self.rest for request in ALLOWED_REQUESTS)
        if self.name == "mmap":
            return "MAP_ANONYMOUS" in self.rest
        if self.name == "write":  # to the watchdog: it begins to count
            return re.match(r'\d+, "[AD]", 1', self.rest) is not None
        return self.name in READING | WAITING | MEMORY | OWN


def calls_of(log: Path) -> list[Call]:
    """Every call in the order of their beginnings, without those of the watchdog, which is a process of its own."""
    found = [Call(**match.groupdict()) for match in map(LINE.match, log.read_text().splitlines()) if match]
    watchdogs = {one.pid for one in found if one.name == "setsid"}
    return [one for one in found if one.pid not in watchdogs]


def frozen_phases(calls: list[Call]) -> Iterator[list[Call]]:
    """The calls from each first freeze to the last thaw that belongs to it."""
    phase, depth = list[Call](), 0
    for one in calls:
        depth += one.name == "ioctl" and "FIFREEZE" in one.rest
        if depth:
            phase.append(one)
        if one.name == "ioctl" and "FITHAW" in one.rest:
            depth -= 1
            if not depth:
                yield phase
                phase = []
    assert not depth


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A disk in use with three kinds of file systems, and their mount points."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(600 * MIB)
    run_tool("sgdisk", "-n1:2048:+100M", "-n2:0:+310M", "-n3:0:0", str(image))
    with loop_device(image) as device, partition_nodes(device):
        places = []
        try:
            for number, (name, make) in enumerate(MAKE.items(), 1):
                place = tmp_path / name
                place.mkdir()
                run_tool(*make, f"{device}p{number}")
                run_tool("mount", f"{device}p{number}", str(place))
                places.append(place)
                (place / "file").write_bytes(os.urandom(3 * MIB))
            yield device, places
        finally:
            for place in places:
                unmount(place)


def test_under_the_freeze_nothing_is_asked_that_could_wait_for_it(
    disk: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, places = disk
    monkeypatch.setenv("STILLFRAME_PASSWORD", "secret")
    repository, log = tmp_path / "repository", tmp_path / "calls"
    assert call("init", repository).exit_code == 0
    writer = subprocess.Popen([sys.executable, str(WRITER), str(places[1]), str(tmp_path / "ledger"), "1"])
    try:
        run = [sys.executable, "-c", PROGRAM, "backup", str(device), "--json", "--repo", str(repository)]
        done = subprocess.run(["strace", "-f", "-o", str(log), *run], check=False, capture_output=True)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
    assert done.returncode == 0, done.stderr.decode()
    phases = list(frozen_phases(calls_of(log)))
    assert len(phases) >= 2  # for the maps alone, and for the image
    for phase in phases:
        names = [one.name for one in phase]
        assert names.count("ioctl") == 2 * len(places)
        assert READING & set(names)
        assert [one for one in phase if not one.is_harmless()] == []


def test_what_would_wait_is_told_from_what_would_not(tmp_path: Path) -> None:
    """The sieve itself: a program that opens, writes, maps and starts things is caught at each."""
    log = tmp_path / "calls"
    script = f"import os, mmap; f = open({str(tmp_path / 'x')!r}, 'w+b'); f.write(b'A' * 4096); f.flush(); "
    script += "mmap.mmap(f.fileno(), 4096); os.rename(f.name, f.name + 'y'); os.fsync(f.fileno()); os.system('true')"
    run_tool("strace", "-f", "-o", str(log), sys.executable, "-c", script)
    caught = {one.name for one in calls_of(log) if not one.is_harmless()}
    assert {"openat", "write", "mmap", "rename", "fsync", "execve"} <= caught
