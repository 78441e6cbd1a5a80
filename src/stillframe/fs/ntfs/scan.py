"""All records of the NTFS master file table at once: which clusters do the files of this volume occupy?

Answers: "is there a cluster that a file needs and ``$Bitmap`` calls free?" That is the independent proof that
``$Bitmap`` is current: ntfs-3g writes no journal and sets no flag while it has a volume mounted, so after a power cut
neither the dirty flag nor ``$LogFile`` tells that the bitmap lags behind the table. The reverse, a cluster that the
bitmap calls used and no file has, costs room and harms nobody.

A record counts when it says that it is in use, whatever ``$MFT:$BITMAP`` says; a record that is being freed has lost
the flag first. Batches of records are taken apart by numpy: one step per attribute number, one per run number.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.extents import ExtentSet
from stillframe.fs.ntfs.mft import MasterFileTable
from stillframe.fs.ntfs.record import HINT, STRIDE, AttributeType
from stillframe.fs.ntfs.runs import Numbers, decode_run_table

_BATCH_SIZE: Final = 4 << 20
# 16 bytes each: 512 MiB. Windows' own limit of fragments of one file is 1.5 million.
_RUN_COUNT_MAX: Final = 1 << 25
_FILE: Final = int.from_bytes(b"FILE", "little")
_IN_USE: Final = 0x0001

Records = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mapped:
    """Attributes with clusters, found in one batch: where they begin and end in its bytes, and in which record."""

    starts: Numbers
    ends: Numbers
    cluster_counts: Numbers
    record_indices: Numbers


def scan_clusters(reader: BlockReader, table: MasterFileTable) -> ExtentSet:
    """The bytes of the volume that belong to files, as the table says.

    Raises:
        DiskFormatError: A record in use is broken, maps clusters outside the volume, or two files share a cluster.
    """
    size, boot = table.boot.record_size, table.boot
    step = max(_BATCH_SIZE // size, 1)
    firsts: list[Numbers] = []
    counts: list[Numbers] = []
    run_count = 0
    for first_index in range(0, table.record_count, step):
        count = min(step, table.record_count - first_index)
        raw = table.stream.read_at(reader, first_index * size, count * size)
        first, length = _scan_batch(np.frombuffer(raw, np.uint8).reshape(count, size), first_index)
        run_count += len(first)
        if run_count > _RUN_COUNT_MAX:
            raise DiskFormatError(f"NTFS $MFT: more than {_RUN_COUNT_MAX} runs", hint=HINT)
        firsts.append(first)
        counts.append(length)
    starts = np.concatenate([np.empty(0, np.int64), *firsts])
    ends = starts + np.concatenate([np.empty(0, np.int64), *counts])
    if len(ends) and int(ends.max()) > boot.cluster_count:
        raise DiskFormatError(
            f"NTFS $MFT: a file has cluster {int(ends.max()) - 1}, the volume only {boot.cluster_count}", hint=HINT
        )
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    shared = np.flatnonzero(starts[1:] < ends[:-1])
    if len(shared):
        raise DiskFormatError(f"NTFS $MFT: two files have cluster {int(starts[shared[0] + 1])}", hint=HINT)
    return ExtentSet.from_arrays(starts * boot.cluster_size, ends * boot.cluster_size)


def _scan_batch(records: Records, first_index: int) -> tuple[Numbers, Numbers]:
    """First cluster and number of clusters of every run in a batch of records."""
    # A record begins with FILE, one that was never used with zeros; BAAD marks one that was found torn.
    magic = column(records, 0, "<u4")
    foreign = np.flatnonzero((magic != _FILE) & (magic != 0))
    if len(foreign):
        raise DiskFormatError(f"NTFS MFT record {first_index + int(foreign[0])}: it is no record", hint=HINT)
    live = np.flatnonzero((magic == _FILE) & ((column(records, 0x16, "<u2") & _IN_USE) != 0))
    if not len(live):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    fixed = unprotect_all(records[live], first_index + live)
    mapped = _find_mapped(fixed, first_index + live)
    runs = decode_run_table(fixed.reshape(-1), mapped.starts, mapped.ends, mapped.cluster_counts)
    if len(runs.broken):
        index = int(mapped.record_indices[runs.broken[0]])
        raise DiskFormatError(f"NTFS MFT record {index}: the runs of an attribute are broken", hint=HINT)
    return runs.first_clusters, runs.cluster_counts


def unprotect_all(records: Records, indices: Numbers) -> Records:
    """Put the last two bytes of each 512 back in place in all records, which are changed and returned.

    Raises:
        DiskFormatError: One of them was not written whole.
    """
    sectors = records.shape[1] // STRIDE
    array_offset = column(records, 4, "<u2").astype(np.int64)
    fits = (column(records, 6, "<u2") == sectors + 1) & (array_offset + 2 * sectors + 2 <= STRIDE - 2)
    array_offset = np.where(fits, array_offset, 8)
    rows = np.arange(len(records))
    number = records[rows[:, None], array_offset[:, None] + np.arange(2)]
    for sector in range(sectors):
        tail = slice((sector + 1) * STRIDE - 2, (sector + 1) * STRIDE)
        fits &= (records[:, tail] == number).all(axis=1)
        at = array_offset[:, None] + 2 * (sector + 1) + np.arange(2)
        records[:, tail] = records[rows[:, None], at]
    if not fits.all():
        index = int(indices[np.flatnonzero(~fits)[0]])
        raise DiskFormatError(f"NTFS MFT record {index}: it was not written whole", hint=HINT)
    return records


def _find_mapped(records: Records, indices: Numbers) -> _Mapped:
    """Walk the attributes of all records in step, and keep those whose contents lie in clusters."""
    size, flat = records.shape[1], records.reshape(-1)
    used = column(records, 0x18, "<u4").astype(np.int64)
    at = column(records, 0x14, "<u2").astype(np.int64)
    rows = np.arange(len(records))
    _demand((used <= size) & (at >= 0x28) & (at % 8 == 0), indices, rows)
    found: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []
    while len(rows):
        _demand(at + 4 <= used[rows], indices, rows)
        base = rows * size + at
        going = _gather(flat, base, 4) != AttributeType.END
        rows, at, base = rows[going], at[going], base[going]
        _demand(at + 24 <= used[rows], indices, rows)
        length = _gather(flat, base + 4, 4)
        _demand((length >= 24) & (length % 8 == 0) & (at + length <= used[rows]), indices, rows)
        outside = flat[base + 8] != 0
        place, extent, owner = base[outside], length[outside], rows[outside]
        _demand(extent >= 0x40, indices, owner)
        runs_offset = _gather(flat, place + 0x20, 2)
        first_vcn, last_vcn = _gather(flat, place + 0x10, 8), _gather(flat, place + 0x18, 8)
        count = last_vcn + 1 - first_vcn
        _demand((runs_offset >= 0x40) & (runs_offset <= extent) & (first_vcn >= 0) & (count >= 0), indices, owner)
        found.append((place + runs_offset, place + extent, count, indices[owner]))
        at = at + length
    starts, ends, counts, owners = (
        np.concatenate([np.empty(0, np.int64), *parts]) for parts in zip(*found, strict=True)
    )
    return _Mapped(starts=starts, ends=ends, cluster_counts=counts, record_indices=owners)


def column(records: Records, offset: int, kind: str) -> NDArray[np.unsignedinteger]:
    """One little-endian field of every record."""
    width = np.dtype(kind).itemsize
    values: NDArray[np.unsignedinteger] = np.ascontiguousarray(records[:, offset : offset + width]).view(kind)[:, 0]
    return values


def _gather(flat: NDArray[np.uint8], positions: Numbers, width: int) -> Numbers:
    """Little-endian numbers of ``width`` bytes at these positions; of 8 bytes signed, of fewer unsigned."""
    raw = np.zeros((len(positions), 8), np.uint8)
    raw[:, :width] = flat[positions[:, None] + np.arange(width)]
    return raw.view("<i8")[:, 0].astype(np.int64)


def _demand(fulfilled: NDArray[np.bool_], indices: Numbers, rows: Numbers) -> None:
    if not fulfilled.all():
        index = int(indices[rows[np.flatnonzero(~fulfilled)[0]]])
        raise DiskFormatError(f"NTFS MFT record {index}: an attribute leaves it", hint=HINT)
