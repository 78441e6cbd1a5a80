"""Time Stillframe, a limit and other tools on the same disks, in turn.

Usage (root): make bench BENCH_FLAGS="[DISK DAY2]... [--runs N] [--quick] [--out FOLDER] [--work FOLDER] [--no-peers]"

Without DISK and DAY2 (raw disk files; the second is the first a day later) two small disks are made and kept in the
cache. Everything runs as whole processes, start-up, key derivation, planning and ``sync`` included; our repository is
encrypted, paging files are kept, nothing is read back at the end of a backup (``verify`` is a phase of its own).
Sources and packs are in the page cache. Who goes first changes from run to run, and ratios are taken within one run. A
phase of a peer that takes longer than 8 s is not repeated, and stronger compression runs once. Results: bench.json in
FOLDER (docs/performance), and by ``report`` the tables of docs/performance.md and the plots beside bench.json; with
``--quick`` in build/bench, and the page is left alone.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.comparison import measuring, report
from benchmarks.comparison.extents import DiskFile, describe, loop_device
from benchmarks.comparison.measuring import Row, measure
from benchmarks.comparison.peers import Peer, peers
from benchmarks.comparison.reference_disks import cached_disks

OURS: Final = "stillframe"
LIMIT: Final = "limit"
CACHE: Final = "/var/tmp/stillframe-bench"  # noqa: S108 - root's own, and made again when it is not what was made
_SLOW_S: Final = 8.0
_PAGE: Final = 4096
_LEVELS: Final = ("balanced", "high")
_TOOLS: Final = {
    "zstd": ("zstd", "--version"), "partclone": ("partclone.ext4", "--version"),
    "ntfsclone": ("ntfsclone", "--version"), "qemu-img": ("qemu-img", "--version"),
    "restic": ("restic", "version"), "casync": ("casync", "--version"),
}  # fmt: skip


class Series:
    """All runs on one disk and the same disk a day later."""

    def __init__(
        self, name: str, days: tuple[DiskFile, DiskFile], work: str, rows: list[Row], levels: tuple[str, ...]
    ) -> None:
        self.name = name
        self.days = days
        self.work = work
        self.rows = rows
        self._levels = levels
        self.cycle = 0
        self._slow: set[tuple[str, str]] = set()
        self._repo = f"{work}/repo"
        self._target = f"{work}/target/disk.raw"
        self._environment = {
            "STILLFRAME_PASSWORD": "bench", "STILLFRAME_CACHE_DIR": f"{work}/cache",
            "STILLFRAME_STATE_DIR": f"{work}/state",
        }  # fmt: skip
        for number, day in enumerate(days, 1):
            told = {"size": day.size, "extents": day.extents}
            Path(f"{work}/day{number}.json").write_text(json.dumps(told), encoding="utf-8")

    def run(self, cycle: int, others: list[Peer]) -> None:
        """Every phase once."""
        self.cycle = cycle
        self._own_phases()
        for level in self._levels if cycle == 0 else ():
            self._level(level)
        order = [*others[cycle % len(others) :], *others[: cycle % len(others)]] if others else []
        for peer in order:
            self._peer(peer)

    def _own_phases(self) -> None:
        for folder in (self._repo, f"{self.work}/limit", f"{self.work}/cache", f"{self.work}/state"):
            shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(f"{self.work}/limit")
        self._init(self._repo)
        save = ("backup", "--no-verify", "--include-paging", "--name", "bench", "--compression", "fast")
        day1, day2 = self.days
        self._pair("full", lambda: self._limit("full", 0), lambda: self._ours("full", 0, *save, day1.path))
        self._pair("unchanged", lambda: self._limit("scan", 0), lambda: self._ours("unchanged", 0, *save, day1.path))
        self._pair("day", lambda: self._limit("second", 1), lambda: self._ours("day", 1, *save, day2.path))
        self._pair(
            "verify", lambda: self._limit("verify", 1), lambda: self._ours("verify", 1, "verify", "latest:bench")
        )
        self._pair("restore", lambda: self._limit("restore", 1), lambda: self._restore("restore"))
        self._delta()

    def _pair(self, phase: str, theirs: Callable[[], Row], mine: Callable[[], Row]) -> None:
        """The limit and ours, one after the other; who is first changes from run to run."""
        for step in (theirs, mine) if self.cycle % 2 == 0 else (mine, theirs):
            shutil.rmtree(os.path.dirname(self._target), ignore_errors=True)
            os.makedirs(os.path.dirname(self._target))
            self._keep(replace(step(), phase=phase))

    def _ours(self, phase: str, day: int, *arguments: str, repo: str = "") -> Row:
        repo = repo or self._repo
        measuring.make_resident(self.work)
        measuring.warm(*(path for path in arguments if path.endswith(".raw")), *([] if day == 0 else [repo]))
        row = Row(disk=self.name, cycle=self.cycle, who=OURS, phase=phase, used=self.days[day].used)
        command = measuring.python("-m", "stillframe", *arguments)
        return measure(row, command, {**self._environment, "STILLFRAME_REPO": repo}, repo)

    def _limit(self, phase: str, day: int, disk: str = "") -> Row:
        folder = f"{self.work}/limit"
        measuring.make_resident(self.work)
        measuring.warm(disk or self.days[day].path, *([folder] if phase in ("verify", "restore") else []))
        row = Row(disk=self.name, cycle=self.cycle, who=LIMIT, phase=phase, used=self.days[day].used)
        arguments = (phase, disk or self.days[day].path, f"{self.work}/day{day + 1}.json", folder)
        target = ("--target", self._target) if phase == "restore" else ()
        return measure(row, measuring.python("-m", "benchmarks.comparison.limit", *arguments, *target), {}, folder)

    def _restore(self, phase: str, *flags: str) -> Row:
        row = self._ours(phase, 1, "restore", "latest:bench", self._target, "--yes", *flags)
        if not row.error and self.cycle == 0:
            row = replace(row, note=compare(self.days[1], self._target))
        return row

    def _delta(self) -> None:
        """A target of which a hundredth of what is used has changed: written back, beside reading and hashing it."""
        for who in (LIMIT, OURS) if self.cycle % 2 == 0 else (OURS, LIMIT):
            os.makedirs(os.path.dirname(self._target), exist_ok=True)
            subprocess.run(["cp", "--sparse=always", self.days[1].path, self._target], check=True)
            spoil(self.days[1], self._target)
            row = self._limit("scan", 1, self._target) if who == LIMIT else self._restore("delta", "--delta")
            self._keep(replace(row, phase="delta"))

    def _level(self, level: str) -> None:
        repo = f"{self.work}/repo-{level}"
        shutil.rmtree(repo, ignore_errors=True)
        self._init(repo)
        arguments = ("backup", "--no-verify", "--include-paging", "--name", "bench", "--compression", level)
        self._keep(self._ours(f"full {level}", 0, *arguments, self.days[0].path, repo=repo))
        shutil.rmtree(repo)

    def _init(self, repo: str) -> None:
        environment = {**os.environ, **self._environment}
        subprocess.run(
            measuring.python("-m", "stillframe", "init", repo), check=True, env=environment, stdout=subprocess.DEVNULL
        )

    def _peer(self, peer: Peer) -> None:
        if peer.missing:
            error = f"not installed: {', '.join(peer.missing)}"
            self._keep(Row(disk=self.name, cycle=self.cycle, who=peer.name, phase="full", error=error))
            return
        repo = f"{self.work}/peer"
        for folder in (repo, f"{self.work}/restic-cache"):
            shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(repo)
        scripts = {"full": peer.backup, "day": peer.second, "restore": peer.restore, "verify": peer.verify}
        for phase, script in scripts.items():
            if (peer.name, phase) in self._slow:
                break  # what follows needs it
            if not script:
                continue
            row = self._script(peer, phase, script, repo)
            self._keep(row)
            if row.wall > _SLOW_S:
                self._slow.add((peer.name, phase))
            if row.error:
                break
        shutil.rmtree(repo)

    def _script(self, peer: Peer, phase: str, script: str, repo: str) -> Row:
        number = 0 if phase == "full" else 1
        day, source = self.days[number], f"{self.work}/source.raw"
        shutil.rmtree(os.path.dirname(self._target), ignore_errors=True)
        os.makedirs(os.path.dirname(self._target))
        Path(source).unlink(missing_ok=True)
        os.link(day.path, source)  # a tool that goes by names sees the same file on both days
        environment = {
            "SRC": source, "DAY": str(number + 1), "REPO": repo, "TGT": self._target,
            "TGTDIR": os.path.dirname(self._target), "LOG": f"{self.work}/peer.log",
        }  # fmt: skip
        used = day.used_in(peer.covers) if peer.covers else day.used
        row = Row(disk=self.name, cycle=self.cycle, who=peer.name, phase=phase, used=used)
        with self._loops(peer, day, source, writes=phase == "restore") as devices:
            measuring.make_resident(self.work)
            measuring.warm(*([source] if phase in ("full", "day") else [repo]))
            done = measure(row, ["bash", "-o", "pipefail", "-ec", script], {**environment, **devices}, repo)
        if phase == "restore" and not done.error and self.cycle == 0:
            done = replace(done, note=compare(day, self._target, peer.covers))
        return done

    @contextlib.contextmanager
    def _loops(self, peer: Peer, day: DiskFile, source: str, *, writes: bool) -> Iterator[dict[str, str]]:
        with contextlib.ExitStack() as stack:
            found: dict[str, str] = {}
            if peer.loops:
                if writes:
                    Path(self._target).touch()
                    os.truncate(self._target, day.size)
                for part in day.parts:
                    found[f"S{part.number}"] = stack.enter_context(loop_device(source, part, read_only=True))
                    if writes:
                        device = stack.enter_context(loop_device(self._target, part, read_only=False))
                        found[f"T{part.number}"] = device
            yield found

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        words = row.error or f"{row.wall:.2f} s, {row.cpu:.1f} s of processors, {row.peak / 1e6:.0f} MB"
        print(f"{self.name} {self.cycle + 1}: {row.who}, {row.phase}: {words} {row.note}", flush=True)


def compare(day: DiskFile, target: str, covers: frozenset[str] = frozenset()) -> str:
    """Whether the bytes in use came back, of the partitions that a tool covers."""
    parts = [part for part in day.parts if not covers or part.filesystem in covers]
    bad = 0
    with open(day.path, "rb") as one, open(target, "rb") as two:
        for start, size in day.extents:
            if covers and not any(part.start <= start < part.start + part.size for part in parts):
                continue
            for offset in range(start, start + size, 4 << 20):
                length = min(4 << 20, start + size - offset)
                bad += os.pread(one.fileno(), length, offset) != os.pread(two.fileno(), length, offset)
    return "equal" if not bad else f"{bad} pieces of 4 MiB differ"


def spoil(day: DiskFile, path: str) -> None:
    """Write noise over pages in use until a hundredth of what is used has changed, in runs of 64 KiB."""
    rng, left = random.Random(3), day.used // 100
    places = [(at, size) for at, size in day.extents if size >= 64 << 10]
    with open(path, "r+b") as file:
        while left > 0 and places:
            start, size = rng.choice(places)
            file.seek(start + rng.randrange((size - (64 << 10)) // _PAGE + 1) * _PAGE)
            file.write(rng.randbytes(64 << 10))
            left -= 64 << 10


def changed_bytes(one: DiskFile, two: DiskFile) -> int:
    """Bytes in use in blocks of 4 KiB that are not the same on both days."""
    changed = 0
    with open(one.path, "rb") as first, open(two.path, "rb") as second:
        for start, size in two.extents:
            for offset in range(start, start + size, 4 << 20):
                length = min(4 << 20, start + size - offset)
                old, new = os.pread(first.fileno(), length, offset), os.pread(second.fileno(), length, offset)
                if old != new:
                    changed += sum(
                        len(new[at : at + _PAGE])
                        for at in range(0, length, _PAGE)
                        if old[at : at + _PAGE] != new[at : at + _PAGE]
                    )
    return changed


def machine() -> dict[str, Any]:
    """What this was measured on."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in about if "model name" in line), "")
    told = Path("/etc/os-release").read_text(encoding="utf-8")
    system = next(
        (line.partition("=")[2].strip('"') for line in told.splitlines() if line.startswith("PRETTY_NAME=")), ""
    )
    return {
        "processor": cpu, "processors": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "system": system,
        "kernel": platform.release(), "python": platform.python_version(), "load": os.getloadavg()[0],
    }  # fmt: skip


