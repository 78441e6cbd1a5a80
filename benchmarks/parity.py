#!/usr/bin/env python3
"""What parity costs: making it, healing with it, and its share of a backup.

``parity.py [--size MIB] [--folder DIR] [--runs N]`` prints medians of the runs. Run it on a quiet machine. Lines that
belong together:

- ``encode``: all records of one pack of 64 MiB that lies in the page cache, by one thread and by two at once (a pack
  each); beside it ``read + BLAKE3`` of the same bytes in the same run, and the parts: checksums of all blocks, sums.
- ``heal``: from a damaged pack to its blocks, in memory: the pack and its sidecar are read, every block is checked.
- ``backup``: a disk file of ``--size`` MiB that shrinks to about two thirds, into a new repository with parity and
  without, by turns.
"""

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from blake3 import blake3

from stillframe.jobs.backup import BackupOptions
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.parity.code import Sums
from stillframe.repo.parity.healing import Healer
from stillframe.repo.parity.records import Covered, Geometry, checksums, make_records, padded
from stillframe.repo.repository import create_repository
from stillframe.repo.session import Owner
from stillframe.store import LocalStore
from stillframe.testing.job_runs import ANNA, backup_paths
from stillframe.testing.rotten_store import burst, flip_bit, scatter

MIB = 1 << 20
PACK = 64 * MIB
COVERED = Covered(bytes(16), ObjectType.PACK, bytes(range(16)))
NAME, SIDECAR = (object_name(kind, COVERED.object_id) for kind in (ObjectType.PACK, ObjectType.PARITY))


def main() -> None:
    """Time one line after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="MiB of the disk; default 512")
    parser.add_argument("--folder", help="where files are made, instead of the temporary folder")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillframe-parity-", dir=options.folder) as folder:
        store = LocalStore(f"{folder}/store")
        raw = random.Random(1).randbytes(PACK)
        write(store, NAME, raw)
        encode(store, options.runs)
        heal(store, raw, options.runs)
        backups(Path(folder), options.size * MIB, options.runs)


def write(store: LocalStore, name: str, raw: bytes) -> None:
    """Put an object there, whatever was there."""
    store.delete(name)
    writer = store.create(name)
    writer.append(raw)
    writer.commit()


def median(call: Callable[[], object], runs: int) -> tuple[float, float]:
    """Seconds of wall time and of processor time."""
    taken, used = [], []
    for _ in range(runs):
        began, busy = time.perf_counter(), time.process_time()
        call()
        taken.append(time.perf_counter() - began)
        used.append(time.process_time() - busy)
    return statistics.median(taken), statistics.median(used)


def speed(label: str, seconds: tuple[float, float], size: int = PACK) -> None:
    """One line: on a machine that others use, the second figure says what the first would be."""
    wall, busy = seconds
    print(f"{label:34} {size / wall / 1e6:8.0f} MB/s  {size / busy / 1e6:8.0f} MB per second of a processor")


def encode(store: LocalStore, runs: int) -> None:
    """Making parity."""
    geometry = Geometry(PACK)

    def records() -> bytes:
        return make_records(lambda offset, length: store.read(NAME, offset, length), COVERED, geometry)

    def beside() -> None:
        for offset in range(0, PACK, 2 * MIB):
            blake3(store.read(NAME, offset, 2 * MIB)).digest()

    def two() -> None:
        threads = [threading.Thread(target=records) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    raw = store.read(NAME)
    pieces = [
        (first, padded(raw[first * geometry.width : last * geometry.width], geometry, last - first))
        for first, last in geometry.pieces()
    ]

    def sums() -> None:
        made = Sums(geometry.width)
        for first, data in pieces:
            made.add(first, data)

    speed("read + BLAKE3, one thread", median(beside, runs))
    speed("encode, one thread", median(records, runs))
    speed("encode, two threads", median(two, runs), 2 * PACK)
    speed("  of which checksums", median(lambda: [checksums(data) for _, data in pieces], runs))
    speed("  of which sums", median(sums, runs))
    body = records()
    write(store, SIDECAR, body)
    print(f"{'records of 64 MiB':34} {len(body) / PACK:8.2%}")


def heal(store: LocalStore, raw: bytes, runs: int) -> None:
    """Healing one pack."""
    for label, rot in (("one bit", flip_bit), ("0.5 % of its blocks", scatter), ("a burst of 3 %", burst)):
        spoiled = bytearray(raw)
        rot(spoiled, random.Random(2))
        write(store, NAME, bytes(spoiled))

        def once() -> None:
            healed = Healer(store, COVERED.repository_id).open(COVERED.kind, COVERED.object_id)
            assert healed is not None
            assert not healed.lost

        print(f"{f'heal 64 MiB, {label}':34} {median(once, runs)[0]:8.2f} s")
        healed = Healer(store, COVERED.repository_id).open(COVERED.kind, COVERED.object_id)
        assert healed is not None
        assert healed.read(NAME) == raw


def make_disk(path: Path, size: int) -> None:
    """Bytes that shrink to about two thirds, as those of a system do, and are different everywhere."""
    chance = np.random.default_rng(1)
    with path.open("wb") as file:
        for _ in range(0, size, 4 * MIB):
            piece = chance.integers(0, 256, 4 * MIB, np.uint8)
            piece[: 2 * MIB] &= 0x0F
            file.write(piece.tobytes())
        file.truncate(size)


def backups(folder: Path, size: int, runs: int) -> None:
    """The share of parity in a whole backup, read back at its end or not."""
    disk = folder / "disk.raw"
    make_disk(disk, size)
    owner: Owner = ANNA
    for verify in (False, True):
        taken: dict[bool, list[float]] = {False: [], True: []}
        used: dict[bool, list[float]] = {False: [], True: []}
        for number in range(runs):
            for wanted in (False, True) if number % 2 else (True, False):
                place = folder / "repo"
                repository = create_repository(LocalStore(str(place)), passphrase="words")  # noqa: S106 - guards nothing
                repository.parity.decide(parity=wanted, machine=owner.machine, clock=repository.clock)
                os.sync()
                began, busy = time.perf_counter(), time.process_time()
                backup_paths(repository, disk, options=BackupOptions(verify=verify))
                taken[wanted].append(time.perf_counter() - began)
                used[wanted].append(time.process_time() - busy)
                remove(place)
        words = "backup, read back" if verify else "backup, not read back"
        for what, seconds in ((words, taken), ("  of processors", used)):
            without, with_it = (statistics.median(seconds[wanted]) for wanted in (False, True))
            print(f"{what:34} {without:8.2f} s, with parity {with_it:.2f} s: {with_it / without - 1:+.0%}")


def remove(place: Path) -> None:
    """Delete a repository."""
    for path in sorted(place.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    place.rmdir()


if __name__ == "__main__":
    main()
