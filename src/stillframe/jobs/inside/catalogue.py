"""What is in an image: operating systems, files counted, large folders.

Answers: "what did this backup save?" It is read back from the repository after the last chunk was stored, so it needs
nothing of the source, which may be in use. It must never cost a backup: each volume is read in a process of its own,
all of them together within ``CATALOGUE_TIMEOUT_S``, and what cannot be told becomes a notice.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from stillframe.block import BlockReader, CachedReader
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.events import Notice
from stillframe.fs.base import Volume
from stillframe.fs.ext import EXT_NAMES
from stillframe.fs.files.counting import FileCounts, count_files
from stillframe.fs.files.lookup import open_lookup
from stillframe.fs.files.names import CASE_FREE
from stillframe.fs.files.walk import Found
from stillframe.host.apart import call_apart
from stillframe.jobs.exposing import ExposedDisk, expose_from
from stillframe.jobs.inside.replayed import STALE, replayed_view
from stillframe.jobs.inside.volume_names import inner_names, inner_word, names_of
from stillframe.jobs.inside.volumes import InnerVolume, look_inside
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import (
    INSIDE_MAX,
    PATH_MAX,
    Manifest,
    StoredCatalogue,
    StoredDisk,
    StoredFolder,
    StoredInside,
    StoredPartition,
    StoredSystem,
    stored_notice,
)
from stillframe.systems import InstalledSystem, LinuxTraces, NamedTraces, find_windows, join_linux, read_traces
from stillframe.systems.evidence import MAY_BE_WINDOWS

CATALOGUE_TIMEOUT_S: Final = 60.0
"""For all volumes together. Two million files take about as long on a slow machine."""
FILE_SYSTEMS_READ: Final = EXT_NAMES | CASE_FREE | {"hfsplus"}
SYSTEMS_READ: Final = EXT_NAMES | MAY_BE_WINDOWS
_WORD_MAX: Final = 200
_HINT: Final = "The image is whole all the same: only its page of contents lacks this."

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeTraces:
    """What one volume says of the systems on it."""

    windows: InstalledSystem | None
    linux: LinuxTraces


def find_traces(reader: BlockReader, volume: Volume) -> VolumeTraces | None:
    """What a volume says of the systems on it; ``None`` where its files are not read.

    Raises:
        StillframeError: It cannot be read.
    """
    files = open_lookup(reader, volume)
    if files is None:
        return None
    windows = find_windows(files) if volume.filesystem in MAY_BE_WINDOWS else None
    return VolumeTraces(windows=windows, linux=read_traces(files))


def make_catalogue(chunks: ChunkReader, manifest: Manifest, earlier: Manifest | None = None) -> Manifest:
    """The same image with its page of contents. Call it while no other thread is at work.

    Args:
        chunks: Knows every chunk of the image.
        manifest: Not yet written.
        earlier: An image of which volumes that are still the same, byte for byte, are not counted again. Where all are,
            its page is that of the image.
    """
    before = _as_before(manifest, earlier) if earlier is not None else None
    if before is not None:
        return before
    try:
        image = expose_from(chunks, manifest)
    except StillframeError as error:
        return _with_notice(manifest, error.message)
    pages = list(_iter_pages(image.disks, look_inside(image).volumes, manifest.chunk_size))
    known = [part for disk in earlier.disks for part in disk.partitions] if earlier is not None else []
    for page in pages if earlier is not None else []:
        page.counted = next((one.catalogue for one in known if one.catalogue and page.is_as(one)), None)
    deadline = time.monotonic() + CATALOGUE_TIMEOUT_S
    for ask in (_Page.find, _Page.count):
        for page in pages:
            ask(page, deadline - time.monotonic())
    everything = [page.named for page in pages if page.named]
    done = {(page.disk, page.part.number): page.finish(everything) for page in pages if page.inner is None}
    for page in pages:
        place = page.disk, page.part.number
        if page.inner is not None and place in done:
            done[place] = page.finish_inside(done[place], page.inner, everything)
    return replace(manifest, disks=tuple(_with_pages(disk, done) for disk in manifest.disks))


def _iter_pages(disks: Sequence[ExposedDisk], inner: Sequence[InnerVolume], chunk_size: int) -> Iterator["_Page"]:
    """The pages of all volumes, those inside of others last."""
    for disk in disks:
        for part in disk.partitions:
            if not part.stored.is_left_out:
                yield _Page(disk=disk.stored.number, part=part.stored, reader=part.reader, chunk_size=chunk_size)
    for one in inner:
        if one.part is not None:
            number, stored = one.places[0][0], replace(one.part.stored, number=one.places[0][1])
            yield _Page(disk=number, part=stored, reader=one.part.reader, chunk_size=chunk_size, inner=one)


def _is_same(one: StoredPartition, other: StoredPartition) -> bool:
    """Whether two volumes have the same bytes: nodes of maps are named by what is in them."""
    return (one.blocks, one.filesystem, one.excluded, one.unreadable) == (
        other.blocks, other.filesystem, other.excluded, other.unreadable
    )  # fmt: skip


def _as_before(manifest: Manifest, earlier: Manifest) -> Manifest | None:
    """The image with the page of an earlier one, all of whose volumes are the same and were read without a remark."""
    if earlier.program != manifest.program or len(earlier.disks) != len(manifest.disks):
        return None
    disks = []
    for disk, old in zip(manifest.disks, earlier.disks, strict=True):
        if len(disk.partitions) != len(old.partitions):
            return None
        if not all(map(_may_have_page_of, disk.partitions, old.partitions)):
            return None
        parts = (
            replace(part, system=was.system, installed=was.installed, catalogue=was.catalogue, inside=was.inside)
            for part, was in zip(disk.partitions, old.partitions, strict=True)
        )
        disks.append(replace(disk, partitions=tuple(parts)))
    return replace(manifest, disks=tuple(disks))


def _may_have_page_of(part: StoredPartition, old: StoredPartition) -> bool:
    """Whether nothing that a page depends on is another: bytes, names by which systems find volumes, and remarks."""
    return _is_same(part, old) and all(
        getattr(part, name) == getattr(old, name) for name in ("number", "uuid", "label", "guid", "name", "notices")
    )


def _with_pages(disk: StoredDisk, done: dict[tuple[int, int], StoredPartition]) -> StoredDisk:
    return replace(disk, partitions=tuple(done.get((disk.number, part.number), part) for part in disk.partitions))


def _with_notice(manifest: Manifest, words: str) -> Manifest:
    notice = stored_notice(_notice(f"no page of contents was made: {words}"))
    return replace(manifest, notices=(*manifest.notices, notice))


class _Page:
    """The page of one volume while it is made."""

    def __init__(
        self, *, disk: int, part: StoredPartition, reader: BlockReader, chunk_size: int,
        inner: InnerVolume | None = None,
    ) -> None:  # fmt: skip
        self.disk = disk
        self.inner = inner
        self.part = part
        self.traces: VolumeTraces | None = None
        self.counted: StoredCatalogue | None = None
        """Counts that are known already."""
        self._reader = CachedReader(reader, page_size=chunk_size)
        self._volume = Volume(filesystem=part.filesystem, label=part.label, uuid=part.uuid, block_size=part.block_size)
        self._counts: Found[FileCounts] | None = None
        self._notices: list[Notice] = []

    def is_as(self, earlier: StoredPartition) -> bool:
        """Whether a partition of an earlier image has the same bytes. Of volumes inside nobody asks."""
        return self.inner is None and _is_same(earlier, self.part)

    def find(self, seconds: float) -> None:
        """Look for systems."""
        if self.part.filesystem in SYSTEMS_READ:
            self.traces = self._ask(lambda view: find_traces(view, self._volume), "looking for systems on", seconds)

    def count(self, seconds: float) -> None:
        """Count files."""
        if self.counted is None and self.part.filesystem in FILE_SYSTEMS_READ:
            self._counts = self._ask(lambda view: count_files(view, self._volume), "counting the files of", seconds)

    def finish(self, everything: Sequence[NamedTraces]) -> StoredPartition:
        """The partition with its page."""
        system = self._system(everything)
        notices = tuple(stored_notice(one) for one in dict.fromkeys(self._notices))
        return replace(
            self.part, system=system.name[:_WORD_MAX] if system else None,
            installed=_stored_system(system) if system else None,
            catalogue=_stored_catalogue(self._counts) if self._counts else self.counted,
            notices=(*self.part.notices, *notices)[:1000],
        )  # fmt: skip

    def finish_inside(
        self, carrier: StoredPartition, inner: InnerVolume, everything: Sequence[NamedTraces]
    ) -> StoredPartition:  # fmt: skip
        """The partition that a volume is inside of, with the page of that volume."""
        system, part = self._system(everything), self.part
        found = StoredInside(
            name=inner_word(inner)[:_WORD_MAX], filesystem=part.filesystem, label=part.label, uuid=part.uuid,
            size=part.size, installed=_stored_system(system) if system else None,
            catalogue=_stored_catalogue(self._counts) if self._counts else None,
        )  # fmt: skip
        notices = tuple(stored_notice(one) for one in dict.fromkeys(self._notices))
        return replace(
            carrier, inside=(*carrier.inside, found)[:INSIDE_MAX], notices=(*carrier.notices, *notices)[:1000],
            system=carrier.system or (system.name[:_WORD_MAX] if system else None),
        )  # fmt: skip

    def _system(self, everything: Sequence[NamedTraces]) -> InstalledSystem | None:
        if self.traces is None:
            return None
        system = self.traces.windows or join_linux(self.traces.linux, everything)
        self._notices += system.notices if system else ()
        return system

    @property
    def named(self) -> NamedTraces | None:
        """Its traces with the names of the partition."""
        part = self.part
        names = names_of(uuid=part.uuid, label=part.label, guid=part.guid, name=part.name)
        names = inner_names(self.inner, self._volume) if self.inner is not None else names
        return NamedTraces(names=names, traces=self.traces.linux) if self.traces else None

    def _ask(self, question: Callable[[BlockReader], Answer | None], what: str, seconds: float) -> Answer | None:
        """An answer from a process of its own; nothing, and a notice, when there is none."""
        place = f"{what} disk {self.disk}, partition {self.part.number}"
        place += f", volume {inner_word(self.inner)}" if self.inner is not None else ""
        if seconds <= 0:
            self._notices.append(_notice(f"{place} was left out: the time for it was over"))
            return None

        def look() -> tuple[Answer | None, tuple[Notice, ...]]:
            view, notices = replayed_view(self._reader, self._volume)
            return question(view), tuple(notice for notice in notices if notice.code == STALE)

        try:
            answer, notices = call_apart(look, what=place, timeout_s=math.ceil(seconds))
        except MachineRefusal as error:
            self._notices.append(_notice(error.message))
            return None
        except OSError as error:  # no process, no memory: the backup goes on
            self._notices.append(_notice(f"{place} failed: {error}"))
            return None
        self._notices += notices
        return answer


def _stored_catalogue(found: Found[FileCounts]) -> StoredCatalogue:
    counts = found.records[0]
    folders = (
        StoredFolder(path=folder.path[:PATH_MAX], size=folder.size, files=folder.files_count)
        for folder in counts.largest
    )
    return StoredCatalogue(
        files=counts.files_count, folders=counts.folders_count, bytes=counts.size, complete=found.is_complete,
        largest=tuple(folders),
    )  # fmt: skip


def _stored_system(system: InstalledSystem) -> StoredSystem:
    def words(texts: Sequence[str]) -> Iterator[str]:
        return (text[:_WORD_MAX] for text in texts)

    return StoredSystem(
        family=system.family, name=system.name[:_WORD_MAX], version=system.version[:_WORD_MAX],
        build=system.build[:_WORD_MAX], edition=system.edition[:_WORD_MAX], host=system.host[:_WORD_MAX],
        machine_id=system.machine_id, architecture=system.architecture, root=system.root[:_WORD_MAX],
        kernels=tuple(words(system.kernels)),        elsewhere=tuple(words(system.elsewhere)),
    )  # fmt: skip


def _notice(message: str) -> Notice:
    return Notice(code="no-catalogue", message=message, hint=_HINT)
