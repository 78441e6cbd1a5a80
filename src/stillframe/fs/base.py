"""The seam for file systems: what a volume is, which of its bytes are in use, and whether that is proven.

Answers: "which bytes of this volume matter?" One module or folder per file system implements ``Filesystem``.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from stillframe.block import BlockReader
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What is in a partition, in the words ``blkid`` uses.

    Attributes:
        filesystem: As ``blkid``'s TYPE: ``ntfs``, ``vfat``, ``exfat``, ``ext4``, ``swap``, ``xfs``, ``BitLocker`` ...
        label: As ``blkid``'s LABEL; empty when there is none.
        uuid: As ``blkid``'s UUID, in its spelling; empty when there is none.
        block_size: Bytes of a cluster or block; 0 when not known.
    """

    filesystem: str
    label: str = ""
    uuid: str = ""
    block_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedMap:
    """The ranges of a volume that must be kept, with the verdict whether that is proven.

    Attributes:
        extents: Byte ranges inside the volume's partition. Bytes outside the file system's own bitmap (its tail, boot
            sectors) are always in it. For ``raw`` it is the whole partition.
        kind: ``used`` when the file system proved the map current; ``raw`` when it did not.
        notices: Why it is raw and how to get a small image next time; or what was replayed in memory.
    """

    extents: ExtentSet
    kind: Literal["used", "raw"]
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutFile:
    """A file whose contents a backup leaves out: paging, hibernation and swap by default, others when it is told to.

    Attributes:
        path: From the root of the volume, with ``/``; for a swap volume ``swap``.
        size: Bytes the file says it has.
        extents: Where the contents that may be left out lie, as bytes of the partition.
        kind: Why; ``excluded`` when a person's pattern named it.
    """

    path: str
    size: int
    extents: ExtentSet
    kind: Literal["paging", "hibernation", "swap", "excluded"]


class Filesystem(Protocol):
    """One file system. Methods only read, and bound every number they find before they use it."""

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is; ``None`` when it is not of this file system.

        Raises:
            DiskFormatError: It clearly is of this file system, and so broken that not even its name can be told.
        """
        ...

    def used_map(self, reader: BlockReader) -> UsedMap:
        """The bytes in use, of a volume that ``identify`` knew.

        Raises:
            DiskFormatError: The structures contradict each other. The caller stores the volume raw and says so.
        """
        ...

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:
        """Files whose contents need not be kept. Asked only when ``used_map`` proved current (``kind == "used"``)."""
        ...


def raw_map(reader: BlockReader, *notices: Notice) -> UsedMap:
    """The whole partition, for a map that cannot be trusted."""
    return UsedMap(extents=ExtentSet.of(Extent(0, reader.size)), kind="raw", notices=notices)
