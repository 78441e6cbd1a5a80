"""Time backup, unchanged backup, day-of-changes backup, verify and restore as whole processes, beside a limit.

Usage: bench.py DISK DAY2 [--limit LIMIT.PY --extents DISK.json DAY2.json] [--work DIR] [--runs N] [--json FILE]

DISK and DAY2 are raw disk files: the second is the first one a day later. LIMIT.PY is a pipeline to compare with; it
is called as ``limit.py full|second|restore DISK EXTENTS WORK --threads 2 [--target FILE]``. Ours and the limit run in
turn, so that a machine whose speed drifts still gives honest ratios. Sources are read once before each run: the page
cache is warm for both. Needs root, to drop the caches
before each run. Wall time ends when ``sync`` has come back. Peak memory is sampled ten times a second.
Prints a Markdown table, medians of the times
and the geometric mean of the ratios; absolute numbers belong to one machine, ratios are the result.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PASSWORD = "bench"  # noqa: S105 - protects a repository that is deleted at once


def warm(path: str) -> None:
    """Read a file's data, so that it is in the page cache."""
    with open(path, "rb", buffering=0) as file:
        size, offset = os.fstat(file.fileno()).st_size, 0
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
                end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            except OSError:
                return
            while offset < end:
                offset += len(os.pread(file.fileno(), min(8 << 20, end - offset), offset))


def make_resident(folder: str) -> None:
    """Fill free memory with the page cache of a hole, so that no run pays for memory the machine had given away.

    Virtual machines hand free memory back to their host, and getting it again can cost more than the run itself.
    """
    hole, step = os.path.join(folder, "hole"), 4 << 20
    with open(hole, "wb") as file:
        file.truncate(64 << 30)
    with open(hole, "rb", buffering=0) as file:
        for offset in range(0, 64 << 30, step):
            if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 512 << 20:
                break
            os.pread(file.fileno(), step, offset)


def peak_of(pid: int, stop: threading.Event, peak: list[int]) -> None:
    """Sample the resident memory of a process until told to stop; bytes."""
    while not stop.wait(0.1):
        try:
            fields = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        except OSError:
            return
        for line in fields.splitlines():
            if line.startswith("VmRSS:"):
                peak[0] = max(peak[0], int(line.split()[1]) << 10)


def timed(command: list[str]) -> dict[str, float]:
    """Run a command; wall seconds until ``sync`` is back, processor seconds, peak memory."""
    before = os.times()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    peak, stop = [0], threading.Event()
    sampler = threading.Thread(target=peak_of, args=(process.pid, stop, peak))
    sampler.start()
    _, errors = process.communicate()
    os.sync()
    wall = time.perf_counter() - began
    stop.set()
    sampler.join()
    after = os.times()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed with {process.returncode}: {errors.decode()}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"wall": wall, "cpu": cpu, "peak": peak[0]}


def folder_size(folder: str) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


