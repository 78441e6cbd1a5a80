"""Commands measured as whole processes, under the same conditions each time.

Answers: "how long, how much processor time, how much memory?" Wall time ends when ``sync`` has come back. Processor
time is that of the command and of all that it started; kernel threads (loop devices, writing back) are not in it.
Memory is the sum over its processes, sampled ten times a second, or the largest single peak, whichever is more.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

_STEP: Final = 4 << 20
_FREE_LEFT: Final = 512 << 20
_LIMIT_S: Final = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of one phase. Seconds and bytes.

    ``used`` is what the run had to deal with; ``stored`` what lies in the repository afterwards, ``added`` what this
    run put there. ``error`` says why there is no figure.
    """

    disk: str
    cycle: int
    who: str
    phase: str
    used: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    stored: int = 0
    added: int = 0
    note: str = ""
    error: str = ""

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(row: Row, command: Iterable[str], environment: Mapping[str, str], folder: str = "") -> Row:
    """Run a command and fill the row; ``folder`` is where it stores."""
    before = folder_size(folder) if folder else 0
    done = _run(row, list(command), {**os.environ, **environment})
    stored = folder_size(folder) if folder else 0
    return replace(done, stored=stored, added=stored - before)


def _run(row: Row, command: list[str], environment: Mapping[str, str]) -> Row:
    os.sync()
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    words: list[bytes] = []
    listener = threading.Thread(target=lambda: words.extend(process.stderr or ()), daemon=True)
    memory = _Memory(process.pid)
    timer = threading.Timer(_LIMIT_S, os.killpg, (process.pid, signal.SIGTERM))
    for thread in (listener, memory, timer):
        thread.start()
    _, status, usage = os.wait4(process.pid, 0)
    os.sync()
    wall = time.perf_counter() - began
    timer.cancel()
    memory.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    listener.join(2)
    done = replace(row, wall=round(wall, 4), cpu=round(usage.ru_utime + usage.ru_stime, 3), peak=memory.peak)
    if process.returncode:
        tail = b" / ".join(line.strip() for line in words[-3:]).decode(errors="replace")
        return replace(done, error=f"exit {process.returncode}: {tail[-300:]}")
    return done


class _Memory(threading.Thread):
    """Samples the memory of all processes of a session: of pages that several of them share, each counts its part.

    What a forked child has in common with its parent is there once. The most that a single process ever had counts too,
    with all that it shares, because samples miss what is short.
    """

    def __init__(self, leader: int) -> None:
        super().__init__(daemon=True)
        self._leader = leader
        self._ended = threading.Event()
        self.peak = 0

    def run(self) -> None:
        """Sample until told to stop."""
        while not self._ended.wait(0.1):
            marks = [found for pid in filter(str.isdigit, os.listdir("/proc")) if (found := self._of(int(pid)))]
            if marks:
                self.peak = max(self.peak, sum(now for now, _ in marks), *(mark for _, mark in marks))

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        self.join()

    def _of(self, pid: int) -> tuple[int, int] | None:
        try:
            if os.getsid(pid) != self._leader:
                return None
        except OSError:
            return None
        now, most = _sizes(f"/proc/{pid}/smaps_rollup"), status_bytes(pid)
        return (now["Pss"], most["VmHWM"]) if "Pss" in now and "VmHWM" in most else None


def status_bytes(pid: int | str = "self") -> dict[str, int]:
    """The lines of a process's status that are sizes, in bytes; empty when it is gone."""
    return _sizes(f"/proc/{pid}/status")


def _sizes(path: str) -> dict[str, int]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError:
        return {}
    rows = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(size) << 10 for name, size, _ in rows}


def folder_size(folder: str) -> int:
    """Bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink())


def warm(*paths: str) -> None:
    """Read the data of files, and of all files in folders, into the page cache; holes are passed over."""
    for path in paths:
        for found in Path(path).rglob("*") if os.path.isdir(path) else (Path(path),):
            if found.is_file():
                _read_through(str(found))


def _read_through(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while end < size:
            try:
                offset = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            for start in range(offset, end, _STEP):
                os.pread(file.fileno(), min(_STEP, end - start), start)


def make_resident(folder: str) -> None:
    """Fill free memory with the page cache of a hole, so that no run pays for memory the machine had given away.

    Virtual machines hand free memory back to their host, and getting it again can cost more than the run itself.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    hole, size = os.path.join(folder, "hole"), os.sysconf("SC_PHYS_PAGES") * page
    with open(hole, "wb") as file:
        file.truncate(size)
    with open(hole, "rb", buffering=0) as file:
        for offset in range(0, size, _STEP):
            if os.sysconf("SC_AVPHYS_PAGES") * page < _FREE_LEFT:
                return
            os.pread(file.fileno(), _STEP, offset)


def python(*arguments: str) -> list[str]:
    """A command of this Python."""
    return [sys.executable, *arguments]
