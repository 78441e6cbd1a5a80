"""Carrying out an export: one file, parts of a size, or a stream.

Answers: "write it." A file has another name until it is complete; after an error or Ctrl-C nothing of it is left.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from stillframe.block import BlockReader
from stillframe.block.file import open_file_reader
from stillframe.errors import DamagedError, TargetError
from stillframe.events import JobFinished, JobStarted, PhaseStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.context import JobContext
from stillframe.jobs.exporting.converting import convert
from stillframe.jobs.exporting.names import (
    STANDARD_OUTPUT,
    WrittenFile,
    checksum_path,
    checksum_text,
    part_path,
    put_in_place,
    unfinished,
)
from stillframe.jobs.exporting.planning import ExportPlan
from stillframe.jobs.exporting.salvaged import Losses, lost_parts, salvage
from stillframe.jobs.exporting.streaming import create_file, iter_pieces, write_parts, write_stream
from stillframe.jobs.exposing import expose
from stillframe.jobs.restoring.placing import PlacedMap, Placer, PlacingOptions
from stillframe.repo.losses import LostPart
from stillframe.repo.repository import Repository
from stillframe.repo.writing import ChunkNamer


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export did.

    Attributes:
        bytes_written: Bytes written; what stayed a hole is not counted.
        files: The file, or its parts in order.
        checksums: The file with the checksums of the parts; empty without parts.
        sha256: Of the raw stream, in hexadecimal; empty where it would have cost a second reading.
        seconds: How long it took.
        lost: What a salvage could not have of the image: zeros are there.
    """

    bytes_written: int
    files: tuple[WrittenFile, ...]
    checksums: str
    sha256: str
    seconds: float
    lost: tuple[LostPart, ...]


@dataclass(frozen=True, slots=True)
class _Written:
    """What was written, before anybody asks how long it took."""

    count: int
    files: tuple[WrittenFile, ...]
    checksums: str = ""
    sha256: str = ""


def apply_export(repository: Repository, plan: ExportPlan, context: JobContext) -> ExportResult:
    """Carry a plan out.

    Raises:
        TargetError: There is no room, the file system takes no such file, or the file came into being meanwhile.
        DamagedError: Something of the image cannot be read, and ``salvage`` is off.
        Cancelled: The person stopped it.
    """
    began, losses = repository.clock.monotonic(), Losses()
    what = "standard output" if plan.path == STANDARD_OUTPUT else plan.path
    context.events.emit(JobStarted(verb="export", what=what, bytes_total=plan.bytes_to_write))
    try:
        if plan.is_stream:
            done = _to_stream(plan, _reader(repository, plan, losses), context)
        elif plan.format != "raw":
            done = _converted(plan, _reader(repository, plan, losses), context)
        elif plan.options.split:
            with _files(plan, plan.parts) as names:
                done = _split(plan, _reader(repository, plan, losses), names, context)
        else:
            done = _placed(repository, plan, losses, context)
    except DamagedError as error:
        raise DamagedError(
            f"the image is damaged: {error.message}", hint="'--salvage' writes zeros there and lists what is lost."
        ) from error
    seconds = repository.clock.monotonic() - began
    context.events.emit(JobFinished(verb="export", seconds=seconds))
    lost = tuple(lost_parts(plan.disk, plan.partition, losses.lost))
    return ExportResult(
        bytes_written=done.count, files=done.files, checksums=done.checksums, sha256=done.sha256, seconds=seconds,
        lost=lost,
    )  # fmt: skip


def _reader(repository: Repository, plan: ExportPlan, losses: Losses) -> BlockReader:
    if plan.options.salvage:
        return salvage(repository.reader(), plan.manifest, plan.disk, plan.partition, losses)
    disk = expose(repository, plan.manifest).disk(plan.disk.number)
    return disk.reader if plan.partition is None else disk.partition(plan.partition.number).reader


