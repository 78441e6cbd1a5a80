"""The law: what a restore gives is what the backup saw, for disks of any shape."""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.extents import Extent
from stillframe.jobs.backup import BackupOptions
from stillframe.jobs.restore import RestoreOptions
from stillframe.store import MemoryStore
from stillframe.testing.disk_builder import fill_with_noise, gpt_overhead, write_gpt, write_mbr
from stillframe.testing.job_runs import backup, clone, make_repository, restore, verify

ROUNDS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A disk to be made: everything in sectors, so that ends fall anywhere in a chunk."""

    scheme: str
    sector_size: int
    size_sectors: int
    cuts: Sequence[int]
    fills: Sequence[tuple[int, int, int]]
    logicals: bool = False
    extra_bytes: int = 0

    @property
    def inner(self) -> Extent:
        """The bytes between the copies of a GPT."""
        low, high = gpt_overhead(self.sector_size) if self.scheme == "gpt" else (0, 0)
        return Extent(low * self.sector_size, (self.size_sectors - high) * self.sector_size)

    def build(self) -> MemoryDisk:
        step = self.sector_size
        disk = MemoryDisk(bytes(self.size_sectors * step + self.extra_bytes), sector_size=step)
        for start, size, seed in self.fills:
            first = min(start, self.size_sectors) * step
            extent = Extent(first, min(first + size, disk.size))
            if seed == 0:
                disk.write_at(extent.start, b"\xee" * extent.size)
            elif seed > 1:
                fill_with_noise(disk, extent, seed)
        low, high = gpt_overhead(step) if self.scheme == "gpt" else (1, 0)
        places = sorted({cut for cut in self.cuts if low < cut < self.size_sectors - high})
        pairs = list(itertools.pairwise(places))[:4]
        extents = [Extent(first * step, last * step) for first, last in pairs]
        if self.scheme == "gpt":
            write_gpt(disk, extents)
        elif self.scheme == "mbr" and self.logicals:
            inner = [Extent(part.start + step, part.end) for part in extents[1:] if part.size > step]
            write_mbr(disk, extents[:1], inner)
        elif self.scheme == "mbr":
            write_mbr(disk, extents)
        return disk


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    sector_size = draw(st.sampled_from((512, 512, 4096)))
    sectors = draw(st.integers(70, 2 * MIB // sector_size))
    place = st.integers(0, sectors - 1)
    fill = st.tuples(place, st.integers(1, 700_000), st.integers(0, 9))
    return Draft(
        scheme=draw(st.sampled_from(("gpt", "mbr", "none"))),
        sector_size=sector_size,
        size_sectors=sectors,
        cuts=draw(st.lists(place, max_size=5)),
        fills=draw(st.lists(fill, max_size=6)),
        logicals=draw(st.booleans()),
        extra_bytes=draw(st.sampled_from((0, 0, 0, 1, 511))) if sector_size == 512 else 0,
    )


@pytest.mark.parametrize("chunk_size", [65_536, 262_144])
@ROUNDS
@given(draft=drafts(), compression=st.sampled_from(("none", "fast")), encrypted=st.booleans())
def test_a_restore_gives_what_the_backup_saw(chunk_size: int, draft: Draft, compression: str, encrypted: bool) -> None:
    disk = draft.build()
    before = bytes(disk.contents)
    repository = make_repository(MemoryStore(), chunk_size=chunk_size, passphrase="one two" if encrypted else None)
    options = BackupOptions(compression="none" if compression == "none" else "fast")
    result = backup(repository, disk, options=options)
    assert bytes(disk.contents) == before
    assert result.is_complete
    assert result.read_back is not None
    assert result.read_back.is_whole
    assert result.read_back.findings == ()
    assert verify(repository, result.manifest).ok
    with tempfile.TemporaryDirectory() as folder:
        new, dirty = Path(folder, "new"), Path(folder, "dirty")
        restore(repository, result.manifest, new)
        assert new.read_bytes() == before
        dirty.write_bytes(b"\xff" * len(before))
        restore(repository, result.manifest, dirty, options=RestoreOptions(wipe=True))
        assert dirty.read_bytes() == before


@ROUNDS
@given(
    draft=drafts(),
    writes=st.lists(
        st.tuples(st.floats(0, 0.999), st.integers(1, 200_000), st.integers(2, 99)), min_size=1, max_size=4
    ),
)
def test_incremental_images_stand_alone_and_store_only_what_changed(
    draft: Draft, writes: list[tuple[float, int, int]]
) -> None:
    disk = draft.build()
    repository = make_repository(MemoryStore())
    states = [bytes(disk.contents)]
    images = [backup(repository, disk).manifest]
    again = backup(repository, disk)
    assert (again.manifest.kind, again.manifest.bytes_added) == ("incremental", 0)
    assert again.manifest.baseline == images[0].image
    for where, size, seed in writes:
        inner = draft.inner  # a damaged GPT would be made whole again by a restore
        start = inner.start + int(where * inner.size)
        extent = Extent(start, min(start + size, inner.end))
        fill_with_noise(disk, extent, seed)
        states.append(bytes(disk.contents))
        images.append(backup(repository, disk).manifest)
        before, now = ([(part.start, part.size) for part in one.disks[0].partitions] for one in images[-2:])
        # Noise over the table of an MBR makes other partitions of the disk, whose chunks begin elsewhere.
        changed = extent.size if now == before else disk.size
        chunks = changed // 65_536 + 2 + 2 * len(now)  # borders cut chunks too
        assert images[-1].bytes_added <= chunks * 66_000 + 65_536
    with tempfile.TemporaryDirectory() as folder:
        for number, (manifest, state) in enumerate(zip(images, states, strict=True)):
            restore(repository, manifest, Path(folder, str(number)))
            assert Path(folder, str(number)).read_bytes() == state
        old = Path(folder, "0")  # the oldest, brought up to date by what differs
        restore(repository, images[-1], old, options=RestoreOptions(delta=True))
        assert old.read_bytes() == states[-1]


@ROUNDS
@given(draft=drafts(), growth=st.integers(1, 3000))
def test_on_a_larger_target_only_the_table_differs(draft: Draft, growth: int) -> None:
    disk = draft.build()
    repository = make_repository(MemoryStore())
    manifest = backup(repository, disk).manifest
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "target")
        size = (disk.size // draft.sector_size + growth) * draft.sector_size
        target.write_bytes(bytes(size))
        restore(repository, manifest, target)
        got = target.read_bytes()
    expected = MemoryDisk(disk.contents + bytes(size - disk.size), sector_size=draft.sector_size)
    places = [Extent(part.start, part.start + part.size) for part in manifest.disks[0].partitions]
    if draft.scheme == "gpt" and places != [Extent(0, disk.size)]:  # an empty table is kept as bytes of a volume
        # The old second copy goes; a byte behind the last whole sector is no table, and is kept.
        expected.zero(Extent(draft.inner.end, draft.size_sectors * draft.sector_size))
        write_gpt(expected, places)
    is_equal = got == bytes(expected.contents)  # no diff of megabytes while an example is made smaller
    assert is_equal


@ROUNDS
@given(draft=drafts(), wipe=st.booleans())
def test_a_clone_is_the_disk(draft: Draft, wipe: bool) -> None:
    disk = draft.build()
    with tempfile.TemporaryDirectory() as folder:
        source, new, dirty = (Path(folder, name) for name in ("source", "new", "dirty"))
        source.write_bytes(disk.contents)
        clone(source, new)
        assert new.read_bytes() == disk.contents
        dirty.write_bytes(b"\xff" * disk.size)
        clone(source, dirty, wipe=wipe)
        assert dirty.read_bytes() == disk.contents
        assert source.read_bytes() == disk.contents


@ROUNDS
@given(draft=drafts(), seed=st.integers(2, 99), place=st.floats(0, 0.99))
def test_a_delta_over_anything_gives_the_image(draft: Draft, seed: int, place: float) -> None:
    disk = draft.build()
    repository = make_repository(MemoryStore())
    manifest = backup(repository, disk).manifest
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "target")
        other = MemoryDisk(disk.contents, sector_size=disk.sector_size)
        fill_with_noise(other, Extent(int(place * disk.size), disk.size), seed)
        target.write_bytes(other.contents)
        restore(repository, manifest, target, options=RestoreOptions(delta=True, wipe=True))
        assert target.read_bytes() == disk.contents


def test_a_disk_of_zeros_adds_no_chunk() -> None:
    repository = make_repository(MemoryStore())
    result = backup(repository, MemoryDisk(bytes(5 * MIB + 512)))
    assert result.manifest.bytes_added == 0
    assert result.is_complete


def test_equal_volumes_at_different_offsets_are_stored_once() -> None:
    disk = MemoryDisk(bytes(6 * MIB))
    places = [Extent(MIB, 2 * MIB + 512), Extent(3 * MIB + 1024, 4 * MIB + 1536)]
    for place in places:
        fill_with_noise(disk, place, 7)
    write_gpt(disk, places)
    repository = make_repository(MemoryStore())
    manifest = backup(repository, disk, options=BackupOptions(compression="none")).manifest
    first, second = manifest.disks[0].partitions
    assert first.blocks == second.blocks
    assert manifest.bytes_added < MIB + 200_000
