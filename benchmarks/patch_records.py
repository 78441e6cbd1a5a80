"""What a day of changes adds, in bytes, when a changed chunk is stored whole, smaller, or as a patch of what it was.

Usage: patch_records.py DAY1.raw DAY2.raw EXTENTS2.json [--level N] [--random-writes COUNT] [--json FILE]

Answers: "do sub-chunk patch records pay, against smaller chunks?" Both disks are raw files, the second is the first a
day later; EXTENTS2 are its used extents (``extents.py``). For each size of chunk, the chunks of the second day that are
not zero and that no chunk of the first day equals are compressed three ways: alone (``whole``); with the chunk at the
same place a day before as prefix (``patch``, depth one); and the smaller of the two (``best``, how a writer would
choose). A patch costs 32 bytes more, for the id of what it is a patch of. Each record also costs its tag and its row
in an index (16 + 48 bytes). Expanding is timed with the first chunk already expanded and without. With
``--random-writes`` the second day is the first one with so many blocks of 8 KiB, half of each new, written at random
places inside its used extents: a database. Bytes do not depend on the machine's load; times do.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from blake3 import blake3

SIZES = (64, 128, 256, 512, 1024)
BLOCK = 8192
RECORD = 16 + 48
PATCH = 32


@dataclass
class Sums:
    """What one size of chunk costs."""

    chunks: int = 0
    changed: int = 0
    whole: int = 0
    patch: int = 0
    best: int = 0
    patches: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("whole", "patch", "open", "open2"), 0.0))


def used_chunks(extents: list[list[int]], size: int) -> Iterator[int]:
    """Offsets of the chunks that hold a used byte, ascending, each once."""
    last = -1
    for start, end in sorted((begin, begin + length) for begin, length in extents):
        for number in range(max(start // size, last + 1), -(-end // size)):
            yield number * size
            last = number


class Days:
    """Chunks of both days at the same place."""

    def __init__(self, first: BinaryIO, second: BinaryIO, writes: dict[int, bytes]) -> None:
        self._first, self._second, self._writes = first, second, writes

    def before(self, offset: int, size: int) -> bytes:
        """As on the first day."""
        return _read(self._first, offset, size)

    def after(self, offset: int, size: int) -> bytes:
        """As on the second day."""
        if not self._writes:
            return _read(self._second, offset, size)
        data = bytearray(_read(self._first, offset, size))
        for place in range(offset, offset + size, BLOCK):
            if place in self._writes:
                data[place - offset : place - offset + BLOCK] = self._writes[place]
        return bytes(data)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def random_writes(first: BinaryIO, extents: list[list[int]], count: int) -> dict[int, bytes]:
    """New contents of blocks, by their offsets: the second half of each is new."""
    chance = random.Random(7)
    places = [
        offset for start, length in extents for offset in range(-(-start // BLOCK) * BLOCK, start + length, BLOCK)
    ]
    return {
        place: _read(first, place, BLOCK // 2) + chance.randbytes(BLOCK // 2)
        for place in chance.sample(places, min(count, len(places)))
    }


def measure(days: Days, extents: list[list[int]], size: int, level: int) -> Sums:
    """Compress what changed, in each way."""
    sums, known = Sums(), set[bytes]()
    offsets = list(used_chunks(extents, size))
    known.update(blake3(days.before(offset, size)).digest() for offset in offsets)
    alone = zstandard.ZstdCompressor(level=level, write_content_size=True)
    for offset in offsets:
        sums.chunks += 1
        data = days.after(offset, size)
        if blake3(data).digest() in known or not any(data):
            continue
        sums.changed += 1
        base = days.before(offset, size)
        whole = _timed(sums, "whole", alone.compress, data)
        kept = min(len(whole), len(data)) + RECORD
        patch = _timed(sums, "patch", _as_patch, base, data, level)
        _timed(sums, "open", zstandard.ZstdDecompressor().decompress, whole, size)
        opened = _timed(sums, "open2", _expand, base, patch, size)
        assert opened == data
        sums.whole += kept
        sums.patch += len(patch) + RECORD + PATCH
        sums.best += min(kept, len(patch) + RECORD + PATCH)
        sums.patches += len(patch) + RECORD + PATCH < kept
    return sums


def _as_patch(base: bytes, data: bytes, level: int) -> bytes:
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    window = max(10, (len(base) + len(data) - 1).bit_length())
    # The level's table would forget most of a prefix: one place for each eight bytes or so remembers all of it.
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=window, hash_log=window - 2)
    return zstandard.ZstdCompressor(dict_data=prefix, compression_params=parameters).compress(data)


def _expand(base: bytes, patch: bytes, size: int) -> bytes:
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdDecompressor(dict_data=prefix, max_window_size=1 << 27).decompress(patch, max_output_size=size)


def _timed(sums: Sums, what: str, work: Callable[..., bytes], *given: Any) -> bytes:
    began = time.perf_counter()
    done = work(*given)
    sums.seconds[what] += time.perf_counter() - began
    return done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("day1")
    parser.add_argument("day2")
    parser.add_argument("extents")
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--random-writes", type=int, default=0)
    parser.add_argument("--json")
    options = parser.parse_args()
    extents = json.loads(Path(options.extents).read_text(encoding="utf-8"))["extents"]
    rows: dict[int, dict[str, Any]] = {}
    with open(options.day1, "rb") as first, open(options.day2, "rb") as second:
        writes = random_writes(first, extents, options.random_writes) if options.random_writes else {}
        print("| KiB | changed | whole MB | patch MB | best MB | patches | whole s | patch s | open s | open patch s |")
        print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
        for kib in SIZES:
            sums = measure(Days(first, second, writes), extents, kib << 10, options.level)
            rows[kib] = vars(sums)
            words = (sums.whole, sums.patch, sums.best)
            times = (sums.seconds[name] for name in ("whole", "patch", "open", "open2"))
            print(
                f"| {kib} | {sums.changed} of {sums.chunks} | {' | '.join(f'{one / 1e6:.1f}' for one in words)} | "
                f"{sums.patches} | {' | '.join(f'{one:.2f}' for one in times)} |", flush=True
            )  # fmt: skip
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
