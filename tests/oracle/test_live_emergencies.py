"""Whatever happens to a backup while it freezes, the file system can be written to again within seconds.

A slow medium makes the freeze itself long: it is entered with many dirty pages, and has to write them out.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from stillframe.errors import MachineRefusal, ThawedEarly
from stillframe.host.live.freezing import MountedFilesystem, frozen, open_mounted
from stillframe.host.live.watchdog import Watchdog
from stillframe.testing.busy_volume import MAKE, MIB, Judge, busy_volume, save
from stillframe.testing.loops import attach_loop, detach_loop, loop_device
from stillframe.testing.slow_medium import Pace, SlowMedium
from stillframe.testing.tools import run_tool

pytestmark = pytest.mark.root
FIFREEZE = 0xC0045877  # Linux include/uapi/linux/fs.h
ROUNDS = int(os.environ.get("STILLFRAME_LIVE_RUNS", "2"))
DIRTY = 24 * MIB
SOON_S = 15  # it takes a moment; the machine of a test may be busy

VICTIM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may be told to ignore it
from stillframe.errors import ThawedEarly
from stillframe.host.live.freezing import frozen, open_mounted
from stillframe.host.live.watchdog import Watchdog
places = [open_mounted(where) for where in sys.argv[2:]]
with Watchdog([place.descriptor for place in places], limit_s=float(sys.argv[1])) as dog:
    try:
        print("ready", flush=True)
        with frozen(places, dog):
            print("frozen", flush=True)
            sys.stdin.readline()
        print("held", flush=True)
    except ThawedEarly:
        print("thawed early", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    sys.stdin.readline()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    medium: SlowMedium
    mount: Path

    def dirty(self) -> None:
        """Data that the freeze will have to write out."""
        (self.mount / "dirty").write_bytes(os.urandom(DIRTY))


@contextlib.contextmanager
def mounted(device: str, place: Path) -> Iterator[Path]:
    place.mkdir()
    run_tool("mount", device, str(place))
    try:
        yield place
    finally:
        # Only a test that has failed leaves it frozen; the next ones must not hang.
        subprocess.run(["fsfreeze", "--unfreeze", str(place)], check=False, capture_output=True)
        for _ in range(300):  # a watchdog whose parent was killed holds it open for some moments
            if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("it stays busy")


@contextlib.contextmanager
def opened(place: Path) -> Iterator[MountedFilesystem]:
    one = open_mounted(str(place))
    try:
        yield one
    finally:
        os.close(one.descriptor)


@contextlib.contextmanager
def slow_volume(folder: Path, filesystem: str) -> Iterator[Slow]:
    with SlowMedium(folder, size=320 * MIB, pace=Pace(delay_s=0.08)) as medium:
        device = attach_loop(medium.file, "--direct-io=on")
        try:
            run_tool(*MAKE[filesystem], device)
            with mounted(device, folder / "mount") as place:
                yield Slow(medium=medium, mount=place)
        finally:
            detach_loop(device)


@pytest.fixture(params=["ext4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("xfs", "btrfs"))])
def slow(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Slow]:
    with slow_volume(tmp_path, request.param) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "volume.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    run_tool("mkfs.ext4", "-q", "-F", str(image))
    with loop_device(image) as device, mounted(str(device), tmp_path / "other") as found:
        yield found


class Victim:
    """A program that freezes, and to which something happens."""

    def __init__(self, *mounts: Path, limit_s: float = 60) -> None:
        pipe, command = subprocess.PIPE, [sys.executable, "-c", VICTIM, str(limit_s), *map(str, mounts)]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        assert self.says() == "ready"

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def is_inside(self) -> bool:
        """Whether it is in the call that freezes."""
        try:
            words = Path(f"/proc/{self.process.pid}/syscall").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return len(words) > 2 and words[2] == hex(FIFREEZE)

    def wait_until_inside(self, *, for_s: float = 0) -> None:
        """Wait until it is there, and has been for some seconds."""
        deadline, since = time.monotonic() + SOON_S, time.monotonic()
        while time.monotonic() <= since + for_s or not self.is_inside():
            assert time.monotonic() < deadline
            since = since if self.is_inside() else time.monotonic()
            time.sleep(0.002)

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def answering_at_the_end(medium: SlowMedium) -> Iterator[None]:
    """Also when a test fails: nobody can end a process that waits for it."""
    try:
        yield
    finally:
        medium.go_on()


def require_writable(mount: Path, within_s: float = SOON_S) -> None:
    """A program writes there; one that waits for a thaw cannot be killed, so nobody waits for it."""
    program = subprocess.Popen(["sh", "-c", f"echo written > '{mount}/after' && sync -f '{mount}'"])
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(within_s)
    assert program.returncode == 0, "it is frozen still"


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_killed_at_any_moment_of_the_freeze(slow: Slow, whole_group: bool) -> None:
    chance, inside = random.Random(1), 0
    for _ in range(ROUNDS):
        slow.dirty()
        with Victim(slow.mount) as victim:
            victim.wait_until_inside()
            time.sleep(chance.uniform(0, 0.3))
            inside += victim.is_inside()
            os.killpg(victim.process.pid, signal.SIGKILL) if whole_group else victim.process.kill()
            require_writable(slow.mount)
    assert inside, "no kill hit the freeze itself"


def test_a_medium_that_hangs_and_a_backup_that_was_killed_meanwhile(slow: Slow) -> None:
    slow.dirty()
    slow.medium.hang()
    with Victim(slow.mount) as victim, answering_at_the_end(slow.medium):
        victim.wait_until_inside()
        victim.process.kill()
        time.sleep(1)
        assert victim.is_inside(), "a process cannot leave that call before the medium answers"
        slow.medium.go_on()
        require_writable(slow.mount)


@pytest.mark.slow
def test_a_medium_that_hangs_for_longer_than_the_limit(slow: Slow) -> None:
    slow.dirty()
    slow.medium.hang()
    with Victim(slow.mount, limit_s=0.5) as victim, answering_at_the_end(slow.medium):
        victim.wait_until_inside(for_s=1.5)
        assert victim.is_inside()
        slow.medium.go_on()
        assert victim.says() == "frozen"
        require_writable(slow.mount)
        victim.go_on()
        assert victim.says() == "thawed early"


def test_a_medium_that_hangs_keeps_no_other_file_system_frozen(slow: Slow, place: Path) -> None:
    """The one that was frozen before it is thawed at the limit, though the other still does not answer."""
    slow.dirty()
    slow.medium.hang()
    with Victim(place, slow.mount, limit_s=0.5) as victim, answering_at_the_end(slow.medium):
        victim.wait_until_inside(for_s=1)
        require_writable(place)
        assert victim.is_inside()
        slow.medium.go_on()
        require_writable(slow.mount)


def test_interrupted_inside_the_freeze_it_thaws_itself(slow: Slow) -> None:
    slow.dirty()
    with Victim(slow.mount) as victim:
        victim.wait_until_inside()
        victim.process.send_signal(signal.SIGINT)
        assert victim.says() == "interrupted"
        require_writable(slow.mount)
        assert victim.process.poll() is None


def test_a_backup_that_is_stopped_while_frozen(place: Path) -> None:
    with Victim(place, limit_s=0.5) as victim:
        assert victim.says() == "frozen"
        victim.process.send_signal(signal.SIGSTOP)
        require_writable(place)
        victim.process.send_signal(signal.SIGCONT)
        victim.go_on()
        assert victim.says() == "thawed early"


@pytest.mark.variants(1)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_the_watchdog_is_not_asked_to_end(place: Path, number: signal.Signals) -> None:
    with opened(place) as one, Watchdog([one.descriptor], limit_s=30) as dog:
        assert os.getsid(dog.pid) == dog.pid
        os.kill(dog.pid, number)
        with frozen([one], dog):
            pass
        assert os.waitpid(dog.pid, os.WNOHANG) == (0, 0)


def test_without_its_watchdog_nothing_is_frozen(place: Path) -> None:
    with opened(place) as one, Watchdog([one.descriptor], limit_s=30) as dog:
        with frozen([one], dog):
            os.kill(dog.pid, signal.SIGKILL)
            os.waitid(os.P_PID, dog.pid, os.WEXITED | os.WNOWAIT)  # all its threads are gone; not reaped here
        require_writable(place)
        with pytest.raises(MachineRefusal, match="has ended"), frozen([one], dog):
            raise AssertionError
        require_writable(place)


def test_a_freeze_that_somebody_else_ends_every_time_makes_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with busy_volume(tmp_path, "ext4", size=320 * MIB) as volume:
        volume.write("files", 1)
        judge = Judge(volume)
        look = judge.look

        def look_and_spoil() -> None:
            look()
            run_tool("fsfreeze", "--unfreeze", str(volume.mount))

        monkeypatch.setattr(judge, "look", look_and_spoil)
        with pytest.raises(ThawedEarly):
            save(judge)
        assert judge.calls > 1
    stored = {path.relative_to(tmp_path / "repository").parts[0] for path in tmp_path.rglob("*") if path.is_file()
              and path.is_relative_to(tmp_path / "repository")}  # fmt: skip
    assert "packs" in stored
    assert "images" not in stored
