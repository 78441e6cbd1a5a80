"""Which chunk size? Speed, index bytes and bytes added after a day, for several sizes.

Drives the prototype pipeline ``limit.py`` of the benchmark kit through full, second and restore, and prints one
Markdown table. It measures the prototype, not Stillframe. The rounds are interleaved, so that a slow minute of the
machine hits every size; the medians are printed.

The disks are made by ``make_disks.sh`` and ``change.py``, their extents by ``extents.py`` of the same kit: for a disk
``D.raw`` the files ``D.json``, ``D.day2.raw`` and ``D.day2.json`` lie beside it.

Example:
    python benchmarks/chunk_size.py --limit ../kit/limit.py --work /big/work /big/windows-like.raw
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 4096
INDEX_RECORD = 48
PIECE = 4 << 20
MEGABYTE = 1_000_000
FREE_LEFT = 500 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One full, second and restore at one chunk size; times in seconds."""

    full_s: float
    second_s: float
    restore_s: float | None
    stored: int
    added: int
    chunks: int


def read_extents(path: Path) -> list[tuple[int, int]]:
    """Return the used extents ``(start, length)`` in bytes that ``extents.py`` wrote."""
    return [(int(start), int(length)) for start, length in json.loads(path.read_text())["extents"]]


def changed_bytes(before: Path, after: Path, extents: list[tuple[int, int]]) -> int:
    """Count the bytes of used 4 KiB blocks that differ: what an ideal incremental has to look at."""
    total = 0
    with before.open("rb", buffering=0) as old, after.open("rb", buffering=0) as new:
        for start, length in extents:
            for offset in range(start, start + length, PIECE):
                size = min(PIECE, start + length - offset)
                left, right = os.pread(old.fileno(), size, offset), os.pread(new.fileno(), size, offset)
                if left != right:
                    differs = np.frombuffer(left, np.uint8) != np.frombuffer(right, np.uint8)
                    total += len(np.unique(np.flatnonzero(differs) // BLOCK)) * BLOCK
    return total


def warm(path: Path, filler: Path, extents: list[tuple[int, int]]) -> None:
    """Fill free memory with a hole, then cache the source: memory that went back to the host is slow at first use."""
    os.sync()
    with filler.open("ab") as file:  # never emptied: that would give its memory back
        file.truncate(64 << 30)
    with filler.open("rb", buffering=0) as file:
        for offset in range(0, 64 << 30, PIECE):
            if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < FREE_LEFT:
                break
            os.pread(file.fileno(), PIECE, offset)
    with path.open("rb", buffering=0) as file:
        for start, length in extents:
            for offset in range(start, start + length, PIECE):
                os.pread(file.fileno(), min(PIECE, start + length - offset), offset)


def folder_bytes(folder: Path) -> int:
    """Return the sum of the sizes of a folder's files."""
    return sum(item.stat().st_size for item in folder.iterdir())


def run_cycle(args: argparse.Namespace, disk: Path, chunk_kib: int) -> Cycle:
    """Run full, second and restore once, in an empty work folder."""
    work: Path = args.work / "chunk_size"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    packs, target = work / "packs", work / "target.raw"
    day2 = disk.with_suffix(".day2.raw")
    seconds: dict[str, float] = {}
    sizes: list[int] = []
    chunks = 0
    phases = [("full", disk), ("second", day2)] + ([] if args.skip_restore else [("restore", day2)])
    for phase, source in phases:
        extents = source.with_suffix(".json")
        warm(source, args.work / "filler", read_extents(extents))
        command = [sys.executable, str(args.limit), phase, str(source), str(extents), str(work)]
        command += ["--chunk", str(chunk_kib), "--threads", str(args.threads), "--level", str(args.level)]
        command += ["--target", str(target)] if phase == "restore" else []
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        seconds[phase] = told["seconds"]
        chunks = told["chunks"] if phase == "full" else chunks
        sizes.append(folder_bytes(packs))
    shutil.rmtree(work)
    return Cycle(
        full_s=seconds["full"],
        second_s=seconds["second"],
        restore_s=seconds.get("restore"),
        stored=sizes[0],
        added=sizes[1] - sizes[0],
        chunks=chunks,
    )


def print_table(disk: Path, cycles: dict[int, list[Cycle]]) -> None:
    """Print the medians of one disk as Markdown; speeds are MB (10^6) of used data a second."""
    facts = json.loads(disk.with_suffix(".json").read_text())
    day2 = disk.with_suffix(".day2.raw")
    changed = changed_bytes(disk, day2, read_extents(day2.with_suffix(".json")))
    used = int(facts["used"])
    runs = min(len(found) for found in cycles.values())
    print(f"\n{disk.stem}: {used / MEGABYTE:.0f} MB used, {changed / MEGABYTE:.1f} MB of 4 KiB blocks changed,", end="")
    print(f" medians of {runs} runs (full: range)\n")
    print("| chunk KiB | full MB/s | second s | restore MB/s | stored MB | added MB | x changed | chunks |", end="")
    print(" index MB | index MiB per TiB used |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for chunk_kib, found in cycles.items():
        rates = [used / MEGABYTE / cycle.full_s for cycle in found]
        restores = [used / MEGABYTE / cycle.restore_s for cycle in found if cycle.restore_s]
        restore = f"{statistics.median(restores):.0f}" if restores else "-"
        second_s = statistics.median(cycle.second_s for cycle in found)
        added = statistics.median(cycle.added for cycle in found)
        index = found[0].chunks * INDEX_RECORD
        row = f"| {chunk_kib} | {statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f}) | {second_s:.2f} |"
        row += f" {restore} | {found[0].stored / MEGABYTE:.0f} | {added / MEGABYTE:.1f} | {added / changed:.2f} |"
        row += f" {found[0].chunks} | {index / MEGABYTE:.2f} | {index / used * (1 << 20):.0f} |"
        print(row, flush=True)


def main() -> None:
    """Parse the command line, run the rounds, print one table for each disk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disks", nargs="+", type=Path, help="D.raw, with D.json, D.day2.raw, D.day2.json beside it")
    parser.add_argument("--limit", type=Path, required=True, help="limit.py of the benchmark kit")
    parser.add_argument("--work", type=Path, required=True, help="a folder with room for an image and a restored disk")
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="chunk sizes in KiB")
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--level", type=int, default=1, help="zstd level")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--skip-restore", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for disk in args.disks:
        cycles: dict[int, list[Cycle]] = {chunk_kib: [] for chunk_kib in args.chunks}
        for number in range(1, args.runs + 1):
            for chunk_kib, found in cycles.items():
                found.append(run_cycle(args, disk, chunk_kib))
                print(f"run {number}, {disk.stem}, {chunk_kib} KiB: {found[-1]}", file=sys.stderr, flush=True)
        print_table(disk, cycles)
    (args.work / "filler").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
