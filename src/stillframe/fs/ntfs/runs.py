"""NTFS data runs: where the clusters of an attribute lie.

Answers: "which clusters?" for one attribute, or for the attributes of thousands of records at once with one numpy
step per run number. Whether the clusters exist is checked by whoever knows the size of the volume.

Source: Linux-NTFS documentation, "Data Runs": a header byte whose low half counts the bytes of the length and whose
high half counts the bytes of the signed distance from the previous run's start; no distance means a hole; 0 ends.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DiskFormatError

_HINT: Final = "Run chkdsk on the volume in Windows."
# A cluster number has at most 63 bits; holding every number below 2^56 keeps all sums inside 64 bits.
_NUMBER_SIZE_MAX: Final = 8
_CLUSTERS_MAX: Final = 1 << 56
# NTFS 1.x writes a hole as a run at cluster -1 (ntfs-3g LCN_HOLE).
_HOLE: Final = -1

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """``cluster_count`` clusters from ``first_cluster`` on; ``None`` is a hole, which reads as zeros."""

    first_cluster: int | None
    cluster_count: int


def decode_runs(encoded: bytes, *, cluster_count: int, what: str) -> tuple[Run, ...]:
    """Decode the runs of one attribute.

    Args:
        encoded: From the first run's header byte on; bytes behind the end mark are ignored.
        cluster_count: How many clusters the attribute's header says they cover.
        what: Whose runs, for the message.

    Raises:
        DiskFormatError: They are cut off, go below cluster 0, or cover another number of clusters.
    """
    runs: list[Run] = []
    position, lcn, covered = 0, 0, 0
    while position < len(encoded) and encoded[position]:
        length_size, distance_size = encoded[position] & 15, encoded[position] >> 4
        middle = position + 1 + length_size
        end = middle + distance_size
        length = int.from_bytes(encoded[position + 1 : middle], "little", signed=True)
        lcn += int.from_bytes(encoded[middle:end], "little", signed=True)
        if end > len(encoded) or max(length_size, distance_size) > _NUMBER_SIZE_MAX or not 0 < length < _CLUSTERS_MAX:
            raise DiskFormatError(f"NTFS {what}: run {len(runs)} of {length} clusters cannot be", hint=_HINT)
        if not _HOLE <= lcn < _CLUSTERS_MAX:
            raise DiskFormatError(f"NTFS {what}: run {len(runs)} starts at cluster {lcn}", hint=_HINT)
        runs.append(Run(None if not distance_size or lcn == _HOLE else lcn, length))
        covered += length
        position = end
    if covered != cluster_count:
        raise DiskFormatError(f"NTFS {what}: runs cover {covered} clusters, expected {cluster_count}", hint=_HINT)
    return tuple(runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """The runs of many attributes as arrays, holes left out, and what was wrong with any of them.

    Attributes:
        first_clusters, cluster_counts: One element per run.
        broken: Indices of the attributes whose runs cannot be decoded or cover another number of clusters.
    """

    first_clusters: Numbers
    cluster_counts: Numbers
    broken: Numbers


def decode_run_table(raw: NDArray[np.uint8], starts: Numbers, ends: Numbers, cluster_counts: Numbers) -> RunTable:
    """Decode the runs of many attributes at once.

    Args:
        raw: The bytes that hold them all.
        starts: Where in ``raw`` each attribute's first run begins.
        ends: Where each attribute ends; a run must not pass it.
        cluster_counts: How many clusters each must cover.
    """
    padded = np.concatenate((raw, np.zeros(32, np.uint8)))
    position, lcn, covered = starts.copy(), np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
    broken = np.zeros(len(starts), bool)
    active = np.flatnonzero(position < ends)
    found: list[tuple[Numbers, Numbers]] = []
    while len(active):
        header = padded[position[active]]
        active, header = active[header != 0], header[header != 0]
        at = position[active]
        length_size, distance_size = (header & 15).astype(np.int64), (header >> 4).astype(np.int64)
        stop = at + 1 + length_size + distance_size
        fits = (stop <= ends[active]) & (length_size <= _NUMBER_SIZE_MAX) & (distance_size <= _NUMBER_SIZE_MAX)
        length = _read_signed(padded, at + 1, np.minimum(length_size, _NUMBER_SIZE_MAX))
        distance = _read_signed(padded, at + 1 + length_size, np.minimum(distance_size, _NUMBER_SIZE_MAX))
        fits &= (length > 0) & (length < _CLUSTERS_MAX) & (distance > -_CLUSTERS_MAX) & (distance < _CLUSTERS_MAX)
        target = lcn[active] + np.where(fits, distance, 0)
        total = covered[active] + np.where(fits, length, 0)
        fits &= (target >= _HOLE) & (target < _CLUSTERS_MAX) & (total < _CLUSTERS_MAX)
        broken[active[~fits]] = True
        real = fits & (distance_size > 0) & (target != _HOLE)
        found.append((target[real], length[real]))
        lcn[active], covered[active], position[active] = target, total, stop
        active = active[fits & (stop < ends[active])]
    broken |= covered != cluster_counts
    return RunTable(
        first_clusters=np.concatenate([np.empty(0, np.int64), *(pair[0] for pair in found)]),
        cluster_counts=np.concatenate([np.empty(0, np.int64), *(pair[1] for pair in found)]),
        broken=np.flatnonzero(broken).astype(np.int64),
    )


def _read_signed(raw: NDArray[np.uint8], positions: Numbers, sizes: Numbers) -> Numbers:
    """Little-endian signed numbers of 0 to 8 bytes, one at each position."""
    value = np.zeros(len(positions), np.uint64)
    for index in range(_NUMBER_SIZE_MAX):
        byte = raw[np.minimum(positions + index, len(raw) - 1)].astype(np.uint64)
        value |= np.where(index < sizes, byte, 0).astype(np.uint64) << np.uint64(8 * index)
    # Shift the sign bit to the top and back: an arithmetic shift then extends it. A size of 0 stays 0.
    room = (64 - 8 * np.maximum(sizes, 1)).astype(np.int64)
    return (value.view(np.int64) << room) >> room
