"""The contents of one NTFS attribute, wherever they lie.

Answers: "what are these bytes of the attribute, and which bytes of the volume hold them?" Compressed and encrypted
contents are located, not decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.extents import ExtentSet
from stillframe.fs.ntfs.boot import NtfsBoot
from stillframe.fs.ntfs.record import HINT, Attribute
from stillframe.fs.ntfs.runs import Numbers

# A run takes three bytes or more of a record, so this many need 3 MiB of records; a defragmented file has one.
_RUN_COUNT_MAX: Final = 1 << 20
# Byte offsets then stay inside 63 bits with clusters of 2 MiB; holes could claim more.
_CLUSTERS_MAX: Final = 1 << 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """An attribute as a whole.

    Attributes:
        what: What it is, for messages.
        size, initialised_size: Its bytes, and how many of them were ever written; the others read as zeros.
        is_plain: Neither compressed nor encrypted nor sparse: only then can it be read.
        value: Its contents when they lie in the record.
        starts, disk_starts, run_sizes: One element per run, in bytes: where it begins in the stream, on the volume (-1
            for a hole), and how long it is.
    """

    what: str
    size: int
    initialised_size: int
    is_plain: bool
    value: bytes | None
    starts: Numbers = field(repr=False)
    disk_starts: Numbers = field(repr=False)
    run_sizes: Numbers = field(repr=False)

    @property
    def extents(self) -> ExtentSet:
        """The bytes of the volume that are allocated to it."""
        real = self.disk_starts >= 0
        return ExtentSet.from_arrays(self.disk_starts[real], self.disk_starts[real] + self.run_sizes[real])

    def read_at(self, reader: BlockReader, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; what was never written reads as zeros.

        Raises:
            DiskFormatError: The range leaves the stream, lacks clusters, or the contents are encoded.
        """
        if not self.is_plain:
            raise DiskFormatError(f"NTFS {self.what} is compressed, sparse or encrypted", hint=HINT)
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DiskFormatError(
                f"NTFS {self.what}: [{offset}, {offset + length}) is outside its {self.size} bytes", hint=HINT
            )
        if self.value is not None:
            return self.value[offset : offset + length]
        buffer = bytearray(length)
        position, end = offset, min(offset + length, self.initialised_size)
        index = max(int(np.searchsorted(self.starts, position, side="right")) - 1, 0)
        while position < end:
            if index >= len(self.starts):
                raise DiskFormatError(f"NTFS {self.what}: no cluster holds its byte {position}", hint=HINT)
            inside = position - int(self.starts[index])
            stop = min(end, position - inside + int(self.run_sizes[index]))
            if self.disk_starts[index] >= 0:
                piece = memoryview(buffer)[position - offset : stop - offset]
                reader.read_into(int(self.disk_starts[index]) + inside, piece)
            position = stop
            index += 1
        return bytes(buffer)


def join_stream(boot: NtfsBoot, parts: Sequence[Attribute], *, what: str) -> Stream:
    """Put an attribute together from its parts, each from one record.

    Args:
        boot: For the size of clusters and of the volume.
        parts: In order of their first cluster; the first begins at 0.
        what: What it is, for messages.

    Raises:
        DiskFormatError: A part is missing, or a run lies outside the volume.
    """
    head = parts[0]
    if head.value is not None:
        none = np.empty(0, np.int64)
        return Stream(
            what=what, size=len(head.value), initialised_size=len(head.value), is_plain=head.is_plain, value=head.value,
            starts=none, disk_starts=none, run_sizes=none,
        )  # fmt: skip
    covered, allocated = 0, 0
    clusters: list[int] = []
    counts: list[int] = []
    for part in parts:
        if part.first_vcn != covered or part.value is not None:
            raise DiskFormatError(f"NTFS {what}: a part begins at cluster {part.first_vcn}, not {covered}", hint=HINT)
        for run in part.runs:
            first = -1 if run.first_cluster is None else run.first_cluster
            real = 0 if run.first_cluster is None else run.cluster_count
            covered, allocated = covered + run.cluster_count, allocated + real
            # Runs that name the same clusters again and again would make a small volume endless.
            if max(first + real, allocated) > boot.cluster_count or covered >= _CLUSTERS_MAX:
                raise DiskFormatError(
                    f"NTFS {what}: {run.cluster_count} clusters from {first} on, of {boot.cluster_count} in all",
                    hint=HINT,
                )
            clusters.append(first)
            counts.append(run.cluster_count)
        if len(counts) > _RUN_COUNT_MAX:
            raise DiskFormatError(f"NTFS {what}: more than {_RUN_COUNT_MAX} runs", hint=HINT)
    first_clusters, run_counts = np.array(clusters, np.int64), np.array(counts, np.int64)
    ends = np.cumsum(run_counts)
    scale = boot.cluster_size
    return Stream(
        what=what,
        size=head.size,
        initialised_size=head.initialised_size,
        is_plain=head.is_plain,
        value=None,
        starts=(ends - run_counts) * scale,
        disk_starts=np.where(first_clusters >= 0, first_clusters * scale, -1),
        run_sizes=run_counts * scale,
    )
