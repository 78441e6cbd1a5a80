"""What the processors do with a sample: naming, compressing, sealing, expanding.

Answers: "how many bytes a second do all processors together take?" The same calls as in a backup, with one thread for
each processor.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from blake3 import blake3

from stillframe.jobs.backup import LEVELS
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.speeds.forecast import Packed
from stillframe.repo.format import Header, ObjectType, decompress
from stillframe.repo.packs import compressor
from stillframe.repo.sealing import make_id, make_salt, object_seal

STEP_S: Final = 3.0
"""A step ends after this time, with what it has done until then."""
SHORT_S: Final = 0.3
"""A step that is through with the sample earlier begins again: the start of threads must not count."""
_HARDLY: Final = 32
"""A chunk of which less than this part is saved is stored as it is: as ``PackWriter.add`` does."""


def thread_count() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def hash_rate(chunks: Sequence[memoryview], cancel: CancelToken) -> float:
    """Bytes per second of BLAKE3, keyed, as chunks are named."""
    key = bytes(32)
    return _rate(chunks, lambda: lambda chunk: _nothing(blake3(chunk, key=key).digest()), cancel)[0]


def seal_rate(chunks: Sequence[memoryview], cancel: CancelToken) -> float:
    """Bytes per second of AES-256-GCM, as packs are sealed, under a key that nothing is stored with."""
    header = Header(kind=ObjectType.PACK, repository_id=bytes(16), object_id=make_id(), salt=make_salt())
    room = max((len(chunk) for chunk in chunks), default=0) + 16

    def work() -> Callable[[memoryview], int]:
        seal, buffer, done = object_seal(header, make_salt()), memoryview(bytearray(room)), [0]

        def step(chunk: memoryview) -> int:
            done[0] += room  # the offset is the nonce: never twice, here neither
            return seal.close_into(chunk, offset=done[0], subject=bytes(32), buffer=buffer)

        return step

    return _rate(chunks, work, cancel)[0]


def pack_rates(chunks: Sequence[memoryview], cancel: CancelToken) -> tuple[Packed, ...]:
    """Each level of compression, ``none`` first."""
    found = []
    for compression, level in LEVELS.items():
        if level is None:
            found.append(Packed(compression=compression, rate=None, ratio=1.0))
            continue
        rate, left, size = _rate(chunks, lambda level=level: _compressing(level), cancel)  # type: ignore[misc]
        found.append(Packed(compression=compression, rate=rate, ratio=left / size if size else 1.0))
    return tuple(found)


def expand_rate(chunks: Sequence[memoryview], cancel: CancelToken) -> float:
    """Bytes per second that come out of what ``fast`` made of them."""
    compress = compressor(LEVELS["fast"])
    assert compress is not None
    packed = {id(chunk): compress(chunk) for chunk in chunks}
    return _rate(
        chunks, lambda: lambda chunk: _nothing(decompress(packed[id(chunk)], len(chunk), thing="a sample")), cancel
    )[0]


def _compressing(level: int) -> Callable[[memoryview], int]:
    compress = compressor(level)
    assert compress is not None
    pack = compress

    def step(chunk: memoryview) -> int:
        size = len(pack(chunk))
        return size if size < len(chunk) - len(chunk) // _HARDLY else len(chunk)

    return step


def _nothing(_: bytes) -> int:
    return 0


def _rate(
    chunks: Sequence[memoryview], make: Callable[[], Callable[[memoryview], int]], cancel: CancelToken
) -> tuple[float, int, int]:
    """Bytes per second of all threads together; what the step's answers add up to, and of how many bytes."""
    count = max(1, min(thread_count(), len(chunks)))
    began = time.perf_counter()

    def work(number: int) -> tuple[int, int]:
        step, told, size = make(), 0, 0
        while True:
            for chunk in chunks[number::count]:
                cancel.check()
                told, size = told + step(chunk), size + len(chunk)
                if time.perf_counter() - began > STEP_S:
                    return told, size
            if time.perf_counter() - began > SHORT_S:
                return told, size

    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(work, range(count)))
    seconds = max(time.perf_counter() - began, 1e-9)
    size = sum(part for _, part in done)
    return max(size / seconds, 1.0), sum(told for told, _ in done), size
