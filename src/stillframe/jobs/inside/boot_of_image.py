"""How a computer starts from the disks of an image.

Answers: "would this image start, as far as its bytes say?" It is read from the repository, so it costs as much as
looking at some files of each volume. Whether it starts, ``prove`` tries.
"""

from typing import Final

from stillframe.disk.layout import Partition
from stillframe.extents import Extent
from stillframe.fs.base import Volume
from stillframe.jobs.exposing import ExposedDisk, ExposedPartition, expose
from stillframe.jobs.inside.system_reading import AskedVolume, BootWaysFound, ask_volumes, follow_volumes
from stillframe.jobs.inside.volume_names import inner_names, inner_word, names_of
from stillframe.jobs.inside.volumes import InnerVolume, Insides, look_inside
from stillframe.repo.records import Manifest, StoredPartition
from stillframe.repo.repository import Repository
from stillframe.systems.chain_records import BootDisk
from stillframe.systems.evidence import PartEvidence

_TIMEOUT_S: Final = 120.0


def follow_image(repository: Repository, manifest: Manifest) -> BootWaysFound:
    """Follow every way in which the disks of an image may start a computer.

    Returns:
        The ways; their steps count the disks from 0, in the order of the image.

    Raises:
        DamagedError: The image cannot be read.
    """
    image = expose(repository, manifest)
    insides = look_inside(image)
    volumes = [
        _partition(index, disk, part, insides)
        for index, disk in enumerate(image.disks)
        for part in disk.partitions
        if not part.stored.is_left_out
    ]
    numbers = {disk.stored.number: index for index, disk in enumerate(image.disks)}
    for one in insides.volumes:
        if one.part is not None:
            index = numbers[one.places[0][0]]
            volumes.append(_inner(index, image.disks[index], one, one.part, numbers))
    asked = ask_volumes(volumes, timeout_s=_TIMEOUT_S)
    return follow_volumes([BootDisk(number=n, reader=disk.reader) for n, disk in enumerate(image.disks)], asked)


def _partition(index: int, disk: ExposedDisk, part: ExposedPartition, insides: Insides) -> AskedVolume:
    stored, place = part.stored, (disk.stored.number, part.stored.number)
    inside = [one for one in insides.volumes if place in one.places]
    evidence = PartEvidence(
        disk=index, disk_id=disk.stored.disk_id, scheme=disk.stored.scheme, partition=_record(stored),
        volume=_volume(stored), files=None, is_opened=bool(inside) and all(one.part is not None for one in inside),
        names=names_of(uuid=stored.uuid, label=stored.label, guid=stored.guid, name=stored.name),
    )  # fmt: skip
    return AskedVolume(evidence=evidence, reader=part.reader, size=stored.size)


def _inner(
    index: int, disk: ExposedDisk, one: InnerVolume, part: ExposedPartition, numbers: dict[int, int]
) -> AskedVolume:  # fmt: skip
    found = _volume(part.stored)
    carrier = disk.partition(one.places[0][1])
    evidence = PartEvidence(
        disk=index, disk_id=disk.stored.disk_id, scheme=disk.stored.scheme, partition=_record(carrier.stored),
        volume=found, files=None, names=inner_names(one, found), inner=inner_word(one),
        beneath=tuple((numbers[number], partition) for number, partition in one.places),
    )  # fmt: skip
    return AskedVolume(evidence=evidence, reader=part.reader, size=one.size)


def _volume(stored: StoredPartition) -> Volume:
    return Volume(filesystem=stored.filesystem, label=stored.label, uuid=stored.uuid, block_size=stored.block_size)


def _record(stored: StoredPartition) -> Partition:
    return Partition(
        number=stored.number, extent=Extent(stored.start, stored.start + stored.size), type=stored.type,
        type_name=stored.type_name, name=stored.name, guid=stored.guid, attributes=int(stored.attributes, 16),
        index=stored.index, logical=stored.logical,
    )  # fmt: skip
