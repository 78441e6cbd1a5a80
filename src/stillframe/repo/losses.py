"""What is lost of images, for people: which image, which partition, which bytes.

Answers: "what do these bad packs mean for my backups?" The walk is in ``walk``; ``check`` and ``repair`` say what a
lost chunk is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import DamagedError
from stillframe.events import Finding
from stillframe.extents import Extent, ExtentSet
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest
from stillframe.repo.walk import LostTest, MapSurvey, iter_maps

_RANGES_SHOWN: Final = 8
LOSS_HINT: Final = (
    "Run 'stillframe repair'. Then run 'stillframe backup --kind full' while the source still exists: it stores again "
    "what is lost and unchanged."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LostPart:
    """The lost bytes of one partition, or of what lies outside all partitions, counted from its start."""

    disk_number: int
    partition_number: int | None
    place: str
    lost: ExtentSet

    @property
    def words(self) -> str:
        """The place and the ranges as people read them."""
        shown = [f"[{extent.start}, {extent.end})" for extent in list(self.lost)[:_RANGES_SHOWN]]
        more = len(self.lost) - len(shown)
        rest = f" and {more} more ranges" if more else ""
        return f"{self.place}: {self.lost.size} bytes at {', '.join(shown)}{rest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageState:
    """An image, and what is lost of it."""

    manifest: Manifest
    lost: tuple[LostPart, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost

    @property
    def title(self) -> str:
        """The image as people know it."""
        manifest = self.manifest
        return f"image {manifest.image[:8]} of {manifest.machine.name}, {manifest.created}"

    def findings(self) -> Iterator[Finding]:
        """One finding for each part that has lost something."""
        for part in self.lost:
            yield Finding(
                code="image-lost",
                message=f"{self.title}: these bytes cannot be restored: {part.words}",
                hint=LOSS_HINT,
                thing=self.manifest.image,
            )


def survey_images(reader: ChunkReader, manifests: Iterable[Manifest], is_lost: LostTest) -> Iterator[ImageState]:
    """What is lost of each image. Nodes that images share are read once."""
    survey = MapSurvey(reader, is_lost)
    for manifest in manifests:
        yield ImageState(manifest=manifest, lost=tuple(_lost_parts(survey, manifest)))


def _lost_parts(survey: MapSurvey, manifest: Manifest) -> Iterator[LostPart]:
    try:
        places = list(iter_maps(manifest))
    except DamagedError as error:
        whole = ExtentSet.of(Extent(0, max(1, sum(disk.size for disk in manifest.disks))))
        yield LostPart(disk_number=0, partition_number=None, place=f"everything ({error.message})", lost=whole)
        return
    for place in places:
        lost = survey.lost_bytes(place)
        if len(lost):
            yield LostPart(
                disk_number=place.disk_number, partition_number=place.partition_number, place=place.words, lost=lost
            )
