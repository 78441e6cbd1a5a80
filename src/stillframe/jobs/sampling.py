"""Files of an image compared with their originals on this computer.

Answers: "is what was saved what is on the disk?" Reading back proves what is stored; this also proves the way into the
image: the used map, the copy while the disk was in use, and what reads the file system. A sample is taken at random, a
new one each time. A file that was changed since says nothing, and is only counted.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, DiskFormatError, StillframeError
from stillframe.events import Finding, JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.extents import Extent
from stillframe.fs.files.names import read_name
from stillframe.fs.files.source import FILE, Content, FileEntry, FileSource
from stillframe.host.streamed import Send, stream_apart
from stillframe.jobs.browsing import DEPTH_MAX, files_of, find_entry, walk
from stillframe.jobs.context import JobContext
from stillframe.jobs.examining import keep_proof
from stillframe.jobs.exposing import ExposedPartition, expose
from stillframe.jobs.inside.everywhere import PlacedVolume, all_volumes
from stillframe.jobs.inside.originals import Original, find_originals, key_of, original_files
from stillframe.repo.records import Manifest, ProofRecord
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id

SAMPLE_COUNT: Final = 200
"""Files of each volume."""
_STEP: Final = 1 << 20
_WHOLE_MAX: Final = 8 << 20
_PIECES: Final = 8
"""Of a file larger than ``_WHOLE_MAX``, so many pieces of ``_STEP`` are compared: the first, the last, and others."""
_COARSE_NS: Final = {"vfat": 2_000_000_000, "exfat": 2_000_000_000}
_FOUND_MAX: Final = 100
_WITHOUT_FILES: Final = frozenset({"swap", "LVM2_member", "linux_raid_member", "crypto_LUKS", "BitLocker"})
SAME, CHANGED, NOT_READ = "same", "changed", "not-read"

Sampled = tuple[str, FileEntry]


@dataclass(slots=True)
class SampledImage:
    """What came of it.

    Attributes:
        image: Its id.
        findings: One for each file that is not as its original.
        compared: Files that are as their originals, or not.
        bytes_compared: Of them.
        changed: Files whose originals were changed, moved or removed since.
        places: What was compared, as ``disk 1, partition 2 (ext4) with /home``.
        skipped: Volumes that were not, with the reason.
    """

    image: str
    findings: list[Finding] = field(default_factory=list)
    compared: int = 0
    bytes_compared: int = 0
    changed: int = 0
    places: list[str] = field(default_factory=list)
    skipped: list[Notice] = field(default_factory=list)

    @property
    def is_proven(self) -> bool:
        """Whether some files were compared, and all of them are the same."""
        return bool(self.compared) and not self.findings


def sample_files(repository: Repository, manifest: Manifest, context: JobContext, *, count: int) -> SampledImage:
    """Compare files of each volume whose original is here, and keep the outcome as a proof.

    Args:
        repository: With the image.
        manifest: The image.
        context: Who asks.
        count: Files of each volume.

    Raises:
        DamagedError: The image cannot be read.
    """
    began = repository.clock.monotonic()
    image = expose(repository, manifest)
    volumes, unread = all_volumes(image)
    sampling = _Sampling(manifest, volumes, context, count)
    context.events.emit(JobStarted(verb="verify", what=f"files of {manifest.image[:8]}", bytes_total=0))
    for place, why in unread:
        sampling.skip(place, why)
    for place, part in volumes:
        sampling.sample(part, place)
    if sampling.result.compared:
        keep_proof(repository, _proof(repository, sampling.result, context), context.events)
    context.events.emit(JobFinished(verb="verify", seconds=repository.clock.monotonic() - began))
    return sampling.result


class _Sampling:
    """One run."""

    def __init__(
        self, manifest: Manifest, volumes: Sequence[PlacedVolume], context: JobContext, count: int
    ) -> None:  # fmt: skip
        self.result = SampledImage(image=manifest.image)
        self._originals = find_originals(manifest, [part.stored for _, part in volumes])
        self._context = context
        self._count = count

    def sample(self, part: ExposedPartition, place: str) -> None:
        """Compare files of one volume, in a process of its own."""
        key = key_of(part.stored)
        if key is None or key[0] in _WITHOUT_FILES:
            return
        original = self._originals.get(key)
        if original is None:
            self.skip(place, "its original is not on this computer, or this user may not read it")
            return
        self._context.events.emit(PhaseStarted(name=f"comparing files of {place}"))
        before, what = self.result.compared, f"comparing files of {place}"
        try:
            for bundle in stream_apart(
                partial(_produce, part, original, self._count), what=what, check=self._context.cancel.check
            ):
                for path, verdict, size in bundle:
                    self._note(f"{place}: {path}", verdict, size)
        except DamagedError:
            raise
        except StillframeError as error:
            self.skip(place, error.message, error.hint)
            return
        if self.result.compared > before:
            self.result.places.append(f"{place} with {original.where}")

    def skip(self, place: str, reason: str, hint: str = "") -> None:
        """Note that a volume is not compared."""
        notice = Notice(code="not-compared", message=f"{place}: {reason}", hint=hint)
        self._context.events.emit(notice)
        self.result.skipped.append(notice)

    def _note(self, path: str, verdict: str, size: int) -> None:
        if verdict == CHANGED:
            self.result.changed += 1
            return
        if verdict == NOT_READ:
            return
        self.result.compared += 1
        self.result.bytes_compared += size
        if verdict == SAME or len(self.result.findings) >= _FOUND_MAX:
            return
        finding = Finding(
            code="file-differs", thing=self.result.image, message=f"{path} differs from its original {verdict}, "
            "though neither its size nor its time changed",
            hint="A program that writes through memory may do that, or the disk has failed since. Compare both, "
            "and with an older image, before one of them is deleted.",
        )  # fmt: skip
        self.result.findings.append(finding)
        self._context.events.emit(finding)


def _produce(part: ExposedPartition, original: Original, count: int, send: Send) -> None:
    """The work of the child: a verdict for each file of a new sample."""
    chance = random.Random(make_id())  # noqa: S311 which files, not a secret
    left_out = {file.path.casefold() for file in part.stored.left_out}
    with files_of(part) as opened, original_files(original) as theirs:
        comparison = _Comparison(opened.source, theirs, _COARSE_NS.get(part.stored.filesystem, 0), chance)
        for path, entry in _choose(opened.source, left_out, count, chance):
            send((path, *comparison.compare(path, entry)))


def _choose(source: FileSource, left_out: set[str], count: int, chance: random.Random) -> list[Sampled]:
    """Files at random, each as likely as any other, in order of their paths."""
    chosen, seen = list[Sampled](), 0
    for path, entry in walk(source, "", source.open_root(), trail=None, depth=DEPTH_MAX, on_fault=lambda *_: None):
        if entry.kind != FILE or not entry.size or entry.refusal or path.casefold() in left_out:
            continue
        seen += 1
        if len(chosen) < count:
            chosen.append((path, entry))
        elif (place := chance.randrange(seen)) < count:
            chosen[place] = (path, entry)
    return sorted(chosen, key=lambda one: one[0])


class _Comparison:
    """One file beside its original."""

    def __init__(self, source: FileSource, theirs: FileSource, coarse_ns: int, chance: random.Random) -> None:
        self._source = source
        self._theirs = theirs
        self._coarse_ns = coarse_ns
        self._chance = chance

    def compare(self, path: str, entry: FileEntry) -> tuple[str, int]:
        """``same``, ``changed``, ``not-read``, or where they differ; and the bytes that were compared."""
        other = self._look(path, entry)
        if other is None:
            return CHANGED, 0
        try:
            mine = _main(self._source, entry)
            pieces = tuple(self._pieces(entry.size))
            at = self._difference(mine, _main(self._theirs, other), pieces)
        except DamagedError:
            raise
        except StillframeError:
            return NOT_READ, 0
        if at is not None and self._look(path, entry) is None:
            return CHANGED, 0
        return (SAME if at is None else f"within 1 MiB from byte {at}"), sum(piece.size for piece in pieces)

    def _look(self, path: str, entry: FileEntry) -> FileEntry | None:
        """The original, as long as it is as old and as large as the file in the image."""
        try:
            _, other = find_entry(self._theirs, [read_name(name) for name in path.split("/") if name])
        except StillframeError:
            return None
        is_old = abs(other.modified_ns - entry.modified_ns) <= self._coarse_ns
        return other if other.kind == FILE and other.size == entry.size and is_old else None

    def _pieces(self, size: int) -> Iterator[Extent]:
        if size <= _WHOLE_MAX:
            starts = list(range(0, size, _STEP))
        else:
            starts = [0, size - _STEP, *(self._chance.randrange(size - _STEP) for _ in range(_PIECES - 2))]
        for start in sorted(starts):
            yield Extent(start, min(start + _STEP, size))

    def _difference(self, mine: Content, other: Content, pieces: tuple[Extent, ...]) -> int | None:
        """Where the first piece begins that differs."""
        for piece in pieces:
            ours = self._source.read_at(mine, piece.start, piece.size)
            if ours != self._theirs.read_at(other, piece.start, piece.size):
                return piece.start
        return None


def _main(source: FileSource, entry: FileEntry) -> Content:
    found = [content for content in source.read_contents(entry) if not content.name]
    if not found or found[0].size != entry.size:
        raise DiskFormatError("its contents are not as long as it says")
    return found[0]


def _proof(repository: Repository, result: SampledImage, context: JobContext) -> ProofRecord:
    words = f"{result.compared} files compared with their originals: {'; '.join(result.places)}"
    return ProofRecord(
        proof=make_id().hex(), image=result.image, created=rfc3339(repository.clock.now()),
        machine=context.owner.machine, kind="sampled", ok=result.is_proven, bytes=result.bytes_compared,
        how=words[:4000], findings=tuple(one.message[:4000] for one in result.findings),
    )  # fmt: skip
