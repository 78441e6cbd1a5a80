"""All volumes of an image that have files: partitions, and what is inside of them.

Answers: "which volumes are there to be checked or compared, and which are named only?" What holds other volumes that
are read is not among them itself.
"""

from stillframe.jobs.exposing import ExposedImage, ExposedPartition
from stillframe.jobs.inside.volume_names import inner_word
from stillframe.jobs.inside.volumes import look_inside

PlacedVolume = tuple[str, ExposedPartition]
"""Where it is, in words, and the volume."""


def all_volumes(image: ExposedImage) -> tuple[list[PlacedVolume], list[tuple[str, str]]]:
    """Every volume that is in an image, and those inside that are not read: where, and why."""
    insides = look_inside(image)
    opened = {place for one in insides.volumes for place in one.places}
    volumes = [
        (f"disk {disk.stored.number}, partition {part.stored.number} ({part.stored.filesystem})", part)
        for disk in image.disks
        for part in disk.partitions
        if not part.stored.is_left_out and (disk.stored.number, part.stored.number) not in opened
    ]
    unread = list[tuple[str, str]]()
    for one in insides.volumes:
        disk, partition = one.places[0]
        place = f"disk {disk}, partition {partition}, volume {inner_word(one)}"
        if one.part is None:
            unread.append((place, one.refusal))
        else:
            volumes.append((f"{place} ({one.part.stored.filesystem})", one.part))
    return volumes, unread