def versions() -> dict[str, str]:
    """The first line of what each tool says of itself."""
    found = {}
    for name, command in _TOOLS.items():
        with contextlib.suppress(OSError):
            told = subprocess.run(command, check=False, capture_output=True, text=True)
            found[name] = next((line.strip() for line in (told.stdout + told.stderr).splitlines() if line.strip()), "")
    return found


def main() -> None:
    """Run every series, write the figures, make the tables and plots."""
    options = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that loop devices and the work folder go
    work = tempfile.mkdtemp(prefix="stillframe-bench-", dir=options.work)
    out = options.out or ("build/bench" if options.quick else "docs/performance")
    runs = options.runs or (1 if options.quick else 3)
    began, rows, disks = time.time(), list[Row](), dict[str, Any]()
    result = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)), "command": " ".join(["bench", *sys.argv[1:]]),
        "runs": runs, "machine": machine(), "versions": versions(), "disks": disks,
    }  # fmt: skip
    pairs = zip(options.disks[::2], options.disks[1::2], strict=True)
    named = [(Path(one).stem, one, other) for one, other in pairs] or cached_disks(options.cache)
    try:
        for name, day1, day2 in named[:1] if options.quick else named:
            days = (describe(os.path.abspath(day1)), describe(os.path.abspath(day2)))
            disks[name] = {"size": days[0].size, "used": days[0].used, "changed": changed_bytes(*days)}
            series = Series(name, days, work, rows, _LEVELS[:1] if options.quick else _LEVELS)
            others = [] if options.no_peers else peers(days[0].parts)
            for cycle in range(runs):
                series.run(cycle, others)
                os.makedirs(out, exist_ok=True)
                result |= {"seconds": round(time.time() - began), "rows": [row.fields() for row in rows]}
                Path(out, "bench.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(work)
    print(f"{time.time() - began:.0f} s; figures in {out}/bench.json")
    report.write(Path(out), page=None if options.quick or options.out else Path("docs/performance.md"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disks", nargs="*", metavar="DISK DAY2")
    parser.add_argument("--runs", type=int, help="3; with --quick 1")
    parser.add_argument("--quick", action="store_true", help="one run on the smaller disk: does it work?")
    parser.add_argument("--no-peers", action="store_true", help="ours and the limit alone")
    parser.add_argument("--out", default="", help="where figures go; then docs/performance.md stays as it is")
    parser.add_argument("--work", default=None, help="a folder with room: three times what is in use")
    parser.add_argument("--cache", default=os.environ.get("STILLFRAME_BENCH_CACHE", CACHE))
    options = parser.parse_args()
    if len(options.disks) % 2:
        parser.error("name pairs of disk files, or none")
    if os.geteuid() != 0:
        parser.error("loop devices and mounts need root")
    return options


if __name__ == "__main__":
    main()
