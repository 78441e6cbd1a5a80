"""Encrypted partitions of a disk that nobody uses, looked into with their key.

Answers: "what would this disk show if its LUKS volumes were open, and which of their sectors matter?" Nothing is stored
decrypted: what is seen here only decides which encrypted sectors are kept. The volumes in LVM inside are found by
``unopened``, on the disk as it would look. What is not certain is kept whole, with the reason.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from stillframe.block import AssembledReader, BlockReader, Piece, ReadFault, WindowReader
from stillframe.capture.stacking import StackedVolume
from stillframe.capture.unopened import is_one_volume
from stillframe.disk.layout import Layout, Partition
from stillframe.disk.luks import LuksHeader, PlaintextReader, Segment, find_key, is_key_of, read_header
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.fs import Volume
from stillframe.fs.registry import identify
from stillframe.host.live.bytemap import ByteMap
from stillframe.units import format_size

LUKS: Final = "crypto_LUKS"
BITLOCKER: Final = "BitLocker"
_LVM: Final = "LVM2_member"


@dataclass(frozen=True, slots=True)
class VolumeKey:
    """The key of an encrypted volume. It is in memory only, and no words about it show it."""

    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedVolume:
    """A partition that is encrypted by LUKS, and can be opened here."""

    partition: Partition
    reader: BlockReader
    header: LuksHeader

    @property
    def name(self) -> str:
        """As a person knows it."""
        label = f" '{self.header.label}'" if self.header.label else ""
        return f"partition {self.partition.number} (LUKS{self.header.version}{label}, {format_size(self.reader.size)})"

    def find_key(self, passphrase: bytes) -> VolumeKey | None:
        """Its key; ``None`` when the passphrase does not open it. Errors as ``disk.luks.find_key``."""
        key = find_key(self.reader, self.header, passphrase)
        return None if key is None else VolumeKey(key)

    def is_key(self, key: VolumeKey) -> bool:
        """Whether a key is its own."""
        return is_key_of(self.header, key.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedVolume:
    """An encrypted partition whose key is known.

    Attributes:
        name: As a person knows it.
        place: The partition.
        segment: What of it is encrypted, in bytes of the partition.
        inside: What it holds.
    """

    name: str
    place: Extent
    segment: Segment
    inside: Volume

    def whole_sectors(self, unused: ExtentSet) -> ExtentSet:
        """Of bytes of the partition that nobody uses, the encrypted sectors of which no byte is used."""
        encrypted = self.segment.extent
        used = unused.complement(encrypted).shifted(-encrypted.start)
        used = used.rounded_out(self.segment.sector_size).shifted(encrypted.start)
        return used.complement(encrypted)

    def notices(self, *, is_whole: bool, exclude: bool) -> Iterator[Notice]:
        """What a person should know of it.

        Args:
            is_whole: All of it is kept nevertheless.
            exclude: Files were to be left out.
        """
        what = "LVM" if self.inside.filesystem == _LVM else self.inside.filesystem or "nothing that is known"
        words = f"{self.name} was unlocked: it holds {what}"
        words += f" '{self.inside.label}'" if self.inside.label else ""
        if is_whole:
            yield Notice(
                code="unlocked-whole",
                message=f"{words}, and nothing of that can be left out with certainty: all of it is kept, encrypted",
                hint="The image is complete. If another note says what was not closed properly, close it for a small "
                "image next time.",
            )
        else:
            yield Notice(
                code="unlocked",
                message=f"{words}. What that uses is kept as it lies on the disk, encrypted",
                hint="After a restore its passphrase opens it, as before.",
            )
        if exclude:
            yield Notice(
                code="exclude-not-possible",
                message=f"'--exclude' does nothing in {self.name}: in what is encrypted no zeros can stand for a file",
                hint="Everything of it is kept.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A disk as it would look with its encrypted volumes open.

    Attributes:
        reader: The disk; encrypted segments are decrypted in place.
        layout: Its partitions; those that are open begin where their segment does.
        volumes: File systems that fill a segment.
        places: What was opened.
    """

    reader: BlockReader
    layout: Layout
    volumes: tuple[StackedVolume, ...]
    places: tuple[OpenedVolume, ...]


def find_locked(disk: BlockReader, layout: Layout) -> Iterator[LockedVolume]:
    """The partitions that are encrypted by LUKS, in a way that is read here."""
    for partition in layout.partitions:
        reader = WindowReader(disk, partition.extent)
        try:
            header = read_header(reader) if identify(reader).filesystem is not None else None
        except (DiskFormatError, ReadFault):
            continue
        if header is not None:
            yield LockedVolume(partition=partition, reader=reader, header=header)


def open_volumes(disk: BlockReader, layout: Layout, keys: Sequence[VolumeKey]) -> Opened:
    """Open the encrypted partitions that the keys belong to."""
    pieces, volumes, places = list[Piece](), list[StackedVolume](), list[OpenedVolume]()
    partitions = list(layout.partitions)
    for locked in find_locked(disk, layout) if keys else ():
        key = next((one for one in keys if locked.is_key(one)), None)
        if key is None:
            continue
        segment, place = locked.header.segment, locked.partition.extent
        plain = PlaintextReader(locked.reader, segment, key.key)
        on_disk = segment.extent.shifted(place.start)
        inside = identify(plain).volume
        pieces.append(Piece(start=on_disk.start, reader=plain))
        partitions[partitions.index(locked.partition)] = replace(locked.partition, extent=on_disk)
        places.append(OpenedVolume(name=locked.name, place=place, segment=segment, inside=inside))
        if inside.filesystem != _LVM and is_one_volume(plain):
            below = ByteMap.of((0, on_disk.start, on_disk.size))
            volumes.append(StackedVolume(reader=plain, pieces=(below,), is_held=False))
    return Opened(
        reader=AssembledReader(disk, pieces), layout=replace(layout, partitions=tuple(partitions)),
        volumes=tuple(volumes), places=tuple(places),
    )  # fmt: skip


def explain_locked(partition: Partition, reader: BlockReader, volume: Volume) -> Notice | None:
    """That an encrypted partition is kept whole, and what its key would save; ``None`` when it is not encrypted."""
    size = format_size(reader.size)
    if volume.filesystem == BITLOCKER:
        return Notice(
            code="encrypted-whole",
            message=f"partition {partition.number} is encrypted by BitLocker: all {size} of it are kept, and what is "
            "encrypted cannot be compressed",
            hint="This version does not take its recovery key. From inside the running Windows, where it is open, "
            "a backup is smaller.",
        )
    if volume.filesystem != LUKS:
        return None
    hint = "With its passphrase ('--unlock'), while nobody uses the disk, only what is in use is kept, still encrypted."
    name = "LUKS"
    try:
        name += str(int.from_bytes(reader.read_at(6, 2), "big"))
        read_header(reader)
    except (DiskFormatError, ReadFault) as error:
        hint = f"It cannot be looked into here: {error.message}."
    return Notice(
        code="encrypted-whole",
        message=f"partition {partition.number} is encrypted ({name}): all {size} of it are kept, and what is encrypted "
        "cannot be compressed",
        hint=hint,
    )  # fmt: skip