class Bench:
    """One series of runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = options.work
        self.repo = f"{self.work}/repo"
        self.rows: dict[str, list[dict[str, float]]] = {}
        self.used = {
            name: json.loads(Path(path).read_text(encoding="utf-8"))["used"]
            for name, path in zip(("day1", "day2"), options.extents or (), strict=False)
        }
        os.environ.update(
            STILLFRAME_PASSWORD=PASSWORD, STILLFRAME_REPO=self.repo, STILLFRAME_CACHE_DIR=f"{self.work}/cache",
            STILLFRAME_STATE_DIR=f"{self.work}/state",
        )  # fmt: skip

    def ours(self, phase: str, *arguments: str) -> None:
        """Time one of our verbs."""
        self.prepare(arguments)
        stored = folder_size(self.repo) if os.path.isdir(self.repo) else 0
        row = timed([*self.options.stillframe, *arguments])
        self.rows.setdefault(phase, []).append({**row, "added": folder_size(self.repo) - stored})

    def limit(self, phase: str, verb: str, day: str, *arguments: str) -> None:
        """Time the limit, when there is one."""
        if self.options.limit:
            number = 0 if day == "day1" else 1
            disk, extents = (self.options.disk, self.options.day2)[number], self.options.extents[number]
            folder = f"{self.work}/limit"
            command = [sys.executable, self.options.limit, verb, disk, extents, folder, "--threads", "2", *arguments]
            self.prepare(command)
            self.rows.setdefault(f"limit {phase}", []).append(timed(command))

    def prepare(self, command: Sequence[str]) -> None:
        """The same memory before every run: resident, and in the page cache only what the command reads."""
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as kernel:
            kernel.write("3")
        make_resident(self.work)
        for path in command:
            if path in {self.options.disk, self.options.day2}:
                warm(path)
        if command[0] in {"verify", "restore"} or "restore" in command:
            for folder in (self.repo, f"{self.work}/limit"):
                for found in Path(folder).rglob("*"):
                    if found.is_file():
                        warm(str(found))

    def cycle(self, *, limit_first: bool) -> None:
        """Every phase once, ours and the limit beside it.

        Who goes first changes from cycle to cycle: the disk of a virtual machine writes fast for a few seconds and
        slowly afterwards, so that whoever comes second took up to 1.4 times as long, be it ours or the limit.
        """
        day1, day2, target = self.options.disk, self.options.day2, f"{self.work}/target.raw"
        for folder in (self.repo, f"{self.work}/limit", f"{self.work}/cache", f"{self.work}/state"):
            shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([*self.options.stillframe, "init", self.repo], check=True, stdout=subprocess.DEVNULL)
        backup = ("backup", "--no-verify", "--include-paging", "--name", "bench", "--compression", "fast")
        steps: list[Callable[[], None]] = [
            lambda: self.limit("full", "full", "day1"),
            lambda: self.ours("full", *backup, day1),
            lambda: self.limit("day", "second", "day2"),
            lambda: self.ours("day", *backup, day2),
            lambda: self.limit("restore", "restore", "day2", "--target", target),
            lambda: self.ours("restore", "restore", "latest:bench", target, "--yes"),
        ]
        for theirs, mine in zip(steps[::2], steps[1::2], strict=True):
            for step in (theirs, mine) if limit_first else (mine, theirs):
                step()
                Path(target).unlink(missing_ok=True)
            if mine is steps[1]:
                self.ours("unchanged", *backup, day1)
        self.ours("verify", "verify", "latest:bench")

    def table(self) -> str:
        """The medians as Markdown."""
        lines = ["| phase | wall s | MB/s of used | CPU s | peak MB | added MB | of the limit's rate |",
                 "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
        for phase, rows in self.rows.items():
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            used = self.used.get("day2" if phase.split()[-1] in {"day", "restore", "verify"} else "day1", 0)
            partner = self.rows.get(f"limit {phase}")
            ratio = "-"
            if partner:
                pairs = [theirs["wall"] / mine["wall"] for mine, theirs in zip(rows, partner, strict=True)]
                ratio = f"{statistics.geometric_mean(pairs):.2f}"
            added = f"{middle['added'] / 1e6:.0f}" if "added" in middle else "-"
            lines.append(
                f"| {phase} | {middle['wall']:.2f} | {used / 1e6 / middle['wall']:.0f} | {middle['cpu']:.1f} | "
                f"{middle['peak'] / 1e6:.0f} | {added} | {ratio} |"
            )
        return "\n".join(lines)


def main() -> None:
    """Run the series and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disk")
    parser.add_argument("day2")
    parser.add_argument("--limit")
    parser.add_argument("--extents", nargs=2)
    parser.add_argument("--work", default="bench-work")
    parser.add_argument("--runs", type=int, default=4, help="even, so that each goes first as often")
    parser.add_argument("--json")
    parser.add_argument("--stillframe", nargs="+", default=[sys.executable, "-m", "stillframe"])
    options = parser.parse_args()
    os.makedirs(options.work, exist_ok=True)
    bench = Bench(options)
    for number in range(options.runs):
        bench.cycle(limit_first=number % 2 == 0)
    shutil.rmtree(options.work)
    result: dict[str, Any] = {"runs": options.runs, "rows": bench.rows}
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(bench.table())


if __name__ == "__main__":
    main()
