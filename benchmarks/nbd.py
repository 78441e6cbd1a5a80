#!/usr/bin/env python3
"""How fast an image is read as a network block device, beside other servers and beside expanding alone.

``nbd.py [--size MIB] [--folder DIR] [--runs N]`` makes a disk file (1 GiB) and a repository of it in a temporary
folder and prints for each line GB/s of wall time (median of the runs) and seconds of processor time. Run it on a quiet
machine. Lines that belong together:

- ``cached``: every chunk is in the cache; the bar is 1.5 GB/s through ``nbdcopy``. The peers serve the same bytes from
  the page cache: nbdkit's file plug-in and qemu-nbd.
- ``uncached``: every chunk is read from its pack, opened and expanded; beside it the same work by as many threads as
  there are processors, and by one, without maps, cache and network: ``expanding alone``. The peer is qemu-nbd, serving
  the disk as a QCOW2 file compressed with zstd (not encrypted).
- ``qemu-img`` reads with 8 requests in flight, as a kernel or a virtual machine does; ``one request`` is one at a time.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from stillframe.jobs.exposing import expose
from stillframe.repo.blockmap import iter_spans
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository, create_repository
from stillframe.serve.nbd import Export, nbd_server
from stillframe.store import LocalStore
from stillframe.testing.job_runs import backup_paths

MIB = 1 << 20
QEMU_STEP = 256 << 10
COPY = ["nbdcopy", "--no-extents"]


def main() -> None:
    """Make a disk, then time one line after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the disk; default 1024")
    parser.add_argument("--folder", help="where the disk and the repository are made, instead of the temporary folder")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillframe-nbd-", dir=options.folder) as folder:
        disk = Path(folder, "disk.raw")
        make_disk(disk, options.size * MIB)
        repository = create_repository(LocalStore(f"{folder}/repo"), passphrase="words")  # noqa: S106 - guards nothing
        manifest = backup_paths(repository, disk).manifest
        print(f"{options.size} MiB, stored in {manifest.bytes_added / MIB:.0f} MiB; medians of {options.runs} runs")
        bench = Bench(options.size * MIB, options.runs)
        bench.peers(disk)
        bench.image(repository, manifest, Path(folder, "s"))


def make_disk(path: Path, size: int) -> None:
    """Bytes that shrink to about two thirds, as those of a system do, and are different everywhere."""
    choose = random.Random(1)
    words = [choose.randbytes(choose.randrange(4, 40)) for _ in range(4000)]
    with path.open("wb") as file:
        while file.tell() < size:
            noise = choose.randbytes(128 << 10)
            file.write(noise + b"".join(choose.choices(words, k=6000))[: 128 << 10])
        file.truncate(size)


class Bench:
    """Times reads of the whole disk."""

    def __init__(self, size: int, runs: int) -> None:
        self._size = size
        self._runs = runs

    def peers(self, disk: Path) -> None:
        """Other servers, with the disk file in the page cache."""
        disk.read_bytes()
        if shutil.which("nbdkit"):
            command = " ".join([*COPY, '"$uri"', "null:"])
            self._time(
                "cached    nbdkit file, nbdcopy", lambda: run("nbdkit", "-U", "-", "file", disk, "--run", command)
            )
        with qemu_nbd(disk) as uri:
            self._time("cached    qemu-nbd, nbdcopy", lambda: run(*COPY, uri, "null:"))
            self._time("cached    qemu-nbd, qemu-img", lambda: read_with_qemu(uri, self._size))
        packed = disk.with_suffix(".qcow2")
        run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", disk, packed)
        packed.read_bytes()
        with qemu_nbd(packed, "qcow2") as uri:
            self._time("uncached  qemu-nbd of zstd QCOW2, nbdcopy", lambda: run(*COPY, uri, "null:"))
            self._time("uncached  qemu-nbd of zstd QCOW2, qemu-img", lambda: read_with_qemu(uri, self._size))

    def image(self, repository: Repository, manifest: Manifest, socket: Path) -> None:
        """Our server, with a cache that holds the whole disk, and then with an empty one for each run."""
        with serving(repository, manifest, socket, cache_size=2 * self._size) as uri:
            run(*COPY, uri, "null:")
            self._time("cached    stillframe, nbdcopy", lambda: run(*COPY, uri, "null:"))
            self._time("cached    stillframe, nbdcopy, one connection", lambda: run(*COPY, "-C", 1, uri, "null:"))
            self._time("cached    stillframe, qemu-img", lambda: read_with_qemu(uri, self._size))
        for threads in (os.cpu_count() or 1, 1):
            self._time(
                f"uncached  expanding alone, threads: {threads}", partial(expand_all, repository, manifest, threads)
            )

        def uncached(read: Callable[[str], None]) -> Callable[[], None]:
            def once() -> None:
                with serving(repository, manifest, socket) as uri:
                    read(uri)

            return once

        self._time("uncached  stillframe, nbdcopy", uncached(lambda uri: run(*COPY, uri, "null:")))
        self._time("uncached  stillframe, qemu-img", uncached(lambda uri: read_with_qemu(uri, self._size)))
        self._time(
            "uncached  stillframe, nbdcopy, one request",
            uncached(lambda uri: run(*COPY, "--synchronous", uri, "null:")),
        )

    def _time(self, name: str, work: Callable[[], object]) -> None:
        seconds, processor = [], []
        for _ in range(self._runs):
            before, began = processor_seconds(), time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
            processor.append(processor_seconds() - before)
        rate = self._size / statistics.median(seconds) / 1e9
        print(f"{name:48} {rate:6.2f} GB/s {statistics.median(processor):6.2f} s of processors", flush=True)


@contextmanager
def serving(
    repository: Repository, manifest: Manifest, socket: Path, *, cache_size: int | None = None
) -> Iterator[str]:
    """The image, served."""
    reader = expose(repository, manifest, cache_size=cache_size).disk(None).reader
    with nbd_server([Export(name="disk", disk=reader)], socket=str(socket)) as server:
        yield server.uri()


@contextmanager
def qemu_nbd(disk: Path, kind: str = "raw") -> Iterator[str]:
    """The disk file, served by qemu-nbd; its processor time counts when it has ended, and is not in the table."""
    socket = disk.with_name("q")
    command = ["qemu-nbd", "-r", "-t", "-e", "8", "-f", kind, "-k", str(socket), str(disk)]
    with subprocess.Popen(command) as process:
        while not socket.exists():
            time.sleep(0.01)
        try:
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()


def expand_all(repository: Repository, manifest: Manifest, threads: int) -> None:
    """Read, open and expand every chunk once."""
    chunks = repository.reader()
    ids: list[bytes] = []
    disk = manifest.disks[0]
    for stored in (disk.outside, *(part.blocks for part in disk.partitions)):
        for span in iter_spans(stored.root(), manifest.chunk_size, chunks.read_node):
            ids += [chunk_id for chunk_id in (span.leaf.entry_ids() if span.leaf else ()) if chunk_id]
    fetches, _ = chunks.plan(ids)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda fetch: sum(1 for _ in chunks.fetch(fetch)), fetches))


def read_with_qemu(uri: str, size: int) -> None:
    """Read all of it with 8 requests in flight."""
    run("qemu-img", "bench", "-f", "raw", "-c", size // QEMU_STEP, "-d", 8, "-s", QEMU_STEP, uri)


def run(*command: object) -> None:
    """Run a program."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def processor_seconds() -> float:
    """Of this process and of programs that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
