"""A disk or a storage that does not answer: Ctrl-C ends the program within a second, and the next run goes on.

A file system served by FUSE holds reads back. A write that such a server has taken cannot be ended by anybody, not
even by SIGKILL; so for writes the server itself stands still, and the kernel has nothing to wait for but the signal.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from stillframe.testing.moody_folder import MoodyFolder

pytestmark = pytest.mark.root
MIB: Final = 1 << 20
SIZE: Final = 64 * MIB
WITHIN_S: Final = 5.0
"""A second on a quiet machine; tests run beside others."""


SIGNALS: Final = [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]


class Place:
    """A folder on a moody disk, and programs that work there and beside it."""

    def __init__(self, folder: Path, moody: MoodyFolder) -> None:
        self.folder, self.moody = folder, moody
        self.environment = os.environ | {
            "STILLFRAME_CACHE_DIR": str(folder / "cache"), "STILLFRAME_STATE_DIR": str(folder / "state"),
        }  # fmt: skip
        self.readers: list[subprocess.Popen[bytes]] = []
        self.started: list[subprocess.Popen[str]] = []
        self.source = folder / "source"
        self.source.write_bytes(os.urandom(SIZE))

    def start(self, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "stillframe", *(str(word) for word in words)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=self.environment, text=True, stdout=pipe, stderr=pipe)
        self.started.append(process)
        return process

    def do(self, *words: object, code: int = 0) -> dict[str, Any]:
        process = self.start(*words, "--json")
        out, errors = process.communicate(timeout=300)
        assert process.returncode == code, out[-2000:] + errors
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "medium").mkdir()
    with MoodyFolder(tmp_path / "medium") as moody:
        place = Place(tmp_path, moody)
        yield place
        moody.stop(running=True)
        moody.be()
        for reader in place.readers:
            reader.kill()
            reader.wait(timeout=60)
        for process in place.started:
            process.kill()
            process.communicate(timeout=60)


def await_event(process: subprocess.Popen[str], word: str, count: int = 1) -> None:
    assert process.stdout is not None
    while count:
        line = process.stdout.readline()
        assert line, process.communicate()
        count -= word in line


def stopped(process: subprocess.Popen[str], number: int) -> tuple[float, dict[str, Any]]:
    """Send a signal; how long the program still took, and what it said last."""
    began = time.monotonic()
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    took = time.monotonic() - began
    assert process.returncode == 130, out[-2000:] + errors
    sys.stdout.write(f"ended after {took:.2f} s\n")  # shown by 'pytest -rP'
    return took, json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_source_that_hangs_while_it_is_saved(place: Place, number: int) -> None:
    source = place.moody.folder / "disk"
    (place.folder / "medium" / "disk").write_bytes(place.source.read_bytes())
    place.do("init", place.folder / "repo", "--encryption", "none")
    words = ("backup", source, "--repo", place.folder / "repo", "--compression", "none")
    place.moody.be("slow")
    process = place.start(*words, "--json")
    await_event(process, "bytes_moved")
    place.moody.be("hang")
    place.moody.await_hanging()
    took, said = stopped(process, number)
    assert (said["code"], said["exit_code"]) == ("cancelled", 130)
    assert took < WITHIN_S
    assert not [one for one in (place.folder / "repo" / "sessions").rglob("*") if one.is_file()]
    place.moody.be()
    assert place.do(*words, "--no-verify")["bytes_read"] == SIZE


@pytest.mark.parametrize("number", SIGNALS)
def test_a_source_that_hangs_while_it_is_looked_at(place: Place, number: int) -> None:
    source = place.moody.folder / "disk"
    (place.folder / "medium" / "disk").write_bytes(place.source.read_bytes())
    place.do("init", place.folder / "repo", "--encryption", "none")
    place.moody.be("hang")
    process = place.start("backup", source, "--repo", place.folder / "repo", "--json")
    place.moody.await_hanging()
    took, _ = stopped(process, number)
    assert took < WITHIN_S


def test_a_read_has_a_limit(place: Place) -> None:
    source = place.moody.folder / "disk"
    (place.folder / "medium" / "disk").write_bytes(place.source.read_bytes())
    place.do("init", place.folder / "repo", "--encryption", "none")
    words = ("backup", source, "--repo", place.folder / "repo", "--compression", "none", "--read-timeout", "1")
    place.moody.be("slow")
    process = place.start(*words, "--json")
    await_event(process, "bytes_moved")
    place.moody.be("hang")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 23, out + errors
    said = json.loads(out.splitlines()[-1])
    assert str(source) in said["message"]
    assert "at byte" in said["message"]
    assert "1 seconds" in said["message"]
    assert "--read-timeout" in said["hint"]


def stand_still(place: Place, process: subprocess.Popen[str]) -> None:
    """Let the server of the storage stand still, with no request in its hands, and the program go on."""
    process.send_signal(signal.SIGSTOP)
    limit = time.monotonic() + 60
    while not place.moody.is_idle():
        assert time.monotonic() < limit
        time.sleep(0.02)
    place.moody.stop()
    process.send_signal(signal.SIGCONT)
    time.sleep(1.0)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_storage_that_hangs_while_it_is_written(place: Place, number: int) -> None:
    repo = place.moody.folder / "repo"
    place.do("init", repo, "--encryption", "none")
    words = ("backup", place.source, "--repo", repo, "--compression", "none", "--no-verify")
    place.moody.be("slow")
    process = place.start(*words, "--json")
    await_event(process, "bytes_moved")
    place.moody.be()
    stand_still(place, process)
    took, said = stopped(process, number)
    assert said["code"] == "cancelled"
    assert took < WITHIN_S
    place.moody.stop(running=True)
    assert place.do(*words)["bytes_read"] == SIZE
    assert not [one for one in (place.folder / "medium" / "repo" / "sessions").rglob("*") if one.is_file()]
    place.do("check", "--repo", repo)


def begun(place: Place, verb: str) -> subprocess.Popen[str]:
    """A verb that reads the repository, at work while it hangs."""
    repo = place.moody.folder / "repo"
    place.do("init", repo, "--encryption", "none")
    place.do("backup", place.source, "--repo", repo, "--compression", "none", "--no-verify")
    words: dict[str, tuple[object, ...]] = {
        "opening": ("images",),
        "verify": ("verify", "latest"),
        "restore": ("restore", "latest", place.folder / "target", "--yes"),
        "mount": ("mount", "latest", place.folder / "shown"),
        "export": ("export", "latest", place.folder / "out.raw", "--split", "16M"),
        "nbd": ("nbd", "latest", "--socket", place.folder / "socket"),
    }
    if verb == "opening":
        place.moody.be("hang")
    if verb in ("verify", "restore", "export"):
        place.moody.be("slow")
    process = place.start(*words[verb], "--repo", repo, "--json")
    if verb in ("verify", "restore", "export"):
        await_event(process, "job_started")
        place.moody.be("hang")
    if verb in ("mount", "nbd"):
        await_event(process, {"mount": "mounted", "nbd": "nbd-ready"}[verb])
        place.moody.be("hang")
    if verb == "nbd":
        uri = f"nbd+unix:///?socket={place.folder / 'socket'}"
        reading = ["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(place.folder / "read")]
        place.readers.append(subprocess.Popen(reading, stderr=subprocess.DEVNULL))
    if verb == "mount":
        place.environment["SHOWN"] = str(next((place.folder / "shown").iterdir()))
        reading = [sys.executable, "-c", "import os; open(os.environ['SHOWN'], 'rb').read(1 << 22)"]
        place.readers.append(subprocess.Popen(reading, env=place.environment, stderr=subprocess.DEVNULL))
    place.moody.await_hanging()
    return process


READS: Final = [
    "verify",
    *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("opening", "restore", "mount", "nbd", "export")),
]


@pytest.mark.parametrize("verb", READS)
def test_a_storage_that_hangs_while_it_is_read(place: Place, verb: str) -> None:
    (place.folder / "shown").mkdir()
    process = begun(place, verb)
    took, _ = stopped(process, signal.SIGINT) if verb not in ("mount", "nbd") else ended(process)
    assert took < WITHIN_S
    place.moody.be()
    if verb == "restore":
        place.do("restore", "latest", place.folder / "target", "--repo", place.moody.folder / "repo", "--yes")
        subprocess.run(["cmp", place.source, place.folder / "target"], check=True)


def ended(process: subprocess.Popen[str]) -> tuple[float, str]:
    """End what is served, which Ctrl-C does anyway."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    return time.monotonic() - began, out


@pytest.mark.slow
def test_ctrl_c_while_a_passphrase_is_tried(place: Place) -> None:
    """Argon2 takes its time on purpose, in one call."""
    place.environment["STILLFRAME_PASSWORD"] = "one two three"  # noqa: S105
    place.do("init", place.folder / "repo", "--encryption", "aes256")
    process = place.start("images", "--repo", place.folder / "repo", "--json")
    assert process.stdout is not None
    limit = time.monotonic() + 30
    while not _is_stretching(process.pid) and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.005)
    if process.poll() is None and not select.select([process.stdout], [], [], 0)[0]:
        took, said = stopped(process, signal.SIGINT)
        assert said["code"] == "cancelled"
        assert took < WITHIN_S


def _is_stretching(pid: int) -> bool:
    """Whether a process has taken the memory that a passphrase is stretched in: 64 MiB or more."""
    status = Path(f"/proc/{pid}/status").read_text()
    size = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return size > 120_000