def _to_stream(plan: ExportPlan, reader: BlockReader, context: JobContext) -> _Written:
    pieces = iter_pieces(reader, context)
    if plan.path == STANDARD_OUTPUT:
        sys.stdout.flush()
        file = write_stream(pieces, sys.stdout.fileno(), "the pipe")
    else:
        with open(plan.path, "wb", buffering=0) as pipe:
            file = write_stream(pieces, pipe.fileno(), plan.path)
    return _Written(file.size, (), sha256=file.sha256)


def _placed(repository: Repository, plan: ExportPlan, losses: Losses, context: JobContext) -> _Written:
    """One raw file, written at random by the threads that read the image, as a restore is."""
    with unfinished(plan.path) as written:
        with create_file(written, plan.size, path=plan.path) as target:
            placer = Placer(
                target, repository.reader(), ChunkNamer(repository, bytes.fromhex(plan.manifest.domain)),
                chunk_size=plan.manifest.chunk_size, context=context,
                options=PlacingOptions(is_zero=True, salvage=plan.options.salvage),
            )  # fmt: skip
            placer.place(list(_maps(plan)))
            context.events.emit(PhaseStarted(name="waiting until the file is written"))
            target.flush()
        put_in_place(written, plan.path, overwrite=plan.options.overwrite)
    for extent in placer.lost:
        losses.add(extent.shifted(plan.partition.start if plan.partition else 0))
    return _Written(placer.written.bytes_written, (WrittenFile(path=plan.path, size=plan.size),))


def _maps(plan: ExportPlan) -> Iterator[PlacedMap]:
    if plan.partition is not None:
        yield PlacedMap(root=plan.partition.blocks.root(), offset=0)
        return
    inside = ExtentSet.from_extents(Extent(part.start, part.start + part.size) for part in plan.disk.partitions)
    for part in plan.disk.partitions:
        yield PlacedMap(root=part.blocks.root(), offset=part.start)
    outside = ExtentSet.of(Extent(0, plan.disk.size)) - inside
    yield PlacedMap(root=plan.disk.outside.root(), offset=0, allowed=outside)


def _converted(plan: ExportPlan, reader: BlockReader, context: JobContext) -> _Written:
    with unfinished(plan.path) as written:
        count = convert(reader, written, plan.format, path=plan.path, context=context)
        if plan.options.split is None:
            put_in_place(written, plan.path, overwrite=plan.options.overwrite)
            return _Written(count, (WrittenFile(path=plan.path, size=count),))
        context.events.emit(PhaseStarted(name="splitting", bytes_total=count))
        number = -(-count // plan.options.split)
        with open_file_reader(written) as whole, _files(plan, number) as names:
            return _split(plan, whole, names, context)


@contextmanager
def _files(plan: ExportPlan, count: int) -> Iterator[list[str]]:
    """Names for parts that are being written, and for their checksums at the end."""
    with ExitStack() as stack:
        names = [stack.enter_context(unfinished(part_path(plan.path, number + 1))) for number in range(count)]
        yield [*names, stack.enter_context(unfinished(checksum_path(plan.path)))]


def _split(plan: ExportPlan, reader: BlockReader, names: list[str], context: JobContext) -> _Written:
    parts, count = write_parts(
        iter_pieces(reader, context), names[:-1], size=reader.size, part_size=plan.options.split or reader.size,
        path=plan.path,
    )  # fmt: skip
    checksums = checksum_path(plan.path)
    try:
        with open(names[-1], "x", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.write(checksum_text(plan.path, parts))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TargetError(f"{checksums} cannot be written: {error.strerror}", hint="Name another folder.") from error
    final = [*(part.path for part in parts), checksums]
    for written, path in zip(names, final, strict=True):
        put_in_place(written, path, overwrite=plan.options.overwrite)
    for old in plan.replaced:
        if old not in final:
            os.unlink(old)
    return _Written(count, tuple(parts), checksums=checksums)
