"""The verb ``bench``: how fast this computer saves and brings back.

Answers: "what will backups of this disk into this repository take, and what holds them up?" Reads a sample of the
source, writes one file that nobody sees into the repository's folder and takes it away; no object is written and no key
is asked for.
"""

import contextlib
import itertools
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass

from stillframe.capture import CapturedDisk, OpenSource, Selection
from stillframe.errors import MachineRefusal
from stillframe.events import PhaseStarted
from stillframe.jobs.context import JobContext
from stillframe.jobs.speeds.forecast import Forecast, Packed, Speeds, forecast, recommended
from stillframe.jobs.speeds.reading import KEPT_SIZE, PIECE, PIECES, Sample, read_sample, split
from stillframe.jobs.speeds.storage import SIZE, Storage, measure_storage, require_room
from stillframe.jobs.speeds.working import expand_rate, hash_rate, pack_rates, seal_rate
from stillframe.repo.identity import read_identity
from stillframe.repo.repository import CHUNK_SIZE
from stillframe.store import LocalStore


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What will be measured.

    Attributes:
        disk: The source; ``None`` for none: then files of this program are the sample.
        folder: Of the repository; empty for none.
        encrypted: Whether what is stored is sealed.
        chunk_size: Bytes of a chunk.
        bytes_to_read: Of the source, at most.
        bytes_to_write: To the repository, at most, for a moment.
        free_space: There; ``None`` when it cannot be told.
    """

    disk: CapturedDisk | None
    folder: str
    encrypted: bool
    chunk_size: int
    bytes_to_read: int
    bytes_to_write: int
    free_space: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What was measured, and what follows. ``forecasts`` are there for a source only."""

    plan: BenchPlan
    sample: Sample
    storage: Storage | None
    speeds: Speeds
    packed: tuple[Packed, ...]
    forecasts: tuple[Forecast, ...]

    @property
    def recommended(self) -> Forecast | None:
        """The level of compression to take."""
        return recommended(self.forecasts) if self.forecasts else None


def plan_bench(source: OpenSource | None, folder: str) -> BenchPlan:
    """Look at the source and at the repository's folder.

    Raises:
        RepositoryNotFound: There is none in the folder.
        StorageFull: There is no room for the sample.
    """
    disk = source.capture(Selection()) if source is not None else None
    encrypted, chunk_size, free = True, CHUNK_SIZE, None
    if folder:
        store = LocalStore(folder)
        identity = read_identity(store, where=folder).identity
        encrypted, chunk_size, free = identity.encryption != "none", identity.chunk_size, store.free_space()
        require_room(folder, free)
    return BenchPlan(
        disk=disk, folder=folder, encrypted=encrypted, chunk_size=chunk_size,
        bytes_to_read=min(disk.bytes_used, PIECE * PIECES) if disk else 0, bytes_to_write=SIZE if folder else 0,
        free_space=free,
    )  # fmt: skip


def apply_bench(plan: BenchPlan, context: JobContext) -> BenchResult:
    """Measure.

    Raises:
        MachineRefusal: There is nothing to work on.
        StillframeError: Of the source, of the repository's place, or ``Cancelled``.
    """
    sample = _sample(plan, context)
    if not sample.chunks:
        raise MachineRefusal(
            "the sample holds nothing but zeros: there is nothing to measure with",
            hint="Name a disk with something on it, or none: then files of this program are the sample.",
        )
    context.events.emit(PhaseStarted(name="the processors"))
    packed = pack_rates(sample.chunks, context.cancel)
    hashing, sealing = hash_rate(sample.chunks, context.cancel), seal_rate(sample.chunks, context.cancel)
    expanding = expand_rate(sample.chunks, context.cancel)
    storage = None
    if plan.folder:
        require_room(plan.folder, LocalStore(plan.folder).free_space())
        context.events.emit(PhaseStarted(name=f"writing to {plan.folder}", bytes_total=plan.bytes_to_write))
        storage = measure_storage(plan.folder, context)
    speeds = Speeds(
        read=sample.bytes_read / sample.seconds if plan.disk else None, hash=hashing, seal=sealing, expand=expanding,
        write=storage.bytes_written / storage.write_s if storage else None,
        read_back=storage.bytes_written / storage.read_s if storage else None,
    )  # fmt: skip
    return BenchResult(
        plan=plan, sample=sample, storage=storage, speeds=speeds, packed=packed,
        forecasts=tuple(_forecasts(plan, sample, speeds, packed)),
    )  # fmt: skip


def _forecasts(plan: BenchPlan, sample: Sample, speeds: Speeds, packed: tuple[Packed, ...]) -> Iterator[Forecast]:
    if plan.disk is not None:
        size = int(plan.disk.bytes_used * (1 - sample.zeros))
        for one in packed:
            yield forecast(speeds, one, size=size, encrypted=plan.encrypted)


def _sample(plan: BenchPlan, context: JobContext) -> Sample:
    if plan.disk is None:
        return Sample(bytes_read=0, seconds=0.0, chunks=_own_chunks(plan.chunk_size), zeros=0.0)
    context.events.emit(PhaseStarted(name=f"reading {plan.disk.facts.path}", bytes_total=plan.bytes_to_read))
    return read_sample(plan.disk, chunk_size=plan.chunk_size, context=context)


def _own_chunks(chunk_size: int) -> tuple[memoryview, ...]:
    """Files of this program and of its libraries, one after the other, until there are enough."""
    found = bytearray()
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("platlib", "purelib", "stdlib"))
    walks = itertools.chain.from_iterable(os.walk(folder) for folder in folders)
    for folder, inner, names in walks:
        inner.sort()
        for name in sorted(names):
            if len(found) < KEPT_SIZE:
                with contextlib.suppress(OSError), open(os.path.join(folder, name), "rb") as file:
                    found += file.read(KEPT_SIZE - len(found))
    whole = len(found) - len(found) % chunk_size
    return tuple(split(memoryview(found)[:whole], chunk_size))
