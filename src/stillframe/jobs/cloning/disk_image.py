"""A disk that holds still, as an image of itself: what a restore is planned and carried out from, with nothing stored.

Answers: "what would an image of this disk say?" Only of a disk that can be read again at any time and is then the same:
it is looked at, resized on a copy and written at different moments.
"""

from dataclasses import dataclass
from typing import Final

from stillframe import __version__
from stillframe.capture import CapturedDisk, OpenSource, Selection
from stillframe.capture.lvm import SnapshotSource
from stillframe.clock import Clock, rfc3339
from stillframe.errors import Disturbed, SourceInUse
from stillframe.extents import ExtentSet
from stillframe.host.machine import machine
from stillframe.jobs.cloning.source_chunks import SourceChunks
from stillframe.jobs.saving.chunking import kept_ranges
from stillframe.jobs.saving.manifests import describe_disk
from stillframe.jobs.saving.storing import StoredRange
from stillframe.repo.records import MachineName, Manifest
from stillframe.repo.repository import CHUNK_SIZE
from stillframe.repo.sealing import make_id

_WAYS: Final = (
    "'stillframe backup' saves it while it is in use, and 'stillframe restore --fit' puts that image onto the target. "
    "Or clone it while nobody uses it: unmounted, or from the rescue system."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskImage:
    """A disk and what an image of it would say: a ``repo.reading.Origin``.

    Attributes:
        source: The disk, open for reading.
        disk: What of it matters.
        chunks: Its bytes.
        manifest: Of the image.
    """

    source: OpenSource
    disk: CapturedDisk
    chunks: SourceChunks
    manifest: Manifest

    def reader(self) -> SourceChunks:
        """Its bytes, by their places."""
        return self.chunks

    def require_still(self) -> None:
        """Refuse to go on when somebody wrote to it, or could have.

        Raises:
            Disturbed: So it is.
        """
        if not self.source.stayed_still():
            raise Disturbed(
                f"{self.source.facts.path} was in use while it was copied, so the copy is not of one moment",
                hint="See that nobody writes to it, and make the clone again: the target is not complete.",
            )


def disk_image(source: OpenSource, selection: Selection, clock: Clock) -> DiskImage:
    """A source as an image of itself. Stores nothing.

    Raises:
        SourceInUse: It cannot be read twice.
    """
    _refuse_in_use(source)
    disk = source.capture(selection)
    ranges = list(kept_ranges(disk))
    chunks = SourceChunks(ranges, chunk_size=CHUNK_SIZE)
    stored = [StoredRange(root=chunks.root(number), unreadable=ExtentSet.empty()) for number in range(len(ranges))]
    now, here = rfc3339(clock.now()), machine()
    manifest = Manifest(
        image=make_id().hex(), program=__version__, created=now, finished=now,
        machine=MachineName(id=here.id, name=here.name[:200]), kind="full", sequence=1, domain=here.id,
        chunk_size=CHUNK_SIZE, session=make_id().hex(), bytes_total=disk.layout.size, bytes_used=disk.bytes_used,
        bytes_read=0, bytes_added=0, disks=(describe_disk(1, disk, stored, torn=False),),
    )  # fmt: skip
    return DiskImage(source=source, disk=disk, chunks=chunks, manifest=manifest)


def _refuse_in_use(source: OpenSource) -> None:
    if source.announcement is None and source.consistency == "offline":
        return
    snapshot = " Or make a snapshot of it yourself ('lvcreate --snapshot'), and clone that."
    raise SourceInUse(
        f"{source.facts.path} is in use: what is made to fit is read more than once, and must be the same each time",
        hint=_WAYS + (snapshot if isinstance(source, SnapshotSource) else ""),
    )
