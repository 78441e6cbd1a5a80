"""The limit: what the libraries can do when nothing else is done. One phase per call, as a process of its own.

Usage: python -m benchmarks.comparison.limit PHASE DISK EXTENTS.json FOLDER [--target FILE]

    scan     read the used extents, BLAKE3                               (the bar of an unchanged backup)
    full     read, BLAKE3, known? Zstandard 1, AES-256-GCM, packs of 64 MiB, fsync
    second   the same of the changed disk, knowing the chunks of ``full``
    verify   read every chunk of the last image, open, expand, BLAKE3
    restore  verify, and write into a new sparse file, fsync

It is told which extents to read, and writes no index, no block map, no manifest and no parity; no key is derived, and
nobody could restore from it tomorrow. Threads: one for each processor.
"""

import argparse
import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from itertools import count
from typing import Final

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from zstandard import ZstdCompressor, ZstdDecompressor

CHUNK: Final = 256 << 10
PACK: Final = 64 << 20
KEY: Final = bytes(32)
THREADS: Final = len(os.sched_getaffinity(0))
Piece = tuple[int, list[tuple[int, int]]]


@dataclass(slots=True)
class State:
    """What ``full`` leaves for ``second``: where each chunk lies, and which chunk is where on the disk."""

    places: dict[bytes, tuple[str, int, int]] = field(default_factory=dict)
    chunks: list[tuple[int, bytes]] = field(default_factory=list)


def pieces(extents: list[tuple[int, int]]) -> list[Piece]:
    """For each chunk that is touched its number and the ranges of it that are in use."""
    found: dict[int, list[tuple[int, int]]] = {}
    for at, length in extents:
        start, end = at, at + length
        while start < end:
            stop = min(end, (start // CHUNK + 1) * CHUNK)
            found.setdefault(start // CHUNK, []).append((start, stop - start))
            start = stop
    return sorted(found.items())


def each_thread(work: Callable[[], None]) -> None:
    """Do this in every thread."""
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work) for _ in range(THREADS)]:
            done.result()


class Source:
    """Hands out chunks to several threads, eight at a time."""

    def __init__(self, path: str, todo: list[Piece]) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._todo = iter(todo)
        self._lock = threading.Lock()

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """Chunks, in a buffer that the next one overwrites."""
        buffer = memoryview(bytearray(CHUNK))
        empty = bytes(CHUNK)
        while True:
            with self._lock:
                batch = [found for _, found in zip(range(8), self._todo, strict=False)]
            if not batch:
                return
            for number, ranges in batch:
                if sum(size for _, size in ranges) < CHUNK:
                    buffer[:] = empty
                for start, size in ranges:
                    os.preadv(self._descriptor, [buffer[start % CHUNK : start % CHUNK + size]], start)
                yield number, buffer


def scan(path: str, extents: list[tuple[int, int]]) -> None:
    """Read and hash."""
    source = Source(path, pieces(extents))

    def work() -> None:
        for _, data in source.chunks():
            blake3(data).digest()

    each_thread(work)


def store(path: str, extents: list[tuple[int, int]], folder: str, state: State) -> None:
    """Store what is new; the chunks of this image replace those of the last one."""
    source, lock, names = Source(path, pieces(extents)), threading.Lock(), count(len(os.listdir(folder)))
    claimed, empty = set(state.places), bytes(CHUNK)
    state.chunks = []

    def work() -> None:
        compress, aead, out, filled = ZstdCompressor(level=1).compress, AESGCM(KEY), None, 0
        for number, data in source.chunks():
            if data == empty:
                continue
            digest = blake3(data).digest()
            with lock:
                state.chunks.append((number, digest))
                if digest in claimed:
                    continue
                claimed.add(digest)
                if out is None:
                    out, filled = FileIO(f"{folder}/{next(names)}", "xb"), 0
            sealed = aead.encrypt(digest[:12], compress(data), None)
            state.places[digest] = (str(out.name), filled, len(sealed))
            filled += out.write(sealed)
            if filled >= PACK:
                finish(out)
                out = None
        if out is not None:
            finish(out)

    def finish(out: FileIO) -> None:
        os.fsync(out.fileno())
        out.close()

    each_thread(work)


def load(state: State, target: str, size: int) -> None:
    """Read every chunk back, and write it where it belongs when there is a target."""
    wanted: dict[str, list[tuple[int, int, bytes]]] = {}
    where: dict[bytes, list[int]] = {}
    for number, digest in state.chunks:
        if digest not in where:
            name, offset, length = state.places[digest]
            wanted.setdefault(name, []).append((offset, length, digest))
        where.setdefault(digest, []).append(number * CHUNK)
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600) if target else -1
    if target:
        os.ftruncate(out, size)
    packs, lock = iter(sorted(wanted)), threading.Lock()

    def work() -> None:
        expand, aead = ZstdDecompressor().decompress, AESGCM(KEY)
        while True:
            with lock:
                name = next(packs, "")
            if not name:
                return
            with open(name, "rb", buffering=0) as file:
                for offset, length, digest in sorted(wanted[name]):
                    data = expand(aead.decrypt(digest[:12], os.pread(file.fileno(), length, offset), None))
                    assert blake3(data).digest() == digest, f"{name}: a chunk is not what was stored"
                    for start in where[digest] if target else ():
                        os.pwrite(out, data[: size - start], start)

    each_thread(work)
    if target:
        os.fsync(out)


def main() -> None:
    """Carry out one phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("scan", "full", "second", "verify", "restore"))
    for name in ("disk", "extents", "folder"):
        parser.add_argument(name)
    parser.add_argument("--target", default="")
    options = parser.parse_args()
    with open(options.extents, encoding="utf-8") as file:
        facts = json.load(file)
    packs, kept = f"{options.folder}/packs", f"{options.folder}/state"
    os.makedirs(packs, exist_ok=True)
    state = State()
    if options.phase in ("second", "verify", "restore"):
        with open(kept, "rb") as file:
            state = pickle.load(file)  # noqa: S301 - written by the phase before
    if options.phase == "scan":
        scan(options.disk, facts["extents"])
    elif options.phase in ("full", "second"):
        store(options.disk, facts["extents"], packs, state)
        with open(kept, "wb") as file:
            pickle.dump(state, file)
    else:
        load(state, options.target if options.phase == "restore" else "", facts["size"])


if __name__ == "__main__":
    main()
